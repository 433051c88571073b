//! Running past events again through one handler: they are appended to its inbox, page by page.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Operator, OpsError};
use crate::audit::Verb;
use crate::broker::{Replay, Replayed};
use crate::config::ResolvedHandler;

/// The most entries of one request.
pub const MAX_REPLAY_PAGE: usize = 500;
/// The longest id of a run, in bytes: it is written into every entry.
const MAX_RUN_ID: usize = 64;
/// With so many entries waiting in the inbox nothing is appended: the handler has to catch up first.
pub const MAX_REPLAY_BACKLOG: usize = 2000;

/// Which events, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayRequest {
    /// The stream that they are in.
    pub stream: String,
    /// The first: an entry id, a time, or how long ago; the beginning if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The last; the end of the stream as it is now if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The most entries, 1 to 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// The id of the run, which makes the ids of follow-ups differ from those of the first run. Pages of one replay
    /// have the same. A new one if absent, and none if empty: then follow-ups have the ids that they had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

/// What one request appended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ReplayReport {
    /// Events appended to the handler's inbox.
    pub appended: usize,
    /// Entries left out, since they have more than 3000 fields.
    pub skipped: usize,
    /// Where the next request begins (its `from`); absent when all is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Where the replay ends: the `to` of the next request.
    pub to: String,
    /// The id of the run, for the next request.
    pub run: String,
    /// Events in the inbox that the handler has not been given yet.
    pub backlog: usize,
    /// Workers that serve the handler now.
    pub workers: usize,
}

/// Letters, digits and `-`, or nothing.
fn is_run_id(run: &str) -> bool {
    run.len() <= MAX_RUN_ID && run.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// What is replayed through a handler comes from a stream that it reads; any other is [`OpsError::Invalid`].
pub fn check_reads(handler: &ResolvedHandler, stream: &str) -> Result<(), OpsError> {
    if handler.streams.iter().any(|read| read == stream) {
        return Ok(());
    }
    let (name, streams) = (&handler.name, handler.streams.join(", "));
    Err(OpsError::Invalid(format!("{name} does not read `{stream}`; it reads: {streams}")))
}

impl Operator {
    /// Appends a page of past events to the inbox of a handler. Nothing is appended while the inbox is full.
    pub async fn replay(&self, handler: &str, request: &ReplayRequest) -> Result<ReplayReport, OpsError> {
        let resolved = self.handler(handler)?;
        check_reads(resolved, &request.stream)?;
        let count = request.count.unwrap_or(MAX_REPLAY_PAGE);
        if !(1..=MAX_REPLAY_PAGE).contains(&count) {
            return Err(OpsError::Invalid(format!("`count` is {count}; it must be 1 to {MAX_REPLAY_PAGE}")));
        }
        let (from, mut to) = self.bounds(request.from.as_deref(), request.to.as_deref())?;
        let key = self.tenant.namespace.stream(&request.stream);
        let Some(info) = self.broker.stream(&key).await? else { return Err(self.unknown_stream(&request.stream)) };
        // What comes meanwhile is not past; follow-ups of the replay itself would go round for ever.
        to = to.min(info.last);
        if let Some(run) = request.run.as_ref().filter(|run| !is_run_id(run)) {
            let problem = format!("`run` has {} bytes or other characters than letters, digits and `-`", run.len());
            return Err(OpsError::Invalid(format!("{problem}; it has at most {MAX_RUN_ID} bytes")));
        }
        let run = request.run.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let inbox = self.tenant.namespace.inbox_source(&resolved.name, &resolved.group);
        let mut report =
            ReplayReport { to: to.to_string(), run, backlog: self.backlog(&inbox).await?, ..ReplayReport::default() };
        report.workers = self.serving(handler).await?;
        if from > to {
            return Ok(report);
        }
        if report.backlog >= MAX_REPLAY_BACKLOG {
            report.next = Some(from.to_string());
            return Ok(report);
        }
        self.check_replay().await?;
        let stream = &request.stream;
        let replay = Replay { stream, key: &key, inbox: &inbox.key, from, to, count, run: &report.run };
        let what = match report.run.as_str() {
            "" => format!("stream {stream}, with the same ids"),
            run => format!("stream {stream}, run {run}"),
        };
        let work = async { Ok(self.broker.replay(&replay).await?) };
        // The pages of a replay are one change, which is told with the first of them.
        let told = |replayed: &Replayed| format!("{} from {from} to {to} on, as far as yet", replayed.appended);
        let replayed = self.audited_once((Verb::Replay, handler), what, work, told).await?;
        report.appended = replayed.appended;
        report.skipped = replayed.skipped;
        report.backlog += replayed.appended;
        let next = replayed.last.map(|last| last.next()).filter(|next| *next <= to);
        report.next = next.map(|next| next.to_string());
        Ok(report)
    }

    /// Entries of the inbox that have not been handed out.
    async fn backlog(&self, inbox: &crate::broker::Source) -> Result<usize, OpsError> {
        let Some(info) = self.broker.stream(&inbox.key).await? else { return Ok(0) };
        let group = info.groups.iter().find(|group| *group.name == *inbox.group);
        // Without a group nobody has read anything; what the broker cannot tell is at most all that is there.
        Ok(group.and_then(|group| group.lag).unwrap_or(info.length))
    }

    async fn serving(&self, handler: &str) -> Result<usize, OpsError> {
        let workers = self.workers().await?;
        Ok(workers.iter().filter(|worker| worker.report.handlers.contains_key(handler)).count())
    }
}
