//! CloudEvents structured mode: the whole event as one JSON document.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{format_time, parse_time};
use crate::event::{Event, MAX_ATTRIBUTES};

/// The media type of an event in structured mode.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";
/// The media type of several events.
pub const BATCH_MEDIA_TYPE: &str = "application/cloudevents-batch+json";

/// Why a document is not a CloudEvent.
#[derive(Debug, thiserror::Error)]
pub enum StructuredError {
    /// Not the JSON that it must be.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// An attribute is not what it must be.
    #[error("`{attribute}` {problem}")]
    Attribute { attribute: String, problem: &'static str },
}

/// Whether a `content-type` announces structured mode.
pub fn is_media_type(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

/// Whether `data` of this media type is JSON, as CloudEvents defines it: `*/json`, `*/*+json`, or nothing said.
pub(super) fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.is_empty() || media_type.ends_with("/json") || media_type.ends_with("+json")
}

/// A CloudEvent without its payload.
#[derive(Deserialize)]
struct Envelope {
    id: String,
    source: String,
    r#type: String,
    specversion: String,
    time: Option<String>,
    subject: Option<String>,
    dataschema: Option<String>,
    partitionkey: Option<String>,
    datacontenttype: Option<String>,
    #[serde(default, rename = "data")]
    _data: IgnoredAny,
    data_base64: Option<String>,
    #[serde(flatten)]
    extensions: Map<String, Value>,
}

/// The payload alone, so that it can be kept to the byte: flattening does not allow to borrow it.
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Reads a document. JSON data is kept to the byte as it stands in the document; `default_ms` is the time of an
/// event that does not name one.
pub fn parse(document: &[u8], default_ms: u64) -> Result<Event, StructuredError> {
    let payload: Payload = serde_json::from_slice(document)?;
    let envelope: Envelope = serde_json::from_slice(document)?;
    if envelope.specversion != "1.0" {
        return Err(fault("specversion", "is not 1.0"));
    }
    for (attribute, value) in [("id", &envelope.id), ("source", &envelope.source), ("type", &envelope.r#type)] {
        if value.is_empty() {
            return Err(fault(attribute, "is empty"));
        }
    }
    let time = match &envelope.time {
        Some(text) => parse_time(text).ok_or_else(|| fault("time", "is not an RFC 3339 time after 1970"))?,
        None => default_ms,
    };
    let content_type = envelope.datacontenttype.unwrap_or_default();
    let data = data(payload.data, envelope.data_base64, &content_type)?;
    if envelope.extensions.len() > MAX_ATTRIBUTES {
        return Err(fault("extensions", "are too many"));
    }
    let attributes = envelope.extensions.into_iter().filter(|(_, value)| !value.is_null());
    let attributes = attributes.map(|(name, value)| extension(name, value)).collect::<Result<_, _>>()?;
    Ok(Event {
        id: envelope.id,
        source: envelope.source,
        r#type: envelope.r#type,
        time,
        subject: envelope.subject,
        schema_version: envelope.dataschema,
        partition_key: envelope.partitionkey,
        content_type,
        attributes,
        data,
    })
}

/// The payload: base64 if that is given, a JSON string's text if the media type is not JSON, else the JSON itself.
fn data(json: Option<&RawValue>, base64: Option<String>, content_type: &str) -> Result<Vec<u8>, StructuredError> {
    match (json, base64) {
        (Some(_), Some(_)) => Err(fault("data_base64", "stands beside `data`")),
        (None, Some(text)) => BASE64.decode(text).map_err(|_| fault("data_base64", "is not base64")),
        (Some(json), None) if !is_json(content_type) && json.get().starts_with('"') => {
            Ok(serde_json::from_str::<String>(json.get())?.into_bytes())
        }
        (Some(json), None) => Ok(json.get().as_bytes().to_vec()),
        (None, None) => Ok(Vec::new()),
    }
}

fn extension(name: String, value: Value) -> Result<(String, String), StructuredError> {
    match value {
        Value::String(text) => Ok((name, text)),
        Value::Bool(_) | Value::Number(_) => Ok((name, value.to_string())),
        _ => Err(fault(&name, "is neither text, number nor boolean")),
    }
}

/// The event as a document. Data that is JSON stands as JSON, text as a string, everything else as base64.
pub fn to_json(event: &Event) -> Value {
    let mut document = Map::new();
    let mut put = |name: &str, value: &str| document.insert(name.to_owned(), json!(value));
    put("specversion", "1.0");
    put("id", &event.id);
    put("source", &event.source);
    put("type", &event.r#type);
    put("time", &format_time(event.time));
    let optional =
        [("subject", &event.subject), ("dataschema", &event.schema_version), ("partitionkey", &event.partition_key)];
    for (name, value) in optional {
        if let Some(value) = value {
            put(name, value);
        }
    }
    if !event.content_type.is_empty() {
        put("datacontenttype", &event.content_type);
    }
    for (name, value) in &event.attributes {
        put(name, value);
    }
    if !event.data.is_empty() {
        let (name, value) = payload(event);
        document.insert(name.to_owned(), value);
    }
    Value::Object(document)
}

/// The same as bytes: data that is JSON stands in them to the byte.
pub fn to_bytes(event: &Event) -> Vec<u8> {
    let raw = std::str::from_utf8(&event.data).ok().filter(|_| is_json(&event.content_type));
    let raw: Option<&RawValue> = raw.and_then(|text| serde_json::from_str(text).ok());
    let Some(raw) = raw else { return to_json(event).to_string().into_bytes() };
    let document = to_json(&Event { data: Vec::new(), ..event.clone() }).to_string();
    let head = document.trim_end_matches('}');
    [head.as_bytes(), b",\"data\":", raw.get().as_bytes(), b"}"].concat()
}

/// The payload as a member of the document. JSON keeps its meaning, not its white space.
fn payload(event: &Event) -> (&'static str, Value) {
    let base64 = || ("data_base64", json!(BASE64.encode(&event.data)));
    let Ok(text) = std::str::from_utf8(&event.data) else { return base64() };
    if !is_json(&event.content_type) {
        return ("data", json!(text));
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) => ("data", value),
        Err(_) => base64(),
    }
}

fn fault(attribute: &str, problem: &'static str) -> StructuredError {
    StructuredError::Attribute { attribute: attribute.to_owned(), problem }
}
