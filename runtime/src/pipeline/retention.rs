//! Keeping streams as short and as young as configured, without touching what a group has not settled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::brokers::Brokers;
use super::roster::Roster;
use crate::broker::redis::Login;
use crate::broker::{BrokerError, Operate};
use crate::stats::Counter;

/// How much of a stream is kept.
#[derive(Clone, Debug)]
pub struct Retention {
    /// The name of the stream.
    pub stream: String,
    /// Its Redis key.
    pub key: Arc<str>,
    /// The Redis user of the tenant, if it has one.
    pub login: Option<Login>,
    /// The most entries to keep.
    pub max_length: Option<usize>,
    /// Entries older than this are removed.
    pub max_age: Option<Duration>,
    /// Entries that this worker has removed.
    pub trimmed: Arc<Counter>,
}

/// What was last said of a stream, so that it is said once.
#[derive(Default, PartialEq, Eq)]
struct Told {
    held_back_by: Option<String>,
    error: Option<String>,
}

/// Trims the streams of the roster again and again, until the future is dropped.
pub(super) async fn run(brokers: &Brokers, own: &Arc<dyn Operate>, roster: &Roster, interval: Duration) {
    let mut told: HashMap<String, Told> = HashMap::new();
    loop {
        // Spread over the workers, so that they do not all look at the same moment.
        tokio::time::sleep(interval.mul_f64(0.5 + rand::random::<f64>())).await;
        let served = roster.now();
        told.retain(|stream, _| served.retention.iter().any(|retention| retention.stream == *stream));
        // Most inboxes are empty: those cost no more than asking for that. What cannot be looked at, trimming has to say.
        let keys: Vec<_> = served.retention.iter().map(|retention| retention.key.clone()).collect();
        let lengths = own.lengths(&keys).await.unwrap_or_else(|_| vec![None; keys.len()]);
        for (retention, length) in served.retention.iter().zip(lengths) {
            let before = told.entry(retention.stream.clone()).or_default();
            let broker = brokers.operate(own, retention.login.as_ref());
            let now = match length {
                Some(0) => Ok(None),
                _ => trim(&*broker, retention).await,
            };
            let now = match now {
                Ok(held_back_by) => Told { held_back_by, error: None },
                Err(error) => Told { error: Some(error.to_string()), held_back_by: before.held_back_by.take() },
            };
            report(&retention.stream, before, &now);
            *before = now;
        }
    }
}

/// Removes what may be removed now; the group that holds back the rest, if one does.
async fn trim(broker: &dyn Operate, retention: &Retention) -> Result<Option<String>, BrokerError> {
    let mut removed = 0;
    loop {
        let trimmed = broker.trim(&retention.key, retention.max_length, retention.max_age).await?;
        removed += trimmed.removed;
        retention.trimmed.add(trimmed.removed as u64);
        if !trimmed.more {
            if removed > 0 {
                tracing::info!(stream = retention.stream, removed, length = trimmed.length, "stream trimmed");
            }
            return Ok(trimmed.held_back_by);
        }
    }
}

fn report(stream: &str, before: &Told, now: &Told) {
    if now.error.is_some() {
        if let Some(error) = now.error.as_ref().filter(|_| now.error != before.error) {
            tracing::warn!(stream, "cannot trim: {error}");
        }
        return;
    }
    match (&before.held_back_by, &now.held_back_by) {
        (before, Some(group)) if before.as_ref() != Some(group) => {
            tracing::warn!(
                stream,
                group,
                alarm = "retention_held_back",
                "the stream holds more than it should: the group has not settled its oldest entries. Let its consumers \
                 catch up, or remove the group (XGROUP DESTROY) if nobody needs it"
            );
        }
        (Some(_), None) => tracing::info!(stream, "nothing holds back trimming any more"),
        _ => {}
    }
}
