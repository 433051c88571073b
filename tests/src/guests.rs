//! The example handlers as components, built once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{build, workspace};

/// The component of a guest in guest-examples/, such as `payment` or `faults`.
///
/// # Panics
/// When the guests cannot be built, or there is none of that name.
pub fn component(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let path = BUILT.get_or_init(build_all).join(format!("{name}.wasm"));
    assert!(path.is_file(), "guest-examples/ has no guest `{name}`");
    path
}

/// Builds all guests into target/guests/ and returns that directory.
fn build_all() -> PathBuf {
    let _lock = build::lock("guests.lock");
    let [guests, built] = ["guests", "guests-build"].map(|name| workspace().join("target").join(name));
    let mut cargo = build::cargo(&workspace().join("guest-examples"));
    cargo.args(["build", "--release", "--locked", "--target", "wasm32-wasip2"]).arg("--target-dir").arg(&built);
    build::run(&mut cargo);
    fs::create_dir_all(&guests).expect("the directory of the guests can be made");
    let results = fs::read_dir(built.join("wasm32-wasip2/release")).expect("cargo has built something");
    for result in results {
        let path = result.expect("the results can be listed").path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            publish(&path, &guests);
        }
    }
    guests
}

/// Copies a component so that no reader ever sees half of it.
fn publish(component: &Path, dir: &Path) {
    let name = component.file_name().expect("a component has a name");
    let copy = tempfile::NamedTempFile::new_in(dir).expect("a file beside the guests");
    fs::copy(component, copy.path()).expect("a component can be copied");
    copy.persist(dir.join(name)).expect("a component can be put in place");
}
