//! Secrets: never in the configuration itself, but in the environment or in a file that it names.

use std::path::PathBuf;

/// A secret could not be had. The text never holds any part of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not there, or empty.
    #[error("{key}_env: the environment variable `{name}` is not set or empty; set it, or leave the key out")]
    NoVariable { key: String, name: String },
    /// The file cannot be read.
    #[error("{key}_file: `{}` cannot be read: {cause}", path.display())]
    Unreadable {
        key: String,
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// The file holds nothing.
    #[error("{key}_file: `{}` is empty", path.display())]
    EmptyFile { key: String, path: PathBuf },
    /// It can be guessed.
    #[error("{key}: it has {bytes} bytes; at least {least} are needed, such as those of `openssl rand -hex 16`")]
    TooShort { key: String, bytes: usize, least: usize },
}

/// Where a secret is.
pub(super) struct Secret<'a> {
    /// The section of the configuration that names it.
    pub(super) section: &'static str,
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
        let key = self.name();
        if let Some(name) = self.env {
            let value = env(name).filter(|value| !value.is_empty());
            return value.map(Some).ok_or_else(|| SecretError::NoVariable { key, name: name.clone() });
        }
        let Some(path) = self.file.clone() else { return Ok(None) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(cause) => return Err(SecretError::Unreadable { key, path, cause }),
        };
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(SecretError::EmptyFile { key, path }),
            secret => Ok(Some(secret.to_owned())),
        }
    }
}
