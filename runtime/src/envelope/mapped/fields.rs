//! A field for each part: some under names of their own, everything else as CloudEvents has it (`ce_*`).

use serde_json::{Map, Value};

use super::super::settings::{Encoding, Preset};
use super::super::structured::is_json;
use super::super::{CONTENT_TYPE, DATA, DecodeError, EncodeError, PREFIX};
use super::Envelope;
use super::value::{self, JSON, MSGPACK};
use crate::broker::Fields;
use crate::event::{Event, TRACEPARENT, TRACESTATE};

/// The field of [`Preset::Action`] that holds the name of the stream.
const STREAM: &str = "stream";

/// The CloudEvents field that a field of this form stands for.
fn meaning<'a>(envelope: &Envelope, name: &'a str) -> Option<&'a str> {
    let names = &envelope.settings.names;
    let (usual_type, usual_data) = match envelope.preset() {
        Preset::Named => (Some("name"), Some("body")),
        Preset::Action => (Some("action"), Some("data")),
        _ => (None, None),
    };
    let is = |configured: &Option<String>, usual: Option<&str>| configured.as_deref().or(usual) == Some(name);
    Some(match () {
        () if is(&names.r#type, usual_type) => "ce_type",
        () if is(&names.data, usual_data) => DATA,
        () if is(&names.id, None) => "ce_id",
        () if is(&names.source, None) => "ce_source",
        () if is(&names.time, None) => "ce_time",
        () if is(&names.subject, None) => "ce_subject",
        () if is(&names.version, None) => "ce_dataschema",
        () if is(&names.key, None) => "ce_partitionkey",
        () if is_cloudevents(name) => name,
        () => return None,
    })
}

/// Whether a field is one that CloudEvents has, and no form renames.
fn is_cloudevents(name: &str) -> bool {
    name.starts_with(PREFIX) || matches!(name, CONTENT_TYPE | TRACEPARENT | TRACESTATE)
}

/// The name that a CloudEvents field has in this form.
fn written_name<'a>(envelope: &'a Envelope, field: &'a str) -> &'a str {
    let names = &envelope.settings.names;
    let (configured, usual) = match (field, envelope.preset()) {
        ("ce_type", Preset::Named) => (&names.r#type, "name"),
        ("ce_type", Preset::Action) => (&names.r#type, "action"),
        (DATA, Preset::Named) => (&names.data, "body"),
        ("ce_type", _) => (&names.r#type, field),
        (DATA, _) => (&names.data, field),
        ("ce_id", _) => (&names.id, field),
        ("ce_source", _) => (&names.source, field),
        ("ce_time", _) => (&names.time, field),
        ("ce_subject", _) => (&names.subject, field),
        ("ce_dataschema", _) => (&names.version, field),
        ("ce_partitionkey", _) => (&names.key, field),
        _ => return field,
    };
    configured.as_deref().unwrap_or(usual)
}

/// Brings the fields into the form of CloudEvents and reads that. Fields that mean nothing here stay in the entry.
fn read(envelope: &Envelope, entry: Fields, mut rest: impl FnMut(&str, Vec<u8>)) -> Result<Event, DecodeError> {
    let mut event = Event::default();
    let mut seen = super::super::Seen::default();
    for (name, field) in entry {
        let Ok(name) = String::from_utf8(name.clone()) else {
            return Err(DecodeError::NotUtf8(String::from_utf8_lossy(&name).into_owned()));
        };
        let Some(meant) = meaning(envelope, &name) else {
            rest(&name, field);
            continue;
        };
        // Other programs write times in other ways, under names of their own.
        let field = match (meant, std::str::from_utf8(&field)) {
            ("ce_time", Ok(text)) => match value::time_of_text(text, envelope.settings.time_format) {
                Some(ms) => super::super::format_time(ms).into_bytes(),
                None => return Err(DecodeError::InvalidTime { field: name, value: text.to_owned() }),
            },
            _ => field,
        };
        super::super::take_in(&mut event, &mut seen, meant, field).map_err(|error| error.renamed(meant, &name))?;
    }
    Ok(event)
}

pub(super) fn decode(envelope: &Envelope, entry: Fields) -> Result<Event, DecodeError> {
    let mut event = read(envelope, entry, |_, _| {})?;
    if event.r#type.is_empty() && envelope.settings.default_type.is_none() {
        return Err(DecodeError::NoField(written_name(envelope, "ce_type").to_owned()));
    }
    if !event.content_type.is_empty() {
        return Ok(event);
    }
    let field = || written_name(envelope, DATA).to_owned();
    match envelope.settings.encoding {
        Encoding::Json if event.data.is_empty() => {}
        Encoding::Json => {
            serde_json::from_slice::<serde::de::IgnoredAny>(&event.data).map_err(|error| {
                let problem = format!("is not JSON: {error}");
                DecodeError::Document { field: field(), path: String::new(), problem }
            })?;
            event.content_type = JSON.to_owned();
        }
        Encoding::MsgPack if event.data.is_empty() => {}
        Encoding::MsgPack => {
            if value::read_msgpack(&event.data).is_none() {
                let problem = "is not MsgPack".to_owned();
                return Err(DecodeError::Document { field: field(), path: String::new(), problem });
            }
            event.content_type = MSGPACK.to_owned();
        }
    }
    Ok(event)
}

/// Writes what CloudEvents would, under the names of this form; `data` is left to the caller.
fn write(envelope: &Envelope, event: &Event, put: &mut dyn FnMut(&str, &[u8])) {
    let bare = Event { data: Vec::new(), content_type: String::new(), ..event.clone() };
    super::super::encode(&bare, |field, bytes| match field {
        DATA | "ce_specversion" => {}
        "ce_time" => {
            let time = value::text(envelope.time(event.time)).unwrap_or_default();
            put(written_name(envelope, field), time.as_bytes());
        }
        _ => put(written_name(envelope, field), bytes),
    });
}

pub(super) fn encode(envelope: &Envelope, event: &Event, put: &mut dyn FnMut(&str, &[u8])) {
    if envelope.preset() == Preset::Action {
        put(STREAM, envelope.stream.as_bytes());
    }
    write(envelope, event, put);
    let (bytes, kind) = in_encoding(envelope.settings.encoding, event);
    if let Some(kind) = kind {
        put(CONTENT_TYPE, kind.as_bytes());
    }
    put(written_name(envelope, DATA), &bytes);
}

/// The data in the encoding of the stream; with its media type if it is another one.
fn in_encoding(encoding: Encoding, event: &Event) -> (std::borrow::Cow<'_, [u8]>, Option<&str>) {
    let kind = event.content_type.as_str();
    let as_it_is = || (std::borrow::Cow::from(&event.data), Some(kind).filter(|kind| !kind.is_empty()));
    match encoding {
        _ if event.data.is_empty() => as_it_is(),
        Encoding::Json if kind == JSON && serde_json::from_slice::<serde::de::IgnoredAny>(&event.data).is_ok() => {
            (std::borrow::Cow::from(&event.data), None)
        }
        Encoding::Json if value::is_msgpack(kind) => {
            let json = value::read_msgpack(&event.data).and_then(|data| value::to_json(&data));
            json.map_or_else(as_it_is, |json| (json.to_string().into_bytes().into(), None))
        }
        Encoding::MsgPack if kind == MSGPACK && value::read_msgpack(&event.data).is_some() => {
            (std::borrow::Cow::from(&event.data), None)
        }
        Encoding::MsgPack if is_json(kind) => {
            let json = serde_json::from_slice(&event.data).ok();
            json.map_or_else(as_it_is, |json| (value::write_msgpack(&value::from_json(&json)).into(), None))
        }
        _ => as_it_is(),
    }
}

/// All fields that CloudEvents does not have are the data, those with a meaning of their own among them.
pub(super) fn decode_flat(envelope: &Envelope, entry: Fields) -> Result<Event, DecodeError> {
    let mut data = Map::new();
    for (name, bytes) in &entry {
        let name =
            std::str::from_utf8(name).map_err(|_| DecodeError::NotUtf8(String::from_utf8_lossy(name).into_owned()))?;
        if is_cloudevents(name) {
            continue;
        }
        let text = String::from_utf8(bytes.clone()).map_err(|_| DecodeError::NotUtf8(name.to_owned()))?;
        if data.insert(name.to_owned(), text.into()).is_some() {
            return Err(DecodeError::Duplicate(name.to_owned()));
        }
    }
    let mut event = read(envelope, entry, |_, _| {})?;
    event.data = Value::Object(data).to_string().into_bytes();
    event.content_type = JSON.to_owned();
    Ok(event)
}

/// Each member of the data is a field: texts as they are, everything else as JSON. A member of a name that says something
/// about the event is written only if it says what the event says: a follow-up has an id of its own, whatever stands in
/// the data that it was made from.
pub(super) fn encode_flat(envelope: &Envelope, event: &Event, put: &mut dyn FnMut(&str, &[u8])) {
    let mut members: Map<String, Value> = match serde_json::from_slice(&event.data) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    };
    write(envelope, event, &mut |name: &str, bytes: &[u8]| {
        let is_same = |member: &Value| match written_name(envelope, "ce_time") == name {
            true => value::time(member, envelope.settings.time_format) == Some(event.time),
            false => value::text(member.clone()).is_some_and(|text| text.as_bytes() == bytes),
        };
        if !members.get(name).is_some_and(is_same) {
            members.remove(name);
            put(name, bytes);
        }
    });
    for (name, value) in &members {
        match value {
            Value::String(text) => put(name, text.as_bytes()),
            value => put(name, value.to_string().as_bytes()),
        }
    }
}

/// A flat entry can only hold an object.
pub(super) fn check_flat(event: &Event) -> Result<(), EncodeError> {
    match serde_json::from_slice(&event.data) {
        Ok(Value::Object(members)) => match members.keys().find(|name| is_cloudevents(name)) {
            Some(name) => Err(EncodeError::ReservedMember(name.clone())),
            None => Ok(()),
        },
        _ => Err(EncodeError::NotAnObject),
    }
}
