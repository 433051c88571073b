//! Envelopes other than CloudEvents: how an event stands in the entries of a stream that other programs write or read.
//!
//! [`document`] is one field with everything in it; [`fields`] has a field for each part; [`dapr`] is what Dapr writes.

mod dapr;
mod document;
mod fields;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::settings::{EnvelopeSettings, Preset, TimeFormat};
use super::{DecodeError, EncodeError, MAX_FIELDS};
use crate::broker::{EntryId, Fields};
use crate::event::{Event, MAX_ATTRIBUTES, is_attribute_name};

/// The envelope of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The name of the stream.
    stream: String,
    settings: EnvelopeSettings,
}

impl Envelope {
    /// The envelope of a stream; `None` if it is CloudEvents, which needs no settings.
    pub fn new(stream: &str, settings: &EnvelopeSettings) -> Option<Envelope> {
        let is_mapped = settings.preset != Preset::CloudEvents;
        is_mapped.then(|| Envelope { stream: stream.to_owned(), settings: settings.clone() })
    }

    /// The form.
    pub fn preset(&self) -> Preset {
        self.settings.preset
    }

    /// Reads the fields of an entry. An event that names no id has the entry's, which is the same at each attempt.
    pub fn decode(&self, entry: Fields, id: EntryId) -> Result<Event, DecodeError> {
        let mut event = match self.settings.preset {
            Preset::CloudEvents => super::decode(entry, id.ms)?,
            Preset::Json => document::decode_json(self, entry)?,
            Preset::MsgPack => document::decode_msgpack(self, entry)?,
            Preset::Named | Preset::Action => fields::decode(self, entry)?,
            Preset::Flat => fields::decode_flat(self, entry)?,
            Preset::Dapr => dapr::decode(entry, id.ms)?,
        };
        if event.id.is_empty() {
            event.id = id.to_string();
        }
        if event.r#type.is_empty() {
            event.r#type = self.settings.default_type.clone().unwrap_or_else(|| self.stream.clone());
        }
        if event.source.is_empty() {
            let source = self.settings.default_source.clone();
            event.source = source.unwrap_or_else(|| format!("/{}", self.stream));
        }
        if event.time == 0 {
            event.time = id.ms;
        }
        Ok(event)
    }

    /// The fields of the entry, in the order in which they are written. [`Envelope::check`] says whether the event can
    /// be written; what cannot is written as near to it as possible.
    pub fn fields(&self, event: &Event) -> Fields {
        let mut written = Fields::new();
        let mut put = |name: &str, value: &[u8]| written.push((name.as_bytes().to_vec(), value.to_vec()));
        match self.settings.preset {
            Preset::CloudEvents => super::encode(event, put),
            Preset::Json => put(self.field(), &document::encode_json(self, event)),
            Preset::MsgPack => put(self.field(), &document::encode_msgpack(self, event)),
            Preset::Named | Preset::Action => fields::encode(self, event, &mut put),
            Preset::Flat => fields::encode_flat(self, event, &mut put),
            Preset::Dapr => dapr::encode(event, &mut put),
        }
        written
    }

    /// Whether the event can be written in this form.
    pub fn check(&self, event: &Event) -> Result<(), EncodeError> {
        match self.settings.preset {
            Preset::Flat => {
                fields::check_flat(event)?;
                match self.fields(event).len() {
                    0..=MAX_FIELDS => Ok(()),
                    more => Err(EncodeError::TooManyFields(more)),
                }
            }
            _ => Ok(()),
        }
    }

    /// The field that holds a document.
    fn field(&self) -> &str {
        self.settings.field.as_deref().unwrap_or("data")
    }

    /// A time as it is written. RFC 3339 is written as Python's `isoformat` does: before its release 3.11, that alone is
    /// what Python reads.
    fn time(&self, ms: u64) -> serde_json::Value {
        match self.settings.time_format {
            TimeFormat::Rfc3339 => value::iso_format(ms).into(),
            TimeFormat::Milliseconds => ms.into(),
            TimeFormat::Seconds if ms.is_multiple_of(1000) => (ms / 1000).into(),
            TimeFormat::Seconds => (ms as f64 / 1000.0).into(),
        }
    }
}

/// The envelopes of all streams that have one of their own, by the names of the streams. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Envelopes(Arc<BTreeMap<String, Arc<Envelope>>>);

impl Envelopes {
    /// The envelopes of these streams.
    pub fn new<'a>(streams: impl IntoIterator<Item = (&'a str, EnvelopeSettings)>) -> Envelopes {
        let own = streams.into_iter().filter_map(|(stream, settings)| {
            let envelope = Envelope::new(stream, &settings)?;
            Some((stream.to_owned(), Arc::new(envelope)))
        });
        Envelopes(Arc::new(own.collect()))
    }

    /// The envelope of a stream; `None` if it is CloudEvents.
    pub fn of(&self, stream: &str) -> Option<&Arc<Envelope>> {
        self.0.get(stream)
    }

    /// Reads the fields of an entry of a stream.
    pub fn decode(&self, stream: &str, fields: Fields, id: EntryId) -> Result<Event, DecodeError> {
        match self.of(stream) {
            None => super::decode(fields, id.ms),
            Some(envelope) => envelope.decode(fields, id),
        }
    }
}

/// Names that CloudEvents gives to other things than attributes of this kind.
const RESERVED: [&str; 10] =
    ["id", "source", "type", "time", "subject", "specversion", "dataschema", "datacontenttype", "partitionkey", "data"];

/// Adds an attribute; its name is made one that CloudEvents allows where that can be done without guessing.
fn push_attribute(event: &mut Event, name: &str, value: String) -> Result<(), DecodeError> {
    let name: String = name.chars().filter(|letter| !matches!(letter, '_' | '-')).collect();
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "subject" if event.subject.is_none() => event.subject = Some(value),
        "partitionkey" if event.partition_key.is_none() => event.partition_key = Some(value),
        _ if is_attribute_name(&name) && !RESERVED.contains(&name.as_str()) => return add(event, name, value),
        // What no handler could name stays in the entry, and in its dead letter if it comes to that.
        _ => {}
    }
    Ok(())
}

fn add(event: &mut Event, name: String, value: String) -> Result<(), DecodeError> {
    if event.attribute(&name).is_some() {
        return Err(DecodeError::Duplicate(name));
    }
    if event.attributes.len() == MAX_ATTRIBUTES {
        return Err(DecodeError::TooManyAttributes);
    }
    event.attributes.push((name, value));
    Ok(())
}

#[cfg(test)]
mod tests;
