//! How the envelope of a stream is described in the configuration.

use serde::{Deserialize, Serialize};

/// The forms that entries of a stream can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// CloudEvents: an attribute a field (binary mode), or the whole event in `data` (structured mode).
    #[default]
    CloudEvents,
    /// One field that holds a JSON document: `{event_id, event_type, timestamp, source, version, data}`.
    Json,
    /// The same in MsgPack.
    MsgPack,
    /// A field `name` for the type and a field `body` for the data.
    Named,
    /// Fields `stream`, `action` (the type) and `data`.
    Action,
    /// The fields of Dapr's pub/sub component: `data` and `metadata`.
    Dapr,
    /// Whatever fields there are: they are the data, as a JSON object of texts.
    Flat,
}

impl Preset {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Preset::CloudEvents => "cloudevents",
            Preset::Json => "json",
            Preset::MsgPack => "msgpack",
            Preset::Named => "named",
            Preset::Action => "action",
            Preset::Dapr => "dapr",
            Preset::Flat => "flat",
        }
    }

    /// What a part (a key of [`Names`]) is called if the settings do not say; `None` if it has no name of its own.
    pub fn usual_name(self, part: &str) -> Option<&'static str> {
        match (self, part) {
            (Preset::Json | Preset::MsgPack, "id") => Some("event_id"),
            (Preset::Json | Preset::MsgPack, "type") => Some("event_type"),
            (Preset::Json | Preset::MsgPack, "time") => Some("timestamp"),
            (Preset::Json | Preset::MsgPack, "source") => Some("source"),
            (Preset::Json | Preset::MsgPack, "version") => Some("version"),
            (Preset::Json | Preset::MsgPack | Preset::Action, "data") => Some("data"),
            (Preset::Named, "type") => Some("name"),
            (Preset::Named, "data") => Some("body"),
            (Preset::Action, "type") => Some("action"),
            _ => None,
        }
    }
}

/// How the data of [`Preset::Named`] and [`Preset::Action`] is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// MsgPack.
    MsgPack,
}

/// How times are written. All forms are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeFormat {
    /// `2026-01-31T12:00:00.5Z`
    #[default]
    Rfc3339,
    /// Seconds since the Unix epoch, with a fraction.
    Seconds,
    /// Milliseconds since the Unix epoch.
    Milliseconds,
}

/// What the parts of an event are called in a form. What is not set has the name that the preset gives it, or stands
/// where the preset puts all that has no name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Names {
    /// The id of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// When it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// What it happened to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The version of the schema of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The partition key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// The envelope of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvelopeSettings {
    /// The form.
    pub preset: Preset,
    /// The field that holds the document; `data` if not set. For [`Preset::Json`] and [`Preset::MsgPack`].
    pub field: Option<String>,
    /// How the data is written.
    pub encoding: Encoding,
    /// How times are written.
    pub time_format: TimeFormat,
    /// The type of events that do not say; the name of the stream if not set.
    pub default_type: Option<String>,
    /// The source of events that do not say; `/` and the name of the stream if not set.
    pub default_source: Option<String>,
    /// Other names.
    pub names: Names,
}
