//! What has been handed out and is not settled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Operator, OpsError};
use crate::broker::{BrokerError, EntryId, PendingEntry, Source, keys};
use crate::clock::now_ms;

/// Pending entries that are read at a time.
const PAGE: usize = 1000;
/// Pending entries of one stream that are looked at for the summary.
const MAX_LOOKED_AT: usize = 100_000;

/// The most entries that are listed.
const MAX_LISTED: usize = 1000;

/// How much of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PendingQuery {
    /// The most entries to list, the oldest first, at most 1000; the summary is about all
    pub limit: usize,
}

impl Default for PendingQuery {
    fn default() -> Self {
        PendingQuery { limit: 20 }
    }
}

/// What is pending of a handler.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct PendingReport {
    /// The handler.
    pub handler: String,
    /// Entries that are pending.
    pub total: usize,
    /// Of these, the oldest that ages and attempts are told of: at most 100,000 of a stream.
    pub looked_at: usize,
    /// The same by who has them.
    pub consumers: Vec<ConsumerPending>,
    /// The oldest of them.
    pub entries: Vec<PendingRow>,
}

/// What is pending under one consumer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ConsumerPending {
    /// Its name.
    pub consumer: String,
    /// What it is: `alive` or `dead` for workers, `parked` for entries that wait for another attempt, `foreign` for
    /// consumers of other programs.
    pub state: String,
    /// Entries that are pending under it.
    pub count: usize,
    /// Age of the oldest of them, in milliseconds.
    pub oldest_ms: u64,
    /// The most attempts that one of them has had.
    pub max_attempts: u32,
}

/// An entry that is pending.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct PendingRow {
    /// The stream.
    pub stream: String,
    /// Its place in the stream.
    pub entry: String,
    /// Who has it.
    pub consumer: String,
    /// Time since it was written, in milliseconds.
    pub age_ms: u64,
    /// Time since it was handed out last, in milliseconds.
    pub idle_ms: u64,
    /// How often it has been handed out.
    pub attempts: u32,
}

impl Operator {
    /// What is pending of a handler, over all of its streams.
    pub async fn pending(&self, handler: &str, query: &PendingQuery) -> Result<PendingReport, OpsError> {
        if query.limit > MAX_LISTED {
            return Err(OpsError::Invalid(format!("`limit` is {}; it must be 0 to {MAX_LISTED}", query.limit)));
        }
        let mut report = PendingReport { handler: handler.to_owned(), ..PendingReport::default() };
        let mut consumers: BTreeMap<String, ConsumerPending> = BTreeMap::new();
        let mut looked_at = 0;
        for source in self.sources(handler)? {
            let known = match self.broker.consumers(&source).await {
                // Nothing has ever been read from it.
                Err(BrokerError::NoGroup { .. }) => continue,
                known => known?,
            };
            for info in known.into_iter().filter(|info| info.pending > 0) {
                consumers.entry(info.name).or_default().count += info.pending;
                report.total += info.pending;
            }
            let entries = self.all_pending(&source).await?;
            let now = now_ms();
            for entry in entries {
                looked_at += 1;
                let age_ms = now.saturating_sub(entry.id.ms);
                let consumer = consumers.entry(entry.consumer.clone()).or_default();
                consumer.oldest_ms = consumer.oldest_ms.max(age_ms);
                consumer.max_attempts = consumer.max_attempts.max(entry.attempts);
                report.entries.push(row(&source, entry, age_ms));
                // The oldest are wanted; streams come one after the other.
                if report.entries.len() > query.limit.saturating_mul(2).saturating_add(PAGE) {
                    keep_oldest(&mut report.entries, query.limit);
                }
            }
        }
        report.total = report.total.max(looked_at);
        report.looked_at = looked_at;
        keep_oldest(&mut report.entries, query.limit);
        let workers: Vec<String> =
            consumers.keys().map(|name| keys::worker_of(name).unwrap_or_default().to_owned()).collect();
        let alive = self.broker.alive(&workers).await?;
        for (((consumer, mut pending), worker), alive) in consumers.into_iter().zip(workers).zip(alive) {
            pending.state = match (worker.as_str(), alive) {
                ("", _) if consumer == keys::PARKED_CONSUMER => "parked",
                ("", _) => "foreign",
                (_, true) => "alive",
                (_, false) => "dead",
            }
            .to_owned();
            pending.consumer = consumer;
            report.consumers.push(pending);
        }
        Ok(report)
    }

    /// What a handler reads, its inbox included.
    pub(super) fn sources(&self, handler: &str) -> Result<Vec<Source>, OpsError> {
        let resolved = self.handler(handler)?;
        let streams = resolved.streams.iter().map(|stream| self.tenant.namespace.source(stream, &resolved.group));
        Ok(streams.chain([self.tenant.namespace.inbox_source(&resolved.name, &resolved.group)]).collect())
    }

    async fn all_pending(&self, source: &Source) -> Result<Vec<PendingEntry>, OpsError> {
        let (mut all, mut from) = (Vec::new(), EntryId::MIN);
        while all.len() < MAX_LOOKED_AT {
            let page = match self.broker.pending(source, from, PAGE).await {
                // Nothing has ever been read from it.
                Err(BrokerError::NoGroup { .. }) => break,
                page => page?,
            };
            let Some(last) = page.last() else { break };
            from = last.id.next();
            all.extend(page);
        }
        Ok(all)
    }
}

fn row(source: &Source, entry: PendingEntry, age_ms: u64) -> PendingRow {
    PendingRow {
        stream: source.stream.clone(),
        entry: entry.id.to_string(),
        consumer: entry.consumer,
        age_ms,
        idle_ms: u64::try_from(entry.idle.as_millis()).unwrap_or(u64::MAX),
        attempts: entry.attempts,
    }
}

fn keep_oldest(rows: &mut Vec<PendingRow>, limit: usize) {
    rows.sort_by_key(|row| std::cmp::Reverse(row.age_ms));
    rows.truncate(limit);
}
