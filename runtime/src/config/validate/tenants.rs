//! Tenants: each for itself, and what they have to do with one another.

use std::borrow::Cow;

use super::super::tenants::{MAX_WEIGHT, Sharing, TenantConfig, TenantQuotas, TenantRedis};
use super::super::units::format_duration;
use super::super::{Config, ConfigError};
use super::{Check, Document};
use crate::broker::keys::{self, DEFAULT_TENANT};

/// The longest prefix of keys, in bytes.
const MAX_PREFIX: usize = 64;

/// Everything that is wrong with the file of a tenant, looked at alone.
pub(in crate::config) fn tenant(
    name: &str,
    tenant: &TenantConfig,
    general: &Config,
    document: &Document<'_>,
) -> Vec<ConfigError> {
    let mut check = Check { document, base: Vec::new(), faults: Vec::new() };
    check.tenant(name, tenant, general);
    let own = document.variables_named().into_iter().filter(|name| name.starts_with(super::super::PREFIX));
    for variable in own {
        let remedy = "choose another name: what begins so changes the configuration file of the worker";
        check.fault(&[], format!("names the environment variable `{variable}`"), remedy);
    }
    check.faults
}

/// What is wrong with what a tenant wants of others: `base` is where its configuration stands in the document.
pub(in crate::config) fn sharing(
    name: &str,
    config: &Config,
    document: &Document<'_>,
    base: &[&str],
) -> Vec<ConfigError> {
    let base = base.iter().map(|&segment| segment.to_owned()).collect();
    let mut check = Check { document, base, faults: Vec::new() };
    check.prefix(name, config);
    let handlers = match name {
        DEFAULT_TENANT => &config.handlers,
        _ => match config.tenants.get(name) {
            Some(tenant) => &tenant.handlers,
            None => return Vec::new(),
        },
    };
    for (handler, settings) in handlers {
        for (key, streams, how) in
            [("streams", &settings.streams, Sharing::Reading), ("publishes", &settings.publishes, Sharing::Publishing)]
        {
            for (index, stream) in streams.iter().enumerate() {
                check.stream_of_other(config, name, &["handlers", handler, key, &index.to_string()], stream, how);
            }
        }
        if let Some(stream) = settings.dead_letter.as_deref()
            && config.foreign_stream(name, stream).is_some()
        {
            let problem = format!("`{stream}` is a stream of another tenant");
            check.fault(&["handlers", handler, "dead_letter"], problem, "choose a stream of its own");
        }
        if name == DEFAULT_TENANT {
            let dead = settings.dead_letter.clone().unwrap_or_else(|| keys::default_dead_letter(handler));
            check.stream_by_key(config, &["handlers", handler, "dead_letter"], &dead);
        }
    }
    if name == DEFAULT_TENANT {
        // By its settings a stream would be trimmed, and by an intake written.
        for stream in config.streams.keys() {
            check.stream_by_key(config, &["streams", stream], stream);
        }
        for (intake, settings) in &config.intake {
            check.stream_by_key(config, &["intake", intake, "stream"], &settings.stream);
        }
    }
    check.faults
}

/// The streams that the tenant `default` names.
fn streams_of_default(config: &Config) -> impl Iterator<Item = Cow<'_, str>> {
    let of_handlers = config.handlers.iter().flat_map(|(name, handler)| {
        let dead = handler.dead_letter.as_deref().map_or_else(|| keys::default_dead_letter(name).into(), Cow::Borrowed);
        let named = handler.streams.iter().chain(&handler.publishes);
        named.map(|stream| Cow::Borrowed(stream.as_str())).chain([dead])
    });
    let others = config.streams.keys().chain(config.intake.values().map(|intake| &intake.stream));
    of_handlers.chain(others.map(|stream| Cow::Borrowed(stream.as_str())))
}

impl Check<'_, '_> {
    pub(super) fn tenants(&mut self, config: &Config) {
        for (name, tenant) in &config.tenants {
            self.base = vec!["tenants".to_owned(), name.clone()];
            self.tenant(name, tenant, config);
        }
        self.base.clear();
    }

    fn tenant(&mut self, name: &str, tenant: &TenantConfig, general: &Config) {
        self.name(&[], name, "a tenant");
        if name == DEFAULT_TENANT {
            let remedy = "what stands at the top of the file is its; give another tenant another name";
            self.fault(&[], "everything that names no tenant belongs to `default`", remedy);
        }
        match &tenant.prefix {
            Some(prefix) => self.prefix_text(prefix),
            // The tenant `wasmill`.
            None if tenant.prefix(name).starts_with(keys::PREFIX) => {
                let problem = format!("its keys would be those of wasmill itself, which begin with `{}`", keys::PREFIX);
                self.fault(&[], problem, "set a `prefix`, or give the tenant another name");
            }
            None => {}
        }
        if !(1..=MAX_WEIGHT).contains(&tenant.weight) {
            self.fault(&["weight"], format!("{} is out of bounds", tenant.weight), format!("from 1 to {MAX_WEIGHT}"));
        }
        self.limits(&["limits"], &tenant.limits);
        self.retry(&["retry"], &tenant.retry, &tenant.retry.over(&general.retry));
        self.quotas(&tenant.quotas);
        self.tenant_redis(&tenant.redis);
        let is_open = general.admin.token_env.is_none() && general.admin.token_file.is_none();
        self.tokens(&["tokens"], tenant.tokens.places(), is_open);
        for (stream, settings) in &tenant.streams {
            self.stream(stream, settings);
        }
        // What handlers are checked against is what holds for the tenant.
        let own = Config {
            retry: tenant.retry.over(&general.retry),
            limits: tenant.limits.over(&general.limits),
            streams: tenant.streams.clone(),
            handlers: tenant.handlers.clone(),
            ..Config::default()
        };
        for (handler, settings) in &tenant.handlers {
            self.handler(handler, settings, &own);
        }
    }

    fn prefix_text(&mut self, prefix: &str) {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
        if !(1..=MAX_PREFIX).contains(&prefix.len()) || !prefix.bytes().all(is_plain) {
            let remedy = format!("1 to {MAX_PREFIX} letters, digits, `_`, `.`, `:` and `-`, such as \"acme:\"");
            self.fault(&["prefix"], format!("{prefix:?} cannot be the prefix of keys"), remedy);
        } else if prefix.starts_with(keys::PREFIX) || keys::PREFIX.starts_with(prefix) {
            let problem =
                format!("`{prefix}` would meet the keys of wasmill itself, which begin with `{}`", keys::PREFIX);
            self.fault(&["prefix"], problem, "choose another one");
        }
    }

    /// A prefix that begins with another one's would lie within what the other may touch. The fault is with whoever has
    /// chosen its prefix, and not with who has the one of its name: nobody can take the keys of another one.
    fn prefix(&mut self, name: &str, config: &Config) {
        let Some(tenant) = config.tenants.get(name) else { return };
        // What stands in a file of its own is no matter of `default`, which would be at fault otherwise.
        let (prefix, has_file) = (tenant.prefix(name), self.base.is_empty());
        if has_file && let Some(stream) = streams_of_default(config).find(|stream| stream.starts_with(&prefix)) {
            let problem = format!("`{prefix}` is how `{stream}` begins, a stream of the tenant default");
            return self.fault(&["prefix"], problem, "choose another prefix");
        }
        if tenant.prefix.is_none() {
            return;
        }
        // The keys of a tenant whose file cannot be used are there all the same.
        let faulty = config.faulty_tenants.iter().map(|faulty| (&faulty.name, format!("{}:", faulty.name)));
        let served = config.tenants.iter().map(|(other, settings)| (other, settings.prefix(other)));
        let mut others = served.chain(faulty).filter(|(other, _)| *other != name);
        let clash = others.find(|(_, theirs)| prefix.starts_with(theirs.as_str()) || theirs.starts_with(&prefix));
        if let Some((other, theirs)) = clash {
            let problem = format!("`{prefix}` meets `{theirs}`, the prefix of tenants.{other}");
            self.fault(&["prefix"], problem, "let no prefix begin with another one");
        }
    }

    fn stream_of_other(&mut self, config: &Config, name: &str, path: &[&str], stream: &str, how: Sharing) {
        let Some((owner, own)) = config.foreign_stream(name, stream) else {
            if name == DEFAULT_TENANT {
                self.stream_by_key(config, path, stream);
            }
            return;
        };
        if config.faulty_tenants.iter().any(|faulty| faulty.name == owner) {
            let problem = format!("`{stream}` is a stream of the tenant {owner}, whose file cannot be used");
            return self.fault(path, problem, "mend that file");
        }
        if config.shares(owner, own, name, how) {
            return;
        }
        let key = match how {
            Sharing::Reading => "readers",
            Sharing::Publishing => "publishers",
        };
        let problem = format!("`{stream}` is a stream of the tenant {owner}, which does not share it");
        let section = match owner {
            DEFAULT_TENANT => format!("streams.{own}"),
            _ => format!("tenants.{owner}.streams.{own}"),
        };
        self.fault(path, problem, format!("{owner} must add {key} = [\"{name}\"] to [{section}]"));
    }

    /// The keys of `default` have no prefix, so that it could name those of others.
    fn stream_by_key(&mut self, config: &Config, path: &[&str], stream: &str) {
        let owners = config.tenants.iter().map(|(owner, tenant)| (owner, tenant.prefix(owner)));
        let owner =
            owners.into_iter().find_map(|(owner, prefix)| Some((owner, stream.strip_prefix(&*prefix)?.to_owned())));
        if let Some((owner, own)) = owner {
            let problem = format!("`{stream}` is a key of the tenant {owner}");
            let remedy = match path {
                ["handlers", _, "streams" | "publishes", ..] => {
                    format!("write it as `{owner}/{own}`, which {owner} must share")
                }
                _ => "choose a stream of its own".to_owned(),
            };
            self.fault(path, problem, remedy);
        }
    }

    fn quotas(&mut self, quotas: &TenantQuotas) {
        if let Some(cpu) = quotas.cpu_per_minute {
            self.positive(&["quotas", "cpu_per_minute"], cpu);
            let most = std::time::Duration::from_secs(60 * 1024);
            if cpu > most {
                let problem = format!("{} is out of bounds", format_duration(cpu));
                self.fault(&["quotas", "cpu_per_minute"], problem, format!("at most {}", format_duration(most)));
            }
        }
        let least_one = [
            ("events_in", quotas.events_in == Some(0)),
            ("events_out", quotas.events_out == Some(0)),
            ("concurrency", quotas.concurrency == 0),
            ("dead_letters", quotas.dead_letters == Some(0)),
            ("deploys_per_minute", quotas.deploys_per_minute == 0),
        ];
        for (key, _) in least_one.into_iter().filter(|(_, is_none)| *is_none) {
            self.fault(&["quotas", key], "must be at least 1", "leave the tenant's handlers out to serve none of it");
        }
    }

    fn tenant_redis(&mut self, redis: &TenantRedis) {
        let at = |key: &'static str| ["redis", key];
        self.secret(&["redis"], ("password", "password"), &redis.password_env, &redis.password_file);
        if redis.username.is_none() && (redis.password_env.is_some() || redis.password_file.is_some()) {
            self.fault(&at("username"), "is missing", "a tenant has a user of its own, or none and no password");
        }
        if redis.username.is_some() && redis.password_env.is_none() && redis.password_file.is_none() {
            self.fault(&at("username"), "has no password", "name its place by `password_env` or `password_file`");
        }
        if redis.username.as_deref().is_some_and(|user| user.is_empty() || user.contains(char::is_whitespace)) {
            self.fault(&at("username"), "is not the name of a user", "write a name without white space");
        }
    }
}
