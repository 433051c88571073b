//! Reading the schema folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::SchemasConfig;
use crate::schema::{MAX_SCHEMA_BYTES, MAX_SCHEMAS, SchemaFault, SchemaFile, Schemas};

/// One thing that is wrong with the schema folder.
#[derive(Debug, thiserror::Error)]
pub enum SchemaFolderFault {
    /// The folder, or something in it, cannot be read.
    #[error("{}: cannot be read: {cause}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// Something is not where, or what, it must be.
    #[error("{}: {problem}", path.display())]
    Misplaced { path: PathBuf, problem: String },
    /// A file is not a schema that can be used.
    #[error("{}/{fault}", folder.display())]
    Schema {
        folder: PathBuf,
        #[source]
        fault: SchemaFault,
    },
}

/// Everything that is wrong with the schema folder; never empty. Displays one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|fault| format!("schemas.directory: {fault}")).collect::<Vec<_>>().join("\n"))]
pub struct SchemaFolderFaults(pub Vec<SchemaFolderFault>);

/// Reads and compiles the schemas of the configuration; without a folder there are none.
pub fn load(config: &SchemasConfig) -> Result<Schemas, SchemaFolderFaults> {
    let Some(folder) = &config.directory else { return Ok(Schemas::default()) };
    let mut faults = Vec::new();
    let files = read_folder(folder, &mut faults);
    match Schemas::build(files, config.unknown) {
        Ok(schemas) if faults.is_empty() => return Ok(schemas),
        Ok(_) => {}
        Err(bad) => {
            let folder = || folder.clone();
            faults.extend(bad.into_iter().map(|fault| SchemaFolderFault::Schema { folder: folder(), fault }));
        }
    }
    Err(SchemaFolderFaults(faults))
}

/// The schema files, in the order of their paths.
fn read_folder(folder: &Path, faults: &mut Vec<SchemaFolderFault>) -> Vec<SchemaFile> {
    let mut files = Vec::new();
    for path in listed(folder, faults) {
        let Some(r#type) = name(&path, faults) else { continue };
        if r#type.starts_with('.') {
            continue;
        }
        if !path.is_dir() {
            if r#type.ends_with(".json") {
                let problem = "lies beside the types; put it into a directory with the name of its type, as \
                               TYPE/VERSION.json";
                faults.push(SchemaFolderFault::Misplaced { path, problem: problem.to_owned() });
            }
            continue;
        }
        for path in listed(&path, faults) {
            let Some(name) = name(&path, faults) else { continue };
            let Some(version) = name.strip_suffix(".json").filter(|version| !version.starts_with('.')) else {
                continue;
            };
            if version.is_empty() {
                continue;
            }
            if files.len() == MAX_SCHEMAS {
                let problem = format!("has more than {MAX_SCHEMAS} schemas; remove versions that nobody uses any more");
                faults.push(SchemaFolderFault::Misplaced { path: folder.to_owned(), problem });
                return files;
            }
            match read(&path) {
                Ok(text) => files.push(SchemaFile { r#type: r#type.clone(), version: version.to_owned(), text }),
                Err(fault) => faults.push(fault),
            }
        }
    }
    files
}

fn listed(directory: &Path, faults: &mut Vec<SchemaFolderFault>) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>());
    match paths {
        Ok(mut paths) => {
            paths.sort();
            paths
        }
        Err(cause) => {
            faults.push(SchemaFolderFault::Unreadable { path: directory.to_owned(), cause });
            Vec::new()
        }
    }
}

fn name(path: &Path, faults: &mut Vec<SchemaFolderFault>) -> Option<String> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    if name.is_none() {
        let problem = "its name is not UTF-8; rename it".to_owned();
        faults.push(SchemaFolderFault::Misplaced { path: path.to_owned(), problem });
    }
    name
}

fn read(path: &Path) -> Result<String, SchemaFolderFault> {
    let unreadable = |cause| SchemaFolderFault::Unreadable { path: path.to_owned(), cause };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_SCHEMA_BYTES as u64 {
        let problem = format!("has {bytes} bytes; the limit is {MAX_SCHEMA_BYTES}");
        return Err(SchemaFolderFault::Misplaced { path: path.to_owned(), problem });
    }
    fs::read_to_string(path).map_err(unreadable)
}
