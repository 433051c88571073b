//! One field that holds everything: a JSON or MsgPack document.
//!
//! Members that have no name of their own (subject, partition key, trace context, other attributes) are written into
//! a member `attributes`. Members of other names are read as attributes, with `_` and `-` left out of their names.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::DecodeError;
use super::super::structured::is_json;
use super::value::{self, JSON, MSGPACK};
use super::{Envelope, push_attribute};
use crate::broker::Fields;
use crate::event::Event;

/// The member for all that has no name of its own.
const ATTRIBUTES: &str = "attributes";
/// What the name of the member with base64 ends in.
const BASE64_SUFFIX: &str = "_base64";
/// The media type among the attributes.
const CONTENT_TYPE: &str = "datacontenttype";

/// A part of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Id,
    Type,
    Source,
    Time,
    Subject,
    Version,
    Key,
}

/// The names of the parts in a document.
struct Parts<'a> {
    named: Vec<(&'a str, Part)>,
    data: &'a str,
}

impl<'a> Parts<'a> {
    fn new(envelope: &'a Envelope) -> Parts<'a> {
        let names = &envelope.settings.names;
        let or_usual = |name: &'a Option<String>, part| name.as_deref().or(envelope.preset().usual_name(part));
        let parts = [
            (or_usual(&names.id, "id"), Part::Id),
            (or_usual(&names.r#type, "type"), Part::Type),
            (or_usual(&names.time, "time"), Part::Time),
            (or_usual(&names.source, "source"), Part::Source),
            (or_usual(&names.version, "version"), Part::Version),
            (or_usual(&names.subject, "subject"), Part::Subject),
            (or_usual(&names.key, "key"), Part::Key),
        ];
        let named = parts.into_iter().filter_map(|(name, part)| Some((name?, part))).collect();
        Parts { named, data: names.data.as_deref().unwrap_or("data") }
    }

    fn of(&self, name: &str) -> Option<Part> {
        self.named.iter().find(|(known, _)| *known == name).map(|(_, part)| *part)
    }

    fn has(&self, part: Part) -> bool {
        self.named.iter().any(|(_, known)| *known == part)
    }

    fn is_base64(&self, name: &str) -> bool {
        name.strip_suffix(BASE64_SUFFIX) == Some(self.data)
    }
}

/// The value of the field with the document.
fn document(envelope: &Envelope, entry: Fields) -> Result<Vec<u8>, DecodeError> {
    let wanted = envelope.field();
    let mut found = entry.into_iter().filter(|(name, _)| name == wanted.as_bytes()).map(|(_, value)| value);
    let document = found.next().ok_or_else(|| DecodeError::NoField(wanted.to_owned()))?;
    match found.next() {
        Some(_) => Err(DecodeError::Duplicate(wanted.to_owned())),
        None => Ok(document),
    }
}

fn fault(envelope: &Envelope, member: &str, problem: &str) -> DecodeError {
    let path = if member.is_empty() { String::new() } else { format!("/{member}") };
    DecodeError::Document { field: envelope.field().to_owned(), path, problem: problem.to_owned() }
}

/// Takes in a member that is not the data.
fn take_in(
    envelope: &Envelope,
    event: &mut Event,
    part: Option<Part>,
    name: &str,
    value: Value,
) -> Result<(), DecodeError> {
    if value.is_null() {
        return Ok(());
    }
    let Some(part) = part else {
        return match (name, value) {
            (ATTRIBUTES, Value::Object(members)) => members.into_iter().try_for_each(|(name, value)| {
                let problem = "must be text, number or boolean";
                let text =
                    value::text(value).ok_or_else(|| fault(envelope, &format!("{ATTRIBUTES}/{name}"), problem))?;
                attribute(event, &name, text)
            }),
            (_, value @ (Value::Object(_) | Value::Array(_))) => push_attribute(event, name, value.to_string()),
            (_, value) => push_attribute(event, name, value::text(value).unwrap_or_default()),
        };
    };
    if part == Part::Time {
        let problem = "must be a time: RFC 3339, or seconds or milliseconds since 1970";
        event.time =
            value::time(&value, envelope.settings.time_format).ok_or_else(|| fault(envelope, name, problem))?;
        return Ok(());
    }
    let text = value::text(value).ok_or_else(|| fault(envelope, name, "must be text"))?;
    match part {
        Part::Id => event.id = text,
        Part::Type => event.r#type = text,
        Part::Source => event.source = text,
        Part::Subject => event.subject = Some(text),
        Part::Version => event.schema_version = Some(text),
        Part::Key => event.partition_key = Some(text),
        Part::Time => {}
    }
    Ok(())
}

/// Takes in a member of `attributes`.
fn attribute(event: &mut Event, name: &str, text: String) -> Result<(), DecodeError> {
    match name {
        "subject" if event.subject.is_none() => event.subject = Some(text),
        "partitionkey" if event.partition_key.is_none() => event.partition_key = Some(text),
        CONTENT_TYPE => event.content_type = text,
        _ => return push_attribute(event, name, text),
    }
    Ok(())
}

pub(super) fn decode_json(envelope: &Envelope, entry: Fields) -> Result<Event, DecodeError> {
    let bytes = document(envelope, entry)?;
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(&bytes)
        .map_err(|error| fault(envelope, "", &format!("is not a JSON object: {error}")))?;
    let parts = Parts::new(envelope);
    let (mut event, mut data, mut base64) = (Event::default(), None, None);
    for (name, raw) in members {
        if name == parts.data {
            data = Some(raw.get()).filter(|raw| *raw != "null");
        } else if parts.is_base64(&name) {
            base64 =
                Some(serde_json::from_str::<String>(raw.get()).map_err(|_| fault(envelope, &name, "must be text"))?);
        } else {
            let value = serde_json::from_str(raw.get()).map_err(|error| fault(envelope, &name, &error.to_string()))?;
            take_in(envelope, &mut event, parts.of(&name), &name, value)?;
        }
    }
    match (data, base64) {
        (Some(_), Some(_)) => {
            return Err(fault(envelope, &format!("{}{BASE64_SUFFIX}", parts.data), "stands beside the data"));
        }
        (None, Some(text)) => {
            let name = format!("{}{BASE64_SUFFIX}", parts.data);
            event.data = BASE64.decode(text).map_err(|_| fault(envelope, &name, "is not base64"))?;
        }
        (Some(raw), None) if !is_json(&event.content_type) && raw.starts_with('"') => {
            let text: String =
                serde_json::from_str(raw).map_err(|error| fault(envelope, parts.data, &error.to_string()))?;
            event.data = text.into_bytes();
        }
        (Some(raw), None) => {
            event.data = raw.as_bytes().to_vec();
            if event.content_type.is_empty() {
                event.content_type = JSON.to_owned();
            }
        }
        (None, None) => {}
    }
    Ok(event)
}

pub(super) fn decode_msgpack(envelope: &Envelope, entry: Fields) -> Result<Event, DecodeError> {
    let bytes = document(envelope, entry)?;
    let Some(rmpv::Value::Map(members)) = value::read_msgpack(&bytes) else {
        return Err(fault(envelope, "", "is not a MsgPack map"));
    };
    let parts = Parts::new(envelope);
    let (mut event, mut data) = (Event::default(), None);
    for (name, member) in members {
        let Some(name) = name.as_str() else {
            return Err(fault(envelope, "", "has a key that is no text"));
        };
        if name == parts.data {
            data = Some(member).filter(|data| !data.is_nil());
            continue;
        }
        if parts.of(name) == Some(Part::Time)
            && let Some(time) = value::time_of_msgpack(&member)
        {
            event.time = time;
            continue;
        }
        let json = value::to_json(&member);
        let json = json.ok_or_else(|| fault(envelope, name, "must be a value that JSON has, too"))?;
        take_in(envelope, &mut event, parts.of(name), name, json)?;
    }
    let Some(data) = data else { return Ok(event) };
    (event.data, event.content_type) = match (data, event.content_type) {
        (rmpv::Value::Binary(bytes), kind) if kind.is_empty() => (bytes, "application/octet-stream".to_owned()),
        (rmpv::Value::Binary(bytes), kind) => (bytes, kind),
        (rmpv::Value::String(text), kind) if !kind.is_empty() && !is_json(&kind) && !value::is_msgpack(&kind) => {
            (text.into_bytes(), kind)
        }
        (data, kind) if value::is_msgpack(&kind) => (value::write_msgpack(&data), kind),
        (data, kind) => match value::to_json(&data) {
            Some(json) => (json.to_string().into_bytes(), if kind.is_empty() { JSON.to_owned() } else { kind }),
            None => (value::write_msgpack(&data), MSGPACK.to_owned()),
        },
    };
    Ok(event)
}

/// The data of an event as a member of a document.
enum Data<'a> {
    None,
    Json(&'a RawValue),
    MsgPack(rmpv::Value),
    Text(&'a str),
    Bytes,
}

impl<'a> Data<'a> {
    fn new(event: &'a Event) -> Data<'a> {
        if event.data.is_empty() {
            return Data::None;
        }
        if value::is_msgpack(&event.content_type) {
            return value::read_msgpack(&event.data).map_or(Data::Bytes, Data::MsgPack);
        }
        match std::str::from_utf8(&event.data) {
            Ok(text) if !is_json(&event.content_type) => Data::Text(text),
            Ok(text) => serde_json::from_str(text).map_or(Data::Bytes, Data::Json),
            Err(_) => Data::Bytes,
        }
    }
}

/// The members besides the data. The media type is told unless it is the one that the form has anyway.
fn members<'a>(envelope: &'a Envelope, event: &'a Event, usual: bool) -> Vec<(&'a str, Value)> {
    let parts = Parts::new(envelope);
    let mut members = Vec::with_capacity(8);
    for &(name, part) in &parts.named {
        let value = match part {
            Part::Id => Some(event.id.as_str().into()),
            Part::Type => Some(event.r#type.as_str().into()),
            Part::Source => Some(event.source.as_str().into()),
            Part::Time => Some(envelope.time(event.time)),
            Part::Subject => event.subject.as_deref().map(Value::from),
            Part::Version => event.schema_version.as_deref().map(Value::from),
            Part::Key => event.partition_key.as_deref().map(Value::from),
        };
        members.extend(value.map(|value| (name, value)));
    }
    let mut rest = serde_json::Map::new();
    let mut put = |name: &str, value: &str| drop(rest.insert(name.to_owned(), value.into()));
    if let Some(subject) = event.subject.as_deref().filter(|_| !parts.has(Part::Subject)) {
        put("subject", subject);
    }
    if let Some(key) = event.partition_key.as_deref().filter(|_| !parts.has(Part::Key)) {
        put("partitionkey", key);
    }
    if !usual && !event.content_type.is_empty() {
        put(CONTENT_TYPE, &event.content_type);
    }
    event.attributes.iter().for_each(|(name, value)| put(name, value));
    if !rest.is_empty() {
        members.push((ATTRIBUTES, Value::Object(rest)));
    }
    members
}

pub(super) fn encode_json(envelope: &Envelope, event: &Event) -> Vec<u8> {
    let data = Data::new(event);
    let usual = matches!(data, Data::Json(_)) && event.content_type == JSON;
    let name = envelope.settings.names.data.as_deref().unwrap_or("data");
    let base64 = |bytes: &[u8]| (format!("{name}{BASE64_SUFFIX}"), BASE64.encode(bytes));
    let mut bytes = Vec::with_capacity(event.size() + 128);
    let mut write = || -> Result<(), serde_json::Error> {
        let mut serializer = serde_json::Serializer::new(&mut bytes);
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in members(envelope, event, usual) {
            map.serialize_entry(name, &value)?;
        }
        match &data {
            Data::None => {}
            // To the byte, as it is.
            Data::Json(raw) => map.serialize_entry(name, raw)?,
            Data::Text(text) => map.serialize_entry(name, text)?,
            Data::MsgPack(_) | Data::Bytes => {
                let (name, text) = base64(&event.data);
                map.serialize_entry(&name, &text)?;
            }
        }
        map.end()
    };
    write().expect("texts, numbers and valid JSON can be written into memory");
    bytes
}

pub(super) fn encode_msgpack(envelope: &Envelope, event: &Event) -> Vec<u8> {
    let data = Data::new(event);
    let json: Option<Value> = match &data {
        // Not all that JSON allows is a value: 1e999, or half a character.
        Data::Json(raw) => serde_json::from_str(raw.get()).ok(),
        _ => None,
    };
    let members = members(envelope, event, json.is_some() && event.content_type == JSON);
    let mut map: Vec<(rmpv::Value, rmpv::Value)> =
        members.into_iter().map(|(name, member)| (name.into(), value::from_json(&member))).collect();
    let data = match (json, data) {
        (Some(json), _) => Some(value::from_json(&json)),
        (None, Data::None) => None,
        (None, Data::MsgPack(data)) => Some(data),
        (None, Data::Text(text)) => Some(text.into()),
        (None, Data::Json(_) | Data::Bytes) => Some(event.data.as_slice().into()),
    };
    let name = envelope.settings.names.data.as_deref().unwrap_or("data");
    map.extend(data.map(|data| (name.into(), data)));
    value::write_msgpack(&rmpv::Value::Map(map))
}
