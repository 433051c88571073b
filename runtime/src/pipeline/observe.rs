//! Being told of each delivery: what `wasmill dev` shows. A worker has no observer, and pays one look for that.

use std::fmt;
use std::time::Duration;

use crate::broker::EntryId;
use crate::outcome::{Decision, Verdict};
use crate::wasm::LogLine;

/// Is told what becomes of each event, when that has been decided and before it is written. Called on the threads that
/// run handlers: it must not wait.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A delivery has come to its decision.
    fn decided(&self, seen: &Seen<'_>);
}

/// A delivery that has been decided.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The handler.
    pub handler: &'a str,
    /// The stream that the event was published to.
    pub stream: &'a str,
    /// The entry in that stream.
    pub entry: EntryId,
    /// The id of the event; empty if the entry is none.
    pub id: &'a str,
    /// The type of the event; empty if the entry is none.
    pub r#type: &'a str,
    /// Attempts, this one included.
    pub attempt: u32,
    /// How it came to that.
    pub how: How<'a>,
    /// What becomes of it.
    pub decision: &'a Decision,
}

/// What was done with an event.
#[derive(Clone, Copy, Debug)]
pub enum How<'a> {
    /// The handler was run.
    Run(Run<'a>),
    /// The handler does not want events of this type.
    Skipped,
    /// The handler has handled the event before.
    Duplicate,
    /// The entry cannot be handled, and was not run.
    Refused,
}

/// How a handler was run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The digest of the component.
    pub digest: &'a str,
    /// How it ended.
    pub verdict: &'a Verdict,
    /// What it said.
    pub logs: &'a [LogLine],
    /// Bytes of logs that were over the limit.
    pub logs_dropped: u64,
    /// From the start of the instance to its end.
    pub wall: Duration,
    /// The most linear memory that the instance had, in bytes.
    pub peak_memory: usize,
}
