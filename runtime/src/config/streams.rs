//! `[streams.NAME]`: what holds for a stream, whoever reads it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::duration_option;
use crate::envelope::settings::{Encoding, EnvelopeSettings, Names, Preset, TimeFormat};

/// `[streams.NAME]`: what holds for a stream, whoever reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// The most entries to keep, at least 1; older ones are removed once every group has settled them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// How long to keep entries, more than 0; older ones are removed once every group has settled them.
    #[serde(with = "duration_option", skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// Other tenants whose handlers may read it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<String>,
    /// Other tenants whose handlers may publish to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publishers: Vec<String>,
    /// The form of the entries.
    pub envelope: Preset,
    /// The field that holds the document, for `json` and `msgpack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// How the data is written, for `named` and `action`.
    pub encoding: Encoding,
    /// How times are written, for all but `cloudevents` and `dapr`.
    pub time_format: TimeFormat,
    /// The type of events that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_type: Option<String>,
    /// The source of events that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_source: Option<String>,
    /// What the parts of an event are called.
    pub names: Names,
}

impl StreamConfig {
    /// What has to do with the form of entries.
    pub fn envelope_settings(&self) -> EnvelopeSettings {
        EnvelopeSettings {
            preset: self.envelope,
            field: self.field.clone(),
            encoding: self.encoding,
            time_format: self.time_format,
            default_type: self.default_type.clone(),
            default_source: self.default_source.clone(),
            names: self.names.clone(),
        }
    }

    /// Whether workers remove entries of it.
    pub fn is_trimmed(&self) -> bool {
        self.max_length.is_some() || self.max_age.is_some()
    }
}
