//! `[compile]`: what compiling one component may use.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::units::{duration, size};

/// Less than the compiler needs for anything.
pub(super) const MIN_MEMORY: ByteSize = ByteSize::mib(64);
/// A slip rather than a wish, beyond it.
pub(super) const MAX_MEMORY: ByteSize = ByteSize::gib(64);
/// The system counts CPU time in seconds.
pub(super) const MIN_CPU_TIME: Duration = Duration::from_secs(1);

/// `[compile]`: what compiling one component may use. It is done in a process of its own, which ends when it wants more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompileConfig {
    /// Memory of the compiler, 64 MiB to 64 GiB.
    #[serde(with = "size")]
    pub memory: ByteSize,
    /// CPU time of the compiler, at least 1 second; parts of a second count as a whole one.
    #[serde(with = "duration")]
    pub cpu_time: Duration,
    /// Wall-clock time of the compiler; at least `cpu_time`.
    #[serde(with = "duration")]
    pub wall_time: Duration,
}

impl Default for CompileConfig {
    fn default() -> Self {
        CompileConfig {
            memory: ByteSize::gib(2),
            cpu_time: Duration::from_secs(120),
            wall_time: Duration::from_secs(600),
        }
    }
}
