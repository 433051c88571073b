//! Handlers that come to a thread, change and go, while the others work.
//!
//! A lane is not exchanged when its settings change: it goes on by the new ones. So nothing stands still, and what is in
//! memory stays known. What is not read any more finishes first.

use std::sync::Arc;

use super::super::Deployment;
use super::super::lane::{Lane, Standing};
use super::Shard;
use super::io::IoDone;
use crate::stats::HandlerStats;

impl Shard {
    /// Serves the handler as the deployment says from now on.
    pub(super) fn serve(&mut self, deployment: Arc<Deployment>, stats: Arc<HandlerStats>, share: usize, paused: bool) {
        let at = match self.by_name.get(&deployment.name) {
            Some(&at) => at,
            None => {
                let at = self.lanes.insert(Lane::new(deployment.clone(), stats.clone(), paused));
                self.by_name.insert(deployment.name.clone(), at);
                self.schedule.admit(at);
                at
            }
        };
        let (lane, left) = (&mut self.lanes[at], &self.left);
        self.shares = self.shares + share - lane.share;
        lane.renew(deployment, stats, share, |source| left.contains(source));
        lane.paused = paused;
        for source in &lane.sources {
            self.left.remove(&source.source);
        }
        self.is_any_leaving = true;
        self.schedule.activate(at);
    }

    /// Reads nothing more of the handler; `is_removed`: nor does any other thread.
    pub(super) fn leave(&mut self, handler: &str, is_removed: bool) {
        let Some(&at) = self.by_name.get(handler) else { return };
        self.lanes[at].leave();
        self.lanes[at].removed = is_removed;
        self.is_any_leaving = true;
    }

    /// Lets go of sources and lanes that have finished.
    pub(super) fn let_go(&mut self) {
        self.is_any_leaving = false;
        let mut finished = Vec::new();
        for (at, lane) in &mut self.lanes {
            if lane.removed && lane.paused {
                // Nobody begins it here any more, as nobody says when it goes on. It is found when the handler comes back,
                // or by others after this worker.
                self.left.extend(lane.abandon());
            }
            for source in lane.sources.iter_mut().filter(|source| source.has_finished()) {
                source.end();
                let (broker, consumer, source) = (self.broker.clone(), self.consumer.clone(), source.source.clone());
                self.io.push(Box::pin(async move {
                    // One that still has entries stays.
                    if let Err(error) = broker.remove_consumer(&source, &consumer).await {
                        tracing::debug!(stream = source.stream, "cannot remove the consumer: {error}");
                    }
                    IoDone::Left
                }));
            }
            self.is_any_leaving |= lane.leaving || lane.sources.iter().any(|it| it.standing == Standing::Leaving);
            if lane.has_ended() {
                finished.push(at);
            }
        }
        for at in finished {
            let lane = self.lanes.remove(at);
            self.shares -= lane.share;
            self.by_name.remove(&lane.deployment.name);
        }
    }
}
