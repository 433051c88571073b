//! The contract with handlers, as every wasmill brings it along.

use std::fs;
use std::path::{Path, PathBuf};

use wit_component::WitPrinter;
use wit_parser::{PackageId, Resolve, WorldId};

use super::BuildError;

/// The world that components have to fit.
pub const WORLD: &str = "event-handler";

/// The files of the folder `wit/`: the contract itself, then what it depends on.
pub const FILES: [(&str, &str); 5] = [
    ("events.wit", include_str!("../../../wit/events.wit")),
    ("deps/config/config.wit", include_str!("../../../wit/deps/config/config.wit")),
    ("deps/keyvalue/keyvalue.wit", include_str!("../../../wit/deps/keyvalue/keyvalue.wit")),
    ("deps/messaging/messaging.wit", include_str!("../../../wit/deps/messaging/messaging.wit")),
    ("deps/logging/logging.wit", include_str!("../../../wit/deps/logging/logging.wit")),
];

/// The whole contract as one WIT document, what it depends on included.
pub fn text() -> String {
    let mut resolve = Resolve::new();
    // Packages are there before those that need them.
    let packages = FILES.iter().rev().map(|(name, text)| resolve.push_source(name, text));
    let packages: Vec<PackageId> = packages.collect::<Result<_, _>>().expect("a test reads these very files");
    let (main, dependencies) = packages.split_last().expect("there are files");
    let mut printer = WitPrinter::default();
    printer.print(&resolve, *main, dependencies).expect("texts can always be written to");
    printer.output.to_string()
}

/// Writes the folder `wit/`, files that are there already included. Other files in it stay.
pub fn write(directory: &Path) -> Result<(), BuildError> {
    for (name, text) in FILES {
        write_file(&directory.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// The names of the files in a folder that are not what [`write()`] writes; missing ones included.
pub fn differing(directory: &Path) -> Vec<&'static str> {
    let differs =
        |name: &str, text: &str| fs::read(directory.join(name)).map_or(true, |found| found != text.as_bytes());
    FILES.into_iter().filter(|(name, text)| differs(name, text)).map(|(name, _)| name).collect()
}

/// Reads a folder like `wit/`, and finds the world in it.
pub fn read(directory: &Path) -> Result<(Resolve, WorldId), BuildError> {
    let unfit = |cause: &dyn std::fmt::Display| BuildError::Unfit {
        path: directory.to_owned(),
        problem: format!("{cause:#}; `wasmill wit --out {}` writes it anew", directory.display()),
    };
    let mut resolve = Resolve::new();
    let (package, _) = resolve.push_dir(directory).map_err(|cause| unfit(&cause))?;
    let world = resolve.select_world(&[package], Some(WORLD)).map_err(|cause| unfit(&cause))?;
    Ok((resolve, world))
}

/// Writes a file with the folders above it, unless it has these bytes already: build tools go by the time of a change.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    let at = |path: &Path| {
        let path = PathBuf::from(path);
        |cause| BuildError::File { path, cause }
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(at(parent))?;
    }
    fs::write(path, bytes).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_there() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let mut found = Vec::new();
        collect(&folder, &folder, &mut found);
        let mut known: Vec<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        found.sort();
        known.sort();
        assert_eq!(known, found, "FILES must list what lies in wit/");
    }

    fn collect(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("it is a folder") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                collect(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).expect("it lies in it").to_string_lossy().into_owned());
            }
        }
    }

    #[test]
    fn the_document_holds_the_world() {
        let mut resolve = Resolve::new();
        let package = resolve.push_source("wit", &text()).expect("it is WIT");
        resolve.select_world(&[package], Some(WORLD)).expect("it has the world");
        assert!(text().contains("/// Handles one event."), "the comments stay");
    }

    #[test]
    fn the_folder_is_written_and_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let wit = folder.path().join("wit");
        assert_eq!(differing(&wit).len(), FILES.len());
        write(&wit).expect("it can be written");
        assert_eq!(differing(&wit), [""; 0]);
        read(&wit).expect("it can be read");
        fs::write(wit.join("events.wit"), "package a:b;").expect("it can be written");
        assert_eq!(differing(&wit), ["events.wit"]);
        let error = read(&wit).expect_err("it has no world").to_string();
        assert!(error.contains("`wasmill wit --out "), "{error}");
    }
}
