//! Wire forms of an [`Event`]: fields of a stream entry in, fields out. Pure.
//!
//! The usual form is CloudEvents. Written is binary mode: one field per attribute (`ce_id`, `ce_source` ...),
//! `content-type`, `traceparent`, `tracestate` and `data`. Read is binary mode and structured mode (see [`structured`]).
//! Streams of other programs have an [`Envelope`] of their own, as their [`settings`] say.

mod mapped;
pub mod settings;
pub mod structured;

pub use mapped::{Envelope, Envelopes};

use jiff::Timestamp;

use crate::broker::Fields;
use crate::event::{Event, MAX_ATTRIBUTES, TRACEPARENT, TRACESTATE};

/// The most fields of an entry that wasmill writes: scripts cannot take more than some thousand values at a time.
pub const MAX_FIELDS: usize = 1000;

/// The prefix of the fields that are CloudEvents attributes.
const PREFIX: &str = "ce_";
const CONTENT_TYPE: &str = "content-type";
const DATA: &str = "data";

/// An entry is not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field that every event has is not there.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field that must say something says nothing.
    #[error("field `{0}` is empty")]
    Empty(&'static str),
    /// A field occurs twice.
    #[error("field `{0}` occurs more than once")]
    Duplicate(String),
    /// A field that holds text does not.
    #[error("field `{0}` is not UTF-8")]
    NotUtf8(String),
    /// A time that is none.
    #[error("field `{field}` is not an RFC 3339 time after 1970: `{value}`")]
    InvalidTime { field: String, value: String },
    /// A field that the envelope of the stream asks for is not there.
    #[error("field `{0}` is missing, which the envelope of the stream asks for")]
    NoField(String),
    /// The document in a field is not what it must be.
    #[error("field `{field}`{}: {problem}", if path.is_empty() { String::new() } else { format!(", at `{path}`") })]
    Document { field: String, path: String, problem: String },
    /// A version of CloudEvents that we do not speak.
    #[error("field `ce_specversion` is `{0}`, not 1.0")]
    UnsupportedVersion(String),
    /// More attributes than [`MAX_ATTRIBUTES`].
    #[error("more than {MAX_ATTRIBUTES} attributes")]
    TooManyAttributes,
    /// The payload in structured mode is not a CloudEvent.
    #[error("the CloudEvent in field `data` is not valid: {0}")]
    Structured(String),
}

impl DecodeError {
    /// The same about a field that is called otherwise in the entry.
    fn renamed(self, from: &str, to: &str) -> DecodeError {
        match self {
            DecodeError::Duplicate(field) if field == from => DecodeError::Duplicate(to.to_owned()),
            DecodeError::NotUtf8(field) if field == from => DecodeError::NotUtf8(to.to_owned()),
            other => other,
        }
    }
}

/// An event cannot be written into a stream in the form that the stream has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A flat entry is an object.
    #[error("the stream's envelope is `flat`: the data must be a JSON object")]
    NotAnObject,
    /// More fields than an entry may have.
    #[error("the entry would have {0} fields; at most {MAX_FIELDS} can be written")]
    TooManyFields(usize),
    /// A member has the name of a field that CloudEvents has.
    #[error("the stream's envelope is `flat`: the data must not have a member `{0}`, which is a CloudEvents field")]
    ReservedMember(String),
}

/// Reads the fields of an entry. `entry_ms` is the time of an event that does not name one. Fields that belong to no
/// CloudEvent are left alone: they stay in the entry, and in its dead letter if it comes to that.
pub fn decode(fields: Fields, entry_ms: u64) -> Result<Event, DecodeError> {
    let mut event = Event::default();
    let mut seen = Seen::default();
    for (name, value) in fields {
        let Ok(name) = std::str::from_utf8(&name) else {
            return Err(DecodeError::NotUtf8(String::from_utf8_lossy(&name).into_owned()));
        };
        take_in(&mut event, &mut seen, name, value)?;
    }
    if structured::is_media_type(&event.content_type) {
        return structured::parse(&event.data, entry_ms).map_err(|error| DecodeError::Structured(error.to_string()));
    }
    for (bit, field, value) in [
        (Seen::ID, "ce_id", &event.id),
        (Seen::SOURCE, "ce_source", &event.source),
        (Seen::TYPE, "ce_type", &event.r#type),
    ] {
        if seen.0 & bit == 0 {
            return Err(DecodeError::Missing(field));
        }
        if value.is_empty() {
            return Err(DecodeError::Empty(field));
        }
    }
    if seen.0 & Seen::TIME == 0 {
        event.time = entry_ms;
    }
    Ok(event)
}

/// Reads one field, if it is one that CloudEvents has.
fn take_in(event: &mut Event, seen: &mut Seen, name: &str, value: Vec<u8>) -> Result<(), DecodeError> {
    if name == DATA {
        seen.once(Seen::DATA, name)?;
        event.data = value;
    } else if let Some(attribute) = name.strip_prefix(PREFIX) {
        decode_attribute(event, seen, name, attribute, value)?;
    } else if name == CONTENT_TYPE {
        seen.once(Seen::CONTENT_TYPE, name)?;
        event.content_type = text(name, value)?;
    } else if name == TRACEPARENT || name == TRACESTATE {
        push_attribute(event, name, name, value)?;
    }
    Ok(())
}

/// Reads one `ce_*` field.
fn decode_attribute(
    event: &mut Event,
    seen: &mut Seen,
    field: &str,
    attribute: &str,
    value: Vec<u8>,
) -> Result<(), DecodeError> {
    match attribute {
        "id" => {
            seen.once(Seen::ID, field)?;
            event.id = text(field, value)?;
        }
        "source" => {
            seen.once(Seen::SOURCE, field)?;
            event.source = text(field, value)?;
        }
        "type" => {
            seen.once(Seen::TYPE, field)?;
            event.r#type = text(field, value)?;
        }
        "time" => {
            seen.once(Seen::TIME, field)?;
            let value = text(field, value)?;
            event.time =
                parse_time(&value).ok_or_else(|| DecodeError::InvalidTime { field: field.to_owned(), value })?;
        }
        "subject" => {
            seen.once(Seen::SUBJECT, field)?;
            event.subject = Some(text(field, value)?);
        }
        "dataschema" => {
            seen.once(Seen::DATASCHEMA, field)?;
            event.schema_version = Some(text(field, value)?);
        }
        "partitionkey" => {
            seen.once(Seen::PARTITION_KEY, field)?;
            event.partition_key = Some(text(field, value)?);
        }
        "specversion" => {
            seen.once(Seen::SPECVERSION, field)?;
            let version = text(field, value)?;
            if version != "1.0" {
                return Err(DecodeError::UnsupportedVersion(version));
            }
        }
        other => push_attribute(event, field, other, value)?,
    }
    Ok(())
}

fn push_attribute(event: &mut Event, field: &str, name: &str, value: Vec<u8>) -> Result<(), DecodeError> {
    if event.attribute(name).is_some() {
        return Err(DecodeError::Duplicate(field.to_owned()));
    }
    if event.attributes.len() == MAX_ATTRIBUTES {
        return Err(DecodeError::TooManyAttributes);
    }
    event.attributes.push((name.to_owned(), text(field, value)?));
    Ok(())
}

/// Hands the fields of the entry to `put`, in the order in which they are written.
pub fn encode(event: &Event, mut put: impl FnMut(&str, &[u8])) {
    put("ce_specversion", b"1.0");
    put("ce_id", event.id.as_bytes());
    put("ce_source", event.source.as_bytes());
    put("ce_type", event.r#type.as_bytes());
    put("ce_time", format_time(event.time).as_bytes());
    let optional = [
        ("ce_subject", &event.subject),
        ("ce_dataschema", &event.schema_version),
        ("ce_partitionkey", &event.partition_key),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            put(field, value.as_bytes());
        }
    }
    for (name, value) in &event.attributes {
        match name.as_str() {
            TRACEPARENT | TRACESTATE => put(name, value.as_bytes()),
            _ => put(&format!("{PREFIX}{name}"), value.as_bytes()),
        }
    }
    if !event.content_type.is_empty() {
        put(CONTENT_TYPE, event.content_type.as_bytes());
    }
    put(DATA, &event.data);
}

/// The fields of the entry as a list.
pub fn fields(event: &Event) -> Fields {
    let mut fields = Vec::with_capacity(10 + event.attributes.len());
    encode(event, |name, value| fields.push((name.as_bytes().to_vec(), value.to_vec())));
    fields
}

/// Milliseconds since the Unix epoch of an RFC 3339 time; `None` if it is none or lies before 1970.
pub fn parse_time(text: &str) -> Option<u64> {
    text.parse::<Timestamp>().ok()?.as_millisecond().try_into().ok()
}

/// The RFC 3339 form of a time in milliseconds since the Unix epoch, in UTC. Times after the year 9999 are cut to it.
pub fn format_time(ms: u64) -> String {
    let timestamp = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    timestamp.unwrap_or(Timestamp::MAX).to_string()
}

fn text(field: &str, value: Vec<u8>) -> Result<String, DecodeError> {
    String::from_utf8(value).map_err(|_| DecodeError::NotUtf8(field.to_owned()))
}

/// Which of the single fields have been read.
#[derive(Default)]
struct Seen(u16);

impl Seen {
    const ID: u16 = 1;
    const SOURCE: u16 = 2;
    const TYPE: u16 = 4;
    const TIME: u16 = 8;
    const SUBJECT: u16 = 16;
    const DATASCHEMA: u16 = 32;
    const PARTITION_KEY: u16 = 64;
    const SPECVERSION: u16 = 128;
    const CONTENT_TYPE: u16 = 256;
    const DATA: u16 = 512;

    fn once(&mut self, bit: u16, field: &str) -> Result<(), DecodeError> {
        if self.0 & bit != 0 {
            return Err(DecodeError::Duplicate(field.to_owned()));
        }
        self.0 |= bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: [(&str, &str); 3] = [("ce_id", "1"), ("ce_source", "/s"), ("ce_type", "t")];

    fn entry(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    fn with(extra: &[(&str, &str)]) -> Fields {
        entry(&[&BASE, extra].concat())
    }

    /// Any event that can be written.
    pub(super) fn any_event() -> impl Strategy<Value = Event> {
        let optional = || proptest::option::of(".{0,12}");
        let attributes = proptest::collection::btree_map("x[a-z0-9]{1,10}", ".{0,12}", 0..5);
        let named = (".{1,12}", ".{1,12}", ".{1,12}", 0u64..253_402_207_200_000);
        let rest = (optional(), optional(), optional(), "[a-z]{0,8}", attributes, any::<Vec<u8>>());
        (named, rest).prop_map(|((id, source, r#type, time), rest)| {
            let (subject, schema_version, partition_key, content_type, attributes, data) = rest;
            let attributes = attributes.into_iter().collect();
            let optional = (subject, schema_version, partition_key);
            let (subject, schema_version, partition_key) = optional;
            Event { id, source, r#type, time, subject, schema_version, partition_key, content_type, attributes, data }
        })
    }

    proptest! {
        #[test]
        fn every_event_survives_binary_mode(event in any_event()) {
            prop_assert_eq!(decode(fields(&event), 0), Ok(event));
        }

        #[test]
        fn every_event_survives_structured_mode(event in any_event()) {
            let json = structured::to_json(&event);
            let mut back = structured::parse(json.to_string().as_bytes(), 0).map_err(|e| e.to_string()).unwrap();
            let meaning = |data: &[u8]| serde_json::from_slice::<serde_json::Value>(data).ok();
            if back.data != event.data {
                prop_assert!(event.content_type.is_empty(), "only JSON may be written in another way");
                prop_assert_eq!(meaning(&back.data), meaning(&event.data));
                prop_assert!(meaning(&event.data).is_some());
                back.data.clone_from(&event.data);
            }
            prop_assert_eq!(back, event);
        }

        #[test]
        fn no_entry_makes_decoding_panic(
            fields in proptest::collection::vec(("(ce_)?(id|source|type|time|data|x)", any::<Vec<u8>>()), 0..8),
        ) {
            let fields = fields.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
            let _ = decode(fields, 0);
        }
    }

    #[test]
    fn missing_empty_duplicate_and_binary_fields_are_named() {
        for (at, (name, _)) in BASE.into_iter().enumerate() {
            let mut fields = entry(&BASE);
            let (field, _) = fields.remove(at);
            assert_eq!(decode(fields.clone(), 0), Err(DecodeError::Missing(name)));
            fields.push((field, Vec::new()));
            assert_eq!(decode(fields, 0), Err(DecodeError::Empty(name)));
            assert_eq!(decode(with(&[(name, "again")]), 0), Err(DecodeError::Duplicate(name.into())));
        }
        assert_eq!(decode(with(&[("ce_x", "1"), ("ce_x", "2")]), 0), Err(DecodeError::Duplicate("ce_x".into())));
        let mut fields = entry(&BASE);
        fields.push((b"ce_subject".to_vec(), vec![0xff]));
        assert_eq!(decode(fields, 0), Err(DecodeError::NotUtf8("ce_subject".into())));
    }

    #[test]
    fn times_and_versions_are_checked() {
        assert_eq!(decode(with(&[("ce_time", "1970-01-01T00:00:01.5Z")]), 7).map(|event| event.time), Ok(1500));
        assert_eq!(decode(with(&[]), 7).map(|event| event.time), Ok(7));
        for bad in ["", "yesterday", "1969-12-31T23:59:59Z", "12"] {
            assert_eq!(
                decode(with(&[("ce_time", bad)]), 0),
                Err(DecodeError::InvalidTime { field: "ce_time".into(), value: bad.into() })
            );
        }
        assert_eq!(decode(with(&[("ce_specversion", "0.3")]), 0), Err(DecodeError::UnsupportedVersion("0.3".into())));
    }

    #[test]
    fn attributes_are_bounded() {
        let names: Vec<String> = (0..=MAX_ATTRIBUTES).map(|n| format!("ce_x{n}")).collect();
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert!(decode(with(&pairs[1..]), 0).is_ok());
        assert_eq!(decode(with(&pairs), 0), Err(DecodeError::TooManyAttributes));
    }

    #[test]
    fn foreign_fields_and_empty_payloads_are_no_fault() {
        let event = decode(with(&[("note", "x"), ("traceparent", "00-aa-bb-01")]), 0).expect("a valid entry");
        assert_eq!(event.attribute(TRACEPARENT), Some("00-aa-bb-01"));
        assert_eq!((event.data.len(), event.attributes.len()), (0, 1));
    }
}
