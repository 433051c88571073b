//! Secrets: never in the configuration itself, but in the environment or in a file that it names.

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The longest secret, in bytes.
pub const MAX_SECRET: usize = 64 << 10;

/// A secret could not be had. The text never holds any part of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not there, or empty.
    #[error("{key}: the environment variable `{name}` is not set or empty; set it, or leave the key out")]
    NoVariable { key: String, name: String },
    /// The file cannot be read.
    #[error("{key}: `{}` cannot be read: {cause}", path.display())]
    Unreadable {
        key: String,
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// The file holds nothing.
    #[error("{key}: `{}` is empty", path.display())]
    EmptyFile { key: String, path: PathBuf },
    /// It can be guessed.
    #[error("{key}: it has {bytes} bytes; at least {least} are needed, such as those of `openssl rand -hex 16`")]
    TooShort { key: String, bytes: usize, least: usize },
    /// More than [`MAX_SECRET`].
    #[error("{key}: it has more than {MAX_SECRET} bytes")]
    TooLong { key: String },
}

/// Where a secret is.
pub(super) struct Secret<'a> {
    /// The section of the configuration that names it.
    pub(super) section: &'a str,
    /// What the keys begin with: `KEY_env`, `KEY_file`.
    pub(super) key: &'static str,
    pub(super) env: &'a Option<String>,
    pub(super) file: &'a Option<PathBuf>,
}

impl Secret<'_> {
    /// `SECTION.KEY`.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// Reads it anew at every call, so that a rotated one is found; `None` when it is not configured. `env` looks up a
    /// variable.
    pub(super) fn read(&self, env: impl Fn(&str) -> Option<String>) -> Result<Option<String>, SecretError> {
        match (self.env, self.file) {
            (Some(name), _) => from_env(format!("{}_env", self.name()), name, env).map(Some),
            (None, Some(path)) => from_file(format!("{}_file", self.name()), path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// The secret in an environment variable. `key` is the path of the key that names it, for messages.
pub(super) fn from_env(key: String, name: &str, env: impl Fn(&str) -> Option<String>) -> Result<String, SecretError> {
    match env(name) {
        Some(value) if value.len() > MAX_SECRET => Err(SecretError::TooLong { key }),
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(SecretError::NoVariable { key, name: name.to_owned() }),
    }
}

/// The secret in a file, without a line break at its end. `key` is the path of the key that names it, for messages.
pub(super) fn from_file(key: String, path: &Path) -> Result<String, SecretError> {
    let mut text = String::new();
    // One more for each byte of a line break, and one that tells that there is more.
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_SECRET as u64 + 3).read_to_string(&mut text));
    if let Err(cause) = read {
        return Err(SecretError::Unreadable { key, path: path.to_owned(), cause });
    }
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(SecretError::EmptyFile { key, path: path.to_owned() }),
        secret if secret.len() > MAX_SECRET => Err(SecretError::TooLong { key }),
        secret => Ok(secret.to_owned()),
    }
}
