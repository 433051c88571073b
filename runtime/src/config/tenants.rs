//! `[tenants.NAME]`: those who share a worker, each with a configuration of its own. A file for each in `tenants_dir` says
//! the same.
//!
//! Everything else works on one tenant's configuration at a time: [`Config::of_tenant`] makes it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::secret::{self, SecretError};
use super::sections::{HandlerConfig, LimitsOverride, RetryOverride};
use super::streams::StreamConfig;
use super::units::{duration_option, size, size_option};
use super::{Config, ConfigErrors};
use crate::broker::keys::{DEFAULT_TENANT, Namespace};

/// The greatest weight: more would leave a tenant of weight 1 with less than a tick of the clock for each turn.
pub const MAX_WEIGHT: u32 = 100;

/// `[tenants.NAME]`: handlers and streams that nobody else sees.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantConfig {
    /// What its keys in Redis begin with; `NAME:` when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How much of the time it gets beside others that want it too, 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// Instead of `[limits]`.
    pub limits: LimitsOverride,
    /// Instead of `[retry]`.
    pub retry: RetryOverride,
    /// What it may use.
    pub quotas: TenantQuotas,
    /// The Redis user that works for it.
    pub redis: TenantRedis,
    /// Who may use the admin API for it.
    pub tokens: TenantTokens,
    /// What holds for its streams, by name.
    pub streams: BTreeMap<String, StreamConfig>,
    /// Its handlers by name.
    pub handlers: BTreeMap<String, HandlerConfig>,
}

impl Default for TenantConfig {
    fn default() -> Self {
        TenantConfig {
            prefix: None,
            weight: 1,
            limits: LimitsOverride::default(),
            retry: RetryOverride::default(),
            quotas: TenantQuotas::default(),
            redis: TenantRedis::default(),
            tokens: TenantTokens::default(),
            streams: BTreeMap::new(),
            handlers: BTreeMap::new(),
        }
    }
}

impl TenantConfig {
    /// What the keys of the tenant of this name begin with.
    pub fn prefix(&self, name: &str) -> String {
        self.prefix.clone().unwrap_or_else(|| format!("{name}:"))
    }

    /// The paths of files and folders that it names.
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let tokens = &mut self.tokens;
        let secrets =
            [&mut self.redis.password_file, &mut tokens.view_file, &mut tokens.operate_file, &mut tokens.deploy_file];
        secrets.into_iter().flatten().chain(self.handlers.values_mut().flat_map(HandlerConfig::paths_mut))
    }
}

/// `[tenants.NAME.quotas]`: what all handlers of a tenant may use together. Over a quota they wait, or what was asked for is
/// refused; nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantQuotas {
    /// CPU time of its deliveries in a minute, on each worker; beyond it they pause.
    #[serde(with = "duration_option", skip_serializing_if = "Option::is_none")]
    pub cpu_per_minute: Option<Duration>,
    /// Events that are read for it in a second, on each worker; at least 1. One over 16 KiB counts as several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_in: Option<u32>,
    /// Events that it publishes in a second, on each worker, counted in the same way; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_out: Option<u32>,
    /// Deliveries that run at the same time, on each worker; at least 1.
    pub concurrency: usize,
    /// Bytes of all its streams, on the whole fleet.
    #[serde(with = "size_option", skip_serializing_if = "Option::is_none")]
    pub stream_bytes: Option<ByteSize>,
    /// Dead letters of all its handlers, on the whole fleet; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<u64>,
    /// Bytes of the state of all its handlers, on the whole fleet.
    #[serde(with = "size_option", skip_serializing_if = "Option::is_none")]
    pub state_bytes: Option<ByteSize>,
    /// Bytes of all versions of its handlers that are kept.
    #[serde(with = "size")]
    pub component_bytes: ByteSize,
    /// Versions that it may deploy in a minute; at least 1.
    pub deploys_per_minute: u32,
}

impl Default for TenantQuotas {
    fn default() -> Self {
        TenantQuotas {
            cpu_per_minute: None,
            events_in: None,
            events_out: None,
            // Four handlers of the usual concurrency.
            concurrency: 256,
            stream_bytes: None,
            dead_letters: None,
            state_bytes: None,
            // Four versions of the largest component.
            component_bytes: ByteSize::mib(256),
            // What a person does, or a pipeline that goes wrong.
            deploys_per_minute: 10,
        }
    }
}

/// `[tenants.NAME.redis]`: the Redis user that works for a tenant, on the server of `[redis]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantRedis {
    /// The user; the one of `[redis]` when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The environment variable that holds its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// The file that holds it; a line break at its end does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

impl TenantRedis {
    /// The password, read anew at every call, so that a rotated one is found.
    pub fn password(&self, tenant: &str) -> Result<String, SecretError> {
        let key = |key: &str| format!("tenants.{tenant}.redis.{key}");
        match (&self.password_env, &self.password_file) {
            (Some(name), _) => secret::from_env(key("password_env"), name, |name| std::env::var(name).ok()),
            (None, Some(path)) => secret::from_file(key("password_file"), path),
            (None, None) => Ok(String::new()),
        }
    }
}

/// `[tenants.NAME.tokens]`: the tokens of the admin API that let do something for a tenant, each by what it lets do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantTokens {
    /// The environment variable with the token of those who may look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view_env: Option<String>,
    /// The file with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view_file: Option<PathBuf>,
    /// The environment variable with the token of those who may operate as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operate_env: Option<String>,
    /// The file with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operate_file: Option<PathBuf>,
    /// The environment variable with the token of those who may deploy as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy_env: Option<String>,
    /// The file with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy_file: Option<PathBuf>,
}

/// Whose configuration it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The name of the tenant.
    pub name: String,
    /// Where its streams lie, with those of others that it was granted.
    pub namespace: Namespace,
    /// How much of the time it gets, at least 1.
    pub weight: u32,
    /// What it may use; `None`: no bounds.
    pub quotas: Option<TenantQuotas>,
    /// The Redis user that works for it.
    pub redis: TenantRedis,
}

impl Default for Tenant {
    fn default() -> Self {
        Tenant {
            name: DEFAULT_TENANT.to_owned(),
            namespace: Namespace::default(),
            weight: 1,
            quotas: None,
            redis: TenantRedis::default(),
        }
    }
}

impl Tenant {
    /// The most bytes that the states of its handlers may have together.
    pub fn state_quota(&self) -> Option<u64> {
        self.quotas.as_ref()?.state_bytes.map(|bytes| bytes.as_u64())
    }
}

/// A tenant whose file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultyTenant {
    /// Its name.
    pub name: String,
    /// What is wrong with its file.
    pub faults: ConfigErrors,
}

impl Config {
    /// The names of all tenants, `default` first.
    pub fn tenant_names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(DEFAULT_TENANT).chain(self.tenants.keys().map(String::as_str))
    }

    /// Whether there is anything to do for a worker.
    pub fn is_anything_served(&self) -> bool {
        let of_tenants = self.tenants.values().any(|tenant| !tenant.handlers.is_empty());
        !self.handlers.is_empty() || !self.intake.is_empty() || of_tenants
    }

    /// The configuration as it is for one tenant: the sections of the worker, and handlers, streams, limits and retry
    /// settings of the tenant. `None` if there is no such tenant.
    pub fn of_tenant(&self, name: &str) -> Option<Config> {
        let mut view = self.general();
        if name == DEFAULT_TENANT {
            view.streams.clone_from(&self.streams);
            view.intake.clone_from(&self.intake);
            view.handlers.clone_from(&self.handlers);
            // What is in Redis of a tenant that is not served is no more of `default` than that of one that is.
            let faulty = self.faulty_tenants.iter().map(|faulty| format!("{}:", faulty.name));
            let unserved = faulty.chain(self.unserved_prefixes.iter().cloned());
            let others = self.tenants.iter().map(|(name, tenant)| tenant.prefix(name));
            view.tenant.namespace = view.tenant.namespace.without(others.chain(unserved));
        } else {
            let tenant = self.tenants.get(name)?;
            view.limits = tenant.limits.over(&self.limits);
            view.retry = tenant.retry.over(&self.retry);
            view.streams.clone_from(&tenant.streams);
            view.handlers.clone_from(&tenant.handlers);
            view.tenant = Tenant {
                name: name.to_owned(),
                namespace: Namespace::new(name, tenant.prefix(name)),
                weight: tenant.weight,
                quotas: Some(tenant.quotas.clone()),
                redis: tenant.redis.clone(),
            };
        }
        let mut keys = BTreeMap::new();
        for (stream, (owner, own)) in self.foreign_streams(name, &view.handlers) {
            if let Some(settings) = self.streams_of(owner).and_then(|streams| streams.get(own)) {
                // The form of the entries is the owner's matter, and so is how long they are kept.
                let settings = StreamConfig { max_length: None, max_age: None, ..settings.clone() };
                view.streams.insert(stream.to_owned(), settings);
            }
            // An owner whose file is at fault has none; who names it is not served.
            if let Some(namespace) = self.namespace_of(owner) {
                keys.insert(stream.to_owned(), namespace.stream(own));
            }
        }
        view.tenant.namespace = view.tenant.namespace.with_foreign(keys);
        Some(view)
    }

    /// The configurations of all tenants, that of `default` first.
    pub fn of_all_tenants(&self) -> impl Iterator<Item = Config> {
        self.tenant_names().filter_map(|name| self.of_tenant(name))
    }

    /// The sections of the worker alone, without anything that belongs to a tenant.
    pub fn general(&self) -> Config {
        Config {
            redis: self.redis.clone(),
            worker: self.worker.clone(),
            admin: self.admin.clone(),
            log: self.log.clone(),
            compile: self.compile.clone(),
            deploy: self.deploy.clone(),
            limits: self.limits.clone(),
            retry: self.retry.clone(),
            schemas: self.schemas.clone(),
            ..Config::default()
        }
    }

    /// The settings of the streams of a tenant.
    fn streams_of(&self, tenant: &str) -> Option<&BTreeMap<String, StreamConfig>> {
        match tenant {
            DEFAULT_TENANT => Some(&self.streams),
            _ => self.tenants.get(tenant).map(|tenant| &tenant.streams),
        }
    }

    fn namespace_of(&self, tenant: &str) -> Option<Namespace> {
        match tenant {
            DEFAULT_TENANT => Some(Namespace::default()),
            _ => self.tenants.get(tenant).map(|config| Namespace::new(tenant, config.prefix(tenant))),
        }
    }

    /// The tenant and its stream that `OTHER/STREAM` names, in the configuration of `tenant`. `None` for its own streams:
    /// also for one with such a name, if there is no tenant OTHER.
    pub(super) fn foreign_stream<'a>(&self, tenant: &str, stream: &'a str) -> Option<(&'a str, &'a str)> {
        let (owner, own) = stream.split_once('/')?;
        let is_faulty = || self.faulty_tenants.iter().any(|faulty| faulty.name == owner);
        let is_there = match owner {
            DEFAULT_TENANT => !self.tenants.is_empty(),
            _ => self.tenants.contains_key(owner) || is_faulty(),
        };
        (is_there && owner != tenant).then_some((owner, own))
    }

    /// The streams of others that handlers of a tenant name, as they name them: each with its owner and its name there.
    fn foreign_streams<'a>(
        &self,
        tenant: &str,
        handlers: &'a BTreeMap<String, HandlerConfig>,
    ) -> BTreeMap<&'a str, (&'a str, &'a str)> {
        let named = handlers.values().flat_map(|handler| handler.streams.iter().chain(&handler.publishes));
        named.filter_map(|stream| Some((stream.as_str(), self.foreign_stream(tenant, stream)?))).collect()
    }

    /// Whether the owner of a stream lets a tenant read it, or publish to it.
    pub(super) fn shares(&self, owner: &str, stream: &str, tenant: &str, how: Sharing) -> bool {
        let settings = self.streams_of(owner).and_then(|streams| streams.get(stream));
        settings.is_some_and(|settings| {
            let names = match how {
                Sharing::Reading => &settings.readers,
                Sharing::Publishing => &settings.publishers,
            };
            names.iter().any(|name| name == tenant)
        })
    }
}

/// What one tenant does with a stream of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Its handlers read it.
    Reading,
    /// They publish to it.
    Publishing,
}
