//! Where the `wasmill dev` of a folder can be reached: a file beside the configuration, locked while it runs.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::cli::Report;

/// The name of the file.
const FILE: &str = ".wasmill-dev";
/// The most that is read of it, in bytes.
const MAX_URL: u64 = 1024;

/// The file of this process. Dropping it removes it.
#[derive(Debug)]
pub struct Address {
    path: PathBuf,
    file: File,
}

impl Address {
    /// Takes the folder for this process.
    pub fn take(folder: &Path) -> Result<Address, Report> {
        let path = folder.join(FILE);
        let fault = |error: std::io::Error| Report::failure(format!("{} cannot be written: {error}", path.display()));
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(fault)?;
        match file.try_lock() {
            Ok(()) => Ok(Address { path, file }),
            Err(TryLockError::WouldBlock) => {
                let url = find(folder).unwrap_or_default();
                Err(Report::usage(format!("`wasmill dev` is running in this folder already {url}")))
            }
            Err(TryLockError::Error(error)) => Err(fault(error)),
        }
    }

    /// Says where this process can be reached.
    pub fn write(&mut self, url: &str) -> Result<(), Report> {
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(url.as_bytes())
        };
        let path = self.path.display();
        write(&mut self.file).map_err(|error| Report::failure(format!("{path} cannot be written: {error}")))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        // What is left behind is not locked, and so means nothing.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The URL of the `wasmill dev` that runs in a folder. A file that nobody holds was left behind.
pub fn find(folder: &Path) -> Option<String> {
    let file = File::open(folder.join(FILE)).ok()?;
    if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
        return None;
    }
    let mut url = String::new();
    file.take(MAX_URL).read_to_string(&mut url).ok()?;
    (!url.is_empty()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_runs_is_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(find(folder.path()), None);
        let mut address = Address::take(folder.path()).unwrap();
        assert_eq!(find(folder.path()), None, "it cannot be reached yet");
        address.write("http://127.0.0.1:12345").unwrap();
        address.write("http://127.0.0.1:1").unwrap();
        assert_eq!(find(folder.path()).as_deref(), Some("http://127.0.0.1:1"));
        assert!(Address::take(folder.path()).unwrap_err().to_string().contains("already http://127.0.0.1:1"));
        drop(address);
        std::fs::write(folder.path().join(FILE), "http://127.0.0.1:1").unwrap();
        assert_eq!(find(folder.path()), None, "it was left behind");
        assert!(Address::take(folder.path()).is_ok());
    }
}
