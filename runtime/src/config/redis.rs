//! `[redis]`: where Redis is and how to log in, without ever keeping or showing a secret.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::secret::{Secret, SecretError};
use super::units::duration;

/// The ways to reach Redis, as URLs begin.
pub const SCHEMES: [&str; 4] = ["redis://", "rediss://", "unix://", "redis+unix://"];

/// `[redis]`: where Redis is and how to log in.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// One of [`SCHEMES`]. May hold a password, which is neither serialised nor shown; see [`RedisConfig::shown_url`].
    #[serde(serialize_with = "serialize_url")]
    pub url: String,
    /// The user to log in as; it goes before a user in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The environment variable that holds the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// The file that holds the password; a line break at its end does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the well-known ones, for `rediss://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long connecting and logging in may take.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long Redis may take to answer a command that does not wait.
    #[serde(with = "duration")]
    pub response_timeout: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        RedisConfig {
            url: "redis://127.0.0.1:6379".into(),
            username: None,
            password_env: None,
            password_file: None,
            ca_file: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &self.shown_url())
            .field("username", &self.username)
            .field("password_env", &self.password_env)
            .field("password_file", &self.password_file)
            .field("ca_file", &self.ca_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .finish()
    }
}

fn serialize_url<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&without_password(url))
}

impl RedisConfig {
    /// The password from the environment variable or the file that is configured, read anew at every call, so that a
    /// rotated one is found; `None` when neither is configured (the URL may still hold one).
    pub fn password(&self) -> Result<Option<String>, SecretError> {
        self.password_from(|name| std::env::var(name).ok())
    }

    /// [`RedisConfig::password`] with another environment: `env` looks up a variable.
    pub fn password_from(&self, env: impl Fn(&str) -> Option<String>) -> Result<Option<String>, SecretError> {
        let (env_key, file) = (&self.password_env, &self.password_file);
        Secret { section: "redis", key: "password", env: env_key, file }.read(env)
    }

    /// Host and port; `None` for a socket, and for a URL that has been refused.
    pub fn endpoint(&self) -> Option<(String, u16)> {
        let scheme = SCHEMES.into_iter().find(|scheme| self.url.starts_with(scheme) && !scheme.contains("unix"))?;
        let place = self.url[scheme.len()..].split(['/', '?', '#']).next()?;
        let place = place.rsplit('@').next()?;
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None => 6379,
        };
        Some((host.to_owned(), port))
    }

    /// The URL as logs and errors may show it: `***` in place of a password.
    pub fn shown_url(&self) -> String {
        without_password(&self.url)
    }

    /// Whether the URL itself holds a password.
    pub fn url_has_password(&self) -> bool {
        without_password(&self.url) != self.url
    }
}

/// Puts `***` in place of the password of `SCHEME://USER:PASSWORD@HOST` and of `?pass=PASSWORD`. Errs on the side of
/// hiding too much.
pub(super) fn without_password(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    // An unescaped `?` or `/` in a password must not make the rest of it visible: the last `@` of all decides.
    let (place, query) = if query.is_some_and(|query| query.contains('@')) { (rest, None) } else { (place, query) };
    let place = match place.rsplit_once('@') {
        Some((login, host)) => match login.split_once(':') {
            Some((user, password)) if !password.is_empty() => format!("{user}:***@{host}"),
            _ => place.to_owned(),
        },
        None => place.to_owned(),
    };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if name.to_ascii_lowercase().starts_with("pass") && !value.is_empty() => {
            format!("{name}=***")
        }
        _ => pair.to_owned(),
    };
    let query = query.map(|query| format!("?{}", query.split('&').map(hide).collect::<Vec<_>>().join("&")));
    format!("{scheme}{place}{}", query.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_hidden() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://app@host/2?protocol=resp3", "redis://app@host/2?protocol=resp3"),
            ("redis://app:hunter2@host:1", "redis://app:***@host:1"),
            ("rediss://:hunter2@host:1/0", "rediss://:***@host:1/0"),
            ("redis://app:hunter2@x?y/z@host:1", "redis://app:***@host:1"),
            ("unix:///run/redis.sock?user=app&pass=hunter2&db=1", "unix:///run/redis.sock?user=app&pass=***&db=1"),
            ("app:hunter2@host", "app:***@host"),
        ] {
            let config = RedisConfig { url: url.into(), ..RedisConfig::default() };
            assert_eq!(config.shown_url(), shown);
            assert_eq!(config.url_has_password(), url.contains("hunter2"));
            assert!(!format!("{config:?}").contains("hunter2"));
            assert!(!toml::to_string(&config).expect("a config is TOML").contains("hunter2"));
        }
    }

    #[test]
    fn the_password_comes_from_the_environment_or_a_file() {
        let env = |name: &str| (name == "SECRET").then(|| "hunter2".to_owned());
        let from_env = |name: &str| RedisConfig { password_env: Some(name.into()), ..RedisConfig::default() };
        assert_eq!(from_env("SECRET").password_from(env).expect("it is set").as_deref(), Some("hunter2"));
        assert!(matches!(from_env("OTHER").password_from(env), Err(SecretError::NoVariable { .. })));
        assert_eq!(RedisConfig::default().password_from(env).expect("none is wanted"), None);

        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("password");
        let config = RedisConfig { password_file: Some(file.clone()), ..RedisConfig::default() };
        assert!(matches!(config.password_from(env), Err(SecretError::Unreadable { .. })));
        std::fs::write(&file, "hunter2 \r\n").expect("it is writable");
        assert_eq!(config.password_from(env).expect("it is there").as_deref(), Some("hunter2 "));
        std::fs::write(&file, "\n").expect("it is writable");
        assert!(matches!(config.password_from(env), Err(SecretError::EmptyFile { .. })));
    }

    #[test]
    fn the_endpoint_is_host_and_port() {
        for (url, endpoint) in [
            ("redis://127.0.0.1:6380/3", Some(("127.0.0.1", 6380))),
            ("rediss://user:p@ss@cache.example?x=1", Some(("cache.example", 6379))),
            ("redis://[::1]:7000", Some(("::1", 7000))),
            ("redis://[::1]/0", Some(("::1", 6379))),
            ("unix:///run/redis.sock", None),
        ] {
            let config = RedisConfig { url: url.into(), ..RedisConfig::default() };
            assert_eq!(config.endpoint(), endpoint.map(|(host, port)| (host.to_owned(), port)), "{url}");
        }
    }
}
