//! Handlers that come to a thread, change and go, while the others work.
//!
//! A lane is not exchanged when its settings change: it goes on by the new ones. So nothing stands still, and what is in
//! memory stays known. What is not read any more finishes first.

use std::sync::Arc;

use super::super::lane::Lane;
use super::super::runs::Runs;
use super::super::{Budget, Deployment, Share};
use super::Shard;
use super::io::IoDone;
use crate::stats::HandlerStats;

impl Shard {
    /// Serves the handler as the deployment says from now on.
    pub(super) fn serve(
        &mut self,
        deployment: Arc<Deployment>,
        (stats, budget): (Arc<HandlerStats>, &Arc<Budget>),
        share: Share,
        paused: bool,
    ) {
        let way = self.ways.enter(&deployment);
        let at = match self.by_name.get(&deployment.id) {
            Some(&at) => {
                self.ways.leave(std::mem::replace(&mut self.lanes[at].way, way));
                at
            }
            None => self.admit(&deployment, (stats.clone(), budget), paused, way),
        };
        let (lane, left) = (&mut self.lanes[at], &self.left);
        self.tenants[lane.tenant].set_share(share.tenant);
        self.shares = self.shares + share.handler - lane.share;
        lane.renew(deployment, stats, share.handler, |source| left.contains(source));
        lane.paused = paused;
        self.schedule.set_weight(at, lane.deployment.weight);
        for source in &lane.sources {
            self.left.remove(&source.source);
            let readers = self.readers.entry(source.source.key.clone()).or_default();
            if !readers.contains(&at) {
                readers.push(at);
            }
        }
        self.touch(at);
    }

    fn admit(
        &mut self,
        deployment: &Arc<Deployment>,
        (stats, budget): (Arc<HandlerStats>, &Arc<Budget>),
        paused: bool,
        way: usize,
    ) -> usize {
        let tenant = self.tenants.enter(&deployment.tenant, budget);
        let entry = self.lanes.vacant_entry();
        let at = entry.key();
        let runs = Runs::new(at, &self.woken);
        entry.insert(Lane::new(deployment.clone(), stats, paused, (tenant, way), runs));
        self.by_name.insert(deployment.id.clone(), at);
        self.schedule.enter(at, tenant, deployment.weight);
        at
    }

    /// Reads nothing more of the handler; `is_removed`: nor does any other thread.
    pub(super) fn leave(&mut self, handler: &str, is_removed: bool) {
        let Some(&at) = self.by_name.get(handler) else { return };
        self.lanes[at].leave();
        self.lanes[at].removed = is_removed;
        self.agenda.list(at);
    }

    /// Lets go of the sources of the lane that have finished, and then of the lane, if it is leaving.
    pub(super) fn let_go(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        if lane.removed && lane.paused {
            // Nobody begins it here any more, as nobody says when it goes on. It is found when the handler comes back, or by
            // others after this worker.
            let (left, sizes) = lane.abandon();
            let tenant = &mut self.tenants[lane.tenant];
            let hungry = sizes.into_iter().flat_map(|bytes| tenant.taken(bytes));
            hungry.for_each(|other| self.agenda.list(other));
            self.left.extend(left);
        }
        for source in lane.sources.iter_mut().filter(|source| source.has_finished()) {
            source.end();
            if let Some(readers) = self.readers.get_mut(&source.source.key) {
                readers.retain(|reader| *reader != at);
                if readers.is_empty() {
                    self.readers.remove(&source.source.key);
                }
            }
            let (broker, consumer, source) =
                (self.ways.broker(lane.way).clone(), self.consumer.clone(), source.source.clone());
            self.io.push(Box::pin(async move {
                // One that still has entries stays.
                if let Err(error) = broker.remove_consumer(&source, &consumer).await {
                    tracing::debug!(stream = source.stream, "cannot remove the consumer: {error}");
                }
                IoDone::Left
            }));
        }
        if lane.has_ended() {
            let lane = self.lanes.remove(at);
            self.schedule.leave(at);
            if self.tenants.leave(&lane.deployment.tenant) {
                self.schedule.forget(lane.tenant);
            }
            self.ways.leave(lane.way);
            self.shares -= lane.share;
            self.by_name.remove(&lane.deployment.id);
        }
    }
}
