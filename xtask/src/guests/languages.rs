//! The projects `guest-examples/LANG/enrich`, built by `wasmill build` into `target/guests/enrich-LANG.wasm`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::cmd::{self, Result};
use crate::packages;

/// The languages of the examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    Rust,
    Js,
    Ts,
    Python,
    Go,
    C,
    Cpp,
    Zig,
}

/// The oldest Python that has the packages.
const PYTHON: (u32, u32) = (3, 10);

/// Why a language cannot be built here: what is missing, and what to do about it.
struct Missing(String);

/// Folders and files in a project that its component is not made of.
const NO_SOURCES: [&str; 12] = [
    "build",
    "wit",
    "target",
    "node_modules",
    ".venv",
    "__pycache__",
    ".zig-cache",
    "zig-cache",
    ".mypy_cache",
    "events",
    "README.md",
    ".gitignore",
];
/// What decides how a project is built, besides its own files: the code of `wasmill build`, the crates that it builds
/// with, and the tools that are installed here.
const BUILDER: [&str; 5] =
    ["runtime/src/project.rs", "runtime/src/project", "wit", "Cargo.lock", "guest-examples/requirements.txt"];

impl Language {
    /// All of them.
    pub const ALL: [Language; 8] = [
        Language::Rust,
        Language::Js,
        Language::Ts,
        Language::Python,
        Language::Go,
        Language::C,
        Language::Cpp,
        Language::Zig,
    ];

    /// The word for it: of its folder, of `--lang`, and in the component's name.
    pub fn name(self) -> &'static str {
        match self {
            Language::Rust => "rust",
            Language::Js => "js",
            Language::Ts => "ts",
            Language::Python => "python",
            Language::Go => "go",
            Language::C => "c",
            Language::Cpp => "cpp",
            Language::Zig => "zig",
        }
    }

    /// The versions of the tools that have to be there, one a line.
    fn tools(self, tools: &Path) -> std::result::Result<String, Missing> {
        let version = |program: &str, arguments: &[&str], remedy: &str| {
            let missing = || Missing(format!("{program} is missing: {remedy}"));
            cmd::output(program, arguments).ok_or_else(missing)
        };
        let make = || version("make", &["--version"], "install the package make");
        let zig = || {
            let zig = tools.join("bin/python-zig");
            version(&zig.to_string_lossy(), &["version"], "remove target/tools/guests-py, so that it is made anew")
        };
        match self {
            Language::Rust => version("rustc", &["--version"], "install Rust, https://rustup.rs"),
            Language::Js | Language::Ts => {
                let remedy = "install Node.js 20 or newer with npm, https://nodejs.org";
                Ok(version("node", &["--version"], remedy)? + &version("npm", &["--version"], remedy)?)
            }
            // Pinned, in a file that is looked at anyway.
            Language::Python => Ok(String::new()),
            Language::Go => version("go", &["version"], "install Go 1.24 or newer, https://go.dev/dl"),
            Language::C | Language::Cpp => Ok(make()? + &zig()?),
            Language::Zig => zig(),
        }
    }

    /// Whether its tools are installed by us, as a registry has them.
    fn needs_packages(self) -> bool {
        matches!(self, Language::Python | Language::C | Language::Cpp | Language::Zig)
    }
}

/// Builds what has changed. A language whose tools are missing is skipped by name; with `CI` in the environment that is
/// an error.
pub fn build(root: &Path, languages: &[Language]) -> Result<()> {
    let is_strict = env::var_os("CI").is_some_and(|ci| !ci.is_empty());
    let tools = root.join("target/tools/guests-py");
    let packages = match languages.iter().any(|language| language.needs_packages()) {
        true => install_packages(root, &tools),
        false => Ok(()),
    };
    let mut wasmill = None;
    for &language in languages {
        let found = match (&packages, language.needs_packages()) {
            (Err(Missing(reason)), true) => Err(Missing(reason.clone())),
            _ => language.tools(&tools),
        };
        let target = Target::new(root, language);
        match found {
            Ok(versions) => build_one(root, &tools, &target, &versions, &mut wasmill)?,
            Err(Missing(reason)) if is_strict => return Err(format!("{}: {reason}", target.name).into()),
            Err(Missing(reason)) => {
                eprintln!("{}: skipped: {reason}", target.name);
                target.remove()?;
            }
        }
    }
    Ok(())
}

/// What a project becomes.
struct Target {
    /// `enrich-LANG`.
    name: String,
    project: PathBuf,
    component: PathBuf,
    /// Says in one word what the component was made of; written last.
    stamp: PathBuf,
}

impl Target {
    fn new(root: &Path, language: Language) -> Target {
        let name = format!("enrich-{}", language.name());
        let guests = root.join("target/guests");
        Target {
            project: root.join("guest-examples").join(language.name()).join("enrich"),
            component: guests.join(format!("{name}.wasm")),
            stamp: guests.join(format!("{name}.stamp")),
            name,
        }
    }

    fn is_there(&self, stamp: &str) -> bool {
        self.component.is_file() && fs::read_to_string(&self.stamp).is_ok_and(|found| found == stamp)
    }

    /// Removes what an earlier build has left: it must not pass for one of these sources.
    fn remove(&self) -> Result<()> {
        for path in [&self.stamp, &self.component] {
            if path.exists() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Builds a project, if anything has changed. `wasmill` is the path of the program, once it has been built.
fn build_one(root: &Path, tools: &Path, target: &Target, versions: &str, wasmill: &mut Option<PathBuf>) -> Result<()> {
    let stamp = stamp(root, &target.project, versions)?;
    if target.is_there(&stamp) {
        return Ok(());
    }
    target.remove()?;
    let program = match wasmill {
        Some(program) => program,
        None => {
            cmd::run(cmd::cargo(root).args(["build", "--locked", "--package", "wasmill"]))?;
            wasmill.insert(root.join("target/debug/wasmill"))
        }
    };
    // Made anew from ours: a folder of an older state would be kept.
    let wit = target.project.join("wit");
    if wit.exists() {
        fs::remove_dir_all(&wit)?;
    }
    eprintln!("{}: building", target.name);
    let mut build = cmd::program(program, &target.project);
    build.args(["build", "--out"]).arg(&target.component);
    build.env("WASMILL_ZIG", tools.join("bin/python-zig"));
    build.env("WASMILL_COMPONENTIZE_PY", tools.join("bin/componentize-py"));
    cmd::run(&mut build)?;
    Ok(fs::write(&target.stamp, stamp)?)
}

/// Everything that a component is made of, in one word.
fn stamp(root: &Path, project: &Path, versions: &str) -> Result<String> {
    let mut files = Vec::new();
    collect(project, &NO_SOURCES, &mut files)?;
    for path in BUILDER.map(|path| root.join(path)) {
        match path.is_dir() {
            true => collect(&path, &[], &mut files)?,
            false => files.push(path),
        }
    }
    files.sort();
    let mut hasher = Sha256::new_with_prefix(versions);
    for file in &files {
        let name = file.strip_prefix(root).unwrap_or(file);
        hasher.update(name.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        let bytes = fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// All files below a folder, but for files and folders of these names.
fn collect(folder: &Path, but: &[&str], files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{} cannot be read: {error}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if but.iter().any(|other| *other == name) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => collect(&entry.path(), but, files)?,
            false => files.push(entry.path()),
        }
    }
    Ok(())
}

/// Installs the tools that come as Python packages, if they are not there.
fn install_packages(root: &Path, folder: &Path) -> std::result::Result<(), Missing> {
    let requirements = root.join("guest-examples/requirements.txt");
    packages::install_python("componentize-py and zig come as Python packages", PYTHON, &requirements, folder)
        .map_err(|error| Missing(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_what_a_build_does_not_write() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["go.mod", "wasmill/abi.go", "build/core.wasm", "node_modules/a/b.js", "README.md"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut files = Vec::new();
        collect(dir.path(), &NO_SOURCES, &mut files).unwrap();
        files.sort();
        assert_eq!(files, ["go.mod", "wasmill/abi.go"].map(|path| dir.path().join(path)));
        assert!(collect(&dir.path().join("nowhere"), &[], &mut files).is_err());
    }

    #[test]
    fn a_component_is_there_if_it_is_of_these_sources() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("target/guests")).unwrap();
        let target = Target::new(dir.path(), Language::Go);
        assert!(target.component.ends_with("target/guests/enrich-go.wasm"));
        fs::write(&target.stamp, "a").unwrap();
        assert!(!target.is_there("a"));
        fs::write(&target.component, "").unwrap();
        assert!(target.is_there("a") && !target.is_there("b"));
        target.remove().unwrap();
        assert!(!target.component.exists() && !target.is_there("a"));
    }

    #[test]
    fn what_builds_is_where_we_look_for_it() {
        let root = crate::root();
        for path in BUILDER {
            assert!(root.join(path).exists(), "{path}");
        }
        for language in Language::ALL {
            assert!(Target::new(&root, language).project.join("wasmill.toml").is_file(), "{}", language.name());
        }
    }
}
