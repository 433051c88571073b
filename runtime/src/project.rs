//! Handler projects: from the sources of a handler, in any of the languages, to its component.
//!
//! A project is a folder with the sources and the build file of its language. It is built with that language's own tools;
//! what they make (a core module or a component) becomes a component that is known to fit the world.

mod componentize;
mod languages;
pub mod templates;
mod tools;
pub mod wit;

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The languages that projects can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    /// With cargo, for the target `wasm32-wasip2`.
    Rust,
    /// JavaScript, with npm and componentize-js.
    Js,
    /// TypeScript, with npm, tsc and componentize-js.
    Ts,
    /// With componentize-py.
    Python,
    /// With the stock Go toolchain.
    Go,
    /// With make, and Zig's C compiler.
    C,
    /// With make, and Zig's C++ compiler.
    Cpp,
    /// With `zig build`.
    Zig,
}

impl Lang {
    /// All of them.
    pub const ALL: [Lang; 8] = [Lang::Rust, Lang::Js, Lang::Ts, Lang::Python, Lang::Go, Lang::C, Lang::Cpp, Lang::Zig];

    /// The word for it in the configuration and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Lang::Rust => "rust",
            Lang::Js => "js",
            Lang::Ts => "ts",
            Lang::Python => "python",
            Lang::Go => "go",
            Lang::C => "c",
            Lang::Cpp => "cpp",
            Lang::Zig => "zig",
        }
    }
}

impl fmt::Display for Lang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// There is no such language.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a language that wasmill builds; there are: rust, js, ts, python, go, c, cpp, zig")]
pub struct UnknownLang(pub String);

impl FromStr for Lang {
    type Err = UnknownLang;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Lang::ALL.into_iter().find(|lang| lang.as_str() == text).ok_or_else(|| UnknownLang(text.to_owned()))
    }
}

/// What to build, from what, to where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The name of the handler.
    pub name: String,
    /// The language that it is written in.
    pub lang: Lang,
    /// The folder with its build file.
    pub directory: PathBuf,
    /// The file that the component is written to. Its folder is made if it is not there.
    pub output: PathBuf,
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The component's file.
    pub output: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A tool of the language is not there, or not complete.
    #[error("{tool} is missing, which is needed {needed_for}. {remedy}")]
    MissingTool { tool: String, needed_for: String, remedy: String },
    /// The folder is no project of that language.
    #[error("{} is missing: {remedy}", path.display())]
    MissingFile { path: PathBuf, remedy: String },
    /// A tool is there and cannot be run.
    #[error("`{command}` cannot be run: {cause}")]
    NotStarted {
        command: String,
        #[source]
        cause: std::io::Error,
    },
    /// A tool did not do its work; `output` is the end of what it said.
    #[error("`{command}` failed ({status}):\n{output}")]
    Failed { command: String, status: ExitStatus, output: String },
    /// A file or folder of the project cannot be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// The tools have worked, and what they made cannot handle events.
    #[error("{}: {problem}", path.display())]
    Unfit { path: PathBuf, problem: String },
}

/// Builds the component of a project with the tools of its language. `progress` is told each step, in one line.
///
/// Blocks until the tools are done, which takes from under a second to some minutes (the first build of a project). The
/// output is replaced only by a component that fits the world; after a fault it is as it was.
pub fn build(plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<Built, BuildError> {
    let start = Instant::now();
    if !plan.directory.is_dir() {
        let remedy = "`directory` in [handlers.NAME.build] is the folder with the sources".to_owned();
        return Err(BuildError::MissingFile { path: plan.directory.clone(), remedy });
    }
    let wit = plan.directory.join("wit");
    if !wit.exists() {
        progress(&format!("writing {}", wit.display()));
        wit::write(&wit)?;
    } else if !wit::differing(&wit).is_empty() {
        progress(&format!("{} is not what this wasmill brings along; kept as it is", wit.display()));
    }
    let made = languages::make(plan.lang, &plan.directory, progress)?;
    let module = fs::read(&made).map_err(|cause| BuildError::File { path: made.clone(), cause })?;
    let component = componentize::componentize(&made, module, &wit)?;
    componentize::check_fit(&made, &component)?;
    replace(&plan.output, &component).map_err(|cause| BuildError::File { path: plan.output.clone(), cause })?;
    Ok(Built { output: plan.output.clone(), bytes: component.len() as u64, took: start.elapsed() })
}

/// Writes a file in one step, for readers that may come at any time.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o644)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}
