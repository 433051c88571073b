//! What is run in which language, and where it leaves its result.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tools::{self, Program};
use super::{BuildError, Lang, componentize, wit};

/// The target of Rust projects.
const RUST_TARGET: &str = "wasm32-wasip2";

/// Where the results of the tools lie, in the folder of the project.
const COMPONENT: &str = "build/component.wasm";
const CORE_MODULE: &str = "build/core.wasm";
/// Where wasmill leaves the bindings for C, C++ and Zig.
const BINDINGS: &str = "build/bindings";

/// Told what is done, a line at a time.
type Progress<'a> = &'a mut dyn FnMut(&str);

/// Runs the tools of a language in the folder of a project, which holds `wit/` already. What they made: a component or
/// a core module.
pub fn make(lang: Lang, directory: &Path, progress: Progress<'_>) -> Result<PathBuf, BuildError> {
    let made = match lang {
        Lang::Rust => rust(directory, progress)?,
        Lang::Js | Lang::Ts => node(directory, progress)?,
        Lang::Python => python(directory, progress)?,
        Lang::Go => go(directory, progress)?,
        Lang::C | Lang::Cpp => c(lang, directory, progress)?,
        Lang::Zig => zig(directory, progress)?,
    };
    if made.is_file() {
        return Ok(made);
    }
    let remedy = format!("the build has ended without a fault, and must leave its result there ({lang})");
    Err(BuildError::MissingFile { path: made, remedy })
}

/// The build file of a project, which must be there.
fn need_file(directory: &Path, name: &str) -> Result<PathBuf, BuildError> {
    let path = directory.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let remedy = "`wasmill new` writes a project with it; `directory` in [handlers.NAME.build] says where it lies";
    Err(BuildError::MissingFile { path, remedy: remedy.to_owned() })
}

/// The folder for results, which not every tool makes by itself.
fn make_results_folder(directory: &Path) -> Result<(), BuildError> {
    let path = directory.join("build");
    fs::create_dir_all(&path).map_err(|cause| BuildError::File { path, cause })
}

fn rust(directory: &Path, progress: Progress<'_>) -> Result<PathBuf, BuildError> {
    let manifest = need_file(directory, "Cargo.toml")?;
    let cargo = tools::need("cargo", "to compile Rust")?;
    need_rust_target(directory)?;
    tools::run(cargo.command(directory).args(["build", "--release", "--target", RUST_TARGET]), progress)?;
    let artifact = rust_artifact(&cargo, directory, &manifest)?;
    artifact.ok_or_else(|| BuildError::MissingFile {
        path: manifest,
        remedy: "it must have a section [lib] with crate-type = [\"cdylib\"]".to_owned(),
    })
}

/// Where the standard library of the target must lie, or else cargo fails with words that name no remedy.
fn need_rust_target(directory: &Path) -> Result<(), BuildError> {
    let missing = |remedy: &str| BuildError::MissingTool {
        tool: format!("the target {RUST_TARGET}"),
        needed_for: "to compile Rust".to_owned(),
        remedy: remedy.to_owned(),
    };
    let Some(rustc) = tools::find("rustc") else { return Ok(()) };
    let mut command = rustc.command(directory);
    let printed = command.args(["--print", "target-libdir", "--target", RUST_TARGET]).output();
    match printed {
        Ok(output) if !output.status.success() => Err(missing("Update Rust (1.82 or newer): rustup update stable")),
        Ok(output) if !Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir() => {
            Err(missing(&format!("Install it: rustup target add {RUST_TARGET}")))
        }
        _ => Ok(()),
    }
}

/// The component that cargo has left, by its own word on where that lies; `None` if the package makes none.
fn rust_artifact(cargo: &Program, directory: &Path, manifest: &Path) -> Result<Option<PathBuf>, BuildError> {
    let mut command = cargo.command(directory);
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let not_started = |cause| BuildError::NotStarted { command: "cargo metadata".to_owned(), cause };
    let output = command.output().map_err(not_started)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(BuildError::Failed { command: "cargo metadata".to_owned(), status: output.status, output: said });
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|cause| not_started(cause.into()))?;
    Ok(artifact_of(&metadata, manifest))
}

/// Finds the one `cdylib` of the package of this manifest.
fn artifact_of(metadata: &Value, manifest: &Path) -> Option<PathBuf> {
    let own = fs::canonicalize(manifest).ok()?;
    let packages = metadata["packages"].as_array()?;
    let path_of = |package: &Value| package["manifest_path"].as_str().and_then(|path| fs::canonicalize(path).ok());
    let package = packages.iter().find(|package| path_of(package).as_ref() == Some(&own))?;
    let is_cdylib = |target: &Value| target["crate_types"].as_array().is_some_and(|all| all.contains(&"cdylib".into()));
    let target = package["targets"].as_array()?.iter().find(|target| is_cdylib(target))?;
    let name = target["name"].as_str()?.replace('-', "_");
    let folder = Path::new(metadata["target_directory"].as_str()?).join(RUST_TARGET).join("release");
    Some(folder.join(format!("{name}.wasm")))
}

fn node(directory: &Path, progress: Progress<'_>) -> Result<PathBuf, BuildError> {
    let package = need_file(directory, "package.json")?;
    let npm = tools::need("npm", "to bundle JavaScript")?;
    make_results_folder(directory)?;
    // Npm writes this file at the end of each installation.
    let installed = directory.join("node_modules/.package-lock.json");
    let lock = directory.join("package-lock.json");
    if is_newer(&package, &installed) || is_newer(&lock, &installed) {
        // Not `npm ci`, which refuses whole locks for a package of another platform that the registry does not have.
        let mut install = npm.command(directory);
        install.args(["install", "--no-audit", "--no-fund"]);
        if lock.is_file() {
            install.arg("--no-save");
        }
        tools::run(&mut install, progress)?;
    }
    tools::run(npm.command(directory).args(["run", "build"]), progress)?;
    Ok(directory.join(COMPONENT))
}

/// Whether a file that is there was changed after another one, or that one is missing.
fn is_newer(file: &Path, than: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    changed(file).is_some_and(|time| changed(than).is_none_or(|other| time > other))
}

fn python(directory: &Path, progress: Progress<'_>) -> Result<PathBuf, BuildError> {
    need_file(directory, "app.py")?;
    let directory =
        &std::path::absolute(directory).map_err(|cause| BuildError::File { path: directory.to_owned(), cause })?;
    let environment = directory.join(".venv");
    let componentize = match tools::named_by("WASMILL_COMPONENTIZE_PY") {
        Some(program) => program,
        None => own_componentize_py(directory, &environment, progress)?,
    };
    make_results_folder(directory)?;
    let mut command = componentize.command(directory);
    if environment.is_dir() {
        // So the packages of the environment are found as well.
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(environment.join("bin")).chain(env::split_paths(&path));
        if let Ok(path) = env::join_paths(folders) {
            command.env("PATH", path);
        }
        command.env("VIRTUAL_ENV", &environment);
    }
    // Not `-s`, which takes WASI away: without stderr, an exception is a trap without a word.
    command.args(["-d", "wit", "-w", wit::WORLD, "componentize", "app", "-o", COMPONENT]);
    tools::run(&mut command, progress)?;
    Ok(directory.join(COMPONENT))
}

/// The `componentize-py` of the project's environment, which is made and filled if need be; or, if there is no such
/// environment yet, the one on the `PATH`.
fn own_componentize_py(directory: &Path, environment: &Path, progress: Progress<'_>) -> Result<Program, BuildError> {
    let needed_for = "to run componentize-py";
    let program = environment.join("bin/componentize-py");
    if !environment.is_dir()
        && let Some(found) = tools::find("componentize-py")
    {
        return Ok(found);
    }
    let requirements = need_file(directory, "requirements.txt")?;
    if tools::is_executable(&program) && !is_newer(&requirements, &program) {
        return Ok(Program::from(program));
    }
    if !tools::is_executable(&environment.join("bin/pip")) {
        let python = tools::need("python3", needed_for)?;
        tools::run(python.command(directory).args(["-m", "venv", ".venv"]), progress)?;
    }
    let pip = Program::from(environment.join("bin/pip"));
    let arguments = ["install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"];
    tools::run(pip.command(directory).args(arguments), progress)?;
    // From now on it is newer than the requirements, even if pip found that it had nothing to do.
    let touched = fs::File::open(&program).and_then(|file| file.set_modified(std::time::SystemTime::now()));
    touched.map_err(|cause| BuildError::File { path: program.clone(), cause })?;
    Ok(Program::from(program))
}

fn go(directory: &Path, progress: Progress<'_>) -> Result<PathBuf, BuildError> {
    need_file(directory, "go.mod")?;
    let go = tools::need("go", "to compile Go")?;
    let mut command = go.command(directory);
    command.env("GOOS", "wasip1").env("GOARCH", "wasm");
    command.args(["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", CORE_MODULE, "."]);
    tools::run(&mut command, progress)?;
    Ok(directory.join(CORE_MODULE))
}

fn c(lang: Lang, directory: &Path, progress: Progress<'_>) -> Result<PathBuf, BuildError> {
    need_file(directory, "Makefile")?;
    let (compilers, needed_for): (&[_], _) = match lang {
        Lang::Cpp => (&[("CC", "WASMILL_CC"), ("CXX", "WASMILL_CXX")], "to compile C++"),
        _ => (&[("CC", "WASMILL_CC")], "to compile C"),
    };
    let make = tools::need("make", "to run the Makefile")?;
    let own = |&(name, variable)| Some(format!("{name}={}", tools::named_by(variable)?.shown()));
    let mut settings: Vec<String> = compilers.iter().filter_map(own).collect();
    if settings.len() < compilers.len() {
        settings.push(format!("ZIG={}", tools::need_zig(needed_for)?.shown()));
    }
    componentize::write_c_bindings(&directory.join("wit"), &directory.join(BINDINGS))?;
    tools::run(make.command(directory).args(settings), progress)?;
    Ok(directory.join(CORE_MODULE))
}

fn zig(directory: &Path, progress: Progress<'_>) -> Result<PathBuf, BuildError> {
    need_file(directory, "build.zig")?;
    let zig = tools::need_zig("to compile Zig")?;
    componentize::write_c_bindings(&directory.join("wit"), &directory.join(BINDINGS))?;
    tools::run(zig.command(directory).args(["build", "--prefix", "build"]), progress)?;
    Ok(directory.join(CORE_MODULE))
}
