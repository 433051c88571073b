//! Building guest-examples/.

mod languages;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::cmd::{self, Result};

pub use languages::Language;

/// What guests are built for.
pub const TARGET: &str = "wasm32-wasip2";

/// Builds all that is in guest-examples/ into target/guests/. What has not changed is left as it is.
pub fn build(root: &Path) -> Result<()> {
    build_workspace(root)?;
    build_languages(root, &Language::ALL)
}

/// Builds the project LANG/enrich of these languages into target/guests/enrich-LANG.wasm.
pub fn build_languages(root: &Path, languages: &[Language]) -> Result<()> {
    let _lock = lock(root)?;
    languages::build(root, languages)
}

/// Lets one process at a time build.
fn lock(root: &Path) -> Result<File> {
    let guests = root.join("target/guests");
    fs::create_dir_all(&guests)?;
    let lock = File::create(guests.join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Builds the cargo workspace (the handlers of the demo, and those that tests and benchmarks need) into
/// target/guests/NAME.wasm.
pub fn build_workspace(root: &Path) -> Result<()> {
    let _lock = lock(root)?;
    add_target()?;
    let (build, guests) = (root.join("target/guests-build"), root.join("target/guests"));
    let mut cargo = cmd::cargo(&root.join("guest-examples"));
    cargo.args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"]).arg(&build);
    cmd::run(&mut cargo)?;
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
