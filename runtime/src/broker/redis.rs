//! The broker on Redis Streams, Redis 7.0 command set.
//!
//! [`link`] keeps the connections, [`settle`] writes decisions, [`publish`] writes events, [`reply`] reads answers. Every
//! step that must be atomic is a Lua script in `redis/*.lua`, or a transaction where that is enough.

mod delayed;
mod inspect;
mod link;
mod look;
mod pool;
mod publish;
mod pubsub;
mod reply;
mod script;
mod seats;
mod settle;
mod state;
mod store;
mod users;
mod watcher;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::link::Link;
pub use self::link::{InvalidSettings, Login, RedisSettings};
use self::reply::{claimed, entries};
use self::script::Script;
pub use self::users::{MAX_USER_CONNECTIONS, RedisUsers, USER_IDLE};
use self::watcher::TrackingWatcher;
use super::keys::Namespace;
use super::watcher::Watcher;
use super::{
    Broker, BrokerError, Claimed, ConsumerInfo, Cursor, DelayedMoved, Entry, EntryId, Refusal, Settled, Source, keys,
};
use crate::outcome::{Publication, Settlement};

/// The oldest server with everything that the scripts use (script flags, `acl_check_cmd`).
const MIN_VERSION: (u32, u32) = (7, 0);

/// How much later than asked a blocking request may be answered.
const WAIT_GRACE: Duration = Duration::from_secs(10);

/// Commands that are sent at once where there may be thousands: others must not wait for all of them.
const MAX_PIPELINE: usize = 500;

/// What an operator should know about a server that can be worked with all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

/// A broker on one Redis server. Opens one connection for requests and, when [`Broker::wait`] is first used, a second
/// one that may block. Both are opened again when they break; nothing is retried here.
pub struct RedisBroker {
    requests: Link,
    /// For what belongs to the worker: as its own user. The same connection, unless this is the broker of a tenant's user.
    own: Link,
    waits: Link,
    transactions: publish::Transactions,
}

impl RedisBroker {
    /// A broker that connects when it is first used.
    pub fn new(settings: RedisSettings) -> RedisBroker {
        let requests = Link::new(settings.clone());
        RedisBroker::with_links(requests.clone(), requests, settings)
    }

    /// The same for a tenant's user. What belongs to the worker is done as `settings` say, on a connection of its own.
    pub fn for_user(settings: RedisSettings, login: Login) -> RedisBroker {
        let requests = Link::as_user(settings.clone(), login);
        RedisBroker::with_links(requests, Link::new(settings.clone()), settings)
    }

    fn with_links(requests: Link, own: Link, settings: RedisSettings) -> RedisBroker {
        RedisBroker {
            requests,
            own,
            waits: Link::new(settings.for_waiting()),
            transactions: publish::Transactions::new(),
        }
    }

    /// Connects; fails if the server cannot be reached or refuses.
    pub async fn connect(settings: RedisSettings) -> Result<RedisBroker, BrokerError> {
        let broker = RedisBroker::new(settings);
        broker.check_login().await?;
        Ok(broker)
    }

    /// Fails if the server cannot be reached or refuses.
    pub async fn check_login(&self) -> Result<(), BrokerError> {
        // A server that wants a password lets anybody connect.
        self.requests.query::<(u64, u64)>(&::redis::cmd("TIME")).await.map(drop)
    }

    /// Whether the answer to creating a group says that it did not exist.
    async fn was_created(&self, source: &Source, answer: Result<(), BrokerError>) -> Result<bool, BrokerError> {
        match answer {
            Ok(()) => Ok(true),
            Err(BrokerError::Refused { message, .. }) if message.contains("BUSYGROUP") => Ok(false),
            // A full server refuses before it looks whether the group exists, which is all that draining needs.
            Err(full @ BrokerError::Refused { refusal: Refusal::OutOfMemory, .. }) => {
                self.consumers(source).await.map(|_| false).map_err(|_| full)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether each of the keys is there.
    async fn exist(
        link: &Link,
        keys: impl ExactSizeIterator<Item: ::redis::ToRedisArgs>,
    ) -> Result<Vec<bool>, BrokerError> {
        if keys.len() == 0 {
            return Ok(Vec::new());
        }
        let mut pipeline = ::redis::pipe();
        for key in keys {
            pipeline.cmd("EXISTS").arg(key);
        }
        link.pipeline(&pipeline).await
    }

    /// Checks that the server is one that wasmill can keep its promises on.
    pub async fn check_server(&self) -> Result<Vec<Warning>, BrokerError> {
        let info: String = self.own.query(&::redis::cmd("INFO")).await?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("");
        let version = field("redis_version").to_owned();
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < MIN_VERSION {
            let message = format!("the server is {version}");
            return Err(BrokerError::Refused { refusal: Refusal::VersionTooOld, message });
        }
        let policy = field("maxmemory_policy");
        if !policy.is_empty() && policy != "noeviction" {
            let message = format!("maxmemory-policy is {policy}");
            return Err(BrokerError::Refused { refusal: Refusal::EvictionPolicy, message });
        }
        let mut warnings = Vec::new();
        if field("aof_enabled") == "0" {
            let text = "the server does not keep an append-only file: what it acknowledged may be lost when it \
                        crashes. Set appendonly to yes";
            warnings.push(Warning(text.to_owned()));
        }
        Ok(warnings)
    }
}

/// The command that creates the group of a source.
fn create_group(source: &Source) -> ::redis::Cmd {
    let mut command = ::redis::cmd("XGROUP");
    command.arg("CREATE").arg(&*source.key).arg(&*source.group).arg("0").arg("MKSTREAM");
    command
}

#[async_trait]
impl Broker for RedisBroker {
    async fn create_group(&self, source: &Source) -> Result<bool, BrokerError> {
        if self.requests.is_quiet() && self.has_group(source).await? {
            return Ok(false);
        }
        self.was_created(source, self.requests.query(&create_group(source)).await).await
    }

    async fn create_groups(&self, sources: &[Arc<Source>]) -> Result<Vec<bool>, BrokerError> {
        if self.requests.is_quiet() {
            let mut created = Vec::with_capacity(sources.len());
            for source in sources {
                created.push(self.create_group(source).await?);
            }
            return Ok(created);
        }
        let mut created = Vec::with_capacity(sources.len());
        for some in sources.chunks(MAX_PIPELINE) {
            let mut pipeline = ::redis::pipe();
            some.iter().for_each(|source| _ = pipeline.add_command(create_group(source)));
            for (source, answer) in some.iter().zip(self.requests.pipeline_each(&pipeline).await?) {
                created.push(self.was_created(source, answer.map(drop)).await?);
            }
        }
        Ok(created)
    }

    async fn read(&self, source: &Source, consumer: &str, count: usize) -> Result<Vec<Entry>, BrokerError> {
        let mut command = ::redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&*source.group).arg(consumer).arg("COUNT").arg(count);
        command.arg("STREAMS").arg(&*source.key).arg(">");
        if self.requests.is_quiet() && !self.may_have_news(source).await? {
            return Ok(Vec::new());
        }
        let reply = self.requests.looking().query(&command).await?;
        match reply::streams(reply)?.pop() {
            Some((_, list)) => {
                self.requests.was_of_use();
                entries(list, 1)
            }
            None => Ok(Vec::new()),
        }
    }

    async fn wait(&self, cursors: &[Cursor], timeout: Duration) -> Result<Vec<Cursor>, BrokerError> {
        let mut command = ::redis::cmd("XREAD");
        // 0 would wait for ever.
        command.arg("COUNT").arg(1).arg("BLOCK").arg(timeout.as_millis().max(1) as u64).arg("STREAMS");
        for cursor in cursors {
            command.arg(&*cursor.key);
        }
        for cursor in cursors {
            command.arg(cursor.after.to_string());
        }
        // The server answers within `timeout`; one that does not is frozen, or the connection half open.
        let Ok(reply) = tokio::time::timeout(timeout + WAIT_GRACE, self.waits.query(&command)).await else {
            self.waits.forget();
            let message = "a request that blocks was not answered in time".to_owned();
            return Err(BrokerError::Unreachable { message, cause: None });
        };
        let woken = reply::streams(reply?)?;
        let mut newest = Vec::with_capacity(woken.len());
        for (key, _) in woken {
            let Some(cursor) = cursors.iter().find(|cursor| cursor.key.as_bytes() == key) else { continue };
            let after = RedisBroker::last_id(&self.own, &cursor.key).await?.unwrap_or(EntryId::MIN);
            newest.push(Cursor { key: cursor.key.clone(), after });
        }
        Ok(newest)
    }

    async fn interrupt_wait(&self) -> Result<(), BrokerError> {
        let Some(id) = self.waits.client_id() else { return Ok(()) };
        self.own.query::<i64>(::redis::cmd("CLIENT").arg("UNBLOCK").arg(id)).await.map(|_| ())
    }

    async fn watcher(&self) -> Result<Option<Box<dyn Watcher>>, BrokerError> {
        match TrackingWatcher::open(self.requests.settings()).await {
            Ok(watcher) => Ok(Some(Box::new(watcher))),
            // A user without these permissions, or a server that does not have it.
            Err(BrokerError::Refused { refusal: Refusal::NoPermission | Refusal::Other, message }) => {
                tracing::debug!("streams are watched by requests that block: {message}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn settle(&self, consumer: &str, settlements: &[Settlement]) -> Result<Vec<Settled>, BrokerError> {
        settle::settle(&self.requests, consumer, settlements).await
    }

    async fn claim_due(&self, source: &Source, consumer: &str, limit: usize) -> Result<Claimed, BrokerError> {
        if self.requests.is_quiet()
            && let Some(first) = self.first_due(&source.due_key).await?
            && let Some(nothing) = first.nothing_to_claim()
        {
            return Ok(nothing);
        }
        let reply = Script::ClaimDue
            .run(&self.requests.looking(), &[&source.key, &source.due_key], |command| {
                command.arg(&*source.group).arg(consumer).arg(keys::PARKED_CONSUMER).arg(limit);
            })
            .await?;
        let claimed = claimed(reply)?;
        if !claimed.entries.is_empty() || claimed.trimmed > 0 {
            self.requests.was_of_use();
        }
        Ok(claimed)
    }

    async fn claim_from(
        &self,
        source: &Source,
        consumer: &str,
        from: &str,
        min_idle: Option<Duration>,
        limit: usize,
    ) -> Result<Claimed, BrokerError> {
        let reply = Script::ClaimFrom
            .run(&self.requests, &[&source.key], |command| {
                command.arg(&*source.group).arg(consumer).arg(from).arg(limit);
                command
                    .arg(min_idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX).max(1)).unwrap_or(0));
            })
            .await?;
        claimed(reply)
    }

    async fn consumers(&self, source: &Source) -> Result<Vec<ConsumerInfo>, BrokerError> {
        let mut command = ::redis::cmd("XINFO");
        command.arg("CONSUMERS").arg(&*source.key).arg(&*source.group);
        let reply = self.own.query(&command).await?;
        reply::maps(reply)?
            .into_iter()
            .map(|map| {
                let name = map.foreign_name("name")?;
                let pending = map.count("pending")?;
                let idle = Duration::from_millis(map.count("idle")? as u64);
                Ok(ConsumerInfo { name, pending, idle })
            })
            .collect()
    }

    async fn remove_consumer(&self, source: &Source, consumer: &str) -> Result<bool, BrokerError> {
        let reply = Script::RemoveConsumer
            .run(&self.requests, &[&source.key], |command| {
                command.arg(&*source.group).arg(consumer);
            })
            .await?;
        Ok(reply::integer(&reply)? == 1)
    }

    async fn heartbeat(&self, worker: &str, report: &str, ttl: Duration) -> Result<(), BrokerError> {
        let key = keys::heartbeat(worker);
        let ttl = ttl.as_millis() as u64;
        let arguments = |command: &mut ::redis::Cmd| {
            command.arg(ttl).arg(worker).arg(report);
        };
        Script::Heartbeat.run(&self.own, &[&key, keys::WORKERS], arguments).await.map(drop)
    }

    async fn stay_alive(&self, worker: &str, ttl: Duration) -> Result<bool, BrokerError> {
        let key = keys::heartbeat(worker);
        let arguments = |command: &mut ::redis::Cmd| {
            command.arg(ttl.as_millis() as u64).arg(worker);
        };
        let reply = Script::Heartbeat.run(&self.own, &[&key, keys::WORKERS], arguments).await?;
        Ok(reply::integer(&reply)? == 1)
    }

    async fn resign(&self, worker: &str) -> Result<(), BrokerError> {
        let mut pipeline = ::redis::pipe();
        pipeline.cmd("DEL").arg(keys::heartbeat(worker)).ignore();
        pipeline.cmd("ZREM").arg(keys::WORKERS).arg(worker).ignore();
        self.own.pipeline(&pipeline).await
    }

    async fn alive(&self, workers: &[String]) -> Result<Vec<bool>, BrokerError> {
        RedisBroker::exist(&self.own, workers.iter().map(|worker| keys::heartbeat(worker))).await
    }

    async fn living(&self) -> Result<BTreeSet<String>, BrokerError> {
        let known: Vec<String> = self.own.query(::redis::cmd("ZRANGE").arg(keys::WORKERS).arg(0).arg(-1)).await?;
        let alive = self.alive(&known).await?;
        Ok(known.into_iter().zip(alive).filter_map(|(worker, alive)| alive.then_some(worker)).collect())
    }

    async fn filled(&self, sets: &[Arc<str>]) -> Result<Vec<bool>, BrokerError> {
        let mut filled = Vec::with_capacity(sets.len());
        for sets in sets.chunks(MAX_PIPELINE) {
            let mut pipeline = ::redis::pipe();
            sets.iter().for_each(|set| _ = pipeline.cmd("EXISTS").arg(&**set));
            for answer in self.own.pipeline_each(&pipeline).await? {
                // Redis keeps no empty sets. What we may not look at may be filled.
                filled.push(match answer {
                    Ok(there) => ::redis::from_redis_value(there).map_err(reply::unexpected)?,
                    Err(BrokerError::Refused { refusal: Refusal::NoPermission, .. }) => true,
                    Err(error) => return Err(error),
                });
            }
        }
        Ok(filled)
    }

    async fn paused(&self) -> Result<Vec<String>, BrokerError> {
        self.own.query(::redis::cmd("HKEYS").arg(keys::PAUSED)).await
    }

    async fn seen(&self, marks: &[Arc<str>]) -> Result<Vec<bool>, BrokerError> {
        RedisBroker::exist(&self.requests, marks.iter().map(|mark| &**mark)).await
    }

    async fn publish(&self, publications: &[Publication]) -> Result<Vec<Option<EntryId>>, BrokerError> {
        if publications.is_empty() {
            return Ok(Vec::new());
        }
        publish::publish(&self.requests, &self.transactions, publications).await
    }

    async fn move_delayed(&self, namespace: &Namespace, limit: usize) -> Result<DelayedMoved, BrokerError> {
        if self.requests.is_quiet()
            && let Some(first) = self.first_due(&namespace.delayed()).await?
            && let Some(Claimed { next_due, .. }) = first.nothing_to_claim()
        {
            return Ok(DelayedMoved { next_due, ..DelayedMoved::default() });
        }
        let moved = delayed::move_delayed(&self.requests.looking(), namespace, limit).await?;
        if moved.moved > 0 {
            self.requests.was_of_use();
        }
        Ok(moved)
    }
}
