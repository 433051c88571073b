//! Past events, page by page: the memory that is needed does not depend on how many there are.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{Operator, OpsError, Position, RawBytes, about};
use crate::broker::{Entry, EntryId, Fields};
use crate::clock::now_ms;
use crate::envelope::structured;
use crate::event::Event;
use crate::route::TypePattern;

/// The most entries that one page looks at.
pub const MAX_HISTORY_PAGE: usize = 1000;
/// A page ends when its entries have so many bytes.
const PAGE_BYTES: usize = 1 << 20;
/// Entries of the first request of a page, when their size is not known.
const FIRST_READ: usize = 8;
/// How often somebody who waits looks for events.
const WAIT_POLL: Duration = Duration::from_millis(100);
/// The longest that a page waits for an event to come.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// The oldest place: an entry id, a time, or how long ago [default: the beginning]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The newest place [default: the end]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The most entries to look at, 1 to 1000 [default: 100]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Events of this type alone; `*` stands for any characters
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// The newest event first
    pub newest_first: bool,
    /// If there is nothing yet, wait so long for an event, in milliseconds, at most 20000
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// One entry of a stream.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct HistoryEvent {
    /// Its place in the stream.
    pub entry: String,
    /// The event as CloudEvents JSON; absent if the entry is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Value>,
    /// Why the entry is not an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The fields of an entry that is not an event.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(RawBytes, RawBytes)>,
}

/// Some of the history of a stream.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct HistoryPage {
    /// The entries that were asked for, in order.
    pub events: Vec<HistoryEvent>,
    /// Where the next page begins: its `from`, or its `to` when the newest come first; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The newest entry of the stream that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// An entry of a stream and the event in it; what stands in its place if it is none, and why.
#[derive(Debug)]
pub struct PastEntry {
    /// Its place in the stream.
    pub id: EntryId,
    /// The event, or what is wrong and the fields.
    pub event: Result<Event, (String, Fields)>,
}

/// Some of the history of a stream; see [`HistoryPage`].
#[derive(Debug)]
pub struct PastPage {
    /// The entries that were asked for, in order.
    pub entries: Vec<PastEntry>,
    /// Where the next page begins.
    pub next: Option<EntryId>,
    /// The newest entry of the stream that was looked at.
    pub last: Option<EntryId>,
}

impl Operator {
    /// A page of the events of a stream.
    pub async fn history(&self, stream: &str, query: &HistoryQuery) -> Result<HistoryPage, OpsError> {
        let past = self.past(stream, query).await?;
        let event = |entry: PastEntry| match entry.event {
            Ok(event) => HistoryEvent {
                entry: entry.id.to_string(),
                event: Some(structured::to_json(&event)),
                error: None,
                fields: Vec::new(),
            },
            Err((error, fields)) => HistoryEvent {
                entry: entry.id.to_string(),
                event: None,
                error: Some(error),
                fields: fields.iter().map(|(name, value)| (RawBytes::new(name), RawBytes::new(value))).collect(),
            },
        };
        let events = past.entries.into_iter().map(event).collect();
        let text = |id: Option<EntryId>| id.map(|id| id.to_string());
        Ok(HistoryPage { events, next: text(past.next), last: text(past.last) })
    }

    /// The same, as events.
    pub async fn past(&self, stream: &str, query: &HistoryQuery) -> Result<PastPage, OpsError> {
        let (mut from, to) = self.bounds(query.from.as_deref(), query.to.as_deref())?;
        let count = query.count.unwrap_or(100);
        if !(1..=MAX_HISTORY_PAGE).contains(&count) {
            return Err(OpsError::Invalid(format!("`count` is {count}; it must be 1 to {MAX_HISTORY_PAGE}")));
        }
        let pattern = query.r#type.as_deref().map(|text| {
            TypePattern::check(text).map_err(|cause| OpsError::Invalid(format!("`type` {text:?}: {cause}")))?;
            Ok::<_, OpsError>(TypePattern::new(text))
        });
        let pattern = pattern.transpose()?;
        let key = self.key(stream)?;
        let wait = Duration::from_millis(query.wait_ms.unwrap_or(0)).min(MAX_WAIT);
        let (mut entries, mut more) = self.page(&key, (from, to), count, query.newest_first).await?;
        let is_configured = || self.configured_streams().iter().any(|known| known == stream);
        if entries.is_empty() && wait.is_zero() && !is_configured() && self.broker.stream(&key).await?.is_none() {
            return Err(self.unknown_stream(stream));
        }
        // Asking again and again: a request that blocks would hold up all others on its connection.
        let deadline = tokio::time::Instant::now() + wait;
        while entries.is_empty() && !query.newest_first && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(WAIT_POLL).await;
            (entries, more) = self.page(&key, (from, to), count, false).await?;
        }
        let last = entries.iter().map(|entry| entry.id).max();
        if let Some(end) = entries.last().map(|entry| entry.id) {
            from = if query.newest_first { end.previous() } else { end.next() };
        }
        let entries = entries.into_iter().map(|entry| {
            let (id, fields) = (entry.id, entry.fields.clone());
            PastEntry {
                id,
                event: self.envelopes.decode(stream, entry.fields, id).map_err(|error| (error.to_string(), fields)),
            }
        });
        let wanted = |entry: &PastEntry| match (&pattern, &entry.event) {
            (Some(pattern), Ok(event)) => pattern.matches(&event.r#type),
            (Some(_), Err(_)) => false,
            (None, _) => true,
        };
        Ok(PastPage { entries: entries.filter(wanted).collect(), next: more.then_some(from), last })
    }

    /// The places that two texts mean: the whole stream where nothing is said.
    pub(super) fn bounds(&self, from: Option<&str>, to: Option<&str>) -> Result<(EntryId, EntryId), OpsError> {
        let now = now_ms();
        let parse = |text: &str| Position::parse(text, now).map_err(|error| OpsError::Invalid(error.to_string()));
        let from = from.map(parse).transpose()?.map_or(EntryId::MIN, Position::first);
        let to = to.map(parse).transpose()?.map_or(EntryId::MAX, Position::last);
        if from > to {
            return Err(OpsError::Invalid(format!("the range begins ({from}) after its end ({to})")));
        }
        Ok((from, to))
    }

    /// Up to `count` entries, fewer if they are large, and whether there may be more.
    pub(super) async fn page(
        &self,
        key: &str,
        (mut from, mut to): (EntryId, EntryId),
        count: usize,
        newest_first: bool,
    ) -> Result<(Vec<Entry>, bool), OpsError> {
        let (mut entries, mut bytes, mut ask) = (Vec::new(), 0usize, FIRST_READ.min(count));
        loop {
            let read = match newest_first {
                true => self.broker.range_back(key, from, to, ask).await,
                false => self.broker.range(key, from, to, ask).await,
            };
            let read = read.map_err(|error| about(key, error))?;
            let is_short = read.len() < ask;
            bytes += read.iter().map(size).sum::<usize>();
            entries.extend(read);
            let Some(end) = entries.last().map(|entry: &Entry| entry.id) else { return Ok((entries, false)) };
            if is_short || from == to {
                return Ok((entries, false));
            }
            if entries.len() >= count || bytes >= PAGE_BYTES {
                return Ok((entries, true));
            }
            match newest_first {
                true if end <= from => return Ok((entries, false)),
                true => to = end.previous(),
                false if end >= to => return Ok((entries, false)),
                false => from = end.next(),
            }
            let average = (bytes / entries.len()).max(1);
            ask = ((PAGE_BYTES - bytes) / average).clamp(1, count - entries.len());
        }
    }
}

fn size(entry: &Entry) -> usize {
    entry.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
}
