//! Looking at what is there, and replaying it; heartbeats.

use std::time::{Duration, Instant};

use super::super::super::{
    BrokerError, Entry, EntryId, Fields, GroupInfo, PendingEntry, Replay, Replayed, Source, StreamInfo, dead_letter,
};
use super::{Heartbeat, State};

impl State {
    pub(in super::super) fn heartbeat(&mut self, worker: &str, report: &str, ttl: Duration) {
        let heartbeat = Heartbeat { until: Instant::now() + ttl, report: report.to_owned() };
        self.heartbeats.insert(worker.to_owned(), heartbeat);
    }

    /// `false` if the worker has no heartbeat any more.
    pub(in super::super) fn stay_alive(&mut self, worker: &str, ttl: Duration) -> bool {
        let is_alive = self.is_alive(worker);
        if let Some(heartbeat) = self.heartbeats.get_mut(worker).filter(|_| is_alive) {
            heartbeat.until = Instant::now() + ttl;
        }
        is_alive
    }

    pub(in super::super) fn resign(&mut self, worker: &str) {
        self.heartbeats.remove(worker);
    }

    pub(in super::super) fn is_alive(&self, worker: &str) -> bool {
        self.heartbeats.get(worker).is_some_and(|heartbeat| heartbeat.until > Instant::now())
    }

    pub(in super::super) fn workers(&self) -> Vec<(String, String)> {
        let alive = self.heartbeats.iter().filter(|(worker, _)| self.is_alive(worker));
        alive.map(|(worker, heartbeat)| (worker.clone(), heartbeat.report.clone())).collect()
    }

    pub(in super::super) fn length(&self, key: &str) -> usize {
        self.streams.get(key).map_or(0, |stream| stream.entries.len())
    }

    pub(in super::super) fn stream_keys(&self, prefix: &str, limit: usize) -> Vec<String> {
        self.streams.keys().filter(|key| key.starts_with(prefix)).take(limit).cloned().collect()
    }

    /// Bytes of names and values in the stream.
    pub(in super::super) fn memory(&self, key: &str) -> Option<u64> {
        let entries = self.streams.get(key)?.entries.values().flatten();
        Some(entries.map(|(name, value)| (name.len() + value.len()) as u64).sum())
    }

    pub(in super::super) fn stream_info(&self, key: &str) -> Option<StreamInfo> {
        let stream = self.streams.get(key)?;
        let groups = stream.groups.iter().map(|(name, group)| GroupInfo {
            name: name.to_string(),
            consumers: group.consumers.len(),
            pending: group.pending.len(),
            delivered: group.delivered,
            lag: Some(stream.entries.range(group.delivered.next()..).count()),
        });
        let first = stream.entries.first_key_value().map(|(&id, _)| id);
        Some(StreamInfo { length: stream.entries.len(), first, last: stream.last, groups: groups.collect() })
    }

    pub(in super::super) fn range(
        &self,
        key: &str,
        from: EntryId,
        to: EntryId,
        count: usize,
        newest_first: bool,
    ) -> Vec<Entry> {
        let Some(stream) = self.streams.get(key).filter(|_| from <= to) else { return Vec::new() };
        let entries = stream.entries.range(from..=to);
        let entry = |(&id, fields): (&EntryId, &Fields)| Entry { id, attempt: 0, fields: fields.clone() };
        match newest_first {
            true => entries.rev().take(count).map(entry).collect(),
            false => entries.take(count).map(entry).collect(),
        }
    }

    pub(in super::super) fn pending(
        &mut self,
        source: &Source,
        from: EntryId,
        count: usize,
    ) -> Result<Vec<PendingEntry>, BrokerError> {
        let (group, _) = self.group(source)?;
        let entries = group.pending.range(from..).take(count).map(|(&id, pending)| PendingEntry {
            id,
            consumer: pending.consumer.clone(),
            idle: pending.since.elapsed(),
            attempts: pending.attempt,
        });
        Ok(entries.collect())
    }

    pub(in super::super) fn replay(&mut self, replay: &Replay<'_>) -> Replayed {
        let entries = self.range(replay.key, replay.from, replay.to, replay.count, false);
        let last = entries.last().map(|entry| entry.id);
        let appended = entries.len();
        for entry in entries {
            let fields = dead_letter::inbox_fields(replay.stream, entry.id, entry.fields, Some(replay.run));
            self.append(replay.inbox, fields);
        }
        Replayed { appended, skipped: 0, last }
    }
}
