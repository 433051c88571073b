//! Building guest-examples/.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cmd::{self, Result};

/// What guests are built for.
pub const TARGET: &str = "wasm32-wasip2";

/// Builds all example handlers into target/guests/NAME.wasm.
pub fn build(root: &Path) -> Result<()> {
    add_target()?;
    let (build, guests) = (root.join("target/guests-build"), root.join("target/guests"));
    let mut cargo = cmd::cargo(&root.join("guest-examples"));
    cargo.args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"]).arg(&build);
    cmd::run(&mut cargo)?;
    fs::create_dir_all(&guests)?;
    for entry in fs::read_dir(build.join(TARGET).join("release"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm")
            && let Some(name) = path.file_name()
        {
            // Renamed into place, so that no reader ever sees half of it.
            let temporary = guests.join(name).with_extension("wasm.tmp");
            fs::copy(&path, &temporary)?;
            fs::rename(temporary, guests.join(name))?;
        }
    }
    Ok(())
}

/// Installs the target where rustup has not done so yet.
fn add_target() -> Result<()> {
    let Some(installed) = cmd::output("rustup", &["target", "list", "--installed"]) else {
        // A toolchain from elsewhere: cargo says what is missing.
        return Ok(());
    };
    if installed.lines().any(|line| line == TARGET) {
        return Ok(());
    }
    cmd::run(Command::new("rustup").args(["target", "add", TARGET]))
}
