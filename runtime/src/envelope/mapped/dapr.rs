//! What Dapr's pub/sub component for Redis writes and reads: a CloudEvent or any payload in `data`, and `metadata`, a
//! JSON object of texts.

use serde_json::Value;

use super::super::structured;
use super::super::{DATA, DecodeError};
use super::push_attribute;
use super::value::{self, JSON};
use crate::broker::Fields;
use crate::event::Event;

const METADATA: &str = "metadata";
/// The metadata that Dapr routes by.
const PARTITION_KEY: &str = "partitionKey";

pub(super) fn decode(entry: Fields, entry_ms: u64) -> Result<Event, DecodeError> {
    let (mut data, mut metadata) = (None, None);
    for (name, value) in entry {
        let slot = match name.as_slice() {
            b"data" => &mut data,
            b"metadata" => &mut metadata,
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err(DecodeError::Duplicate(String::from_utf8_lossy(&name).into_owned()));
        }
    }
    let data = data.ok_or_else(|| DecodeError::NoField(DATA.to_owned()))?;
    let mut event = match is_cloudevent(&data) {
        true => structured::parse(&data, entry_ms).map_err(|error| DecodeError::Structured(error.to_string()))?,
        false => {
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&data).is_ok();
            let kind = if is_json { JSON } else { "application/octet-stream" };
            Event { content_type: kind.to_owned(), data, ..Event::default() }
        }
    };
    if let Some(metadata) = metadata.filter(|metadata| !metadata.is_empty()) {
        take_in_metadata(&mut event, &metadata)?;
    }
    Ok(event)
}

fn take_in_metadata(event: &mut Event, metadata: &[u8]) -> Result<(), DecodeError> {
    let fault = |path: String, problem: &str| DecodeError::Document {
        field: METADATA.to_owned(),
        path,
        problem: problem.to_owned(),
    };
    let Ok(Value::Object(members)) = serde_json::from_slice(metadata) else {
        return Err(fault(String::new(), "is not a JSON object"));
    };
    for (name, value) in members {
        let path = format!("/{name}");
        let text = value::text(value).ok_or_else(|| fault(path, "must be text"))?;
        match name.as_str() {
            PARTITION_KEY => event.partition_key = event.partition_key.take().or(Some(text)),
            _ if event.attribute(&name.to_ascii_lowercase()).is_some() => {}
            _ => push_attribute(event, &name, text)?,
        }
    }
    Ok(())
}

/// Whether the payload is a CloudEvent in structured mode, as Dapr wraps what it is given.
fn is_cloudevent(data: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Probe {
        #[expect(dead_code, reason = "it is there, which is all that is asked")]
        specversion: String,
    }
    serde_json::from_slice::<Probe>(data).is_ok()
}

pub(super) fn encode(event: &Event, put: &mut dyn FnMut(&str, &[u8])) {
    put(DATA, &structured::to_bytes(event));
    let metadata = match &event.partition_key {
        Some(key) => serde_json::json!({PARTITION_KEY: key}).to_string(),
        None => "{}".to_owned(),
    };
    put(METADATA, metadata.as_bytes());
}
