//! `[intake.NAME]`: Redis Pub/Sub messages that become events.

use serde::{Deserialize, Serialize};

/// `[intake.NAME]`: Redis Pub/Sub messages that become events.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IntakeConfig {
    /// The channel to listen to; with `*`, `?`, `[` or `\` in it a pattern of channels.
    pub channel: String,
    /// The stream that the events go to.
    pub stream: String,
    /// The type of the events; the name of the intake when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// The media type of the messages.
    pub content_type: String,
    /// The source of the events; `/wasmill/intake/NAME` when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        IntakeConfig {
            channel: String::new(),
            stream: String::new(),
            r#type: None,
            content_type: "application/json".into(),
            source: None,
        }
    }
}

impl IntakeConfig {
    /// The source of the events of the intake of this name, when none is set.
    pub fn default_source(name: &str) -> String {
        format!("/wasmill/intake/{name}")
    }
}
