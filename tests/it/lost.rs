//! The pipeline and a broker whose answers get lost, come late, refuse or panic: real handlers, the broker in memory, and
//! the faults between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use wasmill::app;
use wasmill::broker::keys::Namespace;
use wasmill::broker::memory::MemoryBroker;
use wasmill::broker::{
    Broker, BrokerError, Claimed, ConsumerInfo, Cursor, DelayedMoved, Entry, EntryId, Inspect as _, Refusal, Settled,
    Source, StateStore,
};
use wasmill::config::Config;
use wasmill::outcome::{Decision, Publication, Settlement};
use wasmill::pipeline::{self, Backend, PipelineError, Stats};
use wasmill::readiness::Readiness;
use wasmill::state::Home;
use wasmill_tests::{eventually_async, guests};

const DEADLINE: Duration = Duration::from_secs(30);
/// A consumer of a worker that no longer lives.
const GONE: &str = "wasmill-gone.0";

/// What the broker does wrong.
#[derive(Default)]
struct Faults {
    /// The answer to the first read of this stream that hands something out is lost.
    lose_read: Mutex<Option<&'static str>>,
    /// Claims of due entries are answered so much later.
    late_due: Mutex<Duration>,
    /// The first claim of due entries is refused after it was made.
    refuse_due: AtomicBool,
    /// The answer to the first settle is lost.
    lose_settle: AtomicBool,
    /// What writes is refused.
    refuse_effects: AtomicBool,
    /// The first read by a consumer with this ending panics.
    panic_for: Mutex<Option<&'static str>>,
}

/// What the pipeline did.
#[derive(Default)]
struct Seen {
    /// Streams and entries in the order in which they were settled.
    settled: Mutex<Vec<(Arc<str>, EntryId)>>,
    /// Claims of due entries that brought something and have been answered.
    due_answers: AtomicUsize,
    /// Claims from dead workers on their way, and the most there have been.
    inheriting: AtomicUsize,
    most_inheriting: AtomicUsize,
    /// Suspects handed out and not settled.
    suspects: Mutex<Vec<EntryId>>,
    /// Requests for more while there was a suspect.
    greedy: AtomicUsize,
}

#[derive(Clone, Default)]
struct Faulty {
    memory: MemoryBroker,
    faults: Arc<Faults>,
    seen: Arc<Seen>,
}

fn lost() -> BrokerError {
    BrokerError::Unreachable { message: "the answer is lost".to_owned(), cause: None }
}

fn refused() -> BrokerError {
    BrokerError::Refused { refusal: Refusal::Other, message: "not any further".to_owned() }
}

impl Faulty {
    fn asks_for_more(&self) {
        let greedy = !self.seen.suspects.lock().unwrap().is_empty();
        self.seen.greedy.fetch_add(usize::from(greedy), Ordering::Relaxed);
    }
}

#[async_trait]
impl StateStore for Faulty {
    async fn state_values(
        &self,
        hash: &str,
        keys: &[String],
        most: u64,
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, BrokerError> {
        self.memory.state_values(hash, keys, most).await
    }

    async fn state_has(&self, hash: &str, key: &str) -> Result<bool, BrokerError> {
        self.memory.state_has(hash, key).await
    }

    async fn state_keys(&self, hash: &str, most: usize) -> Result<Option<Vec<String>>, BrokerError> {
        self.memory.state_keys(hash, most).await
    }

    async fn state_write(&self, home: &Home, key: &str, value: Option<&[u8]>) -> Result<Option<bool>, BrokerError> {
        self.memory.state_write(home, key, value).await
    }

    async fn state_clear(&self, home: &Home) -> Result<u64, BrokerError> {
        self.memory.state_clear(home).await
    }

    async fn state_sizes(&self, sizes: &str) -> Result<BTreeMap<String, u64>, BrokerError> {
        self.memory.state_sizes(sizes).await
    }
}

#[async_trait]
impl Broker for Faulty {
    async fn create_group(&self, source: &Source) -> Result<bool, BrokerError> {
        self.memory.create_group(source).await
    }

    async fn read(&self, source: &Source, consumer: &str, count: usize) -> Result<Vec<Entry>, BrokerError> {
        self.asks_for_more();
        let panics = self.faults.panic_for.lock().unwrap().take_if(|ending| consumer.ends_with(*ending)).is_some();
        assert!(!panics, "as the test asks for");
        let entries = self.memory.read(source, consumer, count).await?;
        let mut lose = self.faults.lose_read.lock().unwrap();
        match !entries.is_empty() && lose.take_if(|stream| *stream == source.stream).is_some() {
            true => Err(lost()),
            false => Ok(entries),
        }
    }

    async fn wait(&self, cursors: &[Cursor], timeout: Duration) -> Result<Vec<Cursor>, BrokerError> {
        self.memory.wait(cursors, timeout).await
    }

    async fn interrupt_wait(&self) -> Result<(), BrokerError> {
        self.memory.interrupt_wait().await
    }

    async fn settle(&self, consumer: &str, settlements: &[Settlement]) -> Result<Vec<Settled>, BrokerError> {
        if self.faults.refuse_effects.load(Ordering::Relaxed) {
            return Ok(vec![Settled::Refused("as the test asks for".to_owned()); settlements.len()]);
        }
        let results = self.memory.settle(consumer, settlements).await?;
        for settlement in settlements {
            self.seen.settled.lock().unwrap().push((settlement.source.key.clone(), settlement.entry));
            self.seen.suspects.lock().unwrap().retain(|entry| *entry != settlement.entry);
        }
        match self.faults.lose_settle.swap(false, Ordering::Relaxed) {
            true => Err(lost()),
            false => Ok(results),
        }
    }

    async fn claim_due(&self, source: &Source, consumer: &str, limit: usize) -> Result<Claimed, BrokerError> {
        self.asks_for_more();
        let claimed = self.memory.claim_due(source, consumer, limit).await?;
        let late = *self.faults.late_due.lock().unwrap();
        if !late.is_zero() {
            tokio::time::sleep(late).await;
        }
        self.seen.due_answers.fetch_add(usize::from(!claimed.entries.is_empty()), Ordering::Relaxed);
        let refuses = !claimed.entries.is_empty() && self.faults.refuse_due.swap(false, Ordering::Relaxed);
        if refuses { Err(refused()) } else { Ok(claimed) }
    }

    async fn claim_from(
        &self,
        source: &Source,
        consumer: &str,
        from: &str,
        min_idle: Option<Duration>,
        limit: usize,
    ) -> Result<Claimed, BrokerError> {
        self.asks_for_more();
        let inheriting = self.seen.inheriting.fetch_add(1, Ordering::Relaxed) + 1;
        self.seen.most_inheriting.fetch_max(inheriting, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let claimed = self.memory.claim_from(source, consumer, from, min_idle, limit).await;
        self.seen.inheriting.fetch_sub(1, Ordering::Relaxed);
        let entries = claimed.iter().flat_map(|claimed| &claimed.entries);
        let suspects = entries.filter(|entry| entry.attempt > 2).map(|entry| entry.id);
        self.seen.suspects.lock().unwrap().extend(suspects);
        claimed
    }

    async fn consumers(&self, source: &Source) -> Result<Vec<ConsumerInfo>, BrokerError> {
        self.memory.consumers(source).await
    }

    async fn remove_consumer(&self, source: &Source, consumer: &str) -> Result<bool, BrokerError> {
        self.memory.remove_consumer(source, consumer).await
    }

    async fn heartbeat(&self, worker: &str, report: &str, ttl: Duration) -> Result<(), BrokerError> {
        self.memory.heartbeat(worker, report, ttl).await
    }

    async fn stay_alive(&self, worker: &str, ttl: Duration) -> Result<bool, BrokerError> {
        self.memory.stay_alive(worker, ttl).await
    }

    async fn resign(&self, worker: &str) -> Result<(), BrokerError> {
        self.memory.resign(worker).await
    }

    async fn alive(&self, workers: &[String]) -> Result<Vec<bool>, BrokerError> {
        self.memory.alive(workers).await
    }

    async fn living(&self) -> Result<BTreeSet<String>, BrokerError> {
        self.memory.living().await
    }

    async fn filled(&self, sets: &[Arc<str>]) -> Result<Vec<bool>, BrokerError> {
        self.memory.filled(sets).await
    }

    async fn publish(&self, publications: &[Publication]) -> Result<Vec<Option<EntryId>>, BrokerError> {
        self.memory.publish(publications).await
    }

    async fn paused(&self) -> Result<Vec<String>, BrokerError> {
        self.memory.paused().await
    }

    async fn seen(&self, marks: &[Arc<str>]) -> Result<Vec<bool>, BrokerError> {
        self.memory.seen(marks).await
    }

    async fn move_delayed(&self, namespace: &Namespace, limit: usize) -> Result<DelayedMoved, BrokerError> {
        self.memory.move_delayed(namespace, limit).await
    }
}

/// A handler `faults` that reads `a` and `b`, on one thread.
struct Mill {
    config: Config,
    broker: Faulty,
}

impl Mill {
    fn new(settings: &str) -> Mill {
        let text = format!(
            "[worker]\nthreads = 1\nheartbeat = \"50ms\"\nheartbeat_ttl = \"1s\"\n\
             [handlers.faults]\ncomponent = \"{}\"\nstreams = [\"a\", \"b\"]\npublishes = [\"faults.out\"]\n{settings}",
            guests::component("faults").display()
        );
        let config = Config::parse(None, &text, []).expect("a valid configuration");
        Mill { config, broker: Faulty::default() }
    }

    fn source(stream: &str) -> Arc<Source> {
        Arc::new(Namespace::default().source(stream, "faults"))
    }

    fn add(&self, stream: &str, r#type: &str) -> EntryId {
        let fields = [("ce_id", r#type), ("ce_source", "/t"), ("ce_type", r#type)];
        let fields = fields.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        self.broker.memory.append(stream, fields.collect())
    }

    /// Serves until `done` is done, and drains.
    async fn serve<T>(&self, done: impl AsyncFnOnce(&Stats) -> T) -> (Result<(), PipelineError>, Option<T>) {
        let engine = app::engine(&self.config).expect("an engine");
        let cache = app::cache(&self.config).expect("a cache");
        let deployments = app::deployments(&self.config, &engine, cache.as_ref());
        let deployments = deployments.expect("a component");
        let (roster, orders) = app::roster(&self.config, deployments);
        let stats = roster.now().stats.clone();
        let backend = Backend::Before(Arc::new(self.broker.clone()), self.broker.memory.clone());
        let mut result = None;
        let shutdown = async { result = Some(done(&stats).await) };
        let worker = app::worker(&self.config);
        let served = pipeline::serve(worker, backend, orders, &Readiness::default(), shutdown).await;
        (served, result)
    }

    /// Whether everything in the stream has been handed out and settled.
    async fn is_settled(&self, stream: &str) -> bool {
        let Some(info) = self.broker.memory.stream(stream).await.unwrap() else { return false };
        info.groups.iter().any(|group| group.pending == 0 && group.lag == Some(0))
    }

    async fn wait_settled(&self) {
        for stream in ["a", "b"] {
            let what = format!("{stream} to be settled");
            eventually_async(&what, DEADLINE, async || self.is_settled(stream).await.then_some(())).await;
        }
    }

    async fn length(&self, stream: &str) -> usize {
        self.broker.memory.stream(stream).await.unwrap().map_or(0, |info| info.length)
    }
}

fn count(stats: &Stats, of: fn(&wasmill::stats::HandlerStats) -> u64) -> u64 {
    of(&stats["faults"])
}

/// What was lost on its way has not been run: it costs no attempt.
#[tokio::test]
async fn a_lost_read_costs_no_attempt() {
    let mill = Mill::new("[handlers.faults.retry]\nmax_attempts = 1\n");
    *mill.broker.faults.lose_read.lock().unwrap() = Some("a");
    mill.add("a", "echo");
    let (served, _) = mill.serve(async |_| mill.wait_settled().await).await;
    served.expect("it drains");
    assert_eq!((mill.length("faults.out").await, mill.length("faults.dead").await), (1, 0));
}

/// What was lost is looked for though another stream of the handler always has more.
#[tokio::test]
async fn what_was_lost_is_found_beside_a_busy_stream() {
    let mill = Mill::new("");
    *mill.broker.faults.lose_read.lock().unwrap() = Some("a");
    let lost = mill.add("a", "echo");
    let busy = 5000;
    for _ in 0..busy {
        mill.add("b", "ok");
    }
    let (served, _) = mill.serve(async |_| mill.wait_settled().await).await;
    served.expect("it drains");
    let settled = mill.broker.seen.settled.lock().unwrap();
    let place = settled.iter().position(|(key, entry)| &**key == "a" && *entry == lost).expect("it is settled");
    assert!(place < busy / 2, "only after {place} of {busy} others");
}

/// An entry that a claim brings, and whose answer is on its way, is pending under this consumer as well.
#[tokio::test]
async fn nothing_is_found_that_is_still_on_its_way() {
    let mill = Mill::new("");
    let source = Mill::source("a");
    mill.broker.memory.create_group(&source).await.unwrap();
    let parked = mill.add("a", "echo");
    mill.broker.memory.read(&source, GONE, 1).await.unwrap();
    let park = Decision::Park { pause: Duration::ZERO };
    let park = Settlement { source: source.clone(), entry: parked, decision: park };
    assert_eq!(mill.broker.memory.settle(GONE, &[park]).await.unwrap(), [Settled::Applied]);
    mill.add("a", "echo");
    *mill.broker.faults.lose_read.lock().unwrap() = Some("a");
    *mill.broker.faults.late_due.lock().unwrap() = Duration::from_millis(500);
    let (served, superseded) = mill
        .serve(async |stats| {
            mill.wait_settled().await;
            let answers = || mill.broker.seen.due_answers.load(Ordering::Relaxed);
            eventually_async("the claim to be answered", DEADLINE, async || (answers() == 1).then_some(())).await;
            // Stands behind what the claim brought.
            mill.add("a", "echo");
            mill.wait_settled().await;
            count(stats, |stats| stats.superseded.get())
        })
        .await;
    served.expect("it drains");
    assert_eq!((mill.length("faults.out").await, superseded), (3, Some(0)), "each is run once");
    let settled = mill.broker.seen.settled.lock().unwrap();
    assert_eq!(settled.len(), 3, "{settled:?}");
}

/// A script that is refused in its middle has handed something over.
#[tokio::test]
async fn what_a_refused_claim_has_taken_is_found() {
    let mill = Mill::new("");
    mill.broker.faults.refuse_due.store(true, Ordering::Relaxed);
    mill.add("a", "retry");
    let (served, _) = mill.serve(async |_| mill.wait_settled().await).await;
    served.expect("it drains");
    assert_eq!((mill.length("faults.out").await, mill.length("faults.dead").await), (1, 0));
}

/// What may have killed its worker is run without others beside it.
#[tokio::test]
async fn suspects_are_taken_alone() {
    let mill = Mill::new("[handlers.faults.retry]\nmax_attempts = 9\n");
    for stream in ["a", "b"] {
        let source = Mill::source(stream);
        mill.broker.memory.create_group(&source).await.unwrap();
        for _ in 0..3 {
            mill.add(stream, "echo");
        }
        mill.broker.memory.read(&source, "wasmill-before.0", 3).await.unwrap();
        mill.broker.memory.claim_from(&source, GONE, "wasmill-before.0", None, 3).await.unwrap();
        mill.add(stream, "echo");
    }
    let (served, _) = mill.serve(async |_| mill.wait_settled().await).await;
    served.expect("it drains");
    let seen = &mill.broker.seen;
    let numbers = (seen.most_inheriting.load(Ordering::Relaxed), seen.greedy.load(Ordering::Relaxed));
    assert_eq!(numbers, (1, 0), "the most claims at a time, and requests beside a suspect");
    assert_eq!(mill.length("faults.out").await, 8);
}

/// The others finish what they have, and `serve` says so instead of hanging or panicking itself.
#[tokio::test]
async fn a_thread_that_panics_ends_the_worker_in_order() {
    let mut mill = Mill::new("");
    mill.config.worker.threads = 2;
    *mill.broker.faults.panic_for.lock().unwrap() = Some(".1");
    let ended = tokio::time::timeout(DEADLINE, mill.serve(async |_| std::future::pending::<()>().await)).await;
    let (served, _) = ended.expect("it ends");
    assert!(matches!(served, Err(PipelineError::Panicked)), "{served:?}");
}

#[tokio::test]
async fn each_thread_that_stands_still_is_counted() {
    let mut mill = Mill::new("");
    mill.config.worker.threads = 2;
    mill.broker.faults.refuse_effects.store(true, Ordering::Relaxed);
    let (served, _) = mill
        .serve(async |stats| {
            let blocked = || count(stats, |stats| stats.blocked.load(Ordering::Relaxed));
            eventually_async("both threads to stand still", DEADLINE, async || {
                // One at a time, until each thread has one.
                mill.add("a", "echo");
                tokio::time::sleep(Duration::from_millis(20)).await;
                (blocked() == 2).then_some(())
            })
            .await;
            mill.broker.faults.refuse_effects.store(false, Ordering::Relaxed);
            mill.wait_settled().await;
            assert_eq!(blocked(), 0);
        })
        .await;
    served.expect("it drains");
}

#[tokio::test]
async fn what_was_sent_again_is_no_other_workers() {
    let mill = Mill::new("");
    mill.broker.faults.lose_settle.store(true, Ordering::Relaxed);
    mill.add("a", "echo");
    let (served, superseded) = mill
        .serve(async |stats| {
            mill.wait_settled().await;
            let settles = || mill.broker.seen.settled.lock().unwrap().len();
            eventually_async("it to be sent again", DEADLINE, async || (settles() == 2).then_some(())).await;
            count(stats, |stats| stats.superseded.get())
        })
        .await;
    served.expect("it drains");
    assert_eq!((mill.length("faults.out").await, superseded), (1, Some(0)));
}
