//! `cargo xtask ci`: formatting, lints, documentation, dependencies.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::cmd::{self, Result};
use crate::guests;

/// The version of cargo-deny that is installed where there is none.
const CARGO_DENY: &str = "0.20.2";

/// Runs every check; stops at the first that fails.
pub fn run(root: &Path) -> Result<ExitCode> {
    let examples = root.join("guest-examples");
    let guests_build = root.join("target/guests-build");
    cmd::run(cmd::cargo(root).args(["fmt", "--all", "--check"]))?;
    cmd::run(cmd::cargo(&examples).args(["fmt", "--all", "--check"]))?;
    let deny_warnings = ["--", "--deny", "warnings"];
    cmd::run(cmd::cargo(root).args(["clippy", "--workspace", "--all-targets", "--locked"]).args(deny_warnings))?;
    let mut clippy = cmd::cargo(&examples);
    clippy.args(["clippy", "--locked", "--target", guests::TARGET, "--target-dir"]).arg(&guests_build);
    cmd::run(clippy.args(deny_warnings))?;
    let mut doc = cmd::cargo(root);
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"])
        .env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links");
    cmd::run(&mut doc)?;
    let deny = cargo_deny(root)?;
    for folder in [root, &examples] {
        let mut check = Command::new(&deny);
        // The advisory database cannot be fetched everywhere; what lies in the lock file can be checked anywhere.
        check.current_dir(folder).args(["check", "bans", "licenses", "sources"]);
        cmd::run(&mut check)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The program cargo-deny, installed under target/ if it is not there.
fn cargo_deny(root: &Path) -> Result<PathBuf> {
    if cmd::output("cargo-deny", &["--version"]).is_some() {
        return Ok("cargo-deny".into());
    }
    let tools = root.join("target/tools");
    let program = tools.join("bin/cargo-deny");
    if !program.exists() {
        let mut install = cmd::cargo(root);
        install.args(["install", "cargo-deny", "--locked", "--version", CARGO_DENY, "--no-default-features", "--root"]);
        cmd::run(install.arg(&tools))?;
    }
    Ok(program)
}
