//! What a handler remembers between events, as `wasi:keyvalue` shows it. Reads go through the delivery's [`Reader`], once
//! per key; writes are kept until the delivery is over, and are returned as data.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::Resource;

use super::host::Host;
use super::keyvalue_bindings::wasi::keyvalue::store::{self, Error, KeyResponse};
use super::keyvalue_bindings::wasi::keyvalue::{batch, store::HostBucket};
use crate::state::{Changes, MAX_KEYS, MAX_LISTED, ReadError, Reader, Seen, check_key};

/// The names of the one bucket.
const BUCKETS: [&str; 2] = ["", "default"];
/// Keys of one answer to `list-keys`.
const PAGE: usize = 100;

/// A handle to the state of the handler, which there is only one of.
pub struct Bucket;

/// What is known of a key.
#[derive(Default)]
struct Slot {
    read: Option<Read>,
    /// What the delivery wants to write; `None` deletes.
    write: Option<Option<Vec<u8>>>,
}

/// What was read of a key.
enum Read {
    /// That it is there.
    Present,
    /// Its value, or that it is not there.
    Value(Option<Vec<u8>>),
}

impl Slot {
    /// Whether there is such a key, if that is known.
    fn is_there(&self) -> Option<bool> {
        match (&self.write, &self.read) {
            (Some(value), _) | (None, Some(Read::Value(value))) => Some(value.is_some()),
            (None, Some(Read::Present)) => Some(true),
            (None, None) => None,
        }
    }

    /// The length of the value that is kept, if it was read.
    fn known_length(&self) -> Option<usize> {
        match &self.read {
            Some(Read::Value(value)) => value.as_ref().map(Vec::len),
            Some(Read::Present) | None => None,
        }
    }

    /// The value, if it is known.
    fn value(&self) -> Option<Option<&[u8]>> {
        match (&self.write, &self.read) {
            (Some(value), _) | (None, Some(Read::Value(value))) => Some(value.as_deref()),
            (None, Some(Read::Present) | None) => None,
        }
    }
}

/// The state during one delivery.
pub(super) struct StateScope {
    reader: Arc<dyn Reader>,
    /// Bytes of keys and values that may be held.
    limit: u64,
    held: u64,
    slots: BTreeMap<String, Slot>,
    listed: Option<BTreeSet<String>>,
    seen: Vec<(String, Seen)>,
    failed: Option<ReadError>,
    started: Instant,
    /// Since when an answer is waited for.
    waiting: Option<Instant>,
}

/// A key and its value.
type Named = (String, Vec<u8>);

/// Why a call of the guest is not answered with a value.
enum Trouble {
    /// The guest is told.
    Refused(Error),
    /// The guest is stopped: whatever it would do without the answer must not count.
    Failed(ReadError),
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Trouble {
        Trouble::Failed(error)
    }
}

fn refuse(reason: impl Into<String>) -> Trouble {
    Trouble::Refused(Error::Other(reason.into()))
}

impl StateScope {
    pub(super) fn new(reader: Arc<dyn Reader>, limit: u64) -> StateScope {
        StateScope {
            reader,
            limit,
            held: 0,
            slots: BTreeMap::new(),
            listed: None,
            seen: Vec::new(),
            failed: None,
            started: Instant::now(),
            waiting: None,
        }
    }

    /// What was seen and is to be written, and why the state could not be read, if that ended the delivery.
    pub(super) fn finish(self) -> (Changes, Option<ReadError>) {
        let failed = self.failed.clone().or_else(|| self.unanswered());
        let writes: BTreeMap<String, Option<Vec<u8>>> =
            self.slots.into_iter().filter_map(|(key, slot)| Some((key, slot.write?))).collect();
        let listed = self.listed.map(|keys| keys.into_iter().collect());
        let mut changes = Changes { seen: self.seen, listed, writes, seen_bytes: 0 };
        changes.seen_bytes = usize::try_from(self.held).unwrap_or(usize::MAX).saturating_sub(changes.bytes());
        (changes, failed)
    }

    /// A delivery that ended while it waited for an answer, and had waited for most of its time, ended for that.
    fn unanswered(&self) -> Option<ReadError> {
        let waited = self.waiting?.elapsed();
        let is_most = waited >= self.started.elapsed() / 2;
        is_most.then(|| ReadError(format!("there was no answer within {waited:.0?}, when the deadline came")))
    }

    /// Waits for an answer of the reader. Whoever ends the delivery meanwhile finds since when.
    async fn wait<T>(&mut self, answer: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
        self.waiting = Some(Instant::now());
        let answer = answer.await;
        self.waiting = None;
        answer
    }

    /// Holds `more` bytes instead of `less`, if that is within the limit.
    fn hold(&mut self, more: usize, less: usize) -> Result<(), Trouble> {
        let held = self.held + more as u64;
        let held = held.saturating_sub(less as u64);
        if held > self.limit {
            return Err(self.too_large());
        }
        self.held = held;
        Ok(())
    }

    fn too_large(&self) -> Trouble {
        let limit = self.limit;
        refuse(format!("limits.state_bytes: a delivery may read and write {limit} bytes of keys and values"))
    }

    /// What is known of the key, which counts as used from now on.
    fn slot(&mut self, key: &str) -> Result<&mut Slot, Trouble> {
        check_key(key).map_err(refuse)?;
        if !self.slots.contains_key(key) {
            if self.slots.len() == MAX_KEYS {
                return Err(refuse(format!("a delivery may use {MAX_KEYS} keys of the state")));
            }
            self.hold(key.len(), 0)?;
            let is_absent = self.listed.as_ref().is_some_and(|keys| !keys.contains(key));
            let read = is_absent.then_some(Read::Value(None));
            self.slots.insert(key.to_owned(), Slot { read, write: None });
        }
        Ok(self.slots.get_mut(key).expect("it has just been put there"))
    }

    /// Reads those of the keys whose values are not known, all in one step.
    async fn load(&mut self, keys: &[String]) -> Result<(), Trouble> {
        let mut unknown = BTreeSet::new();
        for key in keys {
            if self.slot(key)?.value().is_none() {
                unknown.insert(key.clone());
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<String> = unknown.into_iter().collect();
        let (reader, most) = (self.reader.clone(), self.limit - self.held);
        let values = self.wait(reader.values(&unknown, most)).await?.ok_or_else(|| self.too_large())?;
        for (key, value) in unknown.into_iter().zip(values) {
            self.hold(value.as_ref().map_or(0, Vec::len), 0)?;
            self.seen.push((key.clone(), Seen::of(value.as_deref())));
            self.slots.entry(key).or_default().read = Some(Read::Value(value));
        }
        Ok(())
    }

    fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.slots.get(key)?.value()?.map(<[u8]>::to_vec)
    }

    /// The values of these keys, which have been loaded. Each one is a copy, however often its key is named: so all of them
    /// together are bounded, too.
    fn values(&self, keys: Vec<String>) -> Result<Vec<Option<Named>>, Trouble> {
        let lengths = keys.iter().filter_map(|key| self.slots.get(key)?.value()?).map(|value| value.len() as u64);
        if lengths.sum::<u64>() > self.limit {
            return Err(self.too_large());
        }
        let value = |key: String| self.value(&key).map(|value| (key, value));
        Ok(keys.into_iter().map(value).collect())
    }

    async fn has(&mut self, key: &str) -> Result<bool, Trouble> {
        let is_listed = self.listed.as_ref().is_some_and(|keys| keys.contains(key));
        if let Some(known) = self.slot(key)?.is_there() {
            return Ok(known);
        }
        // What was listed is checked as that.
        if is_listed {
            return Ok(true);
        }
        let reader = self.reader.clone();
        let is_there = self.wait(reader.has(key)).await?;
        let (seen, read) = if is_there { (Seen::Present, Read::Present) } else { (Seen::Absent, Read::Value(None)) };
        self.seen.push((key.to_owned(), seen));
        self.slot(key)?.read = Some(read);
        Ok(is_there)
    }

    fn write(&mut self, key: &str, value: Option<Vec<u8>>) -> Result<(), Trouble> {
        let length = |write: &Option<Vec<u8>>| write.as_ref().map_or(0, Vec::len);
        if let Some(quota) = self.reader.exceeded_quota()
            && let Some(value) = &value
            && self.slot(key)?.known_length().is_none_or(|known| value.len() > known)
        {
            return Err(refuse(format!(
                "quotas.state_bytes: the state may have {quota} bytes of keys and values, and would have more; delete some, or \
                 set values that have been read to ones that are no longer"
            )));
        }
        let before = self.slot(key)?.write.as_ref().map_or(0, length);
        self.hold(length(&value), before)?;
        self.slot(key)?.write = Some(value);
        Ok(())
    }

    /// The keys after `cursor`, in order, with what this delivery has set and deleted.
    async fn list(&mut self, cursor: Option<&str>) -> Result<KeyResponse, Trouble> {
        if self.listed.is_none() {
            let too_many = || refuse(format!("keys can be listed of a state of {MAX_LISTED} keys at most"));
            let reader = self.reader.clone();
            let keys = self.wait(reader.keys(MAX_LISTED)).await?.ok_or_else(too_many)?;
            self.hold(keys.iter().map(String::len).sum(), 0)?;
            self.listed = Some(keys.into_iter().collect());
        }
        let listed = self.listed.as_ref().expect("it has just been put there");
        let after = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = (after, Bound::Unbounded);
        let is_written = |key: &&str| self.slots.get(*key).is_some_and(|slot| slot.write.is_some());
        let kept = listed.range::<str, _>(bounds).map(String::as_str).filter(|key| !is_written(key));
        let own = self.slots.range::<str, _>(bounds).filter(|(_, slot)| matches!(slot.write, Some(Some(_))));
        let all: BTreeSet<&str> = kept.chain(own.map(|(key, _)| key.as_str())).collect();
        let keys: Vec<String> = all.iter().take(PAGE).map(|&key| key.to_owned()).collect();
        let cursor = keys.last().filter(|_| all.len() > PAGE).cloned();
        Ok(KeyResponse { keys, cursor })
    }
}

impl Host {
    /// The state of the delivery that is running.
    fn state(&mut self) -> Result<&mut StateScope, Error> {
        let Some(scope) = &mut self.scope else {
            return Err(Error::Other("the state can be used only while an event is being handled".to_owned()));
        };
        scope.state.as_mut().ok_or(Error::AccessDenied)
    }

    /// What the guest is told; it is stopped, and its delivery does not count, if the state could not be read.
    fn answer<T>(&mut self, result: Result<T, Trouble>) -> wasmtime::Result<Result<T, Error>> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(Trouble::Refused(error)) => Ok(Err(error)),
            Err(Trouble::Failed(error)) => {
                if let Ok(state) = self.state() {
                    state.failed = Some(error.clone());
                }
                Err(error.into())
            }
        }
    }

    async fn load(&mut self, keys: &[String]) -> Result<(), Trouble> {
        self.state().map_err(Trouble::Refused)?.load(keys).await
    }

    fn write(&mut self, key: &str, value: Option<Vec<u8>>) -> Result<(), Trouble> {
        self.state().map_err(Trouble::Refused)?.write(key, value)
    }

    fn loaded(&mut self, key: &str) -> Option<Vec<u8>> {
        self.state().ok()?.value(key)
    }
}

impl store::Host for Host {
    async fn open(&mut self, identifier: String) -> wasmtime::Result<Result<Resource<Bucket>, Error>> {
        if !BUCKETS.contains(&identifier.as_str()) {
            return Ok(Err(Error::NoSuchStore));
        }
        Ok(Ok(self.table.push(Bucket)?))
    }
}

impl HostBucket for Host {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        self.table.get(&bucket)?;
        let loaded = self.load(std::slice::from_ref(&key)).await;
        let value = loaded.map(|()| self.loaded(&key));
        self.answer(value)
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.table.get(&bucket)?;
        let result = self.write(&key, Some(value));
        self.answer(result)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<(), Error>> {
        self.table.get(&bucket)?;
        let result = self.write(&key, None);
        self.answer(result)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<bool, Error>> {
        self.table.get(&bucket)?;
        let result = match self.state() {
            Ok(state) => state.has(&key).await,
            Err(error) => Err(Trouble::Refused(error)),
        };
        self.answer(result)
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> wasmtime::Result<Result<KeyResponse, Error>> {
        self.table.get(&bucket)?;
        let result = match self.state() {
            Ok(state) => state.list(cursor.as_deref()).await,
            Err(error) => Err(Trouble::Refused(error)),
        };
        self.answer(result)
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl batch::Host for Host {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, Error>> {
        self.table.get(&bucket)?;
        let loaded = self.load(&keys).await;
        let values = loaded.and_then(|()| self.state().map_err(Trouble::Refused)?.values(keys));
        self.answer(values)
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.table.get(&bucket)?;
        let result = pairs.into_iter().try_for_each(|(key, value)| self.write(&key, Some(value)));
        self.answer(result)
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.table.get(&bucket)?;
        let result = keys.iter().try_for_each(|key| self.write(key, None));
        self.answer(result)
    }
}

#[cfg(test)]
mod tests;
