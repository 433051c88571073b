//! The version that is being prepared, and which one is next.

use std::sync::Arc;
use std::time::Instant;

use tokio::task;

use super::prepare::{Exam, Recipe, prepare};
use super::{RETRY, Rollouts};
use crate::deploy::Version;
use crate::deploy::record::Record;
use crate::wasm::Engine;

/// A version that is to be prepared.
pub(super) struct Wish {
    /// The place of the handler.
    pub(super) at: usize,
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) smoke: Option<String>,
    pub(super) signature: Option<String>,
    /// It has not served before.
    pub(super) is_new: bool,
}

/// A version in preparation.
pub(super) struct Job {
    pub(super) handler: Arc<str>,
    pub(super) digest: String,
    /// The smoke tests that are part of it.
    pub(super) smoke: Option<String>,
    /// The signature by which its component is verified, if it must be.
    pub(super) signature: Option<String>,
    /// What it compiles with.
    pub(super) engine: Engine,
    /// Nobody wants it any more: it has been told to stop.
    pub(super) is_unwanted: bool,
    pub(super) task: task::JoinHandle<Result<Version, String>>,
}

impl Job {
    /// Stops it: compiling, and smoke tests, since others wait for their turn.
    pub(super) fn give_up(&mut self) {
        if !std::mem::replace(&mut self.is_unwanted, true) {
            self.engine.stop_compiling();
            self.task.abort();
        }
    }
}

impl Rollouts {
    /// Stops preparing what the handler has no use for any more.
    pub(super) fn stop_unwanted(&mut self, at: usize, record: &Record) {
        if let Some(job) = &mut self.job
            && job.handler == self.handlers[at].deployment.id
            && !record.wants(&job.digest)
        {
            job.give_up();
        }
    }

    /// Takes over what has been prepared meanwhile.
    pub(super) async fn take_prepared(&mut self) {
        let Some(job) = self.job.take_if(|job| job.task.is_finished()) else { return };
        let result = job.task.await.unwrap_or_else(|panic| Err(format!("preparing it ended badly: {panic}")));
        // The handler may have gone meanwhile.
        let Some(followed) = self.followed(&job.handler) else { return };
        // What the handler may do may have changed meanwhile.
        let current = followed.deployment.slot.current();
        let fitting =
            |version: Version| Arc::new(version).as_granted_to(&current.handler).map_err(|error| error.to_string());
        match result.and_then(fitting) {
            _ if job.is_unwanted => {}
            Ok(version) => {
                followed.hold(version);
                followed.failed.remove(&job.digest);
                followed.verified.extend(job.signature.map(|signature| (job.digest.clone(), signature)));
                followed.passed = job.smoke.map(|smoke| (job.digest, smoke)).or(followed.passed.take());
            }
            Err(why) => {
                followed.failed.insert(job.digest, (why, Instant::now() + RETRY));
            }
        }
    }

    /// Begins to prepare one of the versions that were asked for in this look, unless one is being prepared: the tenants
    /// take turns, and so do the handlers of a tenant.
    pub(super) fn begin_job(&mut self) {
        if self.job.is_some() {
            return;
        }
        let handlers = &self.handlers;
        let whose = |wish: &Wish| {
            let deployment = &handlers[wish.at].deployment;
            (deployment.tenant.clone(), deployment.name.clone())
        };
        let asking: Vec<_> = self.wishes.iter().map(whose).collect();
        let Some(next) = self.turns.next(&asking) else { return };
        let Wish { at, digest, size, smoke, signature, is_new } = self.wishes.swap_remove(next);
        let deployment = &self.handlers[at].deployment;
        let current = deployment.slot.current();
        let policy = &current.handler.policy;
        let engine = current.handler.component.engine().apart().for_tenant(policy.tenant.clone());
        let recipe = Recipe {
            store: self.store.clone(),
            cache: self.cache.clone(),
            keys: self.keys.clone(),
            engine: engine.clone(),
            current,
            digest: digest.clone(),
            size,
            signature: signature.clone(),
        };
        let signature = signature.filter(|_| !self.keys.is_empty());
        let exam = smoke.clone().map(|smoke| Exam::new(smoke, deployment));
        let handler = deployment.id.clone();
        let task = tokio::spawn(prepare(recipe, is_new, exam));
        self.job = Some(Job { handler, digest, smoke, signature, engine, is_unwanted: false, task });
    }
}

impl Drop for Rollouts {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            job.task.abort();
        }
    }
}
