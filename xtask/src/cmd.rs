//! Running other programs.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// What went wrong, in words.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// `cargo` in a folder.
pub fn cargo(folder: &Path) -> Command {
    program("cargo", folder)
}

/// A program that runs cargo in a folder, with nothing of the cargo that runs this left in its environment but the
/// toolchain, and how the user reaches registries.
pub fn program(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(disturbs) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether a variable says something about the build that runs this, or asks for another kind of build.
fn disturbs(name: &str) -> bool {
    // Proxies, certificates, mirrors and the number of jobs are the user's, and hold for every build.
    const NAMES: [&str; 2] = ["CARGO_HOME", "CARGO_BUILD_JOBS"];
    const PREFIXES: [&str; 5] = ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
    let kept = NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    name == "RUSTFLAGS" || (name.starts_with("CARGO") && !kept)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_build_is_forgotten_and_the_users_network_is_not() {
        let gone = ["RUSTFLAGS", "CARGO", "CARGO_PKG_NAME", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"];
        assert!(gone.into_iter().all(disturbs));
        let kept = ["CARGO_HOME", "CARGO_HTTP_CAINFO", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_X_INDEX"];
        assert!(!kept.into_iter().chain(["RUSTUP_TOOLCHAIN", "PATH"]).any(disturbs));
    }
}
