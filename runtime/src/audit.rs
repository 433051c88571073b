//! The form of the audit log: a line for each change that somebody has asked for, and one for what has come of it.
//!
//! The first is written before the change is made, and the change is not made if it cannot be written: no change is without
//! a line. What has no second line was interrupted, or is still going on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::Actor;
use crate::broker::keys::DEFAULT_TENANT;
use crate::broker::{Entry, EntryId, Fields};

/// About so many lines of the tenant `default` are kept, two for each change: some weeks of people's work, and a few MB.
pub const MAX_LINES: usize = 10_000;
/// The same of each other tenant, of which there may be thousands. Each has a log of its own, so that none can push out what
/// others have done.
pub const MAX_LINES_OF_TENANT: usize = 1_000;
/// The longest text in a line, in bytes; of longer ones the beginning is kept.
pub const MAX_TEXT: usize = 512;

/// About how many lines of a tenant are kept.
pub fn max_lines(tenant: &str) -> usize {
    if tenant == DEFAULT_TENANT { MAX_LINES } else { MAX_LINES_OF_TENANT }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Pause,
    Resume,
    Redrive,
    Drop,
    Replay,
    /// Set or delete a value in the state of a handler.
    State,
    /// Delete all of it.
    ClearState,
    /// Have all workers hold a version beside the one that serves.
    Pin,
    Deploy,
    Rollback,
    SmokeTests,
    Gc,
    DoctorFix,
    Reload,
    /// A request by HTTP that was let do nothing.
    Request,
}

impl Verb {
    /// Its name in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Redrive => "redrive",
            Verb::Drop => "drop",
            Verb::Replay => "replay",
            Verb::State => "state",
            Verb::ClearState => "clear-state",
            Verb::Pin => "pin",
            Verb::Deploy => "deploy",
            Verb::Rollback => "rollback",
            Verb::SmokeTests => "smoke-tests",
            Verb::Gc => "gc",
            Verb::DoctorFix => "doctor-fix",
            Verb::Reload => "reload",
            Verb::Request => "request",
        }
    }
}

/// A change that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What is to be done.
    pub verb: Verb,
    /// To whose; empty for what is nobody's alone.
    pub tenant: String,
    /// To which handler; empty if it is about none.
    pub handler: String,
    /// To what: digests, ids, how many.
    pub what: String,
}

/// What has come of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It was done.
    Done,
    /// It was tried, and an error came of it; some of it may have been done.
    Failed,
    /// It was not even tried, as whoever asked may not.
    Refused,
    /// It was interrupted, or is still going on.
    #[default]
    Unknown,
}

impl AuditOutcome {
    /// Its name in the log.
    pub const fn name(self) -> &'static str {
        match self {
            AuditOutcome::Done => "done",
            AuditOutcome::Failed => "failed",
            AuditOutcome::Refused => "refused",
            AuditOutcome::Unknown => "unknown",
        }
    }

    fn parse(text: &str) -> AuditOutcome {
        use AuditOutcome::{Done, Failed, Refused};
        [Done, Failed, Refused].into_iter().find(|outcome| outcome.name() == text).unwrap_or_default()
    }
}

/// How a line begins the story of a change. Only a refusal has its end with it.
pub fn asked(actor: &Actor, change: &Change, refusal: Option<&str>) -> Fields {
    let Change { verb, tenant, handler, what } = change;
    let mut texts = vec![("actor", actor.to_string()), ("verb", verb.name().to_owned())];
    texts.extend([("tenant", tenant.clone()), ("handler", handler.clone()), ("what", what.clone())]);
    if let Some(why) = refusal {
        texts.extend([("outcome", AuditOutcome::Refused.name().to_owned()), ("detail", why.to_owned())]);
    }
    fields(texts)
}

/// How a line ends it. `asked` is where the other one stands.
pub fn ended(asked: EntryId, outcome: AuditOutcome, detail: &str) -> Fields {
    let texts = [("of", asked.to_string()), ("outcome", outcome.name().to_owned()), ("detail", detail.to_owned())];
    fields(texts)
}

fn fields(texts: impl IntoIterator<Item = (&'static str, String)>) -> Fields {
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
    texts.map(|(name, text)| (name.as_bytes().to_vec(), clipped(&text).as_bytes().to_vec())).collect()
}

/// The text, or its beginning if it is longer than [`MAX_TEXT`].
fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// A line, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Somebody asked for something.
    Asked(AuditReport),
    /// Something came of it.
    Ended {
        /// The line that it was asked with.
        of: EntryId,
        /// What.
        outcome: AuditOutcome,
        /// In words.
        detail: String,
    },
}

/// A change that somebody asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct AuditReport {
    /// Its place in the log.
    pub id: String,
    /// When, in milliseconds since the Unix epoch, by the broker's clock.
    pub at_ms: u64,
    /// Who: `token:ROLE@TENANT`, `token:admin`, `shell:USER@HOST`, `signal`, `files`, `anybody` (a worker without tokens),
    /// `nobody` (no token, or a wrong one), `program`.
    pub actor: String,
    /// What was to be done.
    pub verb: String,
    /// To whose; empty for what is nobody's alone.
    pub tenant: String,
    /// To which handler; empty if it is about none.
    pub handler: String,
    /// To what: digests, ids, how many.
    pub what: String,
    /// What has come of it.
    pub outcome: AuditOutcome,
    /// The same in words.
    pub detail: String,
}

/// Reads a line; `None` for what is none.
pub fn parse(entry: &Entry) -> Option<Line> {
    let get = |wanted: &str| {
        let field = entry.fields.iter().find(|(name, _)| name == wanted.as_bytes());
        field.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    let outcome = AuditOutcome::parse(&get("outcome"));
    if let Ok(of) = get("of").parse() {
        return Some(Line::Ended { of, outcome, detail: get("detail") });
    }
    let report = AuditReport {
        id: entry.id.to_string(),
        at_ms: entry.id.ms,
        actor: get("actor"),
        verb: get("verb"),
        tenant: get("tenant"),
        handler: get("handler"),
        what: get("what"),
        outcome,
        detail: get("detail"),
    };
    (!report.verb.is_empty()).then_some(Line::Asked(report))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: Fields) -> Entry {
        Entry { id: EntryId { ms: 7, seq: 1 }, attempt: 0, fields }
    }

    fn change(what: &str) -> Change {
        let (tenant, handler) = ("acme".to_owned(), "pay".to_owned());
        Change { verb: Verb::Deploy, tenant, handler, what: what.to_owned() }
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        let Some(Line::Asked(report)) = parse(&entry(asked(&Actor::Signal, &change("x"), None))) else { panic!() };
        let (actor, verb, tenant) = ("signal".to_owned(), "deploy".to_owned(), "acme".to_owned());
        let (handler, what, id) = ("pay".to_owned(), "x".to_owned(), "7-1".to_owned());
        let expected = AuditReport { id, at_ms: 7, actor, verb, tenant, handler, what, ..AuditReport::default() };
        assert_eq!(report, expected);
        let of = EntryId { ms: 5, seq: 0 };
        let end = parse(&entry(ended(of, AuditOutcome::Failed, "no\u{1b}")));
        let detail = "no\u{1b}".to_owned();
        assert_eq!(end, Some(Line::Ended { of, outcome: AuditOutcome::Failed, detail }));
        let Some(Line::Asked(report)) = parse(&entry(asked(&Actor::Nobody, &change("x"), Some("why")))) else {
            panic!()
        };
        assert_eq!((report.outcome, report.detail.as_str()), (AuditOutcome::Refused, "why"));
        assert_eq!(parse(&entry(vec![(b"other".to_vec(), b"x".to_vec())])), None);
    }

    #[test]
    fn texts_are_clipped_between_characters() {
        let whole = "x".repeat(MAX_TEXT);
        assert_eq!(clipped(&whole), whole);
        assert_eq!(clipped(&format!("{whole}x")), whole);
        assert_eq!(clipped(&format!("{}ä", &whole[1..])), &whole[1..]);
    }
}
