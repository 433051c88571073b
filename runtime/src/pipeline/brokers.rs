//! By which broker something is done: by that of the tenant's Redis user, if it has one.

use std::sync::Arc;

use crate::broker::redis::{Login, RedisUsers};
use crate::broker::{Broker, Operate};

/// The brokers of a thread, or of what works beside the threads. Cheap to clone.
#[derive(Clone)]
pub(super) struct Brokers {
    /// For what belongs to the worker, and for all tenants without a user.
    pub(super) own: Arc<dyn Broker>,
    pub(super) users: Option<Arc<RedisUsers>>,
}

impl Brokers {
    /// The broker of a tenant.
    pub(super) fn of(&self, login: Option<&Login>) -> Arc<dyn Broker> {
        match (login, &self.users) {
            (Some(login), Some(users)) => users.broker(login),
            _ => self.own.clone(),
        }
    }

    /// The same for operations; `own` is that of the worker.
    pub(super) fn operate(&self, own: &Arc<dyn Operate>, login: Option<&Login>) -> Arc<dyn Operate> {
        match (login, &self.users) {
            (Some(login), Some(users)) => users.broker(login),
            _ => own.clone(),
        }
    }
}
