//! Writing down who changes what, and reading it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Operator, OpsError};
use crate::access::Actor;
use crate::audit::{self, AuditOutcome, AuditReport, Change, Line, Verb};
use crate::broker::{BrokerError, EntryId, Operate};

/// The most changes of one answer.
pub const MAX_AUDIT_PAGE: usize = 1000;
/// Changes of one answer, if nothing else is asked for.
const USUAL_PAGE: usize = 100;
/// Lines that are read at a time.
const READ: usize = 1000;
/// Requests that go on with the same thing are written down so often.
const AGAIN: Duration = Duration::from_secs(60);
/// So many things are remembered to be going on; of further ones each request is written down.
const MAX_GOING_ON: usize = 256;

/// Which changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// The oldest place: an id, a time, or how long ago [default: the beginning]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The newest place [default: the end]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The most changes, 1 to 1000: the newest so many [default: 100]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Changes that somebody asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct AuditPage {
    /// The changes, the oldest first.
    pub changes: Vec<AuditReport>,
    /// The `to` of the page with those before; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What was written down a short while ago and goes on: the pages of a replay are one change.
#[derive(Default)]
pub(super) struct GoingOn(Mutex<HashMap<String, Instant>>);

impl GoingOn {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has been written down a short while ago.
    fn goes_on(&self, what: &str, now: Instant) -> bool {
        let mut known = self.known();
        known.retain(|_, since| now.duration_since(*since) < AGAIN);
        known.contains_key(what)
    }

    /// It has been written down. Not before that: what cannot be written is not done the next time either.
    fn written(&self, what: String, now: Instant) {
        let mut known = self.known();
        if known.len() < MAX_GOING_ON {
            known.insert(what, now);
        }
    }
}

/// Writes down that somebody asks for a change; what gives it back belongs to [`end`].
pub(crate) async fn begin(broker: &dyn Operate, actor: &Actor, change: &Change) -> Result<EntryId, BrokerError> {
    broker.write_audit(&change.tenant, &audit::asked(actor, change, None)).await
}

/// Writes down what has come of it. Should that be impossible, the log says so: what is done is done.
pub(crate) async fn end(
    broker: &dyn Operate,
    actor: &Actor,
    change: &Change,
    asked: Option<EntryId>,
    ended: Result<String, String>,
) {
    let (outcome, detail) = match &ended {
        Ok(detail) => (AuditOutcome::Done, detail),
        Err(detail) => (AuditOutcome::Failed, detail),
    };
    tell(actor, change, outcome, detail);
    let Some(asked) = asked else { return };
    if let Err(error) = broker.write_audit(&change.tenant, &audit::ended(asked, outcome, detail)).await {
        lost(&error);
    }
}

/// Says in the log of this process that the audit log lacks a line.
pub(crate) fn lost(error: &BrokerError) {
    tracing::error!(alarm = "audit_incomplete", "the audit log cannot be written: {error}");
}

/// Says in the log of this process what has come of a change. Of who works on the broker itself that log is the terminal.
fn tell(actor: &Actor, change: &Change, outcome: AuditOutcome, detail: &str) {
    if !actor.is_logged() {
        return;
    }
    let Change { verb, tenant, handler, what } = change;
    let (actor, verb, outcome) = (actor.to_string(), verb.name(), outcome.name());
    let (actor, tenant, handler, what) = (actor.as_str(), tenant.as_str(), handler.as_str(), what.as_str());
    tracing::info!(target: "audit", actor, verb, tenant, handler, what, outcome, detail);
}

impl Operator {
    /// The same, for somebody: all that is changed is written down as theirs.
    pub fn acting_as(self, actor: Actor) -> Operator {
        Operator { actor, ..self }
    }

    /// Whose changes these are.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Writes down that this is asked for, does it, and writes down what has come of it, by `told`. If the first cannot be
    /// written, it is not done.
    pub(super) async fn audited<T>(
        &self,
        (verb, handler): (Verb, &str),
        what: String,
        work: impl Future<Output = Result<T, OpsError>>,
        told: impl FnOnce(&T) -> String,
    ) -> Result<T, OpsError> {
        let change = Change { verb, tenant: self.tenant().to_owned(), handler: handler.to_owned(), what };
        let asked = begin(&*self.broker, &self.actor, &change).await.map_err(|error| match error {
            // Then nothing else would have come through either.
            BrokerError::Unreachable { .. } => OpsError::Broker(error),
            _ => OpsError::NotAudited(error),
        })?;
        let result = work.await;
        let ended = result.as_ref().map(told).map_err(ToString::to_string);
        end(&*self.broker, &self.actor, &change, Some(asked), ended).await;
        result
    }

    /// The same for one request of several that belong together under the name `what`: they are written down once a minute.
    pub(super) async fn audited_once<T>(
        &self,
        (verb, handler): (Verb, &str),
        what: String,
        work: impl Future<Output = Result<T, OpsError>>,
        told: impl FnOnce(&T) -> String,
    ) -> Result<T, OpsError> {
        let key = format!("{} {} {handler} {what}", self.actor, verb.name());
        if self.going_on.goes_on(&key, Instant::now()) {
            return work.await;
        }
        let done = self.audited((verb, handler), what, work, told).await?;
        self.going_on.written(key, Instant::now());
        Ok(done)
    }

    /// Writes down that somebody was refused, and why.
    pub async fn note_refusal(&self, what: String, why: &str) {
        let (verb, tenant, handler) = (Verb::Request, self.tenant().to_owned(), String::new());
        let change = Change { verb, tenant, handler, what };
        tell(&self.actor, &change, AuditOutcome::Refused, why);
        if let Err(error) = self.broker.write_audit(self.tenant(), &audit::asked(&self.actor, &change, Some(why))).await
        {
            lost(&error);
        }
    }

    /// The newest changes within a range that somebody asked for.
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, OpsError> {
        let (from, to) = self.bounds(query.from.as_deref(), query.to.as_deref())?;
        let limit = query.limit.unwrap_or(USUAL_PAGE);
        if !(1..=MAX_AUDIT_PAGE).contains(&limit) {
            return Err(OpsError::Invalid(format!("`limit` is {limit}; it must be 1 to {MAX_AUDIT_PAGE}")));
        }
        let (mut page, mut ends, mut newest) = (AuditPage::default(), HashMap::new(), EntryId::MAX);
        // From the end on: how a change ended stands behind it.
        'pages: loop {
            let read = self.broker.audit(self.tenant(), from, newest, READ).await?;
            let Some(last) = read.last().map(|entry| entry.id) else { break };
            for entry in &read {
                let mut report = match audit::parse(entry) {
                    Some(Line::Ended { of, outcome, detail }) => {
                        ends.insert(of, (outcome, detail));
                        continue;
                    }
                    Some(Line::Asked(report)) => report,
                    None => continue,
                };
                if entry.id > to {
                    continue;
                }
                if page.changes.len() == limit {
                    page.next = Some(entry.id.to_string());
                    break 'pages;
                }
                if let Some((outcome, detail)) = ends.remove(&entry.id) {
                    (report.outcome, report.detail) = (outcome, detail);
                }
                page.changes.push(report);
            }
            if read.len() < READ || last == EntryId::MIN {
                break;
            }
            newest = last.previous();
        }
        page.changes.reverse();
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is to be written down now, which is done then.
    fn begins(going_on: &GoingOn, what: &str, now: Instant) -> bool {
        let is_new = !going_on.goes_on(what, now);
        if is_new {
            going_on.written(what.to_owned(), now);
        }
        is_new
    }

    #[test]
    fn what_could_not_be_written_down_does_not_go_on() {
        let (going_on, start) = (GoingOn::default(), Instant::now());
        assert!(!going_on.goes_on("a", start) && !going_on.goes_on("a", start));
    }

    #[test]
    fn what_goes_on_is_written_down_once_a_minute() {
        let (going_on, start) = (GoingOn::default(), Instant::now());
        let begins = |what: &str, after: u64| begins(&going_on, what, start + Duration::from_secs(after));
        assert!(begins("a", 0) && begins("b", 0));
        assert!(!begins("a", 59));
        assert!(begins("a", 60) && !begins("a", 61));
        let many = GoingOn::default();
        let begins = |what: usize| self::begins(&many, &what.to_string(), start);
        assert!((0..MAX_GOING_ON).all(begins) && !begins(0));
        assert!(begins(MAX_GOING_ON) && begins(MAX_GOING_ON), "what is not remembered is written down each time");
    }
}
