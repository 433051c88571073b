//! What a handler is granted beside its streams: the values of its own configuration, and the hosts it may ask.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Error as _, MapAccess, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::secret::{SecretError, from_env, from_file};
use super::units::{duration, size};

/// What the names of values that wasmill itself provides begin with.
pub const RESERVED_VALUES: &str = "wasmill.";

/// One value of `[handlers.NAME.config]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ConfigValue {
    /// The value itself.
    Text(String),
    /// In an environment variable.
    Env {
        /// Its name.
        env: String,
    },
    /// In a file; a line break at its end does not count.
    File {
        /// Its path.
        file: PathBuf,
    },
}

/// The form of a reference, before it is known which one it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    env: Option<String>,
    file: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for ConfigValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ConfigValue, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ConfigValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes, { env = \"NAME\" } or { file = \"PATH\" }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ConfigValue, E> {
                Ok(ConfigValue::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ConfigValue, A::Error> {
                match Reference::deserialize(MapAccessDeserializer::new(map))? {
                    Reference { env: Some(env), file: None } => Ok(ConfigValue::Env { env }),
                    Reference { env: None, file: Some(file) } => Ok(ConfigValue::File { file }),
                    _ => Err(A::Error::custom(
                        "name either a variable, { env = \"NAME\" }, or a file, { file = \"PATH\" }",
                    )),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl ConfigValue {
    /// The value, read now. `field` is the path of the key, for messages; `env` looks up a variable.
    pub(super) fn read(&self, field: String, env: impl Fn(&str) -> Option<String>) -> Result<String, SecretError> {
        match self {
            ConfigValue::Text(text) => Ok(text.clone()),
            ConfigValue::Env { env: name } => from_env(field, name, env),
            ConfigValue::File { file } => from_file(field, file),
        }
    }
}

/// `[handlers.NAME.http]`: where its HTTP requests may go, and what bounds them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Scheme, host and port of every host that may be asked, such as `https://api.example.com`.
    pub allow: Vec<String>,
    /// Whether names of hosts may resolve to private and loopback addresses.
    pub private: bool,
    /// Requests that one delivery may send, 1 to 1000.
    pub requests: u32,
    /// Bytes of all request bodies of one delivery, at most 64 MiB.
    #[serde(with = "size")]
    pub request_bytes: ByteSize,
    /// Bytes of all response bodies of one delivery, at most 64 MiB.
    #[serde(with = "size")]
    pub response_bytes: ByteSize,
    /// How long one request may take; the deadline of the delivery holds too.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            allow: Vec::new(),
            private: false,
            requests: 16,
            request_bytes: ByteSize::mib(1),
            response_bytes: ByteSize::mib(1),
            timeout: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::MAX_SECRET;

    fn read(value: &ConfigValue) -> Result<String, SecretError> {
        let env = |name: &str| (name == "KEY").then(|| "from the environment".to_owned());
        value.read("handlers.h.config.key".to_owned(), env)
    }

    #[test]
    fn values_come_from_where_they_are_said_to_be() {
        assert_eq!(read(&ConfigValue::Text("plain".into())).expect("it is there"), "plain");
        assert_eq!(read(&ConfigValue::Env { env: "KEY".into() }).expect("it is there"), "from the environment");
        let error = read(&ConfigValue::Env { env: "OTHER".into() }).expect_err("it is not set").to_string();
        assert!(error.starts_with("handlers.h.config.key: the environment variable `OTHER` is not set"), "{error}");

        let dir = tempfile::tempdir().expect("a directory");
        let value = ConfigValue::File { file: dir.path().join("key") };
        let write = |text: &str| std::fs::write(dir.path().join("key"), text).expect("it is writable");
        assert!(matches!(read(&value), Err(SecretError::Unreadable { .. })));
        write("from a file\r\n");
        assert_eq!(read(&value).expect("it is there"), "from a file");
        write("\n");
        assert!(matches!(read(&value), Err(SecretError::EmptyFile { .. })));
        write(&("x".repeat(MAX_SECRET) + "\r\n"));
        assert_eq!(read(&value).expect("as long as can be").len(), MAX_SECRET);
        write(&"x".repeat(MAX_SECRET + 1));
        assert!(matches!(read(&value), Err(SecretError::TooLong { .. })));
    }
}
