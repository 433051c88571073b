//! `[schemas]`: where the schemas of events are, and what they are used for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::schema::UnknownTypes;

/// `[schemas]`: what the data of events must look like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchemasConfig {
    /// The folder of `TYPE/VERSION.json`; without it nothing is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Events are also checked when they are read; one that does not fit becomes a dead letter without being run.
    pub on_read: bool,
    /// What becomes of events whose type has no schema.
    pub unknown: UnknownTypes,
}
