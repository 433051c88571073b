//! Delayed events of the broker in memory.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::DelayedMoved;
use super::super::delayed;
use super::state::State;
use crate::clock::now_ms;
use crate::outcome::{Due, Publication};

/// Events that wait for their time.
#[derive(Default)]
pub(super) struct Waiting {
    by_time: BTreeSet<(u64, Arc<[u8]>)>,
    known: HashSet<Arc<[u8]>>,
}

impl Waiting {
    /// Lets an event wait. One that waits already stays as it is.
    pub(super) fn add(&mut self, publication: &Publication) {
        let due = match publication.when {
            Due::Now => now_ms(),
            Due::After(delay) => now_ms() + u64::try_from(delay.as_millis()).unwrap_or(u64::MAX / 2),
            Due::At(ms) => ms,
        };
        let member: Arc<[u8]> = delayed::pack(publication).into();
        if self.known.insert(member.clone()) {
            self.by_time.insert((due, member));
        }
    }
}

impl State {
    pub(super) fn move_delayed(&mut self, limit: usize) -> DelayedMoved {
        let now = now_ms();
        let mut moved = DelayedMoved::default();
        while moved.moved < limit && self.waiting.by_time.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, member)) = self.waiting.by_time.pop_first() else { break };
            self.waiting.known.remove(&member);
            match delayed::unpack(&member) {
                Some(event) => {
                    self.append(&event.key, event.fields);
                    moved.moved += 1;
                }
                None => moved.refused.push("an event that waits cannot be read".to_owned()),
            }
        }
        let next = self.waiting.by_time.first();
        moved.next_due = next.map(|(due, _)| Duration::from_millis(due.saturating_sub(now)));
        moved
    }
}
