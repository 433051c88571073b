//! Delayed events of the broker in memory.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::keys::{self, Namespace};
use super::super::{DelayedMoved, delayed};
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
    /// Lets an event wait.
    pub(super) fn wait(&mut self, publication: &Publication) {
        let set = publication.waits_in.clone().unwrap_or_else(|| keys::DELAYED.into());
        self.waiting.entry(set).or_default().add(publication);
    }

    /// Whether events wait in the set.
    pub(super) fn has_delayed(&self, set: &str) -> bool {
        self.waiting.get(set).is_some_and(|waiting| !waiting.by_time.is_empty())
    }

    pub(super) fn move_delayed(&mut self, namespace: &Namespace, limit: usize) -> DelayedMoved {
        let now = now_ms();
        let mut moved = DelayedMoved::default();
        let set = namespace.delayed();
        let mut waiting = self.waiting.remove(&set).unwrap_or_default();
        while moved.moved < limit && waiting.by_time.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, member)) = waiting.by_time.pop_first() else { break };
            waiting.known.remove(&member);
            match delayed::unpack(&member) {
                Some(event) if namespace.has_stream(&event.key) => {
                    self.append(&event.key, event.fields);
                    moved.moved += 1;
                }
                Some(_) | None => moved.refused.push(format!("a member of {set} was not written by wasmill")),
            }
        }
        let next = waiting.by_time.first();
        moved.next_due = next.map(|(due, _)| Duration::from_millis(due.saturating_sub(now)));
        if !waiting.by_time.is_empty() {
            self.waiting.insert(set, waiting);
        }
        moved
    }
}
