//! The broker in this process: the same semantics as on Redis, for `demo`, `dev` and tests.
//!
//! [`state`] is the keyspace and its rules, without any waiting; here it is shared, and readers are woken. Nothing is
//! bounded or written to disk: what is in it lives as long as the process.

mod delayed;
mod marks;
mod pubsub;
mod state;
mod store;
mod values;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::Notify;

use self::pubsub::Channels;
use self::state::State;
use self::store::Shelf;
use super::keys::Namespace;
use super::pubsub::{Heard, Lease, Position, PubSub};
use super::{
    Broker, BrokerError, Claimed, ConsumerInfo, Cursor, DelayedMoved, Entry, EntryId, Fields, Inspect, PendingEntry,
    Replay, Replayed, ServerInfo, Settled, Source, StreamInfo, Trimmed, acl,
};
use crate::outcome::{Publication, Settlement};

/// A broker in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    channels: Mutex<Channels>,
    shelf: Mutex<Shelf>,
    appended: Notify,
    interrupted: Notify,
}

impl MemoryBroker {
    /// An empty broker.
    pub fn new() -> MemoryBroker {
        MemoryBroker::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.shared.channels.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shared.shelf.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Appends an entry as it is, like XADD.
    pub fn append(&self, key: &str, fields: Fields) -> EntryId {
        let id = self.state().append(key, fields);
        self.shared.appended.notify_waiters();
        id
    }

    /// Removes all but the newest `keep` entries, settled or not, like XTRIM MAXLEN.
    pub fn cut(&self, key: &str, keep: usize) {
        self.state().cut(key, keep);
    }

    /// Removes a stream with its groups, like DEL.
    pub fn delete_stream(&self, key: &str) {
        self.state().delete_stream(key);
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn create_group(&self, source: &Source) -> Result<bool, BrokerError> {
        Ok(self.state().create_group(source))
    }

    async fn read(&self, source: &Source, consumer: &str, count: usize) -> Result<Vec<Entry>, BrokerError> {
        self.state().read(source, consumer, count)
    }

    async fn wait(&self, cursors: &[Cursor], timeout: Duration) -> Result<Vec<Cursor>, BrokerError> {
        let deadline = tokio::time::Instant::now() + timeout;
        // Enlisted once: an interruption between two rounds must not be missed.
        let interrupted = self.shared.interrupted.notified();
        tokio::pin!(interrupted);
        interrupted.as_mut().enable();
        loop {
            // Listening begins before looking, so that nothing falls in between.
            let appended = self.shared.appended.notified();
            tokio::pin!(appended);
            appended.as_mut().enable();
            let newer = self.state().newer(cursors);
            if !newer.is_empty() {
                return Ok(newer);
            }
            tokio::select! {
                () = appended => {}
                () = &mut interrupted => return Ok(Vec::new()),
                () = tokio::time::sleep_until(deadline) => return Ok(Vec::new()),
            }
        }
    }

    async fn interrupt_wait(&self) -> Result<(), BrokerError> {
        self.shared.interrupted.notify_waiters();
        Ok(())
    }

    async fn settle(&self, consumer: &str, settlements: &[Settlement]) -> Result<Vec<Settled>, BrokerError> {
        let results = {
            let mut state = self.state();
            settlements.iter().map(|settlement| state.settle(consumer, settlement)).collect()
        };
        self.shared.appended.notify_waiters();
        Ok(results)
    }

    async fn claim_due(&self, source: &Source, consumer: &str, limit: usize) -> Result<Claimed, BrokerError> {
        Ok(self.state().claim_due(source, consumer, limit))
    }

    async fn claim_from(
        &self,
        source: &Source,
        consumer: &str,
        from: &str,
        min_idle: Option<Duration>,
        limit: usize,
    ) -> Result<Claimed, BrokerError> {
        self.state().claim_from(source, consumer, from, min_idle, limit)
    }

    async fn consumers(&self, source: &Source) -> Result<Vec<ConsumerInfo>, BrokerError> {
        self.state().consumers(source)
    }

    async fn remove_consumer(&self, source: &Source, consumer: &str) -> Result<bool, BrokerError> {
        self.state().remove_consumer(source, consumer)
    }

    async fn heartbeat(&self, worker: &str, report: &str, ttl: Duration) -> Result<(), BrokerError> {
        self.state().heartbeat(worker, report, ttl);
        Ok(())
    }

    async fn stay_alive(&self, worker: &str, ttl: Duration) -> Result<bool, BrokerError> {
        Ok(self.state().stay_alive(worker, ttl))
    }

    async fn resign(&self, worker: &str) -> Result<(), BrokerError> {
        self.state().resign(worker);
        Ok(())
    }

    async fn alive(&self, workers: &[String]) -> Result<Vec<bool>, BrokerError> {
        let state = self.state();
        Ok(workers.iter().map(|worker| state.is_alive(worker)).collect())
    }

    async fn living(&self) -> Result<BTreeSet<String>, BrokerError> {
        Ok(self.state().workers().into_iter().map(|(worker, _)| worker).collect())
    }

    async fn filled(&self, sets: &[Arc<str>]) -> Result<Vec<bool>, BrokerError> {
        let state = self.state();
        Ok(sets.iter().map(|set| state.is_filled(set)).collect())
    }

    async fn paused(&self) -> Result<Vec<String>, BrokerError> {
        Ok(self.state().paused.iter().cloned().collect())
    }

    async fn seen(&self, marks: &[Arc<str>]) -> Result<Vec<bool>, BrokerError> {
        let state = self.state();
        Ok(marks.iter().map(|mark| state.marks.contains(mark)).collect())
    }

    async fn publish(&self, publications: &[Publication]) -> Result<Vec<Option<EntryId>>, BrokerError> {
        let ids = {
            let mut state = self.state();
            publications.iter().map(|publication| state.publish(publication)).collect()
        };
        self.shared.appended.notify_waiters();
        Ok(ids)
    }

    async fn move_delayed(&self, namespace: &Namespace, limit: usize) -> Result<DelayedMoved, BrokerError> {
        let moved = self.state().move_delayed(namespace, limit);
        if moved.moved > 0 {
            self.shared.appended.notify_waiters();
        }
        Ok(moved)
    }
}

#[async_trait]
impl PubSub for MemoryBroker {
    async fn listen(&self, channel: &str, intake: &str) -> Result<BoxStream<'static, Heard>, BrokerError> {
        let mut heard = self.channels().listen(channel, intake);
        Ok(futures::stream::poll_fn(move |context| heard.poll_recv(context)).boxed())
    }

    async fn publish_message(&self, channel: &str, payload: &[u8]) -> Result<u64, BrokerError> {
        Ok(self.channels().publish(channel, payload))
    }

    async fn lease(&self, intake: &str, owner: &str, ttl: Duration) -> Result<Lease, BrokerError> {
        Ok(self.channels().lease(intake, owner, ttl))
    }

    async fn release(&self, intake: &str, owner: &str) -> Result<(), BrokerError> {
        self.channels().release(intake, owner);
        Ok(())
    }

    async fn take_in(
        &self,
        intake: &str,
        owner: &str,
        ttl: Duration,
        position: &Position,
        events: &[Publication],
    ) -> Result<bool, BrokerError> {
        // Held until the events are there: nobody may take over between the two.
        let mut channels = self.channels();
        let held = channels.advance(intake, owner, ttl, position);
        if held {
            let mut state = self.state();
            for one in events {
                state.append(&one.key, one.fields());
            }
        }
        drop(channels);
        self.shared.appended.notify_waiters();
        Ok(held)
    }
}

#[async_trait]
impl Inspect for MemoryBroker {
    async fn user_may_not(
        &self,
        _user: &str,
        _commands: &[acl::Command],
    ) -> Result<Option<Vec<Option<String>>>, BrokerError> {
        Ok(None)
    }

    async fn stream(&self, key: &str) -> Result<Option<StreamInfo>, BrokerError> {
        Ok(self.state().stream_info(key))
    }

    async fn lost_parked(&self, _source: &Source, _restore: bool) -> Result<usize, BrokerError> {
        // Both are one state of this process: neither can be deleted without the other.
        Ok(0)
    }

    async fn range(&self, key: &str, from: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, BrokerError> {
        Ok(self.state().range(key, from, to, count, false))
    }

    async fn range_back(&self, key: &str, from: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, BrokerError> {
        Ok(self.state().range(key, from, to, count, true))
    }

    async fn server(&self) -> Result<Option<ServerInfo>, BrokerError> {
        Ok(None)
    }

    async fn stream_keys(&self, prefix: &str, limit: usize) -> Result<Vec<String>, BrokerError> {
        Ok(self.state().stream_keys(prefix, limit))
    }

    async fn memory(&self, key: &str) -> Result<Option<u64>, BrokerError> {
        Ok(self.state().memory(key))
    }

    async fn pending(&self, source: &Source, from: EntryId, count: usize) -> Result<Vec<PendingEntry>, BrokerError> {
        self.state().pending(source, from, count)
    }

    async fn replay(&self, replay: &Replay<'_>) -> Result<Replayed, BrokerError> {
        let replayed = self.state().replay(replay);
        self.shared.appended.notify_waiters();
        Ok(replayed)
    }

    async fn workers(&self) -> Result<Vec<(String, String)>, BrokerError> {
        Ok(self.state().workers())
    }

    async fn redrive(
        &self,
        dead_key: &str,
        entry: EntryId,
        inbox_key: &str,
        version: Option<&str>,
    ) -> Result<bool, BrokerError> {
        let moved = self.state().redrive(dead_key, entry, inbox_key, version)?;
        self.shared.appended.notify_waiters();
        Ok(moved)
    }

    async fn set_paused(&self, handler: &str, paused: bool) -> Result<bool, BrokerError> {
        let mut state = self.state();
        Ok(if paused { state.paused.insert(handler.to_owned()) } else { state.paused.remove(handler) })
    }

    async fn remove_streams(&self, keys: &[&str]) -> Result<(), BrokerError> {
        keys.iter().for_each(|key| self.delete_stream(key));
        Ok(())
    }

    async fn lengths(&self, keys: &[Arc<str>]) -> Result<Vec<Option<usize>>, BrokerError> {
        let state = self.state();
        Ok(keys.iter().map(|key| Some(state.length(key))).collect())
    }

    async fn trim(
        &self,
        key: &str,
        max_length: Option<usize>,
        older_than: Option<Duration>,
    ) -> Result<Trimmed, BrokerError> {
        Ok(self.state().trim(key, max_length, older_than))
    }

    async fn delete(&self, key: &str, entries: &[EntryId]) -> Result<usize, BrokerError> {
        Ok(self.state().delete(key, entries))
    }
}
