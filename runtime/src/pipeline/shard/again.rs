//! Deliveries that are run again by the thread which has them, since what they saw of the state has changed, or could not be
//! read. That is no attempt: the entry stays pending under this consumer, and nothing is asked of the broker for it. Since a
//! delivery is outdated only by one that was written, there is always one that gets on.

use std::time::Duration;

use super::super::run::Delivery;
use super::super::turns::Turn;
use super::io::IoDone;
use super::{Shard, backoff};
use crate::outcome::{Decision, Settlement};

/// Runs in a row that follow each other at once. Beyond them others go first.
const MAX_AT_ONCE: u32 = 10;
/// The longest pause between two runs after those. Short: whoever outdated this one has been written.
const PAUSE: Duration = Duration::from_millis(20);

impl Shard {
    /// What the delivery saw has changed before it was written.
    pub(super) fn outdated(&mut self, lane_at: usize, mut delivery: Box<Delivery>, settlement: &Settlement) {
        let lane = &mut self.lanes[lane_at];
        lane.stats.stale.add(1);
        delivery.reruns = delivery.reruns.saturating_add(1);
        if delivery.reruns > MAX_AT_ONCE {
            let pause = PAUSE.mul_f64(0.25 + 0.75 * rand::random::<f64>());
            self.run_after(lane_at, delivery, pause);
            return;
        }
        let is_first = !delivery.turns.iter().any(|turn| matches!(turn, Turn::State(_)));
        match first_seen(settlement).filter(|_| is_first) {
            Some(key) => {
                let turn = Turn::State(key.to_owned());
                delivery.turns.push(turn.clone());
                lane.again.extend(lane.turns.take(&turn, delivery));
            }
            None => lane.again.push_back(delivery),
        }
    }

    /// What the delivery wants to write is more than the quota of its tenant allows. It is run again, and its handler told
    /// when it wants more: that knows what can be deleted instead, or whether the event can wait. Whoever is told makes the
    /// state no larger, so that this happens once.
    pub(super) fn over_quota(&mut self, lane_at: usize, mut delivery: Box<Delivery>) {
        let lane = &mut self.lanes[lane_at];
        lane.stats.over_quota.add(1);
        delivery.over_quota = true;
        lane.again.push_back(delivery);
    }

    /// The state could not be read: whatever the handler made of that does not count.
    pub(super) fn unreadable(&mut self, lane_at: usize, mut delivery: Box<Delivery>, why: &str) {
        let handler = self.lanes[lane_at].deployment.name();
        delivery.unread = delivery.unread.saturating_add(1);
        let pause = backoff(delivery.unread);
        if delivery.unread.is_power_of_two() {
            tracing::error!(alarm = "state_unreadable", handler, ?pause, "a delivery will be run again: {why}");
        }
        self.run_after(lane_at, delivery, pause);
    }

    fn run_after(&mut self, lane: usize, delivery: Box<Delivery>, pause: Duration) {
        self.lanes[lane].pausing += 1;
        self.io.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            IoDone::Again { lane, delivery }
        }));
    }
}

/// The key by which outdated deliveries queue: most see one key only, or the same one first.
fn first_seen(settlement: &Settlement) -> Option<&str> {
    let Decision::Ack { state: Some(change), .. } = &settlement.decision else { return None };
    Some(change.changes.seen.first().map_or("", |(key, _)| key))
}
