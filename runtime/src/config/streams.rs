//! `[streams.NAME]`: what holds for a stream, whoever reads it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::duration_option;

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
}
