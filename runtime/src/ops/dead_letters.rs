//! Dead letters with all their evidence, and the way back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::pins::Pinning;
use super::versions::name;
use super::{Operator, OpsError, about};
use crate::audit::Verb;
use crate::broker::dead_letter::{self, StoredDeadLetter};
use crate::broker::{BrokerError, EntryId, keys};
use crate::config::is_handler_name;
use crate::envelope::structured;

/// The most dead letters of one page.
const MAX_PAGE: usize = 1000;

/// Bytes as JSON: as text where they are UTF-8, else in base64.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawBytes {
    /// They are UTF-8.
    Text(String),
    /// They are not.
    Base64(String),
}

impl RawBytes {
    /// The JSON form of these bytes.
    pub fn new(bytes: &[u8]) -> RawBytes {
        match std::str::from_utf8(bytes) {
            Ok(text) => RawBytes::Text(text.to_owned()),
            Err(_) => RawBytes::Base64(BASE64.encode(bytes)),
        }
    }

    /// The bytes; fails for what is no base64.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        match self {
            RawBytes::Text(text) => Ok(text.clone().into_bytes()),
            RawBytes::Base64(text) => BASE64.decode(text).map_err(|error| format!("base64: {error}")),
        }
    }
}

/// Which dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterQuery {
    /// The first: the id of a dead letter, a time, or how long ago [default: the oldest]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The last [default: the newest there is now]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The most entries to look at, 1 to 1000 [default: 100]; a page also ends at 1 MiB
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Leave out the events and their original fields
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub brief: bool,
}

/// Some of the dead letters of a handler, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct DeadLetterPage {
    /// The dead letters.
    pub dead_letters: Vec<DeadLetterReport>,
    /// Where the next page begins (its `from`); absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Where the listing ends: the `to` of the next page, so that what dies meanwhile is not listed. Empty if there is no
    /// dead-letter stream.
    pub to: String,
}

/// An event that could not be handled, and why.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct DeadLetterReport {
    /// Its place in the dead-letter stream.
    pub id: String,
    /// The stream that the event was published to.
    pub stream: String,
    /// Its place there.
    pub entry_id: String,
    /// The handler that could not handle it.
    pub handler: String,
    /// The component that was run; empty if none was.
    pub digest: String,
    /// The class of the fault.
    pub class: String,
    /// What the handler or the host said, at most 4 KiB.
    pub message: String,
    /// Attempts that were made.
    pub attempts: u64,
    /// When the event was published, in milliseconds since the Unix epoch.
    pub first_time: u64,
    /// When it was given up.
    pub last_time: u64,
    /// The worker that gave it up.
    pub worker: String,
    /// The trace that it belongs to, in the form of W3C.
    pub traceparent: String,
    /// The original as CloudEvents JSON; null if it is no event.
    pub event: Option<Value>,
    /// The original fields, byte for byte.
    pub original: Vec<(RawBytes, RawBytes)>,
}

/// Which dead letters are to be moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Their ids, at most 1000.
    pub ids: Vec<String>,
    /// Redriven, they run on this version: its digest, or how it begins; on the one that serves by then if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Who asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct MovedReport {
    /// Those that were moved, or deleted.
    pub done: Vec<String>,
    /// Those that are no longer there, or belong to another handler.
    pub absent: Vec<String>,
    /// Why others could not be redriven.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Workers that prepare the version which is to run them: nothing was moved yet, ask again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
}

impl Operator {
    /// A page of the dead letters of a handler. Other entries of the stream are passed over, those of handlers that
    /// share it among them.
    pub async fn dead_letters(&self, handler: &str, query: &DeadLetterQuery) -> Result<DeadLetterPage, OpsError> {
        let key = self.dead_key(handler)?;
        let (from, mut to) = self.bounds(query.from.as_deref(), query.to.as_deref())?;
        let limit = query.limit.unwrap_or(100);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(OpsError::Invalid(format!("`limit` is {limit}; it must be 1 to {MAX_PAGE}")));
        }
        let mut page = DeadLetterPage::default();
        let Some(info) = self.broker.stream(&key).await.map_err(|error| about(&key, error))? else { return Ok(page) };
        to = to.min(info.last);
        page.to = to.to_string();
        // Of the entries that are looked at some may be others', and pages end by bytes: there may be fewer than asked for.
        let (entries, more) = self.page(&key, (from, to), limit, false).await?;
        page.next = entries.last().filter(|_| more).map(|last| last.id.next().to_string());
        let letters = entries.into_iter().filter_map(dead_letter::parse);
        let own = letters.filter(|letter| letter.get("handler") == handler);
        page.dead_letters = own.map(|letter| self.letter_report(letter, query.brief)).collect();
        Ok(page)
    }

    /// One dead letter of a handler.
    pub async fn dead_letter(&self, handler: &str, id: &str) -> Result<DeadLetterReport, OpsError> {
        let letter = self.find_letter(&self.dead_key(handler)?, entry_id(id)?).await?;
        let own = letter.filter(|letter| letter.get("handler") == handler);
        let own = own.map(|letter| self.letter_report(letter, false));
        own.ok_or_else(|| OpsError::UnknownDeadLetter { handler: handler.to_owned(), id: id.to_owned() })
    }

    /// Sends dead letters back to their handler. Doing it twice does it once. If they are to run on a certain version, they
    /// are sent when every worker that serves the handler has it; the report says for whom that has to wait.
    pub async fn redrive(&self, handler: &str, selection: &Selection) -> Result<MovedReport, OpsError> {
        let key = self.dead_key(handler)?;
        let inbox = self.tenant.namespace.inbox(handler);
        let mut report = MovedReport::default();
        let chosen = parsed(selection)?;
        let version = match &selection.to {
            None => None,
            Some(to) => match self.pin(handler, to, &name("by", selection.by.as_deref())?).await? {
                Pinning::Held(digest) => Some(digest),
                Pinning::Waiting(waiting) => return Ok(MovedReport { waiting, ..report }),
            },
        };
        let to = version.as_ref().map(|digest| format!(", to sha256:{digest}"));
        let what = format!("{}{}", ids(&chosen), to.unwrap_or_default());
        let work = async {
            for (text, id) in chosen {
                if self.is_foreign(handler, &key, id).await? {
                    report.absent.push(text);
                    continue;
                }
                match self.broker.redrive(&key, id, &inbox, version.as_deref()).await {
                    Ok(true) => report.done.push(text),
                    Ok(false) => report.absent.push(text),
                    // The others can be redriven all the same.
                    Err(error @ BrokerError::NotRedrivable { .. }) => report.refused.push(error.to_string()),
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(report)
        };
        self.audited((Verb::Redrive, handler), what, work, moved).await
    }

    /// Deletes dead letters for good.
    pub async fn drop_dead_letters(&self, handler: &str, selection: &Selection) -> Result<MovedReport, OpsError> {
        if selection.to.is_some() {
            return Err(OpsError::Invalid(
                "`to` says where dead letters are redriven to: it does not go with dropping".to_owned(),
            ));
        }
        let key = self.dead_key(handler)?;
        let mut report = MovedReport::default();
        let chosen = parsed(selection)?;
        let what = ids(&chosen);
        let work = async {
            for (text, id) in chosen {
                let foreign = self.is_foreign(handler, &key, id).await?;
                let deleted = !foreign && self.broker.delete(&key, &[id]).await? == 1;
                if deleted { &mut report.done } else { &mut report.absent }.push(text);
            }
            Ok(report)
        };
        self.audited((Verb::Drop, handler), what, work, moved).await
    }

    fn dead_key(&self, handler: &str) -> Result<std::sync::Arc<str>, OpsError> {
        // Without a configuration the usual name is what there is to go by.
        let name = match self.handlers.is_empty() && is_handler_name(handler) {
            true => keys::default_dead_letter(handler),
            // `TENANT/HANDLER` is what those of other tenants are called in records.
            false => self.handler(handler)?.dead_letter.clone(),
        };
        self.key(&name)
    }

    async fn find_letter(&self, key: &str, id: EntryId) -> Result<Option<StoredDeadLetter>, OpsError> {
        Ok(self.broker.range(key, id, id, 1).await?.pop().and_then(dead_letter::parse))
    }

    /// Whether it is a dead letter of another handler on the same stream.
    async fn is_foreign(&self, handler: &str, key: &str, id: EntryId) -> Result<bool, OpsError> {
        Ok(self.find_letter(key, id).await?.is_some_and(|letter| letter.get("handler") != handler))
    }

    fn letter_report(&self, mut letter: StoredDeadLetter, brief: bool) -> DeadLetterReport {
        if brief {
            letter.original.clear();
        }
        let text = |name| letter.get(name).to_owned();
        let number = |name| letter.get(name).parse().unwrap_or(0);
        let place = letter.get("entry_id").parse().unwrap_or(letter.id);
        let original = (!brief).then(|| letter.original.clone());
        let event = original.and_then(|original| self.envelopes.decode(letter.get("stream"), original, place).ok());
        DeadLetterReport {
            id: letter.id.to_string(),
            stream: text("stream"),
            entry_id: text("entry_id"),
            handler: text("handler"),
            digest: text("digest"),
            class: text("class"),
            message: text("message"),
            attempts: number("attempts"),
            first_time: number("first_time"),
            last_time: number("last_time"),
            worker: text("worker"),
            traceparent: text("traceparent"),
            event: event.map(|event| structured::to_json(&event)),
            original: letter.original.iter().map(|(name, value)| (RawBytes::new(name), RawBytes::new(value))).collect(),
        }
    }
}

fn entry_id(text: &str) -> Result<EntryId, OpsError> {
    text.parse().map_err(|error: crate::broker::InvalidEntryId| OpsError::Invalid(error.to_string()))
}

/// Which dead letters, in short: the audit log has room for some of their ids.
fn ids(chosen: &[(String, EntryId)]) -> String {
    let ids = chosen.iter().map(|(_, id)| id.to_string()).collect::<Vec<_>>();
    format!("{} dead letters: {}", ids.len(), super::join(ids.iter().map(String::as_str)))
}

fn moved(report: &MovedReport) -> String {
    let MovedReport { done, absent, refused, .. } = report;
    format!("{} done, {} absent, {} refused", done.len(), absent.len(), refused.len())
}

fn parsed(selection: &Selection) -> Result<Vec<(String, EntryId)>, OpsError> {
    let count = selection.ids.len();
    if count > MAX_PAGE {
        return Err(OpsError::TooLarge(format!("{count} ids in one request; the limit is {MAX_PAGE}")));
    }
    selection.ids.iter().map(|text| Ok((text.clone(), entry_id(text)?))).collect()
}
