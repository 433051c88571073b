//! From an entry to a decision: decode, route, execute, report.

use std::sync::Arc;
use std::time::Duration;

use super::batch::{Counted, Ticket};
use super::lane::{Lane, Ready};
use super::observe::{How, Run, Seen};
use super::state::BrokerState;
use super::turns::Turn;
use super::{Deployment, Worker};
use crate::broker::{Broker, EntryId, Fields, Source, dead_letter};
use crate::clock::now_ms;
use crate::deploy::{Serving, Version};
use crate::envelope::Envelopes;
use crate::event::{Event, TRACEPARENT};
use crate::outcome::{Consequence, DeadLetter, Decision, FaultClass, Mark, Publication, Verdict, bounded, decide};
use crate::state::{Changes, Reader, StateChange};
use crate::text::printable;
use crate::wasm::{
    Capability, Execution, GuestDelivery, GuestEvent, LogLevel, LogLine, Surroundings, Throttled, WarmInstance,
};

/// An entry on its way.
pub(super) enum Prepared {
    /// No handler is needed to decide.
    Decided { decision: Decision, ticket: Ticket },
    /// The handler has to be run.
    Delivery(Box<Delivery>),
}

/// One event that is to be run through its handler.
pub(super) struct Delivery {
    deployment: Arc<Deployment>,
    version: Arc<Version>,
    ticket: Ticket,
    event: Arc<GuestEvent>,
    origin: Origin,
    attempt: u32,
    tenant: Arc<str>,
    mark: Option<Mark>,
    /// What it has to itself on this thread until it is settled; none if its handler has no state.
    pub(super) turns: Vec<Turn>,
    /// Its size, until it is begun: so long it counts among what its tenant holds and has not begun.
    pub(super) ahead: Option<usize>,
    /// How often it ran on outdated state.
    pub(super) reruns: u32,
    /// How often the state could not be read.
    pub(super) unread: u32,
    /// It wanted more state than the quota of its tenant allows.
    pub(super) over_quota: bool,
}

impl Delivery {
    /// What is owed for it.
    pub(super) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Where it reads the state of its handler, if that has one.
    pub(super) fn reader(&self, broker: &Arc<dyn Broker>) -> Option<Arc<dyn Reader>> {
        let (home, over_quota) = (&self.deployment.state, self.over_quota);
        let state = || BrokerState { broker: broker.clone(), home: home.clone(), over_quota };
        (!self.turns.is_empty()).then(|| Arc::new(state()) as Arc<dyn Reader>)
    }

    /// The version that it runs on.
    pub(super) fn version(&self) -> &Arc<Version> {
        &self.version
    }
}

/// Where an event was first published.
pub(super) struct Origin {
    stream: String,
    entry: EntryId,
    /// It is a replay: what makes the ids of follow-ups differ from those of the first run, or empty.
    replay: Option<Arc<str>>,
    /// It is to run on this version, by its digest, whatever serves.
    version: Option<String>,
}

impl Origin {
    /// An entry in the stream that it was published to.
    fn published(stream: &str, entry: EntryId) -> Origin {
        Origin { stream: stream.to_owned(), entry, replay: None, version: None }
    }
}

/// A handler that has come to its end.
pub(super) struct Finished {
    pub(super) lane: usize,
    pub(super) execution: Execution,
    delivery: Delivery,
    warm: Option<WarmInstance>,
}

/// Decodes and routes an entry.
pub(super) fn prepare(worker: &Worker, lane: &mut Lane, ready: Ready) -> Prepared {
    let Ready { bytes, source: source_at, entry, suspect, duplicate } = ready;
    let stream = lane.sources[source_at].source.clone();
    let counted = Counted::Handled;
    let ticket = Ticket { source_at, source: stream.clone(), entry: entry.id, bytes, suspect, counted, ran: None };
    if duplicate {
        let (ticket, decision) = (Ticket { counted: Counted::Duplicate, ..ticket }, Decision::ack(Vec::new()));
        if let Some(observer) = &worker.observer {
            let origin = Origin::published(&stream.stream, entry.id);
            let how = How::Duplicate;
            observer.decided(&seen(&lane.deployment, &origin, ("", ""), entry.attempt, how, &decision));
        }
        return Prepared::Decided { decision, ticket };
    }
    lane.refresh();
    let (deployment, attempt) = (lane.deployment_of(source_at).clone(), entry.attempt);
    let (origin, event) = decode(&deployment.reading.envelopes, &stream, entry.id, entry.fields);
    let event = match event {
        Ok(event) => event,
        Err(message) => {
            let digest = lane.version.version().digest.as_str();
            let evidence = Evidence { digest, attempts: attempt, class: FaultClass::Malformed, traceparent: None };
            return give_up(worker, &deployment, ticket, &origin, None, evidence, message);
        }
    };
    if !deployment.types.matches(&event.r#type) {
        let ticket = Ticket { counted: Counted::Skipped, ..ticket };
        let decision = Decision::ack(Vec::new());
        if let Some(observer) = &worker.observer {
            observer.decided(&seen(&deployment, &origin, (&event.id, &event.r#type), attempt, How::Skipped, &decision));
        }
        return Prepared::Decided { decision, ticket };
    }
    let Some(Serving { version, counts }) = choose(lane, &origin, &event) else {
        return without_version(worker, &deployment, ticket, &origin, attempt);
    };
    let evidence = |class, attempts, traceparent| {
        let digest = version.digest.as_str();
        Evidence { digest, attempts, class, traceparent }
    };
    let trace = event.attribute(TRACEPARENT).map(str::to_owned);
    if let Some((class, message)) = version.handler.policy.refusal(&event, deployment.reading.check_schemas) {
        let evidence = evidence(class, attempt, trace);
        return give_up(worker, &deployment, ticket, &origin, Some(&event), evidence, message);
    }
    if attempt > deployment.retry.max_attempts {
        let message = "every worker that ran the event died before it was settled".to_owned();
        let evidence = evidence(FaultClass::WorkerLost, attempt - 1, trace);
        return give_up(worker, &deployment, ticket, &origin, Some(&event), evidence, message);
    }
    // A replay is wanted, and no reason to swallow an event that comes later.
    let dedup = deployment.dedup.filter(|_| origin.replay.is_none());
    let mark = dedup.map(|dedup| Mark { overrides: stream.is_inbox, ..dedup.mark(&deployment.marks, &event) });
    let has_state = version.handler.policy.interfaces.grants.contains(&Capability::State);
    let turn = || Turn::Event(event.partition_key.as_ref().unwrap_or(&event.id).clone());
    let turns = has_state.then(turn).into_iter().collect();
    let event = Arc::new(GuestEvent::from(event));
    let ticket = Ticket { ran: Some(counts), ..ticket };
    let tenant = deployment.tenant.clone();
    let (reruns, unread, over_quota) = (0, 0, false);
    Prepared::Delivery(Box::new(Delivery {
        deployment,
        version,
        ticket,
        event,
        origin,
        attempt,
        tenant,
        mark,
        turns,
        ahead: Some(bytes),
        reruns,
        unread,
        over_quota,
    }))
}

/// The version that is to run the event; `None` if it must be a certain one that is not here.
fn choose(lane: &Lane, origin: &Origin, event: &Event) -> Option<Serving> {
    match &origin.version {
        None => Some(lane.version.for_key(event.partition_key.as_deref().unwrap_or(&event.id)).clone()),
        Some(digest) => {
            let version = lane.deployment.pinned.get(digest)?;
            Some(Serving { counts: lane.stats.version(&version.digest), version })
        }
    }
}

/// Where the entry comes from, and the event in it.
pub(super) fn decode(
    envelopes: &Envelopes,
    source: &Source,
    id: EntryId,
    fields: Fields,
) -> (Origin, Result<Event, String>) {
    let here = || Origin::published(&source.stream, id);
    let (origin, fields) = if source.is_inbox {
        match dead_letter::parse_inbox(fields) {
            Some(inbox) => {
                let replay = inbox.replay.map(Arc::from);
                let origin = Origin { stream: inbox.stream, entry: inbox.entry, replay, version: inbox.version };
                (origin, inbox.original)
            }
            None => return (here(), Err("the entry of the inbox was not written by wasmill".to_owned())),
        }
    } else {
        (here(), fields)
    };
    // A redriven event has the form of the stream that it was first published to.
    let event = envelopes.decode(&origin.stream, fields, origin.entry).map_err(|error| error.to_string());
    (origin, event)
}

/// Puts an entry off whose version is not here, and gives it up when no attempt is left. This worker may only be about to
/// get the version.
fn without_version(
    worker: &Worker,
    deployment: &Deployment,
    ticket: Ticket,
    origin: &Origin,
    attempt: u32,
) -> Prepared {
    let (class, digest) = (FaultClass::VersionGone, origin.version.as_deref().unwrap_or_default());
    let message = format!(
        "it was to run on sha256:{digest}, which is held for a day after `wasmill dlq redrive --to`, and is not any more; \
         redrive it again"
    );
    match decide(Verdict::Fault { class, message }, attempt, &deployment.retry, rand::random()) {
        Consequence::GiveUp(class, message) => {
            let evidence = Evidence { digest: "", attempts: attempt, class, traceparent: None };
            give_up(worker, deployment, ticket, origin, None, evidence, message)
        }
        Consequence::Retry(pause) => Prepared::Decided { decision: Decision::Park { pause }, ticket },
        Consequence::Ack => Prepared::Decided { decision: Decision::ack(Vec::new()), ticket },
    }
}

/// What a dead letter says besides where it comes from.
struct Evidence<'a> {
    digest: &'a str,
    attempts: u32,
    class: FaultClass,
    traceparent: Option<String>,
}

/// Makes a dead letter of an entry that is not run.
fn give_up(
    worker: &Worker,
    deployment: &Deployment,
    ticket: Ticket,
    origin: &Origin,
    event: Option<&Event>,
    evidence: Evidence<'_>,
    message: String,
) -> Prepared {
    let attempts = evidence.attempts;
    tracing::warn!(
        tenant = &*deployment.tenant,
        handler = deployment.id(),
        stream = origin.stream,
        entry = %origin.entry,
        digest = evidence.digest,
        attempt = attempts,
        class = evidence.class.as_str(),
        "dead letter: {}",
        printable(&message)
    );
    let decision = Decision::DeadLetter(Box::new(letter(worker, deployment, origin, evidence, message)));
    if let Some(observer) = &worker.observer {
        let named = event.map_or(("", ""), |event| (event.id.as_str(), event.r#type.as_str()));
        observer.decided(&seen(deployment, origin, named, attempts, How::Refused, &decision));
    }
    Prepared::Decided { decision, ticket }
}

fn letter(
    worker: &Worker,
    deployment: &Deployment,
    origin: &Origin,
    evidence: Evidence<'_>,
    message: String,
) -> DeadLetter {
    DeadLetter {
        key: deployment.dead_key.clone(),
        handler: deployment.name.clone(),
        stream: origin.stream.clone(),
        entry: origin.entry,
        digest: evidence.digest.to_owned(),
        class: evidence.class,
        message: bounded(message),
        attempts: evidence.attempts,
        first_time: origin.entry.ms,
        worker: worker.id.clone(),
        traceparent: evidence.traceparent,
    }
}

/// Runs the handler, which reads its state from `state`. `throttled` says for how long its tenant is.
pub(super) async fn run(
    lane: usize,
    delivery: Delivery,
    warm: Option<WarmInstance>,
    state: Option<Arc<dyn Reader>>,
    throttled: Arc<Throttled>,
) -> Finished {
    let deployment = &delivery.deployment;
    let handler = &delivery.version.handler;
    let policy = &handler.policy;
    let guest = GuestDelivery {
        tenant: delivery.tenant.to_string(),
        handler: policy.handler.to_string(),
        stream: delivery.origin.stream.clone(),
        entry_id: delivery.origin.entry.to_string(),
        attempt: delivery.attempt,
        max_attempts: deployment.retry.max_attempts,
        deadline_ms: u64::try_from(policy.deadline.as_millis()).unwrap_or(u64::MAX),
        replay: delivery.origin.replay.is_some(),
    };
    let replay_run = delivery.origin.replay.clone().unwrap_or_default();
    let surroundings = Surroundings { now: now_ms(), replay_run, state, throttled };
    let (execution, warm) = handler.run(warm, delivery.event.clone(), guest, surroundings).await;
    Finished { lane, execution, delivery, warm }
}

/// What a delivery came to.
pub(super) enum Concluded {
    /// It is to be settled; with the delivery, if it may have to be run again.
    Decided { decision: Decision, ticket: Ticket, delivery: Option<Box<Delivery>> },
    /// Its state could not be read; says why. It has to be run again.
    Unreadable(Box<Delivery>, String),
}

/// Decides what becomes of the event, and reports. Gives back the instance, if it may be used again.
pub(super) fn conclude(
    worker: &Worker,
    lane: &Lane,
    finished: Finished,
) -> (Concluded, Option<(Arc<Version>, WarmInstance)>) {
    let Finished { execution, mut delivery, warm, .. } = finished;
    if let Some(error) = execution.state_failed {
        return (Concluded::Unreadable(Box::new(delivery), error.to_string()), None);
    }
    delivery.unread = 0;
    let Delivery { deployment, version, ticket, event, origin, attempt, mark, .. } = &delivery;
    let attempt = *attempt;
    let Execution { verdict, publishes, state, logs, logs_dropped, wall, peak_memory, http_denied, .. } = execution;
    lane.stats.record(wall);
    if let Some(ran) = &ticket.ran {
        ran.runs.add(1);
    }
    lane.stats.log_bytes_dropped.add(logs_dropped);
    if http_denied > 0 {
        lane.stats.http_denied.add(http_denied);
    }
    // Instances of a version that has been exchanged end with their delivery.
    let warm = warm.filter(|_| lane.version.has(version)).map(|warm| (version.clone(), warm));
    let digest = version.digest.as_str();
    let report = Report { deployment, digest, origin, event, attempt, wall };
    let decision = if verdict == Verdict::Ack {
        report.write("ack", "", &logs, logs_dropped);
        ack(deployment, publishes, mark, state)
    } else {
        match decide(verdict.clone(), attempt, &deployment.retry, rand::random()) {
            Consequence::Ack => ack(deployment, publishes, mark, state),
            Consequence::Retry(pause) => {
                report.write("retry", message(&verdict), &logs, logs_dropped);
                Decision::Park { pause }
            }
            Consequence::GiveUp(class, text) => {
                report.write(class.as_str(), &text, &logs, logs_dropped);
                let trace = event.attributes.iter().find(|(name, _)| name == TRACEPARENT);
                let trace = trace.map(|(_, value)| value.clone());
                let evidence = Evidence { digest, attempts: attempt, class, traceparent: trace };
                Decision::DeadLetter(Box::new(letter(worker, deployment, origin, evidence, text)))
            }
        }
    };
    if let Some(observer) = &worker.observer {
        let (id, r#type) = (event.id.as_str(), event.type_.as_str());
        let run = Run { digest, verdict: &verdict, logs: &logs, logs_dropped, wall, peak_memory };
        observer.decided(&seen(deployment, origin, (id, r#type), attempt, How::Run(run), &decision));
    }
    let (ticket, delivery) = match delivery.turns.is_empty() {
        true => (delivery.ticket, None),
        false => (ticket.clone(), Some(Box::new(delivery))),
    };
    (Concluded::Decided { decision, ticket, delivery }, warm)
}

fn ack(deployment: &Deployment, publishes: Vec<Publication>, mark: &Option<Mark>, changes: Changes) -> Decision {
    let has_changes = !changes.is_empty();
    let state = has_changes.then(|| Box::new(StateChange { home: deployment.state.clone(), changes }));
    Decision::Ack { publishes, mark: mark.clone(), state }
}

fn seen<'a>(
    deployment: &'a Deployment,
    origin: &'a Origin,
    (id, r#type): (&'a str, &'a str),
    attempt: u32,
    how: How<'a>,
    decision: &'a Decision,
) -> Seen<'a> {
    Seen { handler: deployment.name(), stream: &origin.stream, entry: origin.entry, id, r#type, attempt, how, decision }
}

fn message(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Ack => "",
        Verdict::Retry { message, .. } | Verdict::Reject { message } | Verdict::Fault { message, .. } => message,
    }
}

/// What the log says of a delivery.
struct Report<'a> {
    deployment: &'a Deployment,
    digest: &'a str,
    origin: &'a Origin,
    event: &'a GuestEvent,
    attempt: u32,
    wall: Duration,
}

impl Report<'_> {
    /// One span per delivery. It is made when there is something to say: an uneventful delivery at the usual level
    /// costs nothing here.
    fn write(&self, outcome: &str, message: &str, logs: &[LogLine], dropped: u64) {
        let eventful = outcome != "ack" || !logs.is_empty() || dropped > 0;
        if !eventful && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let span = tracing::info_span!(
            "delivery",
            tenant = &*self.deployment.tenant,
            handler = self.deployment.id(),
            stream = self.origin.stream,
            entry = %self.origin.entry,
            event = self.event.id,
            digest = self.digest,
            attempt = self.attempt,
            outcome,
            duration_us = self.wall.as_micros() as u64,
        );
        let _entered = span.enter();
        logs.iter().for_each(write_line);
        if dropped > 0 {
            tracing::warn!(bytes = dropped, "log lines over limits.log_bytes were dropped");
        }
        match outcome {
            "ack" => tracing::debug!("handled"),
            _ => tracing::warn!("{}", message.escape_debug()),
        }
    }
}

fn write_line(line: &LogLine) {
    let (source, context, message) = (line.source.as_str(), line.context.as_str(), line.message.as_str());
    match line.level {
        LogLevel::Trace => tracing::trace!(target: "guest", source, context, "{message}"),
        LogLevel::Debug => tracing::debug!(target: "guest", source, context, "{message}"),
        LogLevel::Info => tracing::info!(target: "guest", source, context, "{message}"),
        LogLevel::Warn => tracing::warn!(target: "guest", source, context, "{message}"),
        LogLevel::Error | LogLevel::Critical => tracing::error!(target: "guest", source, context, "{message}"),
    }
}
