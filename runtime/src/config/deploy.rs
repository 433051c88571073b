//! `[deploy]`: what may be deployed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[deploy]`: what may be deployed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeployConfig {
    /// The files of public keys (ed25519, PEM); every component must be signed by one of them. Nothing must be signed if
    /// there is none. In the file relative to the file's own directory.
    pub public_keys: Vec<PathBuf>,
}
