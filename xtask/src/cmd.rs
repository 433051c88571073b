//! Running other programs.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// What went wrong, in words.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// `cargo` in a folder, with nothing of the cargo that runs this left in its environment but the toolchain.
pub fn cargo(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(folder);
    let leaked = |name: &str| name.starts_with("CARGO") && name != "CARGO_HOME";
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(leaked) {
            command.env_remove(name);
        }
    }
    command.env_remove("RUSTFLAGS");
    command
}

/// Runs a program; its standard output goes to standard error, so that results stay apart.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    eprintln!("$ {shown}");
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.map_err(|error| format!("`{shown}` cannot be run: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}` failed: {status}").into()) }
}

/// Runs a program and passes on how it ended.
pub fn exit_code(command: &mut Command) -> Result<ExitCode> {
    let shown = shown(command);
    let status = command.status().map_err(|error| format!("`{shown}` cannot be run: {error}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// What a program prints; `None` if there is no such program or it fails.
pub fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
