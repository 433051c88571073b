//! The keyspace of the broker in memory: streams, groups, pending entries, due times, heartbeats.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{
    BrokerError, Claimed, ConsumerInfo, Cursor, Entry, EntryId, Fields, Settled, Source, Trimmed, dead_letter, keys,
};
use super::delayed::Waiting;
use super::marks::Marks;
use super::values::Values;
use crate::clock::now_ms;
use crate::outcome::{DeadLetter, Decision, Due, Publication, Settlement};

mod look;

#[derive(Default)]
pub(super) struct State {
    streams: HashMap<String, Stream>,
    /// Due times and entries, by the key of the set.
    due: HashMap<Arc<str>, BTreeSet<(u64, EntryId)>>,
    heartbeats: HashMap<String, Heartbeat>,
    /// Events that wait for their time, by the set that they wait in.
    pub(super) waiting: HashMap<Arc<str>, Waiting>,
    pub(super) marks: Marks,
    pub(super) values: Values,
    /// Handlers that are paused.
    pub(super) paused: BTreeSet<String>,
}

struct Heartbeat {
    until: Instant,
    report: String,
}

#[derive(Default)]
struct Stream {
    entries: BTreeMap<EntryId, Fields>,
    last: EntryId,
    groups: HashMap<Arc<str>, Group>,
}

#[derive(Default)]
struct Group {
    delivered: EntryId,
    pending: BTreeMap<EntryId, Pending>,
    consumers: HashMap<String, Instant>,
}

struct Pending {
    consumer: String,
    attempt: u32,
    since: Instant,
}

impl Stream {
    fn append(&mut self, fields: Fields) -> EntryId {
        let now = EntryId { ms: now_ms(), seq: 0 };
        self.last = if now > self.last { now } else { self.last.next() };
        self.entries.insert(self.last, fields);
        self.last
    }
}

impl Group {
    fn seen(&mut self, consumer: &str) {
        match self.consumers.get_mut(consumer) {
            Some(last) => *last = Instant::now(),
            None => drop(self.consumers.insert(consumer.to_owned(), Instant::now())),
        }
    }
}

fn no_group(source: &Source) -> BrokerError {
    BrokerError::NoGroup { message: format!("no group {} on {}", source.group, source.key) }
}

impl State {
    fn group(&mut self, source: &Source) -> Result<(&mut Group, &BTreeMap<EntryId, Fields>), BrokerError> {
        let stream = self.streams.get_mut(&*source.key).ok_or_else(|| no_group(source))?;
        let group = stream.groups.get_mut(&source.group).ok_or_else(|| no_group(source))?;
        Ok((group, &stream.entries))
    }

    pub(super) fn append(&mut self, key: &str, fields: Fields) -> EntryId {
        match self.streams.get_mut(key) {
            Some(stream) => stream.append(fields),
            None => self.streams.entry(key.to_owned()).or_default().append(fields),
        }
    }

    pub(super) fn cut(&mut self, key: &str, keep: usize) {
        if let Some(stream) = self.streams.get_mut(key) {
            while stream.entries.len() > keep {
                stream.entries.pop_first();
            }
        }
    }

    pub(super) fn trim(&mut self, key: &str, max_length: Option<usize>, older_than: Option<Duration>) -> Trimmed {
        let Some(stream) = self.streams.get_mut(key) else { return Trimmed::default() };
        // What every group has settled lies before the first bound.
        let bounds = stream.groups.iter().map(|(name, group)| {
            let pending = group.pending.first_key_value().map(|(&id, _)| id);
            (pending.unwrap_or_else(|| group.delivered.next()), name)
        });
        let holder = bounds.min();
        let oldest = older_than.map(|age| now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
        let mut removed = 0;
        let mut held_back_by = None;
        while let Some((&id, _)) = stream.entries.first_key_value() {
            let is_excess = max_length.is_some_and(|max| stream.entries.len() > max);
            if !is_excess && oldest.is_none_or(|oldest| id.ms >= oldest) {
                break;
            }
            if let Some((_, name)) = holder.filter(|(bound, _)| id >= *bound) {
                held_back_by = Some(name.to_string());
                break;
            }
            stream.entries.pop_first();
            removed += 1;
        }
        Trimmed { removed, length: stream.entries.len(), more: false, held_back_by }
    }

    /// Writes an event; `None` if it waits for its time.
    pub(super) fn publish(&mut self, publication: &Publication) -> Option<EntryId> {
        if publication.when != Due::Now {
            self.wait(publication);
            return None;
        }
        Some(self.append(&publication.key, publication.fields()))
    }

    pub(super) fn delete_stream(&mut self, key: &str) {
        self.streams.remove(key);
    }

    pub(super) fn create_group(&mut self, source: &Source) -> bool {
        let groups = &mut self.streams.entry(source.key.to_string()).or_default().groups;
        let is_new = !groups.contains_key(&source.group);
        groups.entry(source.group.clone()).or_default();
        is_new
    }

    pub(super) fn read(&mut self, source: &Source, consumer: &str, count: usize) -> Result<Vec<Entry>, BrokerError> {
        let (group, entries) = self.group(source)?;
        group.seen(consumer);
        let fresh = entries.range(group.delivered.next()..).take(count);
        let read: Vec<Entry> = fresh.map(|(&id, fields)| Entry { id, attempt: 1, fields: fields.clone() }).collect();
        for entry in &read {
            group.delivered = entry.id;
            group
                .pending
                .insert(entry.id, Pending { consumer: consumer.to_owned(), attempt: 1, since: Instant::now() });
        }
        Ok(read)
    }

    /// The streams that have entries after their cursors, with their newest ids.
    pub(super) fn newer(&self, cursors: &[Cursor]) -> Vec<Cursor> {
        let newest = |cursor: &Cursor| {
            let stream = self.streams.get(&*cursor.key)?;
            let newest = *stream.entries.last_key_value()?.0;
            (newest > cursor.after).then(|| Cursor { key: cursor.key.clone(), after: stream.last })
        };
        cursors.iter().filter_map(newest).collect()
    }

    /// Acknowledges; whether the entry was pending.
    fn ack(&mut self, source: &Source, entry: EntryId) -> bool {
        self.group(source).is_ok_and(|(group, _)| group.pending.remove(&entry).is_some())
    }

    fn is_owner(&mut self, source: &Source, entry: EntryId, consumer: &str) -> bool {
        let pending = self.group(source).ok().and_then(|(group, _)| group.pending.get(&entry));
        pending.is_some_and(|pending| pending.consumer == consumer)
    }

    pub(super) fn settle(&mut self, consumer: &str, settlement: &Settlement) -> Settled {
        let Settlement { source, entry, decision } = settlement;
        let applies = match decision {
            Decision::Ack { .. } => true,
            Decision::Park { .. } | Decision::DeadLetter(_) => self.is_owner(source, *entry, consumer),
        };
        if !applies {
            return Settled::Superseded;
        }
        match decision {
            Decision::Ack { publishes, mark, state } => {
                let is_duplicate = mark.as_ref().is_some_and(|mark| !mark.overrides && self.marks.contains(&mark.key));
                if !is_duplicate && let Some(change) = state {
                    let still_holds = self.values.still_holds(change);
                    if !still_holds || self.values.is_over_quota(change) {
                        return match self.is_owner(source, *entry, consumer) {
                            true if still_holds => Settled::OverQuota,
                            true => Settled::Stale,
                            false => Settled::Superseded,
                        };
                    }
                }
                if !self.ack(source, *entry) {
                    return Settled::Superseded;
                }
                if is_duplicate {
                    return Settled::Duplicate;
                }
                if let Some(mark) = mark {
                    self.marks.set(&mark.key, mark.ttl);
                }
                if let Some(change) = state {
                    self.values.apply(change);
                }
                for publication in publishes {
                    self.publish(publication);
                }
            }
            Decision::Park { pause } => self.park(source, *entry, *pause),
            Decision::DeadLetter(letter) => self.bury(source, *entry, letter),
        }
        Settled::Applied
    }

    fn park(&mut self, source: &Source, entry: EntryId, pause: Duration) {
        let due = now_ms() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 2);
        if let Ok((group, _)) = self.group(source)
            && let Some(pending) = group.pending.get_mut(&entry)
        {
            pending.consumer = keys::PARKED_CONSUMER.to_owned();
            group.seen(keys::PARKED_CONSUMER);
            self.due.entry(source.due_key.clone()).or_default().insert((due, entry));
        }
    }

    fn bury(&mut self, source: &Source, entry: EntryId, letter: &DeadLetter) {
        let original = self.streams.get(&*source.key).and_then(|stream| stream.entries.get(&entry)).cloned();
        let mut original = original.unwrap_or_default();
        if source.is_inbox {
            original = dead_letter::without_head(original);
        }
        let evidence = dead_letter::evidence(letter).into_iter().enumerate();
        let mut fields: Fields = evidence
            .map(|(at, (name, value))| match at {
                dead_letter::LAST_TIME_INDEX => (name.as_bytes().to_vec(), now_ms().to_string().into_bytes()),
                _ => (name.as_bytes().to_vec(), value.as_bytes().to_vec()),
            })
            .collect();
        fields.push((dead_letter::ORIGINAL.as_bytes().to_vec(), original.len().to_string().into_bytes()));
        fields.extend(original);
        self.ack(source, entry);
        self.append(&letter.key, fields);
    }

    /// Hands a pending entry to a consumer; `None` if its payload is gone, in which case it is acknowledged.
    /// From oneself it is no attempt: what was lost on its way has not been run.
    fn claim(&mut self, source: &Source, consumer: &str, id: EntryId) -> Option<Entry> {
        let (group, entries) = self.group(source).ok()?;
        let Some(fields) = entries.get(&id) else {
            group.pending.remove(&id);
            return None;
        };
        let pending = group.pending.get_mut(&id)?;
        if pending.consumer != consumer {
            pending.attempt += 1;
            pending.consumer = consumer.to_owned();
        }
        pending.since = Instant::now();
        let entry = Entry { id, attempt: pending.attempt, fields: fields.clone() };
        group.seen(consumer);
        Some(entry)
    }

    /// Whether a set of due times or of delayed events has something in it.
    pub(super) fn is_filled(&self, set: &str) -> bool {
        self.due.get(set).is_some_and(|due| !due.is_empty()) || self.has_delayed(set)
    }

    pub(super) fn claim_due(&mut self, source: &Source, consumer: &str, limit: usize) -> Claimed {
        let now = now_ms();
        let mut claimed = Claimed::default();
        let mut looked_at = 0;
        while let Some(&(due, id)) = self.due.get(&source.due_key).and_then(BTreeSet::first) {
            if due > now || looked_at == limit {
                claimed.more = due <= now;
                claimed.next_due = Some(Duration::from_millis(due.saturating_sub(now)));
                break;
            }
            looked_at += 1;
            if let Some(set) = self.due.get_mut(&source.due_key) {
                set.pop_first();
            }
            if !self.is_owner(source, id, keys::PARKED_CONSUMER) {
                continue;
            }
            match self.claim(source, consumer, id) {
                Some(entry) => claimed.entries.push(entry),
                None => claimed.trimmed += 1,
            }
        }
        claimed
    }

    pub(super) fn claim_from(
        &mut self,
        source: &Source,
        consumer: &str,
        from: &str,
        min_idle: Option<Duration>,
        limit: usize,
    ) -> Result<Claimed, BrokerError> {
        let (group, _) = self.group(source)?;
        let idle = min_idle.unwrap_or_default();
        let theirs = group.pending.iter_mut().filter(|(_, it)| it.consumer == from && it.since.elapsed() >= idle);
        let wanted: Vec<(EntryId, u32)> = theirs
            .take(limit + 1)
            .map(|(&id, pending)| {
                if min_idle.is_some() {
                    // Attempts of another program do not count.
                    pending.attempt = 0;
                }
                (id, pending.attempt)
            })
            .collect();
        let mut claimed = Claimed::default();
        for (at, &(id, handed_out)) in wanted.iter().enumerate() {
            let suspect = handed_out + u32::from(from != consumer) > 2;
            if claimed.entries.len() == limit || (suspect && !claimed.entries.is_empty()) {
                claimed.more = true;
                break;
            }
            match self.claim(source, consumer, id) {
                Some(entry) => claimed.entries.push(entry),
                None => {
                    claimed.trimmed += 1;
                    continue;
                }
            }
            if suspect {
                claimed.more = at + 1 < wanted.len();
                break;
            }
        }
        // More was there than was looked at, whatever became of what was looked at.
        claimed.more |= wanted.len() > limit;
        Ok(claimed)
    }

    pub(super) fn consumers(&mut self, source: &Source) -> Result<Vec<ConsumerInfo>, BrokerError> {
        let (group, _) = self.group(source)?;
        let info = |(name, last): (&String, &Instant)| ConsumerInfo {
            name: name.clone(),
            pending: group.pending.values().filter(|pending| pending.consumer == *name).count(),
            idle: last.elapsed(),
        };
        Ok(group.consumers.iter().map(info).collect())
    }

    pub(super) fn remove_consumer(&mut self, source: &Source, consumer: &str) -> Result<bool, BrokerError> {
        let (group, _) = self.group(source)?;
        let is_idle = group.pending.values().all(|pending| pending.consumer != consumer);
        if is_idle {
            group.consumers.remove(consumer);
        }
        Ok(is_idle)
    }

    pub(super) fn redrive(
        &mut self,
        dead_key: &str,
        entry: EntryId,
        inbox: &str,
        version: Option<&str>,
    ) -> Result<bool, BrokerError> {
        let Some(stream) = self.streams.get_mut(dead_key) else { return Ok(false) };
        let Some(fields) = stream.entries.get(&entry) else { return Ok(false) };
        let moved = dead_letter::to_inbox(fields, version);
        let moved = moved.map_err(|reason| BrokerError::NotRedrivable { entry, reason })?;
        stream.entries.remove(&entry);
        self.append(inbox, moved);
        Ok(true)
    }

    pub(super) fn delete(&mut self, key: &str, entries: &[EntryId]) -> usize {
        let Some(stream) = self.streams.get_mut(key) else { return 0 };
        entries.iter().filter(|id| stream.entries.remove(id).is_some()).count()
    }
}
