//! The example handlers as components, built once by `cargo xtask guests`.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::{build, workspace};

/// The component of a guest in the cargo workspace guest-examples/, such as `payment` or `faults`.
///
/// # Panics
/// When the guests cannot be built, or there is none of that name.
pub fn component(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| xtask_guests("--workspace"));
    let path = built(name);
    assert!(path.is_file(), "guest-examples/ has no guest `{name}`");
    path
}

/// The component of the project guest-examples/LANG/enrich; `None` if the tools of that language are missing here.
///
/// # Panics
/// When it cannot be built; with `CI` in the environment, also when its tools are missing.
pub(crate) fn enrich(lang: &str) -> Option<PathBuf> {
    xtask_guests(lang);
    Some(built(&format!("enrich-{lang}"))).filter(|path| path.is_file())
}

fn built(name: &str) -> PathBuf {
    workspace().join("target/guests").join(format!("{name}.wasm"))
}

fn xtask_guests(argument: &str) {
    build::run(build::cargo(&workspace()).args(["run", "--quiet", "--package", "xtask", "--", "guests", argument]));
}
