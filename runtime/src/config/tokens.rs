//! The tokens of the HTTP API: that of everything, and one for each role of each tenant.

use std::path::PathBuf;

use super::secret::{Secret, SecretError};
use super::sections::MIN_TOKEN;
use super::{AdminConfig, Config};
use crate::access::{Holder, Role, SameToken, Tokens};
use crate::broker::keys::DEFAULT_TENANT;

/// Tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// One cannot be read, or is too short.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Two are the same.
    #[error(transparent)]
    Same(#[from] SameToken),
}

/// Where the token of a role is.
pub(super) struct Place<'a> {
    pub(super) role: Role,
    pub(super) env: &'a Option<String>,
    pub(super) file: &'a Option<PathBuf>,
}

impl AdminConfig {
    /// The tokens of the roles of the tenant `default`.
    pub(super) fn places(&self) -> [Place<'_>; 3] {
        [
            Place { role: Role::View, env: &self.view_env, file: &self.view_file },
            Place { role: Role::Operate, env: &self.operate_env, file: &self.operate_file },
            Place { role: Role::Deploy, env: &self.deploy_env, file: &self.deploy_file },
        ]
    }
}

impl Config {
    /// Reads the tokens that requests must carry; none if everybody who can connect is let in.
    pub fn tokens(&self) -> Result<Tokens, TokenError> {
        let mut tokens = Tokens::default();
        let admin = Secret { section: "admin", key: "token", env: &self.admin.token_env, file: &self.admin.token_file };
        if let Some(token) = read(&admin)? {
            tokens.add(&token, admin.name(), Holder::ADMIN)?;
        }
        add(&mut tokens, "admin", DEFAULT_TENANT, self.admin.places())?;
        Ok(tokens)
    }
}

/// Adds the tokens of a tenant.
fn add(tokens: &mut Tokens, section: &str, tenant: &str, places: [Place<'_>; 3]) -> Result<(), TokenError> {
    for Place { role, env, file } in places {
        let secret = Secret { section, key: role.name(), env, file };
        if let Some(token) = read(&secret)? {
            tokens.add(&token, secret.name(), Holder { role, tenant: Some(tenant.into()) })?;
        }
    }
    Ok(())
}

/// A token of [`MIN_TOKEN`] bytes at least.
fn read(secret: &Secret<'_>) -> Result<Option<String>, SecretError> {
    let Some(token) = secret.read(|name| std::env::var(name).ok())? else { return Ok(None) };
    match token.len() < MIN_TOKEN {
        true => Err(SecretError::TooShort { key: secret.name(), bytes: token.len(), least: MIN_TOKEN }),
        false => Ok(Some(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration whose tokens are in these files.
    fn config(directory: &std::path::Path, files: &[(&str, &str)]) -> Config {
        let mut text = "[admin]\n".to_owned();
        for (key, secret) in files {
            std::fs::write(directory.join(key), secret).unwrap();
            text += &format!("{key}_file = {:?}\n", directory.join(key));
        }
        Config::parse(None, &text, []).unwrap()
    }

    #[test]
    fn each_token_stands_for_its_role() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            ("token", "the admin's token"),
            ("view", "the token to look with\n"),
            ("operate", "0123456789abcdef"),
            ("deploy", "the token to deploy with"),
        ];
        let tokens = config(directory.path(), &files).tokens().unwrap();
        let of_default = |role| Holder { role, tenant: Some(DEFAULT_TENANT.into()) };
        assert_eq!(tokens.holder("the admin's token"), Some(&Holder::ADMIN));
        assert_eq!(tokens.holder("the token to look with"), Some(&of_default(Role::View)));
        assert_eq!(tokens.holder("0123456789abcdef"), Some(&of_default(Role::Operate)));
        assert_eq!(tokens.holder("the token to deploy with"), Some(&of_default(Role::Deploy)));
    }

    #[test]
    fn short_and_equal_tokens_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = |files: &[(&str, &str)]| config(directory.path(), files).tokens().unwrap_err().to_string();
        let admin = ("token", "the admin's token");
        let text = error(&[admin, ("view", "0123456789abcde")]);
        assert!(text.starts_with("admin.view: it has 15 bytes; at least 16 are needed"), "{text}");
        let text = error(&[admin, ("deploy", "the admin's token")]);
        assert!(text.starts_with("admin.deploy and admin.token hold the same token"), "{text}");
        assert!(!text.contains("the admin's"), "{text}");
    }

    #[test]
    fn without_tokens_everybody_is_let_in() {
        assert!(Config::default().tokens().unwrap().is_empty());
    }
}
