//! The Redis users of tenants, as the configuration says.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{BuildError, redis_settings};
use crate::broker::Operate;
use crate::broker::acl::UserGrants;
use crate::broker::redis::{Login, RedisBroker, RedisSettings, RedisUsers};
use crate::config::{Config, HandlerConfig};

/// The Redis user of the tenant of the configuration, if it has one.
pub fn login(config: &Config) -> Option<Login> {
    let (tenant, redis) = (&config.tenant.name, &config.tenant.redis);
    let place = match (&redis.password_env, &redis.password_file) {
        (Some(name), _) => format!("variable {name}"),
        (None, Some(path)) => format!("file {}", path.display()),
        (None, None) => String::new(),
    };
    let password = {
        let (tenant, redis) = (tenant.clone(), redis.clone());
        Arc::new(move || redis.password(&tenant).map_err(|error| error.to_string()))
    };
    let login = |username: &String| Login {
        tenant: tenant.as_str().into(),
        username: username.as_str().into(),
        place: place.into(),
        password,
    };
    redis.username.as_ref().map(login)
}

/// The Redis of the configuration, for one who works for its tenant alone. Connects when it is first used.
pub fn redis_broker(config: &Config) -> Result<RedisBroker, BuildError> {
    let settings = redis_settings(config)?;
    Ok(match login(config) {
        Some(login) => RedisBroker::for_user(settings, login),
        None => RedisBroker::new(settings),
    })
}

/// The broker for operations on the tenant of the configuration: that of its user, if it has one. `own` is that of the
/// worker.
pub fn operate(config: &Config, own: &Arc<dyn Operate>, users: Option<&Arc<RedisUsers>>) -> Arc<dyn Operate> {
    match (login(config), users) {
        (Some(login), Some(users)) => users.broker(&login),
        _ => own.clone(),
    }
}

/// What the user of the tenant of the configuration needs, under the name that it has or is proposed.
pub fn user_grants(config: &Config) -> UserGrants {
    let (tenant, namespace) = (&config.tenant, &config.tenant.namespace);
    let foreign = |names: fn(&HandlerConfig) -> &Vec<String>| {
        let names: BTreeSet<&String> = config.handlers.values().flat_map(names).collect();
        let foreign = names.into_iter().filter(|name| !namespace.is_own(name));
        foreign.map(|name| namespace.stream(name).to_string()).collect()
    };
    UserGrants {
        username: tenant.redis.username.clone().unwrap_or_else(|| format!("wasmill-{}", tenant.name)),
        prefix: namespace.prefix().to_owned(),
        publishes: foreign(|handler| &handler.publishes),
        reads: foreign(|handler| &handler.streams),
        database: RedisSettings::new(&config.redis.url).map_or(0, |settings| settings.database()),
    }
}
