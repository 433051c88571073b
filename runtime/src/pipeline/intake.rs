//! Intake: what is published on Redis Pub/Sub becomes durable events, one of each message however many workers listen.
//!
//! All workers listen; the one with the lease writes, and the others keep what is not written yet, to go on exactly where
//! it stopped ([`crate::broker::pubsub`] has how). A worker whose connection broke has missed something, so it gives the
//! lease back: another one may have heard all of it.

mod queue;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::{AbortHandle, Abortable, BoxFuture, FutureExt as _, OptionFuture};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::MissedTickBehavior;

use self::queue::{Message, Queue};
use super::Worker;
use super::roster::Roster;
use super::shard::backoff;
use crate::broker::pubsub::{Heard, Lease, Position, PubSub};
use crate::broker::{BrokerError, keys};
use crate::clock::now_ms;
use crate::envelope::Envelope;
use crate::event::Event;
use crate::outcome::Publication;
use crate::stats::Counter;

/// How long a lease lasts without being kept: after a worker died, nothing is written for so long.
const LEASE: Duration = Duration::from_secs(3);
/// How often the lease is asked for and kept.
const TICK: Duration = Duration::from_secs(1);
/// How often a worker makes a mark, to see that it still hears.
const MARK_EVERY: Duration = Duration::from_secs(5);
/// How long its own mark may take to come back before the connection counts as dead.
const DEAF_AFTER: Duration = Duration::from_secs(5);
/// How long giving a lease back may take, when an intake is not wanted any more.
const RELEASE_TIME: Duration = Duration::from_secs(2);
/// Messages that are written in one step.
const BATCH: usize = 500;
/// Bytes that are written in one step, near enough.
const BATCH_BYTES: usize = 1 << 20;

/// The attribute that names the channel.
const CHANNEL: &str = "channel";

/// Channels whose messages become events.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Its name.
    pub name: String,
    /// The channel, or the pattern of channels.
    pub channel: String,
    /// Its key, see [`keys::Namespace::intake`].
    pub key: Arc<str>,
    /// The Redis key of the stream that the events go to.
    pub stream_key: Arc<str>,
    /// The form that its entries have; `None` for CloudEvents.
    pub envelope: Option<Arc<Envelope>>,
    /// The type of the events.
    pub r#type: String,
    /// The media type of the messages.
    pub content_type: String,
    /// The source of the events.
    pub source: String,
    /// What happened.
    pub stats: Arc<IntakeStats>,
}

/// The counters of an intake on this worker.
#[derive(Debug, Default)]
pub struct IntakeStats {
    /// Events written.
    pub written: Counter,
    /// Messages that gave way because too many were waiting to be written, and were written by nobody.
    pub dropped: Counter,
    /// This worker has the lease: 1, else 0.
    pub holder: AtomicU64,
}

/// Listening has come to an end.
#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("the connection broke")]
    Ended,
    #[error("nothing is heard any more")]
    Deaf,
}

/// Serves the intakes of the roster, until the future is dropped. Those that stay when it changes go on listening.
pub(super) async fn run(broker: &dyn PubSub, roster: &Roster, worker: &Worker) {
    let mut changes = roster.changes();
    let mut listening: Vec<(Arc<Intake>, AbortHandle)> = Vec::new();
    let mut listeners = FuturesUnordered::new();
    loop {
        let wanted = changes.borrow_and_update().intakes.clone();
        let stays = |intake: &Arc<Intake>| wanted.iter().any(|wanted| Arc::ptr_eq(wanted, intake));
        for (intake, listener) in listening.extract_if(.., |(intake, _)| !stays(intake)) {
            listener.abort();
            // If that takes long, the lease ends by itself.
            let _ = tokio::time::timeout(RELEASE_TIME, release(broker, worker, &intake)).await;
        }
        for intake in wanted.iter() {
            if listening.iter().any(|(known, _)| Arc::ptr_eq(known, intake)) {
                continue;
            }
            let (handle, registration) = AbortHandle::new_pair();
            listening.push((intake.clone(), handle));
            let intake = intake.clone();
            let listen = async move { keep_listening(broker, worker, &intake).await };
            listeners.push(Abortable::new(listen, registration));
        }
        loop {
            tokio::select! {
                // One that was ended.
                Some(_) = listeners.next(), if !listeners.is_empty() => {}
                Ok(()) = changes.changed() => break,
            }
        }
    }
}

/// Lets others write at once.
pub(super) async fn leave(broker: &dyn PubSub, roster: &Roster, worker: &Worker) {
    for intake in roster.now().intakes.iter() {
        release(broker, worker, intake).await;
    }
}

async fn release(broker: &dyn PubSub, worker: &Worker, intake: &Intake) {
    intake.stats.holder.store(0, Ordering::Relaxed);
    if let Err(error) = broker.release(&intake.key, &worker.id).await {
        tracing::debug!(intake = intake.name, "cannot give the lease back, it will end by itself: {error}");
    }
}

async fn keep_listening(broker: &dyn PubSub, worker: &Worker, intake: &Intake) {
    let mut failures = 0;
    // What was heard before the connection broke can still be written.
    let mut queue = Queue::default();
    loop {
        let Err(error) = listen(broker, worker, intake, &mut queue, &mut failures).await;
        queue.interrupt();
        intake.stats.holder.store(0, Ordering::Relaxed);
        failures += 1;
        let pause = backoff(failures);
        tracing::warn!(
            intake = intake.name,
            ?pause,
            alarm = "intake_interrupted",
            "messages are being missed unless another worker hears them: {error}"
        );
        // If this fails, the lease ends by itself.
        let _ = broker.release(&intake.key, &worker.id).await;
        tokio::time::sleep(pause).await;
    }
}

/// Listens until that comes to an end, and writes while this worker has the lease.
async fn listen(
    broker: &dyn PubSub,
    worker: &Worker,
    intake: &Intake,
    queue: &mut Queue,
    failures: &mut u32,
) -> Result<Infallible, ListenError> {
    let mut heard = broker.listen(&intake.channel, &intake.key).await?.ready_chunks(BATCH);
    let mut listener = Listener::new(broker, worker, intake, queue);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut step: Option<BoxFuture<'_, Result<Done, BrokerError>>> = None;
    loop {
        tokio::select! {
            chunk = heard.next() => listener.hear(chunk.ok_or(ListenError::Ended)?),
            _ = tick.tick() => listener.due = true,
            Some(done) = OptionFuture::from(step.as_mut()), if step.is_some() => {
                step = None;
                listener.conclude(done);
            }
        }
        if listener.is_deaf() {
            return Err(ListenError::Deaf);
        }
        if listener.joined.is_some() {
            *failures = 0;
        }
        if step.is_none() {
            step = listener.next_step();
        }
    }
}

/// What a request to the broker came to.
enum Done {
    Marked { listeners: u64 },
    Leased(Lease),
    Written { position: Position, count: usize, held: bool },
}

/// A worker that listens, between two breaks of its connection.
struct Listener<'a> {
    broker: &'a dyn PubSub,
    worker: &'a Worker,
    intake: &'a Intake,
    queue: &'a mut Queue,
    /// Marks of its own that have not come back, with the time at which the broker had them: a broker that stands still
    /// makes nobody deaf.
    marks: VecDeque<(String, Option<Instant>)>,
    last_mark: Option<Instant>,
    /// When its first mark came back: from there on it has heard everything.
    joined: Option<Instant>,
    /// Others listened before it; `None` until that is known.
    has_elders: Option<bool>,
    is_holder: bool,
    /// It is time to ask for the lease.
    due: bool,
    /// The last thing that went wrong, so that it is said once.
    error: Option<String>,
}

impl<'a> Listener<'a> {
    fn new(broker: &'a dyn PubSub, worker: &'a Worker, intake: &'a Intake, queue: &'a mut Queue) -> Listener<'a> {
        Listener {
            broker,
            worker,
            intake,
            queue,
            marks: VecDeque::new(),
            last_mark: None,
            joined: None,
            has_elders: None,
            is_holder: false,
            due: true,
            error: None,
        }
    }

    fn hear(&mut self, chunk: Vec<Heard>) {
        let now = now_ms();
        for heard in chunk {
            match heard {
                Heard::Message { channel, payload } => self.queue.message(channel, payload, now),
                Heard::Mark(text) => {
                    let own = self.marks.iter().position(|(mark, _)| *mark == text);
                    if let Some(at) = own {
                        self.marks.drain(..=at);
                        if self.joined.is_none() {
                            tracing::info!(intake = self.intake.name, channel = self.intake.channel, "listening");
                            self.joined = Some(Instant::now());
                            self.due = true;
                        }
                    }
                    // Messages before the own first mark may have been missed, so nothing is counted from an earlier one.
                    if self.joined.is_some() {
                        self.queue.mark(&text);
                    }
                }
            }
        }
    }

    fn is_deaf(&self) -> bool {
        self.marks.front().is_some_and(|(_, made)| made.is_some_and(|made| made.elapsed() > DEAF_AFTER))
    }

    /// Whether it may ask for the lease. One that came later leaves it to those who have heard more, for so long that one
    /// of them has it if its holder died meanwhile. (A pattern that matches the marks makes it its own elder, which
    /// only costs that time.)
    fn may_ask(&self) -> bool {
        let (Some(joined), Some(has_elders)) = (self.joined, self.has_elders) else { return false };
        !has_elders || joined.elapsed() >= LEASE + TICK
    }

    /// The next request to the broker, if there is one to make.
    fn next_step(&mut self) -> Option<BoxFuture<'a, Result<Done, BrokerError>>> {
        let (broker, worker, intake) = (self.broker, self.worker, self.intake);
        if self.due && self.last_mark.is_none_or(|last| last.elapsed() >= MARK_EVERY) {
            let mark = format!("{:016x}", rand::random::<u64>());
            self.last_mark = Some(Instant::now());
            self.marks.push_back((mark.clone(), None));
            let publish = async move {
                broker
                    .publish_message(&keys::intake_marks(&intake.key), mark.as_bytes())
                    .await
                    .map(|listeners| Done::Marked { listeners })
            };
            return Some(publish.boxed());
        }
        if self.due && self.may_ask() {
            self.due = false;
            let lease = async move { broker.lease(&intake.key, &worker.id, LEASE).await.map(Done::Leased) };
            return Some(lease.boxed());
        }
        let batch: Vec<&Message> =
            self.queue.first(BATCH, BATCH_BYTES).take(if self.is_holder { BATCH } else { 0 }).collect();
        let position = batch.last()?.position.clone();
        let events: Vec<Publication> = batch.into_iter().map(|message| publication(intake, message)).collect();
        let write = async move {
            let held = broker.take_in(&intake.key, &worker.id, LEASE, &position, &events).await?;
            Ok(Done::Written { position, count: events.len(), held })
        };
        Some(write.boxed())
    }

    fn conclude(&mut self, done: Result<Done, BrokerError>) {
        match done {
            Ok(Done::Marked { listeners }) => {
                self.has_elders.get_or_insert(listeners > 1);
                if let Some((_, made)) = self.marks.back_mut() {
                    made.get_or_insert_with(Instant::now);
                }
            }
            Ok(Done::Leased(lease)) => {
                if let Some(position) = &lease.position {
                    self.queue.written(position);
                }
                self.hold(lease.held);
            }
            Ok(Done::Written { position, count, held: true }) => {
                self.intake.stats.written.add(count as u64);
                self.queue.written(&position);
                self.error = None;
            }
            Ok(Done::Written { held: false, .. }) => self.hold(false),
            // Whether it was written is unknown: the position that comes with the lease says it.
            Err(error) => {
                self.is_holder = false;
                let error = error.to_string();
                if self.error.as_ref() != Some(&error) {
                    tracing::warn!(intake = self.intake.name, "messages are held back: {error}");
                }
                self.error = Some(error);
            }
        }
    }

    fn hold(&mut self, held: bool) {
        let before = self.intake.stats.holder.swap(u64::from(held), Ordering::Relaxed) == 1;
        self.is_holder = held;
        match (before, held) {
            (false, true) => tracing::info!(intake = self.intake.name, "this worker writes what is heard"),
            (true, false) => tracing::info!(intake = self.intake.name, "another worker writes what is heard"),
            _ => {}
        }
        let lost = if held { self.queue.take_lost() } else { 0 };
        if lost > 0 {
            self.intake.stats.dropped.add(lost);
            tracing::error!(
                intake = self.intake.name,
                lost,
                alarm = "intake_dropped",
                "messages were lost: more came than could be written and held"
            );
        }
    }
}

/// The event that a message becomes. Its id is its place, and so the same whoever writes it.
fn publication(intake: &Intake, message: &Message) -> Publication {
    let channel =
        String::from_utf8(message.channel.clone()).unwrap_or_else(|_| message.channel.escape_ascii().to_string());
    let event = Event {
        id: message.position.to_string(),
        source: intake.source.clone(),
        r#type: intake.r#type.clone(),
        time: message.time,
        content_type: intake.content_type.clone(),
        attributes: vec![(CHANNEL.to_owned(), channel)],
        data: message.payload.clone(),
        ..Event::default()
    };
    Publication::now(intake.stream_key.clone(), event).with_envelope(intake.envelope.as_ref())
}
