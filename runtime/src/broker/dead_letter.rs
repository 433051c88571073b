//! The form of a dead letter in its stream: evidence first, then the original fields byte for byte.
//!
//! Fields of an inbox entry (a redriven dead letter) follow the same idea: where it came from, then the original.

use std::borrow::Cow;

use super::{Entry, EntryId, Fields};
use crate::event::Event;
use crate::outcome::DeadLetter;

/// The field that ends the evidence; its value is the number of original fields, which follow.
pub const ORIGINAL: &str = "dl_original_fields";
/// The stream that the event was published to.
pub const STREAM: &str = "dl_stream";
/// The entry in that stream.
pub const ENTRY: &str = "dl_entry_id";

/// Why an entry cannot be redriven.
pub const NOT_A_DEAD_LETTER: &str = "it is not a dead letter";
/// Why a dead letter cannot be redriven, and what to do.
pub const NO_ORIGINAL: &str = "it does not hold the original event, which had been trimmed from its stream or has more \
                               than 3,000 fields. Look at it with `wasmill dlq show`, publish the event anew if it is \
                               needed, and delete the dead letter with `wasmill dlq drop`";

/// The evidence as names and values, without [`ORIGINAL`].
pub fn evidence(letter: &DeadLetter) -> [(&'static str, Cow<'_, str>); 11] {
    [
        (STREAM, letter.stream.as_str().into()),
        (ENTRY, letter.entry.to_string().into()),
        ("dl_handler", Cow::from(&*letter.handler)),
        ("dl_digest", letter.digest.as_str().into()),
        ("dl_class", letter.class.as_str().into()),
        ("dl_message", letter.message.as_str().into()),
        ("dl_attempts", letter.attempts.to_string().into()),
        ("dl_first_time", letter.first_time.to_string().into()),
        // The broker fills in its own time.
        ("dl_last_time", "".into()),
        ("dl_worker", Cow::from(&*letter.worker)),
        ("dl_traceparent", letter.traceparent.as_deref().unwrap_or_default().into()),
    ]
}

/// The index of `dl_last_time` in [`evidence`].
pub const LAST_TIME_INDEX: usize = 8;

/// A dead letter as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDeadLetter {
    /// Its own place in the dead-letter stream.
    pub id: EntryId,
    /// Names and values of the evidence, in order.
    pub evidence: Vec<(String, String)>,
    /// The original entry, byte for byte; empty if it had been trimmed away.
    pub original: Fields,
}

impl StoredDeadLetter {
    /// A value of the evidence by its name without `dl_`; empty if absent.
    pub fn get(&self, name: &str) -> &str {
        let full = |key: &str| key.strip_prefix("dl_") == Some(name);
        self.evidence.iter().find(|(key, _)| full(key)).map_or("", |(_, value)| value)
    }

    /// The original as an event, if it is one.
    pub fn event(&self) -> Option<Event> {
        crate::envelope::decode(self.original.clone(), self.id.ms).ok()
    }
}

/// Splits an entry of a dead-letter stream; `None` if it is not a dead letter.
pub fn parse(entry: Entry) -> Option<StoredDeadLetter> {
    let (head, original) = split(entry.fields)?;
    let text = |bytes| String::from_utf8(bytes).ok();
    let evidence = head.into_iter().map(|(name, value)| Some((text(name)?, text(value)?))).collect::<Option<_>>()?;
    Some(StoredDeadLetter { id: entry.id, evidence, original })
}

/// What an inbox entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxEntry {
    /// The stream that the event was first published to.
    pub stream: String,
    /// The entry that it had there.
    pub entry: EntryId,
    /// The original fields.
    pub original: Fields,
    /// It is a replay: the value of [`REPLAY`].
    pub replay: Option<String>,
    /// The version that is to run it: the value of [`VERSION`].
    pub version: Option<String>,
}

/// Splits an entry of an inbox; `None` if it is not one.
pub fn parse_inbox(fields: Fields) -> Option<InboxEntry> {
    let (head, original) = split(fields)?;
    let find = |name: &str| head.iter().find(|(key, _)| key == name.as_bytes()).map(|(_, value)| value.clone());
    let stream = String::from_utf8(find(STREAM)?).ok()?;
    let entry = String::from_utf8(find(ENTRY)?).ok()?.parse().ok()?;
    let text = |name: &str| find(name).map(String::from_utf8).transpose().ok();
    let (replay, version) = (text(REPLAY)?, text(VERSION)?);
    Some(InboxEntry { stream, entry, original, replay, version })
}

/// Evidence and original of a dead letter's or an inbox entry's fields.
fn split(mut fields: Fields) -> Option<(Fields, Fields)> {
    let at = original_at(&fields)?;
    let original = fields.split_off(at + 1);
    let (_, count) = fields.pop()?;
    (count == original.len().to_string().as_bytes()).then_some((fields, original))
}

/// The field of an inbox entry that says that it is a replay; its value is the id of the run, which enters the ids of
/// follow-ups, or empty to keep those of the first run.
pub const REPLAY: &str = "wasmill_replay";

/// The field of an inbox entry that names the version which is to run it: 64 hexadecimal digits.
pub const VERSION: &str = "wasmill_version";

/// The fields of an inbox entry. `replay` is the value of [`REPLAY`].
pub fn inbox_fields(stream: &str, entry: EntryId, original: Fields, replay: Option<&str>) -> Fields {
    let count = original.len().to_string();
    let entry = entry.to_string();
    let head = [(STREAM, stream), (ENTRY, &entry)].into_iter();
    let head = head.chain(replay.map(|run| (REPLAY, run))).chain([(ORIGINAL, count.as_str())]);
    head.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).chain(original).collect()
}

/// The fields of the inbox entry that a dead letter becomes; else why it cannot become one. `version` is the value of
/// [`VERSION`].
pub fn to_inbox(fields: &Fields, version: Option<&str>) -> Result<Fields, &'static str> {
    let at = original_at(fields).ok_or(NOT_A_DEAD_LETTER)?;
    if fields[at].1 == b"0" {
        return Err(NO_ORIGINAL);
    }
    let keep = |name: &[u8]| name == STREAM.as_bytes() || name == ENTRY.as_bytes();
    let head = fields[..at].iter().filter(|(name, _)| keep(name));
    let version = version.map(|digest| (VERSION.as_bytes().to_vec(), digest.as_bytes().to_vec()));
    Ok(head.cloned().chain(version).chain(fields[at..].iter().cloned()).collect())
}

/// The fields of an inbox entry behind what wasmill wrote before them; all of them if it wrote nothing.
pub fn without_head(mut fields: Fields) -> Fields {
    match original_at(&fields) {
        Some(at) => fields.split_off(at + 1),
        None => fields,
    }
}

/// Where the evidence ends.
fn original_at(fields: &Fields) -> Option<usize> {
    fields.iter().position(|(name, _)| name == ORIGINAL.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_entry_says_whether_it_is_a_replay() {
        let original: Fields = vec![(REPLAY.as_bytes().to_vec(), b"not this".to_vec())];
        for replay in [None, Some(""), Some("run 1")] {
            let fields = inbox_fields("orders", EntryId { ms: 7, seq: 1 }, original.clone(), replay);
            assert_eq!(without_head(fields.clone()), original);
            let parsed = parse_inbox(fields).expect("an inbox entry");
            let expected = InboxEntry {
                stream: "orders".to_owned(),
                entry: EntryId { ms: 7, seq: 1 },
                original: original.clone(),
                replay: replay.map(str::to_owned),
                version: None,
            };
            assert_eq!(parsed, expected);
        }
    }

    #[test]
    fn a_dead_letter_may_name_the_version_that_is_to_run_it() {
        let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        // What the original says of a version is the producer's affair.
        let original: Fields = vec![field(VERSION, "not this")];
        let evidence =
            vec![field(STREAM, "orders"), field("dl_class", "trap"), field(ENTRY, "7-1"), field(ORIGINAL, "1")];
        let letter = [evidence, original.clone()].concat();
        for version in [None, Some("abc")] {
            let fields = to_inbox(&letter, version).expect("it holds the original");
            assert_eq!(without_head(fields.clone()), original);
            let parsed = parse_inbox(fields).expect("an inbox entry");
            assert_eq!((parsed.version.as_deref(), parsed.replay, parsed.original), (version, None, original.clone()));
        }
    }
}
