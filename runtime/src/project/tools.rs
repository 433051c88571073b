//! The tools of the languages: finding them, running them, and saying how to get them.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::BuildError;

/// How much of what a failed tool said is kept, in bytes: the end, where the fault stands.
const MAX_OUTPUT: u64 = 64 << 10;
/// The release of the Python package `ziglang` that the templates are tested with.
pub const ZIG_VERSION: &str = "0.17.1";

/// A program that is found, with the arguments that always go first: `python3 -m ziglang`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<OsString>);

impl Program {
    /// A command that runs it in a folder.
    pub fn command(&self, directory: &Path) -> Command {
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]).current_dir(directory).stdin(Stdio::null());
        command
    }

    /// As it is written in a shell, or in a Makefile.
    pub fn shown(&self) -> String {
        self.0.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }
}

impl From<PathBuf> for Program {
    fn from(path: PathBuf) -> Program {
        Program(vec![path.into_os_string()])
    }
}

/// What to do on this platform to have something.
fn install(debian: &str, mac: &str, anywhere: &str) -> String {
    match env::consts::OS {
        "macos" => format!("Install it: {mac} (or {anywhere})"),
        "linux" => format!("Install it: {debian} (Debian, Ubuntu; elsewhere: {anywhere})"),
        _ => format!("Install it: {anywhere}"),
    }
}

/// How to get a tool, in one or two sentences.
pub fn remedy(tool: &str) -> String {
    match tool {
        "cargo" => "Install Rust: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh".to_owned(),
        "npm" => install("sudo apt install nodejs npm", "brew install node", "https://nodejs.org, 20 or newer"),
        "python3" => install(
            "sudo apt install python3 python3-venv",
            "brew install python",
            "https://www.python.org/downloads, 3.10 or newer",
        ),
        "go" => install("sudo snap install go --classic", "brew install go", "https://go.dev/dl, 1.24 or newer"),
        "make" => install("sudo apt install make", "xcode-select --install", "GNU make from your packages"),
        "zig" => format!(
            "Install it: pip install ziglang=={ZIG_VERSION} (or https://ziglang.org/download). WASMILL_ZIG names one \
             that is not on the PATH"
        ),
        other => format!("Install {other}"),
    }
}

/// The fault that a tool is not there.
pub fn missing(tool: &str, needed_for: &str) -> BuildError {
    BuildError::MissingTool { tool: tool.to_owned(), needed_for: needed_for.to_owned(), remedy: remedy(tool) }
}

/// Finds a program on the `PATH`.
pub fn find(name: &str) -> Option<Program> {
    let directories = env::var_os("PATH")?;
    let candidates = env::split_paths(&directories).map(|directory| directory.join(name));
    candidates.into_iter().find(|path| is_executable(path)).map(Program::from)
}

/// Finds a program on the `PATH`, or says how to get it.
pub fn need(name: &str, needed_for: &str) -> Result<Program, BuildError> {
    find(name).ok_or_else(|| missing(name, needed_for))
}

/// The program that an environment variable names, with arguments after spaces; `None` if it is not set.
pub fn named_by(variable: &str) -> Option<Program> {
    let text = env::var(variable).ok()?;
    let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
    (!words.is_empty()).then_some(Program(words))
}

/// Zig as it is there: by `WASMILL_ZIG`, on the `PATH`, or in the Python package `ziglang`.
pub fn need_zig(needed_for: &str) -> Result<Program, BuildError> {
    let of_python = || {
        let python = find("python3")?;
        let zig = Program([python.0, vec!["-m".into(), "ziglang".into()]].concat());
        let version = zig.command(Path::new(".")).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success()).then_some(zig)
    };
    let found = named_by("WASMILL_ZIG").or_else(|| find("zig")).or_else(|| find("python-zig")).or_else(of_python);
    found.ok_or_else(|| missing("zig", needed_for))
}

pub fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Runs a tool to its end, after telling `progress` what is run.
pub fn run(command: &mut Command, progress: &mut dyn FnMut(&str)) -> Result<(), BuildError> {
    let shown = shown(command);
    progress(&format!("$ {shown}"));
    let not_started = |cause| BuildError::NotStarted { command: shown.clone(), cause };
    // A file rather than a pipe: a process that a tool leaves behind does not hold up anything.
    let mut output = tempfile::tempfile().map_err(not_started)?;
    command.stdout(output.try_clone().map_err(not_started)?);
    command.stderr(output.try_clone().map_err(not_started)?);
    let status = command.status().map_err(not_started)?;
    if status.success() {
        return Ok(());
    }
    let output = end_of(&mut output).unwrap_or_else(|cause| format!("(what it said cannot be read: {cause})"));
    Err(BuildError::Failed { command: shown, status, output })
}

fn end_of(file: &mut File) -> std::io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_OUTPUT)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// A command with its variables, as it is written in a shell. Variables that only say where something lies are left out.
fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter(|(name, _)| *name != "PATH" && *name != "VIRTUAL_ENV");
    let variables = variables.filter_map(|(name, value)| Some(format!("{}={}", name.display(), quoted(value?))));
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args()).map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into_owned() } else { format!("'{word}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_tool_is_shown_with_its_end() {
        let mut said = Vec::new();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "yes filler | head -c 100000; echo out; echo err >&2; exit 3"]).env("GOOS", "wasip1");
        let error = run(&mut command, &mut |line| said.push(line.to_owned())).expect_err("it fails");
        let BuildError::Failed { output, status, .. } = error else { panic!("{error}") };
        assert_eq!(status.code(), Some(3));
        assert!(output.ends_with("out\nerr") && output.len() as u64 <= MAX_OUTPUT, "{}", output.len());
        assert!(said.len() == 1 && said[0].starts_with("$ GOOS=wasip1 sh -c 'yes filler"), "{said:?}");
    }

    #[test]
    fn a_program_that_is_not_there_cannot_be_run() {
        let mut command = Command::new("/nowhere/tool");
        let error = run(&mut command, &mut |_| {}).expect_err("it is not there");
        assert!(matches!(&error, BuildError::NotStarted { command, .. } if command == "tool"), "{error}");
        assert_eq!(find("a-tool-that-nobody-has"), None);
    }

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted(OsStr::new("-Wl,-z,stack-size=1")), "-Wl,-z,stack-size=1");
        assert_eq!(quoted(OsStr::new("-s -w")), "'-s -w'");
        assert_eq!(quoted(OsStr::new("")), "''");
    }
}
