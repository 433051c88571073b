//! What becomes of a delivery: guest result + retry policy -> [`Decision`]. Pure, plain data.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::broker::{EntryId, Fields, Source, keys};
use crate::envelope::{self, Envelope};
use crate::event::Event;
use crate::state::StateChange;

/// The longest message that a dead letter or a log line keeps of a failure, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// The longest pause that a handler can ask for: a slip of the unit must not hide an event for ever.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The longest that an event can be held back.
pub const MAX_DELAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// How one run of a handler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The handler returned `ok`.
    Ack,
    /// The handler asked for another attempt, perhaps not before some time has passed.
    Retry { message: String, after: Option<Duration> },
    /// The handler said that this event can never be handled.
    Reject { message: String },
    /// The handler did not return.
    Fault { class: FaultClass, message: String },
}

impl Verdict {
    /// The outcome in one word, as users see it, and the message.
    pub fn told(&self) -> (&'static str, &str) {
        match self {
            Verdict::Ack => ("ack", ""),
            Verdict::Retry { message, .. } => ("retry", message),
            Verdict::Reject { message } => ("reject", message),
            Verdict::Fault { class: FaultClass::Timeout, message } => ("timeout", message),
            Verdict::Fault { message, .. } => ("trap", message),
        }
    }
}

/// Why an event could not be handled, as it stands in dead letters, metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultClass {
    /// The entry is not an event.
    Malformed,
    /// The event is larger than the handler accepts.
    TooLarge,
    /// The data of the event does not follow its schema.
    Schema,
    /// The handler returned `reject`.
    Rejected,
    /// The handler returned `retry` until no attempt was left.
    Exhausted,
    /// The handler trapped: a panic, an out-of-bounds access, an explicit exit.
    Trap,
    /// The handler ran into its deadline.
    Timeout,
    /// The handler wanted more memory than its limit.
    OutOfMemory,
    /// The handler's stack overflowed.
    StackOverflow,
    /// The worker that ran the event died, at every attempt.
    WorkerLost,
    /// The version that was to run the event is not held any more.
    VersionGone,
}

impl FaultClass {
    /// The word for it everywhere outside the code.
    pub fn as_str(self) -> &'static str {
        match self {
            FaultClass::Malformed => "malformed",
            FaultClass::TooLarge => "too_large",
            FaultClass::Schema => "schema",
            FaultClass::Rejected => "rejected",
            FaultClass::Exhausted => "exhausted",
            FaultClass::Trap => "trap",
            FaultClass::Timeout => "timeout",
            FaultClass::OutOfMemory => "out_of_memory",
            FaultClass::StackOverflow => "stack_overflow",
            FaultClass::WorkerLost => "worker_lost",
            FaultClass::VersionGone => "version_gone",
        }
    }
}

/// How often and how patiently a handler's failures are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. At least 1.
    pub max_attempts: u32,
    /// The upper bound of the first pause.
    pub base: Duration,
    /// The upper bound of every pause.
    pub cap: Duration,
}

impl RetryPolicy {
    /// The pause after failed attempt number `attempt` (from 1): full jitter, that is a uniform share of an
    /// exponentially growing bound. `jitter` is in `0.0..1.0`.
    pub fn pause(&self, attempt: u32, jitter: f64) -> Duration {
        let doubled = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let bound = self.base.saturating_mul(doubled).min(self.cap);
        bound.mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// What is to be written for one delivery, all together or not at all.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Acknowledge, publish the follow-ups, leave the mark and write the state. If the mark is there already, only
    /// acknowledge; if the state is not what it was, do nothing.
    Ack { publishes: Vec<Publication>, mark: Option<Mark>, state: Option<Box<StateChange>> },
    /// Keep the entry pending, and offer it again when the pause is over.
    Park { pause: Duration },
    /// Acknowledge, and write the dead letter.
    DeadLetter(Box<DeadLetter>),
}

impl Decision {
    /// An ack that leaves no mark and writes no state.
    pub fn ack(publishes: Vec<Publication>) -> Decision {
        Decision::Ack { publishes, mark: None, state: None }
    }
}

/// What an event leaves behind when it has been handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its Redis key.
    pub key: Arc<str>,
    /// How long it stays.
    pub ttl: Duration,
    /// It does not matter whether it is there already: somebody asked for this event to be handled again.
    pub overrides: bool,
}

/// When an event counts as one that has been handled before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DedupBy {
    /// When id and source are the same.
    #[default]
    Id,
    /// When type and data are the same.
    Content,
}

/// Whether and how a handler knows events that it has handled before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedup {
    /// What is compared.
    pub by: DedupBy,
    /// How long it is remembered.
    pub ttl: Duration,
}

impl Dedup {
    /// The mark of an event for the consumer group of a handler; `marks` is what those of the group begin with.
    pub fn mark(&self, marks: &str, event: &Event) -> Mark {
        let hash = match self.by {
            DedupBy::Id => event.identity_hash(),
            DedupBy::Content => event.content_hash(),
        };
        let mut half = [0; 16];
        half.copy_from_slice(&hash.0[..16]);
        Mark { key: keys::mark(marks, half), ttl: self.ttl, overrides: false }
    }
}

/// One event on its way to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The Redis key of the stream.
    pub key: Arc<str>,
    /// What to write.
    pub event: Event,
    /// The form that the stream's entries have; `None` for CloudEvents.
    pub envelope: Option<Arc<Envelope>>,
    /// When it enters the stream.
    pub when: Due,
    /// The Redis key of the set that it waits in until then; `None` for that of the tenant `default`.
    pub waits_in: Option<Arc<str>>,
}

impl Publication {
    /// An event that is to be written as soon as possible, as a CloudEvent.
    pub fn now(key: Arc<str>, event: Event) -> Publication {
        Publication { key, event, when: Due::Now, envelope: None, waits_in: None }
    }

    /// The same in another form.
    pub fn with_envelope(self, envelope: Option<&Arc<Envelope>>) -> Publication {
        Publication { envelope: envelope.cloned(), ..self }
    }

    /// Hands the fields of the entry that it becomes to `put`, in order.
    pub fn encode(&self, mut put: impl FnMut(&[u8], &[u8])) {
        match &self.envelope {
            None => envelope::encode(&self.event, |name, value| put(name.as_bytes(), value)),
            Some(envelope) => envelope.fields(&self.event).iter().for_each(|(name, value)| put(name, value)),
        }
    }

    /// The fields of the entry that it becomes.
    pub fn fields(&self) -> Fields {
        match &self.envelope {
            None => envelope::fields(&self.event),
            Some(envelope) => envelope.fields(&self.event),
        }
    }
}

/// When an event enters its stream. By the broker's clock, and never before that time; how long after depends on the
/// workers, which look every second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Due {
    /// With the step that asks for it.
    #[default]
    Now,
    /// So long after that step, at most [`MAX_DELAY`].
    After(Duration),
    /// At this time, in milliseconds since the Unix epoch; a time that is over means at once.
    At(u64),
}

impl Due {
    /// The same, with a time that is over at `now_ms` (milliseconds since the Unix epoch) or a delay below a millisecond
    /// as [`Due::Now`]: nobody has to wait for a worker to move it.
    pub fn at_once_if_over(self, now_ms: u64) -> Due {
        match self {
            Due::After(delay) if delay.as_millis() == 0 => Due::Now,
            Due::At(ms) if ms <= now_ms => Due::Now,
            due => due,
        }
    }
}

/// The evidence that goes with the original entry into the dead-letter stream. The broker adds the original fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The Redis key of the dead-letter stream.
    pub key: Arc<str>,
    /// The handler that could not handle the event.
    pub handler: Arc<str>,
    /// The stream that the event was published to.
    pub stream: String,
    /// The entry in that stream.
    pub entry: EntryId,
    /// The digest of the handler's component; empty when no component was run.
    pub digest: String,
    /// Why.
    pub class: FaultClass,
    /// The failure in words, at most [`MAX_MESSAGE_BYTES`].
    pub message: String,
    /// Attempts made.
    pub attempts: u32,
    /// When the event entered the stream, in milliseconds since the Unix epoch.
    pub first_time: u64,
    /// The worker that gave up.
    pub worker: Arc<str>,
    /// The `traceparent` of the event, if it had one.
    pub traceparent: Option<String>,
}

/// One delivery's decision, addressed to the entry it is about.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Where the entry was read.
    pub source: Arc<Source>,
    /// The entry.
    pub entry: EntryId,
    /// What becomes of it.
    pub decision: Decision,
}

/// What follows from a verdict, before the evidence is gathered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Acknowledge with the effects.
    Ack,
    /// Try again after the pause.
    Retry(Duration),
    /// Give up.
    GiveUp(FaultClass, String),
}

/// Decides what follows from a verdict on attempt number `attempt` (from 1).
pub fn decide(verdict: Verdict, attempt: u32, policy: &RetryPolicy, jitter: f64) -> Consequence {
    let (class, message, after) = match verdict {
        Verdict::Ack => return Consequence::Ack,
        Verdict::Reject { message } => return Consequence::GiveUp(FaultClass::Rejected, message),
        Verdict::Retry { message, after } => (FaultClass::Exhausted, message, after),
        Verdict::Fault { class, message } => (class, message, None),
    };
    if attempt >= policy.max_attempts {
        return Consequence::GiveUp(class, message);
    }
    Consequence::Retry(after.map_or_else(|| policy.pause(attempt, jitter), |after| after.min(MAX_RETRY_AFTER)))
}

/// Cuts a message to [`MAX_MESSAGE_BYTES`] at a character boundary.
pub fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        message.truncate(end);
    }
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { max_attempts: 3, base: Duration::from_millis(100), cap: Duration::from_secs(1) };

    fn retry(after: Option<Duration>) -> Verdict {
        Verdict::Retry { message: "busy".into(), after }
    }

    #[test]
    fn retries_until_the_last_attempt() {
        assert_eq!(decide(retry(None), 1, &POLICY, 1.0), Consequence::Retry(Duration::from_millis(100)));
        assert_eq!(decide(retry(None), 2, &POLICY, 1.0), Consequence::Retry(Duration::from_millis(200)));
        assert_eq!(decide(retry(None), 3, &POLICY, 1.0), Consequence::GiveUp(FaultClass::Exhausted, "busy".into()));
    }

    #[test]
    fn retry_after_is_honoured_and_still_counts() {
        let wait = Duration::from_secs(60);
        assert_eq!(decide(retry(Some(wait)), 1, &POLICY, 0.0), Consequence::Retry(wait));
        assert!(matches!(decide(retry(Some(wait)), 3, &POLICY, 0.0), Consequence::GiveUp(..)));
        assert_eq!(decide(retry(Some(Duration::MAX)), 1, &POLICY, 0.0), Consequence::Retry(MAX_RETRY_AFTER));
    }

    #[test]
    fn reject_gives_up_at_once_and_faults_keep_their_class() {
        let reject = Verdict::Reject { message: "no".into() };
        assert_eq!(decide(reject, 1, &POLICY, 0.5), Consequence::GiveUp(FaultClass::Rejected, "no".into()));
        let fault = Verdict::Fault { class: FaultClass::Timeout, message: "late".into() };
        assert!(matches!(decide(fault.clone(), 1, &POLICY, 0.5), Consequence::Retry(_)));
        assert_eq!(decide(fault, 3, &POLICY, 0.5), Consequence::GiveUp(FaultClass::Timeout, "late".into()));
    }

    #[test]
    fn marks_tell_events_apart_by_what_is_compared() {
        let event = |id: &str, source: &str, data: &str| Event {
            id: id.into(),
            source: source.into(),
            r#type: "t".into(),
            data: data.into(),
            ..Event::default()
        };
        let mark = |by, event| Dedup { by, ttl: Duration::from_secs(1) }.mark("seen:g:", &event).key;
        let first = event("1", "ab", "x");
        assert_eq!(mark(DedupBy::Id, first.clone()), mark(DedupBy::Id, event("1", "ab", "y")));
        assert_ne!(mark(DedupBy::Id, first.clone()), mark(DedupBy::Id, event("2", "ab", "x")));
        assert_ne!(mark(DedupBy::Id, event("a", "bc", "")), mark(DedupBy::Id, event("ab", "c", "")));
        assert_eq!(mark(DedupBy::Content, first.clone()), mark(DedupBy::Content, event("2", "c", "x")));
        assert_ne!(mark(DedupBy::Content, first.clone()), mark(DedupBy::Content, event("1", "ab", "y")));
        let key = mark(DedupBy::Id, first);
        assert!(key.starts_with("seen:g:") && key.len() == "seen:g:".len() + 32, "{key}");
    }

    proptest! {
        #[test]
        fn a_pause_never_exceeds_its_bounds(attempt in 0u32..200, jitter in 0.0f64..1.0) {
            let pause = POLICY.pause(attempt, jitter);
            prop_assert!(pause <= POLICY.cap);
            prop_assert!(POLICY.pause(attempt, 0.0).is_zero());
        }

        #[test]
        fn a_bounded_message_is_a_prefix(message in ".{0,3000}") {
            let cut = bounded(message.clone());
            prop_assert!(cut.len() <= MAX_MESSAGE_BYTES && message.starts_with(&cut));
        }
    }
}
