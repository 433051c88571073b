//! The users of tenants: a broker for each, on connections that are bounded in number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use super::RedisBroker;
use super::link::{Link, Login, RedisSettings};
use super::pool::Pool;

/// The most connections of tenants' users on one worker, all tenants together. Redis allows 10,000 clients unless it is
/// configured otherwise: so 100 workers fit.
pub const MAX_USER_CONNECTIONS: usize = 64;
/// A connection of a tenant's user that was of no use for so long is closed.
pub const USER_IDLE: Duration = Duration::from_secs(60);

/// What the users of tenants have in common on one worker.
pub struct RedisUsers {
    settings: RedisSettings,
    runtime: Handle,
    /// The connection of the worker's own user, for what is the worker's.
    own: Link,
    pool: Arc<Pool>,
    /// By tenant.
    brokers: Mutex<HashMap<Arc<str>, Weak<RedisBroker>>>,
}

impl RedisUsers {
    /// Nobody yet. `settings` are those of the worker's own user; connections live on the threads of `runtime`.
    pub fn new(settings: RedisSettings, runtime: Handle) -> RedisUsers {
        RedisUsers::bounded(settings, runtime, MAX_USER_CONNECTIONS, USER_IDLE)
    }

    /// The same with other bounds than [`MAX_USER_CONNECTIONS`] and [`USER_IDLE`].
    pub fn bounded(settings: RedisSettings, runtime: Handle, most: usize, idle: Duration) -> RedisUsers {
        let own = Link::living_on(settings.clone(), runtime.clone());
        RedisUsers { settings, runtime, own, pool: Pool::new(most, idle), brokers: Mutex::default() }
    }

    /// How the worker's own user logs in.
    pub fn settings(&self) -> &RedisSettings {
        &self.settings
    }

    /// The broker of a tenant's user, shared by all who ask for it; it logs in as this says from now on. What is the worker's
    /// and not the tenant's it does as the worker's own user.
    pub fn broker(&self, login: &Login) -> Arc<RedisBroker> {
        let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(broker) = brokers.get(&login.tenant).and_then(Weak::upgrade) {
            broker.requests.log_in_as(login);
            return broker;
        }
        brokers.retain(|_, broker| broker.strong_count() > 0);
        let requests = Link::of_user(self.settings.clone(), self.runtime.clone(), login.clone(), &self.pool);
        let broker = Arc::new(RedisBroker::with_links(requests, self.own.clone(), self.settings.clone()));
        brokers.insert(login.tenant.clone(), Arc::downgrade(&broker));
        broker
    }

    /// Closes connections that were of no use for long, until the future is dropped.
    pub async fn close_idle(&self) {
        self.pool.close_idle().await;
    }
}
