//! Running cargo from within a test, once for all tests that need the result.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace;

/// A lock that only one process holds at a time, until it is dropped.
///
/// # Panics
/// When the lock file cannot be made.
pub(crate) fn lock(name: &str) -> File {
    let dir = workspace().join("target");
    fs::create_dir_all(&dir).expect("the target directory can be made");
    let file = File::create(dir.join(name)).expect("a lock file can be made");
    file.lock().expect("a lock file can be locked");
    file
}

/// A cargo command that the cargo around the test does not disturb: what `cargo test` tells its children by the
/// environment about itself, and what it was told about flags and targets, is taken out.
pub(crate) fn cargo(dir: &Path) -> Command {
    // Set by cargo for its children, or asking for another kind of build than the harness wants.
    const PREFIXES: [&str; 9] = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_BUILD_",
    ];
    const NAMES: [&str; 8] = [
        "CARGO",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
        "MFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "RUSTFLAGS",
        "LD_LIBRARY_PATH",
    ];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    for (name, _) in std::env::vars_os() {
        let disturbs = name
            .to_str()
            .is_some_and(|name| NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
        if disturbs {
            command.env_remove(name);
        }
    }
    command.current_dir(dir);
    command
}

/// Runs a command to its end.
///
/// # Panics
/// With everything that it printed, when it fails.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed with {}:\n{text}", output.status);
}

/// The target directory and the profile directory in it that this test was built into.
pub(crate) fn own_target() -> (PathBuf, PathBuf) {
    // TARGET/PROFILE/deps/TEST
    let exe = std::env::current_exe().expect("the test knows its file");
    let profile = exe.ancestors().nth(2).expect("a test lies in a profile directory");
    let target = profile.parent().expect("a profile directory lies in a target directory");
    (target.to_path_buf(), profile.to_path_buf())
}
