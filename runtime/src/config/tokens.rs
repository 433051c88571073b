//! The tokens of the HTTP API: that of everything, and one for each role of each tenant.

use std::path::PathBuf;

use super::secret::{Secret, SecretError};
use super::sections::MIN_TOKEN;
use super::{AdminConfig, Config, TenantTokens};
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

impl TenantTokens {
    pub(super) fn places(&self) -> [Place<'_>; 3] {
        [
            Place { role: Role::View, env: &self.view_env, file: &self.view_file },
            Place { role: Role::Operate, env: &self.operate_env, file: &self.operate_file },
            Place { role: Role::Deploy, env: &self.deploy_env, file: &self.deploy_file },
        ]
    }
}

impl Config {
    /// Reads the tokens of a tenant, and adds them all or none; with those of `default` comes the one for everything. What
    /// stood for another tenant in `before` is refused.
    pub fn add_tokens_of(&self, tenant: &str, tokens: &mut Tokens, before: &Tokens) -> Result<(), TokenError> {
        // With those of tenants alone nobody could do anything for the worker. It is so when the token of everything is
        // new in the configuration of a worker that runs: that takes another start, until then all is as it was.
        if self.admin.token_env.is_none() && self.admin.token_file.is_none() {
            return Ok(());
        }
        let mut found = Vec::new();
        let (section, places) = match tenant {
            DEFAULT_TENANT => {
                let AdminConfig { token_env: env, token_file: file, .. } = &self.admin;
                found.extend(read("admin", "token", env, file)?.map(|(key, token)| (key, token, Holder::ADMIN)));
                ("admin".to_owned(), self.admin.places())
            }
            _ => match self.tenants.get(tenant) {
                Some(config) => (format!("tenants.{tenant}.tokens"), config.tokens.places()),
                None => return Ok(()),
            },
        };
        for Place { role, env, file } in places {
            let holder = Holder { role, tenant: Some(tenant.into()) };
            found.extend(read(&section, role.name(), env, file)?.map(|(key, token)| (key, token, holder)));
        }
        Ok(tokens.add(found, before)?)
    }
}

/// A token of [`MIN_TOKEN`] bytes at least, if one is configured, and its key.
fn read(
    section: &str,
    key: &'static str,
    env: &Option<String>,
    file: &Option<PathBuf>,
) -> Result<Option<(String, String)>, SecretError> {
    let secret = Secret { section, key, env, file };
    let Some(token) = secret.read(|name| std::env::var(name).ok())? else { return Ok(None) };
    match token.len() < MIN_TOKEN {
        true => Err(SecretError::TooShort { key: secret.name(), bytes: token.len(), least: MIN_TOKEN }),
        false => Ok(Some((secret.name(), token))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const ADMIN: (&str, &str) = ("token", "the admin's token");

    /// Keys of a section, for tokens in files.
    fn keys(directory: &Path, files: &[(&str, &str)]) -> String {
        let key = |(key, secret): &(&str, &str)| {
            let path = directory.join(secret.trim().replace(' ', "_"));
            std::fs::write(&path, secret).unwrap();
            format!("{key}_file = {path:?}\n")
        };
        files.iter().map(key).collect()
    }

    fn tokens(text: &str) -> Result<Tokens, TokenError> {
        let config = Config::parse(None, text, []).unwrap();
        let mut tokens = Tokens::default();
        for tenant in config.tenant_names() {
            config.add_tokens_of(tenant, &mut tokens, &Tokens::default())?;
        }
        Ok(tokens)
    }

    #[test]
    fn each_token_stands_for_its_role_and_tenant() {
        let directory = tempfile::tempdir().unwrap();
        let of_default = [ADMIN, ("view", "the token to look with\n"), ("operate", "0123456789abcdef")];
        let of_acme = [("deploy", "the token to deploy with"), ("view", "acme's token to look with")];
        let text = format!(
            "[admin]\n{}[tenants.acme.tokens]\n{}",
            keys(directory.path(), &of_default),
            keys(directory.path(), &of_acme)
        );
        let tokens = tokens(&text).unwrap();
        let of = |tenant: &str, role| Some(Holder { role, tenant: Some(tenant.into()) });
        let holder = |secret| tokens.holder(secret).cloned();
        assert_eq!(holder("the admin's token"), Some(Holder::ADMIN));
        assert_eq!(holder("the token to look with"), of(DEFAULT_TENANT, Role::View));
        assert_eq!(holder("0123456789abcdef"), of(DEFAULT_TENANT, Role::Operate));
        assert_eq!(holder("the token to deploy with"), of("acme", Role::Deploy));
        assert_eq!(holder("acme's token to look with"), of("acme", Role::View));
    }

    #[test]
    fn short_and_equal_tokens_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let keys = |files: &[(&str, &str)]| keys(directory.path(), files);
        let error = |text: &str| tokens(text).unwrap_err().to_string();
        let text = error(&format!("[admin]\n{}", keys(&[ADMIN, ("view", "0123456789abcde")])));
        assert!(text.starts_with("admin.view: it has 15 bytes; at least 16 are needed"), "{text}");
        let text = error(&format!("[admin]\n{}", keys(&[ADMIN, ("deploy", ADMIN.1)])));
        assert!(text.starts_with("admin.deploy and admin.token hold the same token"), "{text}");
        let of_acme = keys(&[("view", "another token of acme"), ("deploy", ADMIN.1)]);
        let text = error(&format!("[admin]\n{}[tenants.acme.tokens]\n{of_acme}", keys(&[ADMIN])));
        assert!(text.starts_with("tenants.acme.tokens.deploy and admin.token hold the same token"), "{text}");
        assert!(!text.contains(ADMIN.1), "{text}");
    }

    #[test]
    fn the_tokens_of_a_tenant_are_added_all_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let keys = |files: &[(&str, &str)]| keys(directory.path(), files);
        let of_acme = keys(&[("view", "another token of acme"), ("deploy", ADMIN.1)]);
        let text = format!("[admin]\n{}[tenants.acme.tokens]\n{of_acme}", keys(&[ADMIN]));
        let config = Config::parse(None, &text, []).unwrap();
        let mut tokens = Tokens::default();
        config.add_tokens_of(DEFAULT_TENANT, &mut tokens, &Tokens::default()).unwrap();
        config.add_tokens_of("acme", &mut tokens, &Tokens::default()).unwrap_err();
        assert_eq!((tokens.holder(ADMIN.1), tokens.holder("another token of acme")), (Some(&Holder::ADMIN), None));
    }

    #[test]
    fn tokens_of_roles_mean_nothing_without_that_of_everything() {
        let text = "[admin]\nview_env = \"VIEW\"\n[tenants.acme.tokens]\ndeploy_file = \"f\"\n";
        let faults = Config::parse(None, text, []).unwrap_err().to_string();
        for part in ["admin.view_env", "tenants.acme.tokens.deploy_file", "set admin.token_env or admin.token_file"] {
            assert!(faults.contains(part), "{part}: {faults}");
        }
        let twice = "[admin]\ntoken_env = \"T\"\n[tenants.acme.tokens]\nview_env = \"V\"\nview_file = \"f\"\n";
        let faults = Config::parse(None, twice, []).unwrap_err().to_string();
        assert!(faults.contains("the token is given twice, by `view_env` and by `view_file`"), "{faults}");
    }

    #[test]
    fn without_the_token_of_everything_those_of_tenants_stand_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let of_acme = keys(directory.path(), &[("view", "another token of acme")]);
        let text = format!("[admin]\n{}[tenants.acme.tokens]\n{of_acme}", keys(directory.path(), &[ADMIN]));
        let wanted = Config::parse(None, &text, []).unwrap();
        // As a reload takes it over.
        let running = Config::default().taking_over(wanted);
        let mut tokens = Tokens::default();
        running.add_tokens_of("acme", &mut tokens, &Tokens::default()).unwrap();
        assert!(tokens.is_empty());
    }

    #[test]
    fn without_tokens_everybody_is_let_in() {
        assert!(tokens("").unwrap().is_empty());
    }
}
