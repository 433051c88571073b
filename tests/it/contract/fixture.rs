//! A broker to test, and short ways to say what the tests say often.

use std::sync::Arc;
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use wasmill::broker::acl::UserGrants;
use wasmill::broker::keys::Namespace;
use wasmill::broker::memory::MemoryBroker;
use wasmill::broker::pubsub::PubSub;
use wasmill::broker::redis::{Login, RedisBroker, RedisSettings, RedisUsers};
use wasmill::broker::{Broker, Claimed, Entry, EntryId, Fields, Inspect, Settled, Source, StateStore, Store};
use wasmill::envelope;
use wasmill::event::Event;
use wasmill::outcome::{DeadLetter, Decision, FaultClass, Publication, Settlement};
use wasmill_tests::redis_server::RedisServer;

/// How long anything that must happen may take.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// So long that a test which waits for it has failed.
pub const FOREVER: Duration = Duration::from_secs(3600);

/// Two consumers of different workers.
pub const A: &str = "wasmill-test-a.0";
pub const B: &str = "wasmill-test-b.0";

/// The broker under test.
pub struct Fixture {
    backend: Backend,
}

enum Backend {
    Memory(MemoryBroker),
    Redis(Box<OnRedis>),
}

struct OnRedis {
    broker: Arc<RedisBroker>,
    raw: MultiplexedConnection,
    server: RedisServer,
}

impl Fixture {
    pub fn memory() -> Fixture {
        Fixture { backend: Backend::Memory(MemoryBroker::new()) }
    }

    pub async fn redis() -> Fixture {
        let server = RedisServer::start();
        let settings = RedisSettings::new(&server.url()).expect("a valid URL");
        let broker = RedisBroker::connect(settings).await.expect("the server answers");
        Fixture::on(server, Arc::new(broker)).await
    }

    /// The broker of a tenant's user that may do what the line of `wasmill tenants acl` says and nothing else, but on all
    /// keys: the tests of the contract have no prefix.
    pub async fn user() -> Fixture {
        let server = RedisServer::start();
        let grants = UserGrants { username: "tenant".to_owned(), ..UserGrants::default() };
        let client = redis::Client::open(server.url()).expect("a valid URL");
        let mut admin = client.get_multiplexed_async_connection().await.expect("the server answers");
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(grants.arguments(">secret"));
        let () = command.query_async(&mut admin).await.expect("the line is one that Redis takes");
        let password = Arc::new(|| Ok("secret".to_owned()));
        let login = Login { tenant: "tenant".into(), username: "tenant".into(), place: "this test".into(), password };
        let settings = RedisSettings::new(&server.url()).expect("a valid URL");
        let users = RedisUsers::new(settings, tokio::runtime::Handle::current());
        Fixture::on(server, users.broker(&login)).await
    }

    async fn on(server: RedisServer, broker: Arc<RedisBroker>) -> Fixture {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
        let client = redis::Client::open(server.url()).expect("a valid URL");
        let raw = client.get_multiplexed_async_connection_with_config(&config).await.expect("the server answers");
        Fixture { backend: Backend::Redis(Box::new(OnRedis { broker, raw, server })) }
    }

    pub fn store(&self) -> &dyn Store {
        match &self.backend {
            Backend::Memory(broker) => broker,
            Backend::Redis(redis) => &*redis.broker,
        }
    }

    pub fn broker(&self) -> &dyn Broker {
        match &self.backend {
            Backend::Memory(broker) => broker,
            Backend::Redis(redis) => &*redis.broker,
        }
    }

    pub fn state(&self) -> &dyn StateStore {
        match &self.backend {
            Backend::Memory(broker) => broker,
            Backend::Redis(redis) => &*redis.broker,
        }
    }

    pub fn pubsub(&self) -> &dyn PubSub {
        match &self.backend {
            Backend::Memory(broker) => broker,
            Backend::Redis(redis) => &*redis.broker,
        }
    }

    pub fn inspect(&self) -> &dyn Inspect {
        match &self.backend {
            Backend::Memory(broker) => broker,
            Backend::Redis(redis) => &*redis.broker,
        }
    }

    /// A connection past the broker, and the server.
    pub fn raw(&mut self) -> (&mut MultiplexedConnection, &mut RedisServer) {
        match &mut self.backend {
            Backend::Memory(_) => panic!("this test is for Redis alone"),
            Backend::Redis(redis) => (&mut redis.raw, &mut redis.server),
        }
    }

    /// Appends an entry as it is.
    pub async fn add_raw(&self, key: &str, fields: &Fields) -> EntryId {
        match &self.backend {
            Backend::Memory(broker) => broker.append(key, fields.clone()),
            Backend::Redis(redis) => {
                let mut command = redis::cmd("XADD");
                command.arg(key).arg("*").arg(fields);
                let id: String = command.query_async(&mut redis.raw.clone()).await.expect("an entry is added");
                id.parse().expect("an entry id")
            }
        }
    }

    /// Drops the oldest entries until `keep` are left, settled or not.
    pub async fn cut(&self, key: &str, keep: usize) {
        match &self.backend {
            Backend::Memory(broker) => broker.cut(key, keep),
            Backend::Redis(redis) => {
                let mut command = redis::cmd("XTRIM");
                command.arg(key).arg("MAXLEN").arg("=").arg(keep);
                let _: i64 = command.query_async(&mut redis.raw.clone()).await.expect("a stream is trimmed");
            }
        }
    }

    pub async fn delete_stream(&self, key: &str) {
        match &self.backend {
            Backend::Memory(broker) => broker.remove_streams(&[key]).await.expect("a stream is deleted"),
            Backend::Redis(redis) => {
                let deleted = redis::cmd("DEL").arg(key).query_async(&mut redis.raw.clone()).await;
                let () = deleted.expect("a stream is deleted");
            }
        }
    }

    /// A stream with a group that reads it.
    pub async fn group(&self, stream: &str) -> Arc<Source> {
        let source = source(stream, "billing");
        assert!(self.broker().create_group(&source).await.expect("a group is made"));
        source
    }

    /// The same with `count` events in it that [`A`] has read: they are pending under it.
    pub async fn pending(&self, stream: &str, count: usize) -> (Arc<Source>, Vec<Entry>) {
        let source = self.group(stream).await;
        self.publish(&source.key, count).await;
        let entries = self.read(&source, A, count).await;
        assert_eq!(entries.len(), count);
        (source, entries)
    }

    /// Publishes events with the ids `KEY-0`, `KEY-1` ...
    pub async fn publish(&self, key: &Arc<str>, count: usize) -> Vec<EntryId> {
        let publications: Vec<_> = (0..count).map(|n| publication(key, &format!("{key}-{n}"))).collect();
        let entries = self.broker().publish(&publications).await.expect("events are published");
        entries.into_iter().map(|entry| entry.expect("it is there at once")).collect()
    }

    pub async fn read(&self, source: &Source, consumer: &str, count: usize) -> Vec<Entry> {
        self.broker().read(source, consumer, count).await.expect("entries are read")
    }

    pub async fn settle(&self, consumer: &str, settlements: &[Settlement]) -> Vec<Settled> {
        self.broker().settle(consumer, settlements).await.expect("settlements are answered")
    }

    pub async fn settle_one(
        &self,
        consumer: &str,
        source: &Arc<Source>,
        entry: EntryId,
        decision: Decision,
    ) -> Settled {
        let mut settled = self.settle(consumer, &[settlement(source, entry, decision)]).await;
        assert_eq!(settled.len(), 1);
        settled.remove(0)
    }

    pub async fn claim_due(&self, source: &Source, consumer: &str, limit: usize) -> Claimed {
        self.broker().claim_due(source, consumer, limit).await.expect("due entries are claimed")
    }

    pub async fn claim_from(&self, source: &Source, consumer: &str, from: &str, limit: usize) -> Claimed {
        self.broker().claim_from(source, consumer, from, None, limit).await.expect("entries are taken over")
    }

    /// All entries of a stream.
    pub async fn all(&self, key: &str) -> Vec<Entry> {
        self.inspect().range(key, EntryId::MIN, EntryId::MAX, 10_000).await.expect("a stream is listed")
    }

    /// The ids of all events in a stream.
    pub async fn event_ids(&self, key: &str) -> Vec<String> {
        self.all(key).await.into_iter().map(|entry| event_of(entry).id).collect()
    }

    /// How many entries are pending in the group, under whomever.
    pub async fn pending_count(&self, source: &Source) -> usize {
        let info = self.inspect().stream(&source.key).await.expect("a stream is looked at").expect("it exists");
        info.groups.iter().find(|group| *group.name == *source.group).expect("the group exists").pending
    }

    /// How many entries are pending under a consumer.
    pub async fn pending_under(&self, source: &Source, consumer: &str) -> usize {
        let consumers = self.broker().consumers(source).await.expect("consumers are listed");
        consumers.iter().find(|info| info.name == consumer).map_or(0, |info| info.pending)
    }
}

pub fn source(stream: &str, group: &str) -> Arc<Source> {
    Arc::new(Namespace::default().source(stream, group))
}

pub fn event(id: &str) -> Event {
    Event {
        id: id.to_owned(),
        source: "/tests".to_owned(),
        r#type: "order_placed".to_owned(),
        time: 1_700_000_000_123,
        subject: Some("order 1".to_owned()),
        content_type: "application/json".to_owned(),
        attributes: vec![("correlationid".to_owned(), "c".to_owned())],
        data: br#"{"total":1}"#.to_vec(),
        ..Event::default()
    }
}

pub fn event_of(entry: Entry) -> Event {
    envelope::decode(entry.fields, entry.id.ms).expect("the entry is an event")
}

pub fn publication(key: &Arc<str>, id: &str) -> Publication {
    Publication::now(key.clone(), event(id))
}

pub fn ids(entries: &[Entry]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.id).collect()
}

pub fn attempts(entries: &[Entry]) -> Vec<u32> {
    entries.iter().map(|entry| entry.attempt).collect()
}

pub fn fields(pairs: &[(&[u8], &[u8])]) -> Fields {
    pairs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

pub fn settlement(source: &Arc<Source>, entry: EntryId, decision: Decision) -> Settlement {
    Settlement { source: source.clone(), entry, decision }
}

/// An ack that publishes one event with this id.
pub fn ack_with(key: &str, id: &str) -> Decision {
    Decision::ack(vec![publication(&key.into(), id)])
}

/// An ack without effects.
pub fn ack() -> Decision {
    Decision::ack(Vec::new())
}

pub fn park(pause: Duration) -> Decision {
    Decision::Park { pause }
}

pub fn bury(dead_key: &str, source: &Source, entry: EntryId) -> Decision {
    Decision::DeadLetter(Box::new(DeadLetter {
        key: dead_key.into(),
        handler: source.group.clone(),
        stream: source.stream.clone(),
        entry,
        digest: "sha256:00".to_owned(),
        class: FaultClass::Trap,
        message: "unreachable, \u{fc}".to_owned(),
        attempts: 3,
        first_time: entry.ms,
        worker: "wasmill-test-a".into(),
        traceparent: None,
    }))
}
