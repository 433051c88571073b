//! The host's side of the contract: what a guest can call, and what it is allowed to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::GuestEvent;
use super::ambient::Ambient;
use super::bindings::wasi::logging::logging;
use super::bindings::wasmill::events::publisher::{self, PublishError};
use super::bindings::wasmill::events::types::{self, Draft};
use super::component::LoadError;
use super::deadline::Deadline;
use super::http::HttpState;
use super::interfaces::Interfaces;
use super::limiter::Limiter;
use super::logs::{LogBuffer, LogLevel};
use super::state::StateScope;
use crate::envelope::Envelope;
use crate::event::{
    self, CAUSATION_ID, CORRELATION_ID, Event, HANDLER_DIGEST, MAX_ATTRIBUTES, TRACEPARENT, TRACESTATE,
};
use crate::outcome::{Due, FaultClass, MAX_DELAY, Publication, bounded};
use crate::schema::Schemas;

/// Resources (streams, pollables) that one instance may hold at the same time.
const MAX_RESOURCES: usize = 256;
/// The longest type, subject, key or media type of a draft, in bytes.
const MAX_TEXT: usize = 4096;
/// Attributes that the host adds to a draft.
const HOST_ATTRIBUTES: usize = 5;
/// Attributes that a draft may carry.
const MAX_DRAFT_ATTRIBUTES: usize = MAX_ATTRIBUTES - HOST_ATTRIBUTES;
/// Under this name a handler reads the key of its next HTTP request.
const IDEMPOTENCY_KEY: &str = "wasmill.idempotency-key";
/// Attribute names that CloudEvents or the host define.
pub(super) const RESERVED: [&str; 15] = [
    "id",
    "source",
    "type",
    "time",
    "subject",
    "specversion",
    "dataschema",
    "datacontenttype",
    "partitionkey",
    "data",
    CAUSATION_ID,
    HANDLER_DIGEST,
    CORRELATION_ID,
    TRACEPARENT,
    TRACESTATE,
];

/// A stream that a handler may publish to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The name that the guest uses.
    pub stream: String,
    /// The Redis key of the stream.
    pub key: Arc<str>,
    /// The form that its entries have; `None` for CloudEvents.
    pub envelope: Option<Arc<Envelope>>,
}

/// The streams that a handler may publish to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grants {
    /// These.
    Named(Vec<Grant>),
    /// Every one, under its own name as the key: only where nothing is written.
    All,
}

impl Grants {
    /// The key of the stream and the form of its entries, if the handler may publish to it.
    fn find(&self, stream: &str) -> Option<(Arc<str>, Option<&Arc<Envelope>>)> {
        match self {
            Grants::Named(grants) => {
                let grant = grants.iter().find(|grant| grant.stream == stream)?;
                Some((grant.key.clone(), grant.envelope.as_ref()))
            }
            Grants::All => Some((stream.into(), None)),
        }
    }
}

/// What a handler may do and use.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The tenant that the handler belongs to.
    pub tenant: Arc<str>,
    /// The name of the handler.
    pub handler: Arc<str>,
    /// The streams it may publish to.
    pub grants: Grants,
    /// The Redis key of the set in which delayed events wait; `None` for that of the tenant `default`.
    pub waits_in: Option<Arc<str>>,
    /// Events that one delivery may publish.
    pub publishes: u32,
    /// Bytes that one delivery may publish, all fields counted.
    pub publish_bytes: u64,
    /// Bytes of keys and values of its state that one delivery may read and write.
    pub state_bytes: u64,
    /// The largest event that is handed to the guest, in bytes; sizes the limit on copies between host and guest.
    pub event_bytes: u64,
    /// Bytes of logs that one delivery may write.
    pub log_bytes: usize,
    /// The largest component that may run, in bytes.
    pub component_bytes: u64,
    /// Linear memory of an instance, in bytes.
    pub memory: usize,
    /// Wall-clock time of one delivery, without the time for which its tenant is throttled.
    pub deadline: Duration,
    /// What the data of published events must look like.
    pub schemas: Arc<Schemas>,
    /// What it may use beside the publisher.
    pub interfaces: Interfaces,
}

impl Policy {
    /// Refuses a component of that many bytes, if they are too many.
    pub fn check_size(&self, size: u64) -> Result<(), LoadError> {
        let allowed = self.component_bytes;
        if size > allowed { Err(LoadError::OverLimit { size, allowed }) } else { Ok(()) }
    }

    /// Why an event is given up without being run: it is too large, or, if schemas are checked on reading, does not
    /// follow its schema. `None` if it may be run.
    pub fn refusal(&self, event: &Event, check_schemas: bool) -> Option<(FaultClass, String)> {
        if let Err(error) = event.check_size(self.event_bytes) {
            return Some((FaultClass::TooLarge, error.to_string()));
        }
        let violation = check_schemas.then(|| self.schemas.check(event).err()).flatten()?;
        Some((FaultClass::Schema, bounded(violation.to_string())))
    }
}

/// What one store knows. Most of it is about the delivery that is running.
pub(super) struct Host {
    pub(super) policy: Arc<Policy>,
    /// The digest of the component, as text.
    digest: Arc<str>,
    pub(super) limiter: Limiter,
    pub(super) logs: LogBuffer,
    pub(super) scope: Option<Scope>,
    pub(super) deadline: Deadline,
    pub(super) ambient: Ambient,
    /// Made when the guest first reads its configuration.
    config: Option<WasiConfigVariables>,
    /// Made when the guest first uses HTTP in a delivery, dropped with it.
    http: Option<Box<HttpState>>,
    /// Made when the guest first uses WASI: most never do, and it costs more than a call.
    wasi: Option<WasiCtx>,
    pub(super) table: ResourceTable,
    /// What the messages in the table hold, in bytes.
    pub(super) message_bytes: usize,
}

/// The delivery that is running: its event, and what it has asked for.
pub(super) struct Scope {
    pub(super) event: Arc<GuestEvent>,
    /// The time that follow-ups carry, in milliseconds since the Unix epoch.
    pub(super) now: u64,
    /// Enters the ids of follow-ups, unless it is empty.
    replay_run: Arc<str>,
    pub(super) publishes: Vec<Publication>,
    published_bytes: u64,
    /// What it sees and writes of the handler's state, if it has one.
    pub(super) state: Option<StateScope>,
}

impl Scope {
    pub(super) fn new(event: Arc<GuestEvent>, now: u64, replay_run: Arc<str>, state: Option<StateScope>) -> Scope {
        Scope { event, now, replay_run, publishes: Vec::new(), published_bytes: 0, state }
    }
}

impl Host {
    pub(super) fn new(policy: Arc<Policy>, digest: Arc<str>, deadline: Deadline) -> Host {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let now = Instant::now();
        Host {
            limiter: Limiter::new(policy.memory),
            logs: LogBuffer::new(policy.log_bytes),
            scope: None,
            deadline,
            ambient: Ambient::starting(policy.interfaces.deterministic, now),
            config: None,
            http: None,
            wasi: None,
            table,
            message_bytes: 0,
            policy,
            digest,
        }
    }

    /// The next delivery begins. Nothing of an earlier one is left, but for what the guest itself keeps.
    pub(super) fn begin(&mut self, mut scope: Scope, attempt: u32) {
        self.ambient.begin(&scope.event, attempt);
        if self.policy.interfaces.deterministic {
            scope.now = scope.event.time;
        }
        self.http = None;
        self.scope = Some(scope);
    }

    /// Ends all requests of the delivery; gives the number of those that were refused.
    pub(super) fn end_http(&mut self) -> u64 {
        self.http.take().map_or(0, |http| http.denied())
    }

    fn http_state(&mut self) -> &mut HttpState {
        let scope = self.scope.as_ref();
        self.http.get_or_insert_with(|| {
            let delivery = scope.map(|scope| (scope.event.clone(), scope.replay_run.clone()));
            Box::new(HttpState::new(&self.policy, delivery, &self.logs, self.deadline.clone()))
        })
    }

    /// What `wasi:config` shows: the values of the handler and, if it may send requests, the key of the next one.
    pub(super) fn config(&mut self) -> WasiConfig<'_> {
        let interfaces = &self.policy.interfaces;
        let key = if interfaces.http.is_some() { self.http_state().next_key() } else { None };
        let values = &self.policy.interfaces.config;
        let variables = self.config.get_or_insert_with(|| values.iter().collect());
        if let Some(key) = key {
            variables.insert(IDEMPOTENCY_KEY, key);
        }
        WasiConfig::new(variables)
    }

    /// Checks one draft and makes the event of it. Nothing is kept yet.
    fn follow_up(&self, scope: &Scope, draft: Draft, ordinal: usize) -> Result<Publication, PublishError> {
        let Some((key, envelope)) = self.policy.grants.find(&draft.stream) else {
            return Err(PublishError::Denied(draft.stream));
        };
        check(&draft).map_err(PublishError::Invalid)?;
        let cause = &scope.event;
        let hash = derived_hash(&self.policy, cause, ordinal, &scope.replay_run, "");
        let mut attributes = draft.attributes;
        attributes.reserve_exact(HOST_ATTRIBUTES);
        attributes.push((CAUSATION_ID.to_owned(), cause.id.clone()));
        attributes.push((HANDLER_DIGEST.to_owned(), self.digest.to_string()));
        let inherited = |name: &str| cause.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let correlation = inherited(CORRELATION_ID).unwrap_or(&cause.id);
        attributes.push((CORRELATION_ID.to_owned(), correlation.clone()));
        if let Some(parent) = inherited(TRACEPARENT).and_then(|parent| next_hop(parent, &hash)) {
            attributes.push((TRACEPARENT.to_owned(), parent));
            if let Some(state) = inherited(TRACESTATE) {
                attributes.push((TRACESTATE.to_owned(), state.clone()));
            }
        }
        let when = draft.delay_ms.map_or(Due::Now, |ms| Due::After(Duration::from_millis(ms)));
        let when = when.at_once_if_over(scope.now);
        let event = Event {
            id: uuid::Builder::from_custom_bytes(hash).into_uuid().to_string(),
            source: format!("/wasmill/{}/{}", self.policy.tenant, self.policy.handler),
            r#type: draft.type_,
            time: scope.now,
            subject: draft.subject,
            schema_version: draft.schema_version,
            partition_key: draft.partition_key.or_else(|| cause.partition_key.clone()),
            content_type: draft.content_type,
            attributes,
            data: draft.data,
        };
        if let Some(envelope) = envelope {
            envelope.check(&event).map_err(|error| PublishError::Invalid(error.to_string()))?;
        }
        Ok(Publication { key, event, when, envelope: envelope.cloned(), waits_in: self.policy.waits_in.clone() })
    }

    /// Keeps all of the drafts or none.
    pub(super) fn publish_all(&mut self, drafts: Vec<Draft>) -> Result<Vec<String>, PublishError> {
        let Some(mut scope) = self.scope.take() else {
            return Err(PublishError::Invalid("events can be published only while one is being handled".into()));
        };
        let result = self.accept(&mut scope, drafts);
        self.scope = Some(scope);
        result
    }

    fn accept(&self, scope: &mut Scope, drafts: Vec<Draft>) -> Result<Vec<String>, PublishError> {
        let kept = scope.publishes.len();
        if drafts.len() > (self.policy.publishes as usize).saturating_sub(kept) {
            return Err(PublishError::TooMany(self.policy.publishes));
        }
        let mut bytes = scope.published_bytes;
        let mut accepted = Vec::with_capacity(drafts.len());
        for (at, draft) in drafts.into_iter().enumerate() {
            let mut publication = self.follow_up(scope, draft, kept + at)?;
            bytes += publication.event.size() as u64;
            if bytes > self.policy.publish_bytes {
                return Err(PublishError::TooLarge(self.policy.publish_bytes));
            }
            // After the limit on bytes: checking takes time, the more the larger the data is.
            let admitted = self.policy.schemas.admit(&mut publication.event);
            admitted.map_err(|violation| PublishError::Invalid(violation.to_string()))?;
            accepted.push(publication);
        }
        let ids = accepted.iter().map(|publication| publication.event.id.clone()).collect();
        scope.published_bytes = bytes;
        scope.publishes.append(&mut accepted);
        Ok(ids)
    }
}

/// The 16 bytes that the id of a follow-up is made of: the same for the same event, handler, position and, if it is one
/// with ids of its own, replay. Ids for another purpose than follow-ups name it.
fn derived_hash(policy: &Policy, cause: &GuestEvent, ordinal: usize, replay_run: &str, purpose: &str) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in [cause.source.as_str(), &cause.id, &policy.tenant, &policy.handler] {
        hasher.update((part.len() as u32).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update((ordinal as u32).to_le_bytes());
    hasher.update(replay_run.as_bytes());
    hasher.update(purpose.as_bytes());
    let hash: [u8; 32] = hasher.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id
}

/// An id that another attempt derives again.
pub(super) fn derived_id(
    policy: &Policy,
    cause: &GuestEvent,
    ordinal: usize,
    replay_run: &str,
    purpose: &str,
) -> String {
    let hash = derived_hash(policy, cause, ordinal, replay_run, purpose);
    uuid::Builder::from_custom_bytes(hash).into_uuid().to_string()
}

/// The trace context of the next hop: the same trace, a span of its own. `None` if the parent is not W3C's.
fn next_hop(parent: &str, hash: &[u8; 16]) -> Option<String> {
    let mut parts = parent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if version != "00" || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
        return None;
    }
    let span = u64::from_le_bytes(hash[8..].try_into().expect("half of sixteen is eight")).max(1);
    Some(format!("00-{trace}-{span:016x}-{flags}"))
}

/// What is wrong with the fields of a draft.
fn check(draft: &Draft) -> Result<(), String> {
    if draft.type_.is_empty() {
        return Err("the type is empty".to_owned());
    }
    if draft.delay_ms.is_some_and(|ms| Duration::from_millis(ms) > MAX_DELAY) {
        return Err(format!("delay-ms: an event can be held back for {} ms, that is 30 days", MAX_DELAY.as_millis()));
    }
    let texts = [
        ("type", Some(&draft.type_)),
        ("subject", draft.subject.as_ref()),
        ("schema-version", draft.schema_version.as_ref()),
        ("partition-key", draft.partition_key.as_ref()),
        ("content-type", Some(&draft.content_type)),
    ];
    for (name, text) in texts {
        if text.is_some_and(|text| text.len() > MAX_TEXT) {
            return Err(format!("the {name} is longer than {MAX_TEXT} bytes"));
        }
    }
    if draft.attributes.len() > MAX_DRAFT_ATTRIBUTES {
        return Err(format!("more than {MAX_DRAFT_ATTRIBUTES} attributes"));
    }
    for (at, (name, _)) in draft.attributes.iter().enumerate() {
        if !event::is_attribute_name(name) {
            return Err(format!("`{}` is not an attribute name: 1 to 64 of a-z and 0-9", name.escape_default()));
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(format!("the attribute `{name}` is set by the host"));
        }
        if draft.attributes[..at].iter().any(|(other, _)| other == name) {
            return Err(format!("the attribute `{name}` occurs twice"));
        }
    }
    Ok(())
}

impl types::Host for Host {}

impl publisher::Host for Host {
    fn publish(&mut self, event: Draft) -> Result<String, PublishError> {
        let mut ids = self.publish_all(vec![event])?;
        Ok(ids.pop().expect("one draft gives one id"))
    }

    fn publish_batch(&mut self, events: Vec<Draft>) -> Result<Vec<String>, PublishError> {
        self.publish_all(events)
    }
}

impl logging::Host for Host {
    fn log(&mut self, level: logging::Level, context: String, message: String) {
        let level = match level {
            logging::Level::Trace => LogLevel::Trace,
            logging::Level::Debug => LogLevel::Debug,
            logging::Level::Info => LogLevel::Info,
            logging::Level::Warn => LogLevel::Warn,
            logging::Level::Error => LogLevel::Error,
            logging::Level::Critical => LogLevel::Critical,
        };
        self.logs.log(level, &context, &message);
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let logs = &self.logs;
        let ctx = self.wasi.get_or_insert_with(|| {
            // Nothing is granted: no arguments, no environment, no files; sockets are closed one by one.
            WasiCtx::builder()
                .stdout(logs.stdout())
                .stderr(logs.stderr())
                .allow_tcp(false)
                .allow_udp(false)
                .allow_ip_name_lookup(false)
                .build()
        });
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.http_state();
        let http = self.http.as_mut().expect("it has just been made");
        WasiHttpCtxView { hooks: &mut http.hooks, table: &mut self.table, ctx: &mut http.ctx }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_next_hop_keeps_the_trace_and_changes_the_span() {
        let next = next_hop(PARENT, &[7; 16]).expect("a valid parent");
        assert!(next.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && next.ends_with("-01"));
        assert_ne!(next, PARENT);
        for bad in ["", "00-1-2-3", "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            assert_eq!(next_hop(bad, &[7; 16]), None);
        }
    }

    pub(in crate::wasm) fn host(publishes: u32, publish_bytes: u64) -> Host {
        let grant = Grant { stream: "out".to_owned(), key: "prefix:out".into(), envelope: None };
        let policy = Policy {
            tenant: "t".into(),
            handler: "h".into(),
            grants: Grants::Named(vec![grant]),
            waits_in: None,
            publishes,
            publish_bytes,
            state_bytes: 0,
            event_bytes: 1024,
            log_bytes: 0,
            component_bytes: u64::MAX,
            memory: 0,
            deadline: Duration::ZERO,
            schemas: Arc::default(),
            interfaces: Interfaces::default(),
        };
        let mut host = Host::new(
            Arc::new(policy),
            "sha256:d".into(),
            Deadline::new(Instant::now(), Duration::ZERO, Arc::default()),
        );
        let attributes = [(TRACEPARENT, PARENT), (CORRELATION_ID, "story"), (HANDLER_DIGEST, "sha256:before")];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let event =
            Event { id: "cause".to_owned(), partition_key: Some("key".to_owned()), attributes, ..Event::default() };
        host.scope = Some(Scope::new(Arc::new(event.into()), 7, "".into(), None));
        host
    }

    fn draft(stream: &str, data: &[u8]) -> Draft {
        Draft {
            stream: stream.to_owned(),
            type_: "done".to_owned(),
            subject: None,
            schema_version: None,
            partition_key: None,
            content_type: String::new(),
            attributes: Vec::new(),
            data: data.to_vec(),
            delay_ms: None,
        }
    }

    fn published(host: &Host) -> Vec<Publication> {
        host.scope.as_ref().expect("a delivery is running").publishes.clone()
    }

    #[test]
    fn follow_ups_carry_on_the_story_and_their_ids_can_be_derived_again() {
        use publisher::Host as _;
        let [mut first, mut second] = [host(10, 10_000), host(10, 10_000)];
        let ids: Vec<String> = (0..2).map(|_| first.publish(draft("out", b"x")).expect("granted")).collect();
        let again = second.publish_batch(vec![draft("out", b"other"), draft("out", b"data")]).expect("granted");
        assert_eq!(ids, again);
        assert_ne!(ids[0], ids[1]);
        let Publication { key, event, .. } = published(&first).remove(0);
        assert_eq!((&*key, event.source.as_str(), event.time), ("prefix:out", "/wasmill/t/h", 7));
        assert_eq!(event.partition_key.as_deref(), Some("key"));
        assert_eq!((event.attribute(CAUSATION_ID), event.attribute(CORRELATION_ID)), (Some("cause"), Some("story")));
        assert!(event.attribute(TRACEPARENT).is_some_and(|parent| parent.starts_with(&PARENT[..36])));
        // Of the version that made it, not of the one that made its cause.
        let made_by: Vec<_> = event.attributes.iter().filter(|(name, _)| name == HANDLER_DIGEST).collect();
        assert_eq!(made_by, [&(HANDLER_DIGEST.to_owned(), "sha256:d".to_owned())]);
    }

    #[test]
    fn follow_ups_of_a_replay_have_ids_of_their_own() {
        use publisher::Host as _;
        let ids = ["", "one", "one", "two"].map(|run| {
            let mut host = host(1, 10_000);
            host.scope.as_mut().expect("a delivery is running").replay_run = run.into();
            host.publish(draft("out", b"x")).expect("granted")
        });
        assert_eq!(ids[1], ids[2], "another attempt asks for the same id");
        assert!(ids[0] != ids[1] && ids[1] != ids[3] && ids[0] != ids[3], "{ids:?}");
    }

    #[test]
    fn limits_hold_at_their_edge_and_batches_are_kept_whole_or_not_at_all() {
        use publisher::Host as _;
        let mut counted = host(2, 10_000);
        counted.publish(draft("out", b"")).expect("the first");
        let two = vec![draft("out", b""), draft("out", b"")];
        assert!(matches!(counted.publish_batch(two), Err(PublishError::TooMany(2))));
        counted.publish(draft("out", b"")).expect("the second");
        assert!(matches!(counted.publish(draft("out", b"")), Err(PublishError::TooMany(2))));
        assert_eq!(published(&counted).len(), 2);

        let mut probe = host(1, u64::MAX);
        probe.publish(draft("out", b"x")).expect("granted");
        let size = published(&probe)[0].event.size() as u64;
        assert!(host(1, size).publish(draft("out", b"x")).is_ok());
        let mut small = host(1, size - 1);
        assert!(matches!(small.publish(draft("out", b"x")), Err(PublishError::TooLarge(limit)) if limit == size - 1));
        assert!(published(&small).is_empty());
    }

    #[test]
    fn what_is_not_granted_or_not_valid_is_refused() {
        use publisher::Host as _;
        let mut host = host(10, 10_000);
        assert!(matches!(host.publish(draft("prefix:out", b"")), Err(PublishError::Denied(_))));
        assert!(matches!(host.publish_batch(vec![draft("out", b""), draft("no", b"")]), Err(PublishError::Denied(_))));
        let attribute = |name: &str| vec![(name.to_owned(), String::new())];
        let bad = [
            Draft { type_: String::new(), ..draft("out", b"") },
            Draft { type_: "x".repeat(MAX_TEXT + 1), ..draft("out", b"") },
            Draft { delay_ms: Some(MAX_DELAY.as_millis() as u64 + 1), ..draft("out", b"") },
            Draft { attributes: attribute("id"), ..draft("out", b"") },
            Draft { attributes: attribute(HANDLER_DIGEST), ..draft("out", b"") },
            Draft { attributes: attribute("Upper"), ..draft("out", b"") },
            Draft { attributes: [attribute("a"), attribute("a")].concat(), ..draft("out", b"") },
            Draft {
                attributes: (0..=MAX_DRAFT_ATTRIBUTES).map(|n| (format!("a{n}"), String::new())).collect(),
                ..draft("out", b"")
            },
        ];
        for draft in bad {
            assert!(matches!(host.publish(draft.clone()), Err(PublishError::Invalid(_))), "{draft:?}");
        }
        assert!(published(&host).is_empty());
        let latest = Draft { delay_ms: Some(MAX_DELAY.as_millis() as u64), ..draft("out", b"") };
        assert!(host.publish(latest).is_ok());
        assert_eq!(published(&host)[0].when, Due::After(MAX_DELAY));
        let longest = Draft { type_: "x".repeat(MAX_TEXT), ..draft("out", b"") };
        assert!(host.publish(longest).is_ok());
    }
}
