//! What `wasmill dev` shows: text for people, or one JSON document a line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use wasmill::config::units::format_duration;
use wasmill::envelope::structured;
use wasmill::outcome::{Decision, Publication, Verdict};
use wasmill::pipeline::{How, Observer, Seen};
use wasmill::state::Kept;
use wasmill::wasm::LogLine;

use super::Input;
use crate::cli::Context;
use crate::cli::execution::log_text;
use crate::cli::paint::Paint;
use crate::cli::table::{plain, plain_lines};

/// Deliveries that wait to be shown; those beyond are counted.
const MAX_WAITING: u64 = 10_000;
/// The most characters of an event's data that are shown.
const MAX_DATA: usize = 400;

/// What is to be shown of a delivery.
#[derive(Debug)]
pub struct Shown {
    handler: String,
    stream: String,
    entry: String,
    id: String,
    r#type: String,
    attempt: u32,
    outcome: &'static str,
    class: Option<&'static str>,
    message: String,
    pause: Option<Duration>,
    published: Vec<Value>,
    /// What is written to the state, by key.
    state: BTreeMap<String, Option<Kept>>,
    logs: Vec<LogLine>,
    logs_dropped: u64,
    /// Time and memory of the run, and the digest of what was run.
    cost: Option<(Duration, usize, String)>,
}

impl Shown {
    fn new(seen: &Seen<'_>) -> Shown {
        let (outcome, class, pause, published) = match (seen.decision, seen.how) {
            (_, How::Skipped) => ("skipped", None, None, Vec::new()),
            (_, How::Duplicate) => ("duplicate", None, None, Vec::new()),
            (Decision::Ack { publishes, .. }, _) => ("ack", None, None, publishes.iter().map(follow_up).collect()),
            (Decision::Park { pause }, _) => ("retry", None, Some(*pause), Vec::new()),
            (Decision::DeadLetter(letter), _) => ("dead-letter", Some(letter.class.as_str()), None, Vec::new()),
        };
        let message = match (seen.decision, seen.how) {
            (Decision::DeadLetter(letter), _) => letter.message.clone(),
            (_, How::Run(run)) => match run.verdict {
                Verdict::Ack => String::new(),
                Verdict::Retry { message, .. } | Verdict::Reject { message } | Verdict::Fault { message, .. } => {
                    message.clone()
                }
            },
            _ => String::new(),
        };
        let run = if let How::Run(run) = seen.how { Some(run) } else { None };
        let state = match seen.decision {
            Decision::Ack { state: Some(change), .. } => change.changes.shown(),
            _ => BTreeMap::new(),
        };
        Shown {
            handler: seen.handler.to_owned(),
            stream: seen.stream.to_owned(),
            entry: seen.entry.to_string(),
            id: seen.id.to_owned(),
            r#type: seen.r#type.to_owned(),
            attempt: seen.attempt,
            outcome,
            class,
            message,
            pause,
            published,
            state,
            logs: run.map(|run| run.logs.to_vec()).unwrap_or_default(),
            logs_dropped: run.map_or(0, |run| run.logs_dropped),
            cost: run.map(|run| (run.wall, run.peak_memory, run.digest.to_owned())),
        }
    }

    fn as_json(&self) -> Value {
        let logs = self.logs.iter().map(|line| {
            json!({
                "level": line.level.as_str(), "source": line.source.as_str(), "context": line.context,
                "message": line.message,
            })
        });
        let (wall, memory, digest) = self.cost.clone().map_or((None, None, None), |(wall, memory, digest)| {
            (Some(wall.as_micros() as u64), Some(memory), Some(digest))
        });
        json!({
            "kind": "event", "handler": self.handler, "stream": self.stream, "entry": self.entry,
            "event": {"id": self.id, "type": self.r#type}, "attempt": self.attempt, "outcome": self.outcome,
            "class": self.class, "message": self.message,
            "pause_ms": self.pause.map(|pause| pause.as_millis() as u64), "published": self.published,
            "state": self.state,
            "logs": logs.collect::<Value>(), "logs_dropped_bytes": self.logs_dropped, "wall_us": wall,
            "memory_bytes": memory, "digest": digest,
        })
    }

    fn print(&self, paint: Paint) {
        let outcome = match self.outcome {
            "ack" => paint.good("ack"),
            "dead-letter" => paint.bad(format!("dead letter ({})", self.class.unwrap_or_default())),
            other => paint.odd(other),
        };
        let attempt = if self.attempt > 1 { format!(" attempt {}", self.attempt) } else { String::new() };
        let cost = self.cost.as_ref().map_or_else(String::new, |(wall, memory, _)| {
            format!("  {:.1} ms, {}", wall.as_secs_f64() * 1000.0, ByteSize(*memory as u64))
        });
        let named = paint.faint(format!("{} {}", plain(&self.stream), self.entry));
        let (handler, r#type) = (&self.handler, plain(&self.r#type));
        say!("{named} {type} -> {handler}{attempt}: {outcome}{}", paint.faint(cost));
        if !self.message.is_empty() {
            say!("{}", plain_lines(&self.message, "    "));
        }
        if let Some(pause) = self.pause {
            say!("    {}", paint.odd(format!("again in {} ms", pause.as_millis())));
        }
        for event in &self.published {
            let word = |name: &str| event[name].as_str().map(plain).unwrap_or_default();
            let later = event["delay_ms"].as_u64().map_or_else(String::new, |ms| format!(" in {ms} ms"));
            let data = event.get("data").or_else(|| event.get("data_base64"));
            let data = data.map(|data| cut(&plain(&data.to_string()))).unwrap_or_default();
            say!("    -> {} {}{later} {}", word("stream"), word("type"), paint.faint(data));
        }
        for (key, value) in &self.state {
            let value =
                value.as_ref().map_or_else(|| "deleted".to_owned(), |value| cut(&plain(&json!(value).to_string())));
            say!("    state {}: {}", plain(key), paint.faint(value));
        }
        self.logs.iter().for_each(|line| say!("    {}", paint.faint(log_text(line))));
        if self.logs_dropped > 0 {
            say!("    {} bytes of logs were over limits.log_bytes", self.logs_dropped);
        }
    }
}

fn follow_up(publication: &Publication) -> Value {
    let mut event = structured::to_json(&publication.event);
    event["stream"] = json!(&*publication.key);
    if let wasmill::outcome::Due::After(delay) = publication.when {
        event["delay_ms"] = json!(delay.as_millis() as u64);
    }
    event
}

fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(MAX_DATA).collect();
    if cut.len() < text.len() {
        cut.push_str(" ...");
    }
    cut
}

/// Hands deliveries over to be shown. A burst that nobody can read is counted instead.
#[derive(Debug)]
pub struct Window {
    inbox: mpsc::UnboundedSender<Input>,
    waiting: AtomicU64,
    missed: AtomicU64,
}

impl Window {
    /// Hands over to an inbox.
    pub fn new(inbox: mpsc::UnboundedSender<Input>) -> Window {
        Window { inbox, waiting: AtomicU64::new(0), missed: AtomicU64::new(0) }
    }

    /// One has been shown; says how many have been missed since the last time, once nothing is waiting.
    pub fn shown(&self) -> u64 {
        match self.waiting.fetch_sub(1, Ordering::Relaxed) {
            1 => self.missed.swap(0, Ordering::Relaxed),
            _ => 0,
        }
    }
}

impl Observer for Window {
    fn decided(&self, seen: &Seen<'_>) {
        if self.waiting.load(Ordering::Relaxed) >= MAX_WAITING {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Nobody listens any more when everything ends.
        let _ = self.inbox.send(Input::Seen(Box::new(Shown::new(seen))));
    }
}

/// Prints.
#[derive(Clone, Copy)]
pub struct Show {
    paint: Paint,
    is_json: bool,
}

impl Show {
    /// As the command line asks.
    pub fn new(context: &Context) -> Show {
        Show { paint: Paint::for_stdout(context), is_json: context.is_json() }
    }

    fn tell(self, text: String, document: impl FnOnce() -> Value) {
        if self.is_json { say!("{}", document()) } else { say!("{text}") }
    }

    /// What became of an event, and how many were not shown.
    pub fn event(self, shown: &Shown, missed: u64) {
        if self.is_json {
            say!("{}", shown.as_json());
        } else {
            shown.print(self.paint);
        }
        if missed > 0 {
            let text = format!("{missed} more were too many to be shown");
            self.tell(self.paint.odd(text), || json!({"kind": "missed", "count": missed}));
        }
    }

    /// The handlers are served.
    pub fn started(self, url: &str, broker: &str, handlers: &[(String, Vec<String>)], events: &[String]) {
        if self.is_json {
            let handlers: Vec<Value> =
                handlers.iter().map(|(name, streams)| json!({"name": name, "streams": streams})).collect();
            say!(
                "{}",
                json!({"kind": "started", "url": url, "broker": broker, "handlers": handlers, "events": events})
            );
            return;
        }
        for (name, streams) in handlers {
            say!("{} {name} reads {} ({broker})", self.paint.good("serving"), plain(&streams.join(", ")));
        }
        say!("  send events:  wasmill send STREAM TYPE DATA   in this folder, elsewhere with WASMILL_ADMIN_URL={url}");
        say!(
            "  or type:      {{\"json\": \"data\"}}, or TYPE {{...}}, or the name of a file in events/: {}",
            events.join(", ")
        );
        say!("  Ctrl-C ends");
    }

    /// A step of a build.
    pub fn progress(self, line: &str) {
        if !self.is_json {
            say!("{}", self.paint.faint(plain(line)));
        }
    }

    /// A handler was built and loaded.
    pub fn built(self, handler: &str, took: Duration, digest: &str, what: &str) {
        let text = format!("{} {handler} in {}: {what}", self.paint.good("built"), format_duration(rounded(took)));
        self.tell(text, || {
            let took = took.as_millis() as u64;
            json!({"kind": "build", "handler": handler, "ok": true, "took_ms": took, "digest": digest, "result": what})
        });
    }

    /// A handler could not be built or loaded.
    pub fn not_built(self, handler: &str, problem: &str, what: &str) {
        let text = format!("{} {handler}: {what}\n{}", self.paint.bad("NOT BUILT"), plain_lines(problem, "    "));
        self.tell(
            text,
            || json!({"kind": "build", "handler": handler, "ok": false, "problem": problem, "result": what}),
        );
    }

    /// An event was published from a file or by typing.
    pub fn sent(self, stream: &str, id: &str, from: &str) {
        let text = self.paint.faint(format!("sent {} to {}", plain(from), plain(stream)));
        self.tell(text, || json!({"kind": "sent", "stream": stream, "id": id, "from": from}));
    }

    /// Something is not right, and work goes on.
    pub fn problem(self, text: &str) {
        self.tell(self.paint.odd(plain_lines(text, "")), || json!({"kind": "problem", "message": text}));
    }

    /// Something else happened.
    pub fn note(self, kind: &str, text: &str) {
        self.tell(self.paint.faint(text), || json!({"kind": kind, "message": text}));
    }
}

/// Without what nobody reads.
fn rounded(took: Duration) -> Duration {
    Duration::from_millis(took.as_millis() as u64)
}
