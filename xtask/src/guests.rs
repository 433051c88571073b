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
            let target = guests.join(name);
            if is_same(&path, &target)? {
                continue;
            }
            // Renamed into place, so that no reader ever sees half of it.
            let temporary = target.with_extension("wasm.tmp");
            fs::copy(&path, &temporary)?;
            fs::rename(temporary, target)?;
        }
    }
    Ok(())
}

/// Whether the copy is there already, byte for byte.
fn is_same(built: &Path, copy: &Path) -> Result<bool> {
    Ok(copy.exists() && fs::read(built)? == fs::read(copy)?)
}

/// Installs the target where rustup has not done so yet.
fn add_target() -> Result<()> {
    let Some(installed) = cmd::output("rustup", &["target", "list", "--installed"]) else {
        // A toolchain from elsewhere.
        let libraries = cmd::output("rustc", &["--print", "target-libdir", "--target", TARGET]);
        return match libraries.is_some_and(|path| Path::new(path.trim()).is_dir()) {
            true => Ok(()),
            false => Err(format!("rustc has no target {TARGET}, and there is no rustup to add it: install it").into()),
        };
    };
    if installed.lines().any(|line| line == TARGET) {
        return Ok(());
    }
    cmd::run(Command::new("rustup").args(["target", "add", TARGET]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_changed_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let [built, copy] = ["built", "copy"].map(|name| dir.path().join(name));
        fs::write(&built, b"new").unwrap();
        assert!(!is_same(&built, &copy).unwrap());
        fs::write(&copy, b"old").unwrap();
        assert!(!is_same(&built, &copy).unwrap());
        fs::write(&copy, b"new").unwrap();
        assert!(is_same(&built, &copy).unwrap());
    }
}
