//! Configuration: one TOML file, strict, with overrides from the environment. `config/wasmill.toml` is the reference.
//!
//! - [`sections`], [`compile`], [`deploy`], [`schemas`], [`streams`], [`intake`], [`interfaces`]: the shape of the file and its defaults;
//!   [`redis`], [`tokens`]: what has to do with secrets; [`tenants`]: a configuration within the configuration for each
//! - [`units`]: durations and sizes
//! - `parse`, `env`: text and variables -> [`Config`], with every fault and its place
//! - `validate`: what types cannot say
//! - [`changes`]: what another reading changes for a worker that runs
//! - [`ResolvedHandler`]: what holds for a handler in the end

pub mod changes;
pub mod compile;
pub mod deploy;
mod env;
mod errors;
pub mod intake;
pub mod interfaces;
mod parse;
pub mod redis;
mod resolve;
pub mod schemas;
mod secret;
pub mod sections;
pub mod streams;
mod tenant_files;
pub mod tenants;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod units;
mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use changes::Changes;
pub use compile::CompileConfig;
pub use deploy::DeployConfig;
pub use env::{PREFIX, environment};
pub use errors::{ConfigError, ConfigErrors};
pub use intake::IntakeConfig;
pub use interfaces::{ConfigValue, HttpConfig};
pub use redis::RedisConfig;
pub use resolve::{Isolation, ResolvedHandler, ResolvedLimits};
pub use schemas::SchemasConfig;
pub use secret::SecretError;
pub use sections::*;
pub use streams::StreamConfig;
pub use tenants::{FaultyTenant, Tenant, TenantConfig, TenantQuotas, TenantRedis, TenantTokens};
pub use tokens::TokenError;
pub(crate) use validate::is_handler_name;

use crate::oci;

/// The whole configuration. `Default` is that of an empty file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where Redis is and how to log in.
    pub redis: RedisConfig,
    /// How this process runs.
    pub worker: WorkerConfig,
    /// The HTTP API of a worker.
    pub admin: AdminConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// What compiling a component may use.
    pub compile: CompileConfig,
    /// What may be deployed.
    pub deploy: DeployConfig,
    /// What one delivery may use, for all handlers that do not say otherwise.
    pub limits: Limits,
    /// How failures are tried again, for all handlers that do not say otherwise.
    pub retry: RetryConfig,
    /// What the data of events must look like.
    pub schemas: SchemasConfig,
    /// What holds for streams, by name.
    pub streams: BTreeMap<String, StreamConfig>,
    /// Redis Pub/Sub messages that become events, by the name of the intake.
    pub intake: BTreeMap<String, IntakeConfig>,
    /// The handlers by name.
    pub handlers: BTreeMap<String, HandlerConfig>,
    /// The directory with a file `NAME.toml` for each further tenant. In the file relative to the file's own directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants_dir: Option<PathBuf>,
    /// Those who share the worker, by name; all else belongs to the tenant `default`.
    pub tenants: BTreeMap<String, TenantConfig>,
    /// Tenants whose files cannot be used.
    #[serde(skip)]
    pub faulty_tenants: Vec<FaultyTenant>,
    /// The prefixes of tenants that cannot be served, although their files are right.
    #[serde(skip)]
    pub unserved_prefixes: Vec<String>,
    /// Whose configuration it is, if it is that of one tenant: see [`Config::of_tenant`].
    #[serde(skip)]
    pub tenant: Tenant,
}

impl Config {
    /// Reads and validates a file, with overrides from `env` (usually [`environment`]). Relative paths in the result
    /// are joined with the file's directory. Tenants whose own files are at fault are left out: see `faulty_tenants`.
    pub fn load(path: &Path, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|cause| {
            let remedy = (cause.kind() == std::io::ErrorKind::NotFound)
                .then(|| "name another one with --config, or begin with a copy of config/wasmill.toml".to_owned());
            let problem = format!("the file cannot be read: {cause}");
            ConfigErrors(vec![ConfigError { file: Some(path.to_owned()), problem, remedy, ..ConfigError::default() }])
        })?;
        let env: Vec<(String, String)> = env.into_iter().collect();
        let mut config = parse::read(Some(path), &text, &env)?;
        config.join_paths(path.parent().unwrap_or(Path::new("")));
        config.complete_tenants(Some(path), &text)?;
        Ok(config)
    }

    /// [`Config::load`] if there is a file; else the defaults, with overrides from `env`.
    pub fn load_or_default(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigErrors> {
        match path {
            Some(path) => Config::load(path, env),
            None => Config::parse(None, "", env),
        }
    }

    /// Reads and validates a text. `file` is where it comes from, for messages only; paths are left as they are.
    pub fn parse(
        file: Option<&Path>,
        text: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigErrors> {
        let env: Vec<(String, String)> = env.into_iter().collect();
        let mut config = parse::read(file, text, &env)?;
        config.complete_tenants(file, text)?;
        Ok(config)
    }

    /// Makes relative paths start at a directory.
    fn join_paths(&mut self, directory: &Path) {
        let optional = [
            &mut self.redis.password_file,
            &mut self.redis.ca_file,
            &mut self.worker.cache_dir,
            &mut self.admin.token_file,
            &mut self.admin.view_file,
            &mut self.admin.operate_file,
            &mut self.admin.deploy_file,
            &mut self.schemas.directory,
            &mut self.tenants_dir,
        ];
        let paths = optional.into_iter().flatten().chain(&mut self.deploy.public_keys);
        let of_handlers = self.handlers.values_mut().flat_map(HandlerConfig::paths_mut);
        let of_tenants = self.tenants.values_mut().flat_map(TenantConfig::paths_mut);
        paths.chain(of_handlers).chain(of_tenants).for_each(|path| join(directory, path));
    }
}

/// Makes a relative path start at a directory; not one that is a reference to a registry.
fn join(directory: &Path, path: &mut PathBuf) {
    if !path.to_str().is_some_and(oci::is_reference) {
        *path = directory.join(&*path);
    }
}
