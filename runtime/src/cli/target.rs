//! Where operations are done: on Redis itself, or by a running worker through its HTTP API. The same questions and
//! answers on both ways.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmill::admin::{PROBLEM_PREFIX, Problem, RELOAD_TIMEOUT};
use wasmill::broker::keys::DEFAULT_TENANT;
use wasmill::envelope::{format_time, structured};
use wasmill::event::Event;
use wasmill::ops::{
    AuditPage, AuditQuery, DeadLetterPage, DeadLetterQuery, DeadLetterReport, DeployQuery, DoctorReport, GcReport,
    HistoryEvent, HistoryPage, HistoryQuery, MovedReport, Operator, OpsError, PauseReport, PendingQuery, PendingReport,
    PublishReport, ReplayReport, ReplayRequest, RollbackRequest, SchemaDocument, SchemaQuery, SchemaReport, Selection,
    SmokeReport, StateCleared, StateKey, StateQuery, StateReport, StateValue, StateWrite, StateWritten, StatsReport,
    StreamReport, TenantReport, UsageReport, VersionsReport, WorkerStatus,
};
use wasmill::outcome::Due;
use wasmill::reload::ReloadReport;

use super::Report;

/// The most time that an answer may take: a little more than the API itself allows.
const ANSWER_TIME: Duration = Duration::from_secs(35);
/// How much longer an answer is waited for than the API waits itself.
const SPARE: Duration = Duration::from_secs(5);
/// The most time that connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How to reach a running worker.
#[derive(Args)]
#[command(next_help_heading = "Working through a running worker")]
pub struct AdminArgs {
    /// Do it through the HTTP API of this worker (http://127.0.0.1:9464) instead of on Redis; `none`: on Redis, even if
    /// `wasmill dev` runs in this folder
    #[arg(long, global = true, value_name = "URL", env = "WASMILL_ADMIN_URL")]
    admin: Option<String>,
    /// The file that holds the token of that API [default: the variable WASMILL_ADMIN_TOKEN]
    #[arg(long, global = true, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// It was not named.
    #[arg(skip)]
    is_found: bool,
}

/// What stands for no worker.
const NONE: &str = "none";

impl AdminArgs {
    /// The worker that was found, if none was named.
    pub fn or_found(self, find: impl FnOnce() -> Option<String>) -> AdminArgs {
        match self.admin.as_deref() {
            None => AdminArgs { admin: find(), is_found: true, ..self },
            Some(NONE) => AdminArgs { admin: None, ..self },
            Some(_) => self,
        }
    }

    /// Whether a worker is meant.
    pub fn is_given(&self) -> bool {
        self.admin.is_some()
    }

    /// The worker that is meant, if one is.
    pub fn client(&self, tenant: &str) -> Result<Option<Client>, Report> {
        let Some(text) = &self.admin else { return Ok(None) };
        if self.is_found {
            eprintln!("(through the `wasmill dev` that runs here, {text}; --admin none: on Redis itself)");
        }
        let base = Url::parse(text).ok().filter(|url| url.scheme() == "http" && url.has_host());
        let Some(base) = base else {
            return Err(Report::usage(format!("--admin `{text}`: write it as http://HOST:PORT")));
        };
        let token = match &self.admin_token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| Report::usage(format!("cannot read {}: {error}", path.display())))?;
                Some(text.trim_end().to_owned())
            }
            None => std::env::var("WASMILL_ADMIN_TOKEN").ok().filter(|token| !token.is_empty()),
        };
        wasmill::oci::use_ring();
        // It speaks HTTP alone: no authorities are looked for.
        let http = reqwest::Client::builder().tls_certs_only([]).connect_timeout(CONNECT_TIME);
        let http = http.timeout(ANSWER_TIME).no_proxy().build();
        Ok(Some(Client { http: http.map_err(Report::failure)?, base, token, tenant: tenant.to_owned() }))
    }
}

/// The HTTP API of a worker.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    /// The tenant that is meant.
    tenant: String,
}

impl Client {
    /// The URL of something of the tenant.
    fn url(&self, path: &[&str]) -> Result<Url, Report> {
        match self.tenant.as_str() {
            DEFAULT_TENANT => self.url_of_worker(path),
            tenant => self.url_of_worker(&[&["tenants", tenant], path].concat()),
        }
    }

    /// The URL of something of the worker itself.
    fn url_of_worker(&self, path: &[&str]) -> Result<Url, Report> {
        // URLs are written without these: another path would be asked for.
        let is_lost = |name: &&&str| [".", "..", ""].contains(*name) || name.contains(['\t', '\n', '\r']);
        if let Some(name) = path.iter().find(is_lost) {
            return Err(Report::usage(format!(
                "a URL cannot name {name:?}; without --admin it can be asked for on Redis"
            )));
        }
        let mut url = self.base.clone();
        let Ok(mut segments) = url.path_segments_mut() else {
            return Err(Report::usage(format!("--admin `{}`: write it as http://HOST:PORT", self.base)));
        };
        segments.pop_if_empty().push("v1").extend(path);
        drop(segments);
        Ok(url)
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &impl Serialize) -> Result<T, Report> {
        self.answer(self.http.get(self.url(path)?).query(query)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Report> {
        self.answer(self.http.post(self.url(path)?).json(body)).await
    }

    /// The tenants that the worker serves.
    pub async fn tenants(&self) -> Result<Vec<TenantReport>, Report> {
        self.answer(self.http.get(self.url_of_worker(&["tenants"])?)).await
    }

    /// Has the worker read its configuration again.
    pub async fn reload(&self) -> Result<ReloadReport, Report> {
        self.answer(self.http.post(self.url_of_worker(&["reload"])?).timeout(RELOAD_TIMEOUT + SPARE)).await
    }

    fn failure(&self, what: &str) -> Report {
        Report::failure(format!("{}: {what}", self.base))
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Report> {
        let body = self.body(request).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Report::failure(format!("{}: an answer of another version? {error}", self.base)))
    }

    /// The body of an answer, whatever it is; of a problem, its words.
    async fn body(&self, request: RequestBuilder) -> Result<bytes::Bytes, Report> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let failed = |error: reqwest::Error| self.failure(&cause(&error)).uncertain();
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let body = response.bytes().await.map_err(failed)?;
        if status.is_success() {
            return Ok(body);
        }
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        let detail = if problem.detail.is_empty() { status.to_string() } else { problem.detail };
        // What is wrong with the question is told apart from what is wrong with the answer.
        let kind = problem.r#type.strip_prefix(PROBLEM_PREFIX).unwrap_or_default();
        Err(match (status, kind) {
            (
                _,
                "schema"
                | "unknown-component"
                | "unknown-dead-letter"
                | "unknown-state-key"
                | "quota"
                | "not-redrivable"
                | "conflict"
                | "not-reloaded",
            ) => Report::failure(detail),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => self.failure(&detail),
            _ if status.is_client_error() => Report::usage(detail),
            (_, "broker-refuses" | "not-audited") => self.failure(&detail),
            _ => self.failure(&detail).uncertain(),
        })
    }
}

/// The innermost cause: what the client says itself is only where it happened.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match error.is_timeout() {
        true => "no answer in time".to_owned(),
        false => cause.to_string(),
    }
}

/// Some of the history of a stream.
pub struct Past {
    /// Places, and the events there or why there are none.
    pub entries: Vec<(String, Result<Event, String>)>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// Where operations are done.
#[derive(Clone)]
pub enum Target {
    /// On the broker itself.
    Broker(Operator),
    /// By a running worker.
    Worker(Client),
}

impl Target {
    /// The named streams, or all that are known.
    pub async fn streams(&self, names: &[String], all: bool) -> Result<Vec<StreamReport>, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.streams(names, all).await?),
            Target::Worker(client) if names.is_empty() => client.get(&["streams"], &[("all", all)]).await,
            Target::Worker(client) => {
                let mut reports = Vec::with_capacity(names.len());
                for name in names {
                    reports.push(client.get(&["streams", name], &()).await?);
                }
                Ok(reports)
            }
        }
    }

    /// A page of the history of a stream.
    pub async fn history(&self, stream: &str, query: &HistoryQuery) -> Result<HistoryPage, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.history(stream, query).await?),
            Target::Worker(client) => client.get(&["streams", stream, "events"], query).await,
        }
    }

    /// The same as events.
    pub async fn past(&self, stream: &str, query: &HistoryQuery) -> Result<Past, Report> {
        match self {
            Target::Broker(operator) => {
                let page = operator.past(stream, query).await?;
                let entries = page.entries.into_iter();
                let entries = entries.map(|entry| (entry.id.to_string(), entry.event.map_err(|(error, _)| error)));
                Ok(Past { entries: entries.collect(), next: page.next.map(|next| next.to_string()) })
            }
            Target::Worker(_) => {
                let page = self.history(stream, query).await?;
                let event = |event: HistoryEvent| {
                    let parsed = match event.event {
                        Some(document) => {
                            structured::parse(document.to_string().as_bytes(), 0).map_err(|error| error.to_string())
                        }
                        None => Err(event.error.unwrap_or_default()),
                    };
                    (event.entry, parsed)
                };
                Ok(Past { entries: page.events.into_iter().map(event).collect(), next: page.next })
            }
        }
    }

    /// What is pending of a handler.
    pub async fn pending(&self, handler: &str, query: &PendingQuery) -> Result<PendingReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.pending(handler, query).await?),
            Target::Worker(client) => client.get(&["handlers", handler, "pending"], query).await,
        }
    }

    /// The keys in the state of a handler.
    pub async fn state(&self, handler: &str, query: &StateQuery) -> Result<StateReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.state(handler, query).await?),
            Target::Worker(client) => client.get(&["handlers", handler, "state"], query).await,
        }
    }

    /// A value in the state of a handler.
    pub async fn state_value(&self, handler: &str, key: &str) -> Result<StateValue, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.state_value(handler, key).await?),
            Target::Worker(client) => {
                client.get(&["handlers", handler, "state", "value"], &StateKey { key: key.to_owned() }).await
            }
        }
    }

    /// Changes the state of a handler.
    pub async fn write_state(&self, handler: &str, write: &StateWrite) -> Result<StateWritten, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.write_state(handler, write).await?),
            Target::Worker(client) => client.post(&["handlers", handler, "state"], write).await,
        }
    }

    /// Deletes the whole state of a handler.
    pub async fn clear_state(&self, handler: &str) -> Result<StateCleared, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.clear_state(handler).await?),
            Target::Worker(client) => client.post(&["handlers", handler, "state", "clear"], &()).await,
        }
    }

    /// The names of the handlers.
    pub async fn handlers(&self) -> Result<Vec<String>, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.handlers().iter().map(|handler| handler.name.clone()).collect()),
            Target::Worker(_) => Ok(self.stats().await?.handlers.into_keys().collect()),
        }
    }

    /// A page of the dead letters of a handler.
    pub async fn dead_letters(&self, handler: &str, query: &DeadLetterQuery) -> Result<DeadLetterPage, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.dead_letters(handler, query).await?),
            Target::Worker(client) => client.get(&["handlers", handler, "dead-letters"], query).await,
        }
    }

    /// One dead letter.
    pub async fn dead_letter(&self, handler: &str, id: &str) -> Result<DeadLetterReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.dead_letter(handler, id).await?),
            Target::Worker(client) => client.get(&["handlers", handler, "dead-letters", id], &()).await,
        }
    }

    /// Sends dead letters back to their handler.
    pub async fn redrive(&self, handler: &str, selection: &Selection) -> Result<MovedReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.redrive(handler, selection).await?),
            Target::Worker(client) => client.post(&["handlers", handler, "dead-letters", "redrive"], selection).await,
        }
    }

    /// Deletes dead letters.
    pub async fn drop_dead_letters(&self, handler: &str, selection: &Selection) -> Result<MovedReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.drop_dead_letters(handler, selection).await?),
            Target::Worker(client) => client.post(&["handlers", handler, "dead-letters", "drop"], selection).await,
        }
    }

    /// Appends a page of past events to the inbox of a handler.
    pub async fn replay(&self, handler: &str, request: &ReplayRequest) -> Result<ReplayReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.replay(handler, request).await?),
            Target::Worker(client) => client.post(&["handlers", handler, "replay"], request).await,
        }
    }

    /// What the tenant uses of what it may.
    pub async fn usage(&self) -> Result<UsageReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.usage().await?),
            Target::Worker(client) => client.get(&["usage"], &()).await,
        }
    }

    /// The workers that are alive.
    pub async fn workers(&self) -> Result<Vec<WorkerStatus>, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.workers().await?),
            Target::Worker(client) => client.get(&["workers"], &()).await,
        }
    }

    /// All handlers over all workers.
    pub async fn stats(&self) -> Result<StatsReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.stats().await?),
            Target::Worker(client) => client.get(&["stats"], &()).await,
        }
    }

    /// Pauses a handler, or lets it go on.
    pub async fn set_paused(&self, handler: &str, paused: bool) -> Result<PauseReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.set_paused(handler, paused).await?),
            Target::Worker(client) => {
                client.post(&["handlers", handler, if paused { "pause" } else { "resume" }], &()).await
            }
        }
    }

    /// Asks all workers to serve a component.
    pub async fn deploy(&self, handler: &str, bytes: Vec<u8>, query: &DeployQuery) -> Result<VersionsReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.deploy(handler, &bytes, query).await?),
            Target::Worker(client) => {
                let request = client.http.post(client.url(&["handlers", handler, "versions"])?).query(query);
                client.answer(request.header("content-type", "application/wasm").body(bytes)).await
            }
        }
    }

    /// Keeps smoke tests.
    pub async fn put_smoke(&self, document: Vec<u8>) -> Result<SmokeReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.put_smoke(&document).await?),
            Target::Worker(client) => {
                let request = client.http.post(client.url(&["smoke-tests"])?);
                client.answer(request.header("content-type", "application/json").body(document)).await
            }
        }
    }

    /// Asks all workers to go back to a version.
    pub async fn rollback(&self, handler: &str, request: &RollbackRequest) -> Result<VersionsReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.rollback(handler, request).await?),
            Target::Worker(client) => client.post(&["handlers", handler, "rollback"], request).await,
        }
    }

    /// The versions of a handler.
    pub async fn versions(&self, handler: &str) -> Result<VersionsReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.versions(handler).await?),
            Target::Worker(client) => client.get(&["handlers", handler, "versions"], &()).await,
        }
    }

    /// The bytes of a component that was deployed.
    pub async fn component(&self, digest: &str) -> Result<Vec<u8>, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.component(digest).await?),
            Target::Worker(client) => {
                Ok(client.body(client.http.get(client.url(&["components", digest])?)).await?.into())
            }
        }
    }

    /// Deletes components that nobody needs.
    pub async fn gc(&self, keep_last: usize) -> Result<GcReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.gc(keep_last).await?),
            Target::Worker(client) => {
                let request = client.http.post(client.url(&["gc"])?).query(&[("keep_last", keep_last)]);
                client.answer(request).await
            }
        }
    }

    /// Who has changed what.
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.audit(query).await?),
            Target::Worker(client) => client.get(&["audit"], query).await,
        }
    }

    /// Is everything as it should be?
    pub async fn doctor(&self, fix: bool) -> Result<DoctorReport, Report> {
        match (self, fix) {
            (Target::Broker(operator), _) => Ok(operator.doctor(fix).await?),
            (Target::Worker(client), true) => client.post(&["doctor"], &()).await,
            (Target::Worker(client), false) => client.get(&["doctor"], &()).await,
        }
    }

    /// All types that have schemas.
    pub async fn schemas(&self) -> Result<Vec<SchemaReport>, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.schemas()),
            Target::Worker(client) => client.get(&["schemas"], &()).await,
        }
    }

    /// The schema of a type.
    pub async fn schema(&self, r#type: &str, query: &SchemaQuery) -> Result<SchemaDocument, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.schema(r#type, query.version.as_deref())?),
            Target::Worker(client) => client.get(&["schemas", r#type], query).await,
        }
    }

    /// Publishes all of the events, or none.
    pub async fn publish(&self, stream: &str, when: Due, events: Vec<Event>) -> Result<PublishReport, Report> {
        match self {
            Target::Broker(operator) => Ok(operator.publish(stream, when, events).await?),
            Target::Worker(client) => {
                let documents = events.iter().map(structured::to_json).collect::<serde_json::Value>();
                let url = client.url(&["streams", stream, "events"])?;
                let request = client.http.post(url).header("content-type", structured::BATCH_MEDIA_TYPE);
                let request = request.body(documents.to_string());
                let request = match when {
                    Due::Now => request,
                    Due::After(delay) => request.query(&[("delay_ms", delay.as_millis().to_string())]),
                    Due::At(ms) => request.query(&[("at", format_time(ms))]),
                };
                client.answer(request).await
            }
        }
    }
}

impl From<OpsError> for Report {
    fn from(error: OpsError) -> Report {
        match error {
            OpsError::Broker(error) => error.into(),
            failed @ (OpsError::Schema { .. }
            | OpsError::UnknownComponent { .. }
            | OpsError::UnknownDeadLetter { .. }
            | OpsError::UnknownStateKey { .. }
            | OpsError::Quota { .. }
            | OpsError::NotAudited(_)
            | OpsError::Conflict(_)) => Report::failure(failed),
            wrong => Report::usage(wrong),
        }
    }
}
