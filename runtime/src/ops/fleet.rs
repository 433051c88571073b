//! Workers, what they have done, and stopping handlers for a while.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Operator, OpsError};
use crate::audit::Verb;
use crate::broker::{BrokerError, StreamInfo};
use crate::clock::now_ms;
use crate::fleet::{HandlerReport, WorkerReport};

/// A worker that is alive.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct WorkerStatus {
    /// What it said with its last heartbeat.
    #[serde(flatten)]
    pub report: WorkerReport,
    /// Time since it started, in milliseconds.
    pub uptime_ms: u64,
}

/// The handlers over all workers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct StatsReport {
    /// When this was, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Workers that are alive.
    pub workers: usize,
    /// The handlers by name: those of the configuration, and those that workers serve.
    pub handlers: BTreeMap<String, HandlerStatus>,
}

/// A handler over all workers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct HandlerStatus {
    /// Sums over the workers since each of them started.
    #[serde(flatten)]
    pub counts: HandlerReport,
    /// Workers that serve it.
    pub workers: usize,
    /// Entries of its streams that it has not been given yet; absent if the broker cannot tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<usize>,
    /// Entries that are handed out and not settled.
    pub pending: usize,
    /// Entries in its dead-letter stream.
    pub dead_letters: usize,
    /// It has been paused.
    pub paused: bool,
}

/// Whether a handler is paused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct PauseReport {
    /// The handler.
    pub handler: String,
    /// Whether it is paused now.
    pub paused: bool,
    /// Whether that has changed.
    pub changed: bool,
}

impl Operator {
    /// The workers that are alive, in the order of their start, with the handlers of this tenant.
    pub async fn workers(&self) -> Result<Vec<WorkerStatus>, OpsError> {
        let now = now_ms();
        let mut workers = Vec::new();
        for (worker, report) in self.broker.workers().await? {
            // A worker of another version may say other things; one that is setting up says nothing yet.
            let report: WorkerReport = serde_json::from_str(&report).unwrap_or_default();
            let uptime_ms = if report.started_ms == 0 { 0 } else { now.saturating_sub(report.started_ms) };
            let handlers = report.handlers.into_iter();
            let own = handlers.filter_map(|(id, of)| Some((self.tenant.namespace.unqualified(&id)?.to_owned(), of)));
            let report = WorkerReport { worker, handlers: own.collect(), ..report };
            workers.push(WorkerStatus { report, uptime_ms });
        }
        workers.sort_by(|a, b| (a.report.started_ms, &a.report.worker).cmp(&(b.report.started_ms, &b.report.worker)));
        Ok(workers)
    }

    /// All handlers.
    pub async fn stats(&self) -> Result<StatsReport, OpsError> {
        let workers = self.workers().await?;
        let mut handlers: BTreeMap<String, HandlerStatus> =
            self.handlers.iter().map(|handler| (handler.name.clone(), HandlerStatus::default())).collect();
        for (name, report) in workers.iter().flat_map(|worker| &worker.report.handlers) {
            let status = handlers.entry(name.clone()).or_default();
            status.counts.add(report);
            status.workers += 1;
        }
        let paused = self.broker.paused().await?;
        for (name, status) in &mut handlers {
            status.paused = paused.iter().any(|id| self.tenant.namespace.unqualified(id) == Some(name));
            self.backlog_of(name, status).await?;
        }
        Ok(StatsReport { at_ms: now_ms(), workers: workers.len(), handlers })
    }

    /// Pauses a handler on all workers, or lets it go on. It is told within a second, and stays so over restarts.
    pub async fn set_paused(&self, handler: &str, paused: bool) -> Result<PauseReport, OpsError> {
        self.handler(handler)?;
        let verb = if paused { Verb::Pause } else { Verb::Resume };
        let work = async { Ok(self.broker.set_paused(&self.id(handler), paused).await?) };
        let told = |changed: &bool| if *changed { String::new() } else { "it was so before".to_owned() };
        let changed = self.audited((verb, handler), String::new(), work, told).await?;
        Ok(PauseReport { handler: handler.to_owned(), paused, changed })
    }

    /// A stream, unless the broker refuses to show it: the overview goes on without (`wasmill doctor` names it).
    async fn readable(&self, key: &str) -> Result<Option<StreamInfo>, OpsError> {
        match self.broker.stream(key).await {
            Err(BrokerError::Refused { .. }) => Ok(None),
            info => Ok(info?),
        }
    }

    /// Fills in what the broker knows of a handler.
    async fn backlog_of(&self, name: &str, status: &mut HandlerStatus) -> Result<(), OpsError> {
        let Ok(handler) = self.handler(name) else { return Ok(()) };
        let mut lag = Some(0);
        for source in self.sources(name)? {
            let Some(info) = self.readable(&source.key).await? else { continue };
            let group = info.groups.iter().find(|group| *group.name == *source.group);
            status.pending += group.map_or(0, |group| group.pending);
            let waiting = group.map_or(Some(info.length), |group| group.lag);
            lag = lag.zip(waiting).map(|(sum, waiting)| sum + waiting);
        }
        status.lag = lag;
        let dead = self.readable(&self.tenant.namespace.stream(&handler.dead_letter)).await?;
        status.dead_letters = dead.map_or(0, |dead| dead.length);
        Ok(())
    }
}
