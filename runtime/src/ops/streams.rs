//! Streams as they stand: how long, how old, and who reads them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Operator, OpsError};
use crate::broker::{BrokerError, StreamInfo};
use crate::clock::now_ms;

/// The most streams that are listed when all are asked for.
const MAX_STREAMS: usize = 10_000;

/// A stream.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct StreamReport {
    /// Its name.
    pub stream: String,
    /// Whether it is there: a stream of the configuration is made when it is first needed.
    pub exists: bool,
    /// Entries in it.
    pub length: usize,
    /// Bytes that it takes in the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The oldest entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// Time since the oldest entry was written, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_age_ms: Option<u64>,
    /// The newest entry that there ever was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Time since that was written, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_age_ms: Option<u64>,
    /// The most entries that are kept; more may be there while a group has not settled them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// The greatest age that is kept, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
    /// The consumer groups that read it.
    pub groups: Vec<GroupReport>,
    /// Why the broker does not show it, such as a key of another type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A consumer group of a stream.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct GroupReport {
    /// Its name.
    pub group: String,
    /// The handler that reads through it, if it is one of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// Entries that were not handed out yet; absent if the broker cannot tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<usize>,
    /// Entries that were handed out and are not settled.
    pub pending: usize,
    /// Its consumers, idle ones included.
    pub consumers: usize,
    /// The newest entry that was handed out.
    pub delivered: String,
}

impl Operator {
    /// The named streams; if none is named those of the configuration, or with `all` every one that there is.
    pub async fn streams(&self, names: &[String], all: bool) -> Result<Vec<StreamReport>, OpsError> {
        let names = match (names.is_empty(), all || self.handlers.is_empty()) {
            (false, _) => names.to_vec(),
            (true, false) => {
                self.configured_streams().into_iter().filter(|name| self.tenant.namespace.is_own(name)).collect()
            }
            (true, true) => {
                let prefix = self.tenant.namespace.prefix();
                let keys = self.broker.stream_keys(prefix, MAX_STREAMS).await?;
                let names = keys.iter().filter_map(|key| key.strip_prefix(prefix));
                let mut names: Vec<String> = names.filter(|name| self.may_see(name)).map(str::to_owned).collect();
                names.sort();
                names
            }
        };
        let mut reports = Vec::with_capacity(names.len());
        for name in names {
            match self.stream(&name).await {
                // One that cannot be looked at is no reason to hide the others.
                Err(OpsError::Broker(error @ BrokerError::Refused { .. })) => {
                    let error = Some(error.to_string());
                    reports.push(StreamReport { stream: name, exists: true, error, ..StreamReport::default() });
                }
                // Deleted since it was found.
                Err(OpsError::UnknownStream { .. }) if all => {}
                report => reports.push(report?),
            }
        }
        Ok(reports)
    }

    /// One stream.
    pub async fn stream(&self, name: &str) -> Result<StreamReport, OpsError> {
        let key = self.key(name)?;
        let Some(info) = self.broker.stream(&key).await? else {
            return match self.configured_streams().iter().any(|known| known == name) {
                true => Ok(StreamReport { stream: name.to_owned(), ..StreamReport::default() }),
                false => Err(self.unknown_stream(name)),
            };
        };
        let memory_bytes = self.broker.memory(&key).await?;
        Ok(self.stream_report(name, &info, memory_bytes))
    }

    fn stream_report(&self, name: &str, info: &StreamInfo, memory_bytes: Option<u64>) -> StreamReport {
        let now = now_ms();
        let is_used = info.last != Default::default();
        let groups = info.groups.iter().map(|group| GroupReport {
            group: group.name.clone(),
            handler: self
                .handlers
                .iter()
                .find(|handler| handler.group == group.name && handler.streams.iter().any(|stream| stream == name))
                .map(|handler| handler.name.clone()),
            lag: group.lag,
            pending: group.pending,
            consumers: group.consumers,
            delivered: group.delivered.to_string(),
        });
        let mut groups: Vec<GroupReport> = groups.collect();
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        let retention = self.streams.get(name);
        let max_age = retention.and_then(|retention| retention.max_age);
        StreamReport {
            stream: name.to_owned(),
            exists: true,
            length: info.length,
            memory_bytes,
            max_length: retention.and_then(|retention| retention.max_length),
            max_age_ms: max_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            first: info.first.map(|id| id.to_string()),
            first_age_ms: info.first.map(|id| now.saturating_sub(id.ms)),
            last: is_used.then(|| info.last.to_string()),
            last_age_ms: is_used.then(|| now.saturating_sub(info.last.ms)),
            groups,
            error: None,
        }
    }
}
