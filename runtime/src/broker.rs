//! Where events live: the [`Broker`] trait (data plane), the [`Inspect`] trait (operations), the [`pubsub::PubSub`] trait
//! (intake) and their errors.
//!
//! Two implementations with the same semantics: [`redis`] and [`memory`]; `tests/it/contract.rs` runs over both.

pub mod acl;
pub mod dead_letter;
pub mod delayed;
pub mod keys;
pub mod memory;
pub mod pubsub;
pub mod redis;
pub mod store;
pub mod watcher;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::keys::Namespace;
pub use self::store::Store;
use self::watcher::Watcher;
use crate::outcome::{Publication, Settlement};

/// The names and values of a stream entry, in order, as they are in Redis.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The place of an entry in its stream: milliseconds and a sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since the Unix epoch, by the broker's clock.
    pub ms: u64,
    /// Position among the entries of that millisecond.
    pub seq: u64,
}

impl EntryId {
    /// Before every entry.
    pub const MIN: EntryId = EntryId { ms: 0, seq: 0 };
    /// After every entry.
    pub const MAX: EntryId = EntryId { ms: u64::MAX, seq: u64::MAX };

    /// The smallest id that is greater than this one; stays at [`EntryId::MAX`].
    pub fn next(self) -> EntryId {
        match self.seq.checked_add(1) {
            Some(seq) => EntryId { ms: self.ms, seq },
            None => self.ms.checked_add(1).map_or(EntryId::MAX, |ms| EntryId { ms, seq: 0 }),
        }
    }

    /// The greatest id that is smaller than this one; stays at [`EntryId::MIN`].
    pub fn previous(self) -> EntryId {
        match self.seq.checked_sub(1) {
            Some(seq) => EntryId { ms: self.ms, seq },
            None => self.ms.checked_sub(1).map_or(EntryId::MIN, |ms| EntryId { ms, seq: u64::MAX }),
        }
    }
}

/// As its text.
impl Serialize for EntryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From its text.
impl<'de> Deserialize<'de> for EntryId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EntryId, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// A text is not an entry id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an entry id: it has the form MILLISECONDS-SEQUENCE, such as 1700000000000-0")]
pub struct InvalidEntryId(pub String);

impl FromStr for EntryId {
    type Err = InvalidEntryId;

    fn from_str(text: &str) -> Result<Self, InvalidEntryId> {
        let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
        match (ms.parse(), seq.parse()) {
            (Ok(ms), Ok(seq)) => Ok(EntryId { ms, seq }),
            _ => Err(InvalidEntryId(text.to_owned())),
        }
    }
}

/// A stream as the consumer group of one handler reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The name of the stream as configuration and guests know it.
    pub stream: String,
    /// The Redis key of the stream.
    pub key: Arc<str>,
    /// The consumer group.
    pub group: Arc<str>,
    /// The Redis key of the sorted set that holds the due times of parked entries.
    pub due_key: Arc<str>,
    /// It is the inbox of a handler: its entries hold an original, with the place that it came from before it.
    pub is_inbox: bool,
}

/// One entry handed to this worker: it stays pending until it is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the stream.
    pub id: EntryId,
    /// How often it has been handed out, this time included.
    pub attempt: u32,
    /// What is in it.
    pub fields: Fields,
}

impl Entry {
    /// The bytes of its fields, names and values.
    pub fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// Entries that were taken from another consumer or from the parked ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// What is now pending under the claiming consumer.
    pub entries: Vec<Entry>,
    /// Entries whose payload had been trimmed away: settled, since there is nothing to run.
    pub trimmed: usize,
    /// There may be more to claim right now.
    pub more: bool,
    /// The time until the next parked entry is due; `None` if there is none, or if parked ones were not asked for.
    pub next_due: Option<Duration>,
}

/// A consumer of a group, as the broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// How many entries are pending under it.
    pub pending: usize,
    /// Time since it last asked for entries.
    pub idle: Duration,
}

/// What settling one delivery came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Decision and effects have been written.
    Applied,
    /// The entry was settled, or is owned, by somebody else; nothing has been written.
    Superseded,
    /// The mark of an ack was there already: the entry is acknowledged, and no effects have been written.
    Duplicate,
    /// The broker cannot write this one for a reason outside of the event; nothing has been written.
    Refused(String),
}

/// The last entry of a stream that a reader knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The Redis key of the stream.
    pub key: Arc<str>,
    /// Only newer entries are of interest.
    pub after: EntryId,
}

/// What went wrong between wasmill and its broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No answer, or the connection broke. Whether the last request was carried out is unknown.
    #[error("Redis cannot be reached: {message}")]
    Unreachable {
        message: String,
        #[source]
        cause: Option<::redis::RedisError>,
    },
    /// The broker answered, but will not serve for now; see [`Refusal::remedy`].
    #[error("Redis refuses: {refusal} ({message}). {}", refusal.remedy())]
    Refused { refusal: Refusal, message: String },
    /// The consumer group (or its stream) does not exist, or no longer.
    #[error("the consumer group does not exist: {message}")]
    NoGroup { message: String },
    /// The entry cannot be redriven; says why, and what to do.
    #[error("{entry} cannot be redriven: {reason}")]
    NotRedrivable { entry: EntryId, reason: &'static str },
    /// The answer is none that the command can give.
    #[error("unexpected answer from Redis: {message}")]
    Unexpected { message: String },
}

/// The kinds of refusal that an operator has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Wrong or missing user or password.
    NotAuthenticated,
    /// The user may not run a command or touch a key.
    NoPermission,
    /// The server is a replica, or cannot write its disk.
    ReadOnly,
    /// The server is still loading its data.
    Loading,
    /// `maxmemory` is reached.
    OutOfMemory,
    /// The server is older than wasmill needs.
    VersionTooOld,
    /// The server evicts keys when memory is short.
    EvictionPolicy,
    /// A key holds something else than a stream.
    WrongType,
    /// Anything else that the server said.
    Other,
}

impl Refusal {
    /// Whether the server refuses what is to be written, and would serve other requests.
    pub fn is_about_effects(self) -> bool {
        matches!(self, Refusal::OutOfMemory | Refusal::NoPermission | Refusal::WrongType | Refusal::Other)
    }

    /// What an operator can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Refusal::NotAuthenticated => {
                "Set the user in redis.url and the password in redis.password_env or redis.password_file"
            }
            Refusal::NoPermission => "Grant the user the keys and commands that ARCHITECTURE.md lists (ACL SETUSER)",
            Refusal::ReadOnly => "Point redis.url to the primary, or repair the server's disk; wasmill keeps trying",
            Refusal::Loading => "The server is loading its data; wasmill waits for it",
            Refusal::OutOfMemory => {
                "Raise maxmemory or trim streams; finished work is kept and written when there is room"
            }
            Refusal::VersionTooOld => "wasmill needs Redis 7.0 or newer",
            Refusal::EvictionPolicy => "Set maxmemory-policy to noeviction: any other policy may drop events",
            Refusal::WrongType => "Rename the key that is in the way, or the stream in the configuration",
            Refusal::Other => "See the server's log",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NotAuthenticated => "not authenticated",
            Refusal::NoPermission => "no permission",
            Refusal::ReadOnly => "read-only",
            Refusal::Loading => "loading",
            Refusal::OutOfMemory => "out of memory",
            Refusal::VersionTooOld => "version too old",
            Refusal::EvictionPolicy => "keys may be evicted",
            Refusal::WrongType => "wrong type",
            Refusal::Other => "error",
        })
    }
}

/// The data plane: what the pipeline needs of a broker. Methods take and return batches.
///
/// An entry that was handed out stays pending under its consumer until it is settled, whatever happens to the worker.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Creates the group at the beginning of the stream, and the stream with it. `true` if it did not exist.
    async fn create_group(&self, source: &Source) -> Result<bool, BrokerError>;

    /// The same for many of them; says of each whether it did not exist. Stops at the first that cannot be created.
    async fn create_groups(&self, sources: &[Arc<Source>]) -> Result<Vec<bool>, BrokerError> {
        let mut created = Vec::with_capacity(sources.len());
        for source in sources {
            created.push(self.create_group(source).await?);
        }
        Ok(created)
    }

    /// Hands out up to `count` entries that nobody has got yet, oldest first. Does not wait.
    async fn read(&self, source: &Source, consumer: &str, count: usize) -> Result<Vec<Entry>, BrokerError>;

    /// Waits until one of the streams has an entry after its cursor, at most `timeout`. Returns the keys of those
    /// that have, with the newest id; empty on timeout.
    async fn wait(&self, cursors: &[Cursor], timeout: Duration) -> Result<Vec<Cursor>, BrokerError>;

    /// Ends a [`Broker::wait`] that is going on, so that it can begin anew with other cursors. Does nothing if none is.
    async fn interrupt_wait(&self) -> Result<(), BrokerError>;

    /// Something that watches many streams; `None` if there is only [`Broker::wait`].
    async fn watcher(&self) -> Result<Option<Box<dyn Watcher>>, BrokerError> {
        Ok(None)
    }

    /// Applies each settlement whole or not at all, and says which; the answers are in the order of the settlements.
    /// Acks apply if the entry is still pending, under whomever; parking and dead letters only if it is pending
    /// under `consumer`. An ack without effects may be answered [`Settled::Applied`] though it had been settled before:
    /// it makes no difference. After [`BrokerError::Unreachable`] the same call may be made again.
    async fn settle(&self, consumer: &str, settlements: &[Settlement]) -> Result<Vec<Settled>, BrokerError>;

    /// Takes up to `limit` parked entries whose time has come, which counts as an attempt.
    async fn claim_due(&self, source: &Source, consumer: &str, limit: usize) -> Result<Claimed, BrokerError>;

    /// Takes up to `limit` of the entries pending under `from`, oldest first, which counts as an attempt; if `from` is
    /// `consumer` itself it does not, since what was lost on its way here has not been run. An entry that had been
    /// handed out at least twice before may be what killed its worker: it is taken alone.
    ///
    /// With `min_idle` they are those of another program: only entries that were handed out at least so long ago are
    /// taken, and how often they were handed out before does not count.
    async fn claim_from(
        &self,
        source: &Source,
        consumer: &str,
        from: &str,
        min_idle: Option<Duration>,
        limit: usize,
    ) -> Result<Claimed, BrokerError>;

    /// The consumers of the group.
    async fn consumers(&self, source: &Source) -> Result<Vec<ConsumerInfo>, BrokerError>;

    /// Removes a consumer unless entries are pending under it; `true` if it is gone.
    async fn remove_consumer(&self, source: &Source, consumer: &str) -> Result<bool, BrokerError>;

    /// Says that the worker is alive, for the next `ttl`, and what it reports of itself.
    async fn heartbeat(&self, worker: &str, report: &str, ttl: Duration) -> Result<(), BrokerError>;

    /// Says that the worker is alive, for the next `ttl`, and has nothing new to report. `false` if it was taken for dead: then
    /// what it reported is gone.
    async fn stay_alive(&self, worker: &str, ttl: Duration) -> Result<bool, BrokerError>;

    /// Says that the worker is gone, so that others need not wait for its heartbeat to end.
    async fn resign(&self, worker: &str) -> Result<(), BrokerError>;

    /// Whether each of the workers has a heartbeat.
    async fn alive(&self, workers: &[String]) -> Result<Vec<bool>, BrokerError>;

    /// The workers that have a heartbeat.
    async fn living(&self) -> Result<BTreeSet<String>, BrokerError>;

    /// Whether each of these sets, of parked entries or of delayed events, has something in it.
    async fn filled(&self, sets: &[Arc<str>]) -> Result<Vec<bool>, BrokerError>;

    /// The names of the handlers that are paused, in no order.
    async fn paused(&self) -> Result<Vec<String>, BrokerError>;

    /// Whether each of the marks is there.
    async fn seen(&self, marks: &[Arc<str>]) -> Result<Vec<bool>, BrokerError>;

    /// Writes the events, all or none, and returns their entry ids in order; `None` for those that wait for their time.
    async fn publish(&self, publications: &[Publication]) -> Result<Vec<Option<EntryId>>, BrokerError>;

    /// Moves up to `limit` delayed events of the tenant of this namespace whose time has come into their streams, earliest first, each once however many
    /// ask for it. Those that fall into the same millisecond come in no particular order. One that its stream refuses
    /// goes on waiting, is tried again after [`DELAYED_PAUSE`], and does not hold up the others. So does one whose stream is
    /// none of that tenant's: somebody else has written it.
    async fn move_delayed(&self, namespace: &Namespace, limit: usize) -> Result<DelayedMoved, BrokerError>;
}

/// When a delayed event is tried again that its stream refused.
pub const DELAYED_PAUSE: Duration = Duration::from_secs(5);

/// What moving delayed events came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DelayedMoved {
    /// Events that are in their streams now.
    pub moved: usize,
    /// The time until the next one is due: zero if there is one already, `None` if none waits.
    pub next_due: Option<Duration>,
    /// Why events could not be moved, once for each.
    pub refused: Vec<String>,
}

/// One consumer group of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Its consumers, idle ones included.
    pub consumers: usize,
    /// Entries handed out and not settled.
    pub pending: usize,
    /// The newest entry that was handed out.
    pub delivered: EntryId,
    /// Entries not handed out yet; `None` if the broker cannot tell.
    pub lag: Option<usize>,
}

/// A stream and its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Entries in it.
    pub length: usize,
    /// The oldest entry in it; `None` if there is none.
    pub first: Option<EntryId>,
    /// The newest id that was ever given out in it.
    pub last: EntryId,
    /// Its consumer groups.
    pub groups: Vec<GroupInfo>,
}

/// An entry that was handed out and is not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingEntry {
    /// Its place in the stream.
    pub id: EntryId,
    /// The consumer that has it.
    pub consumer: String,
    /// Time since it was handed out last.
    pub idle: Duration,
    /// How often it has been handed out.
    pub attempts: u32,
}

/// What a replay appends to the inbox of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay<'a> {
    /// The name of the stream, as the handler is told.
    pub stream: &'a str,
    /// The Redis key of the stream.
    pub key: &'a str,
    /// The Redis key of the inbox.
    pub inbox: &'a str,
    /// The first entry.
    pub from: EntryId,
    /// The last entry.
    pub to: EntryId,
    /// The most entries.
    pub count: usize,
    /// What makes the ids of follow-ups differ from those of the first run; empty to keep them.
    pub run: &'a str,
}

/// What a replay appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Entries appended.
    pub appended: usize,
    /// Entries left out, since they have more fields than a script can copy.
    pub skipped: usize,
    /// The newest entry that was looked at; `None` if there was none.
    pub last: Option<EntryId>,
}

/// What the server says of itself, for `doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// The lines `name:value` of INFO.
    pub info: BTreeMap<String, String>,
    /// The server's time, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The newest entries of the slow log: how long, and the beginning of the command; `None` without permission.
    pub slow: Option<Vec<(Duration, String)>>,
}

/// What trimming a stream came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Entries removed.
    pub removed: usize,
    /// Entries left.
    pub length: usize,
    /// There may be more to remove right now: a call removes so much only that it holds up nobody.
    pub more: bool,
    /// The group that has not settled entries which should have been removed; only told when there is nothing more to
    /// remove right now. If there are several, the one that is furthest behind.
    pub held_back_by: Option<String>,
}

/// Operations: looking at streams and at dead letters. Never on the hot path.
#[async_trait]
pub trait Inspect: Send + Sync {
    /// What the server says of itself; `None` if the broker is in this process.
    async fn server(&self) -> Result<Option<ServerInfo>, BrokerError>;

    /// Why a user may not run each of the commands; `None` for those that it may. Nothing at all if the broker knows no
    /// users, or we may not ask.
    async fn user_may_not(
        &self,
        user: &str,
        commands: &[acl::Command],
    ) -> Result<Option<Vec<Option<String>>>, BrokerError>;

    /// The keys of all streams that begin with `prefix`, up to `limit` of them, in no order. The prefix has letters, digits,
    /// `_`, `.`, `:` and `-` alone.
    async fn stream_keys(&self, prefix: &str, limit: usize) -> Result<Vec<String>, BrokerError>;

    /// The memory that a stream takes in the broker, in bytes; `None` if that cannot be told.
    async fn memory(&self, key: &str) -> Result<Option<u64>, BrokerError>;

    /// Up to `count` entries from `to` down to `from`, newest first. [`Entry::attempt`] is 0: they are not handed out.
    async fn range_back(&self, key: &str, from: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, BrokerError>;

    /// Up to `count` entries from `from` on that are pending in the group, oldest first.
    async fn pending(&self, source: &Source, from: EntryId, count: usize) -> Result<Vec<PendingEntry>, BrokerError>;

    /// Parked entries that no due time is known of: nobody would ever take them back. With `restore` they are due now.
    /// Pages through all of them; how many there were.
    async fn lost_parked(&self, source: &Source, restore: bool) -> Result<usize, BrokerError>;

    /// Appends past entries to the inbox of a handler, in one step.
    async fn replay(&self, replay: &Replay<'_>) -> Result<Replayed, BrokerError>;

    /// The workers that are alive, each with what it last said of itself.
    async fn workers(&self) -> Result<Vec<(String, String)>, BrokerError>;

    /// The stream, or `None` if there is none under this key.
    async fn stream(&self, key: &str) -> Result<Option<StreamInfo>, BrokerError>;

    /// Up to `count` entries from `from` on, oldest first. [`Entry::attempt`] is 0: they are not handed out.
    async fn range(&self, key: &str, from: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, BrokerError>;

    /// Moves the dead letter back to the inbox of its handler, in one step; `false` if it is no longer there. `version` is
    /// the digest of the one that is to run it, if not the one that serves by then. Fails with
    /// [`BrokerError::NotRedrivable`] for what is no dead letter, or holds no original.
    async fn redrive(
        &self,
        dead_key: &str,
        entry: EntryId,
        inbox_key: &str,
        version: Option<&str>,
    ) -> Result<bool, BrokerError>;

    /// Pauses a handler on all workers, or lets it go on; `true` if that is a change. Lasts until it is changed again.
    async fn set_paused(&self, handler: &str, paused: bool) -> Result<bool, BrokerError>;

    /// Deletes streams with all that is in them.
    async fn remove_streams(&self, keys: &[&str]) -> Result<(), BrokerError>;

    /// How many entries each of these streams has; `None` of what is no stream, or may not be looked at.
    async fn lengths(&self, keys: &[Arc<str>]) -> Result<Vec<Option<usize>>, BrokerError>;

    /// Removes the oldest entries, in one step: those beyond `max_length` and those older than `older_than` by the
    /// broker's clock. Never one that is pending in a group, or that a group has not read yet.
    async fn trim(
        &self,
        key: &str,
        max_length: Option<usize>,
        older_than: Option<Duration>,
    ) -> Result<Trimmed, BrokerError>;

    /// Deletes entries; how many there were.
    async fn delete(&self, key: &str, entries: &[EntryId]) -> Result<usize, BrokerError>;
}

/// All that can be done with a broker.
pub trait Operate: Broker + Inspect + Store {}

impl<B: Broker + Inspect + Store> Operate for B {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entry_ids_survive_their_text(ms: u64, seq: u64) {
            let id = EntryId { ms, seq };
            prop_assert_eq!(id.to_string().parse::<EntryId>(), Ok(id));
            prop_assert!(id.next() > id || id == EntryId::MAX);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "-", "1-", "a-1", "1-b", "1-2-3", "18446744073709551616-0"] {
            assert!(text.parse::<EntryId>().is_err(), "{text}");
        }
    }
}
