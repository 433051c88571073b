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
    /// How it was run; `None` if that was not needed.
    pub run: Option<Run<'a>>,
    /// What becomes of it.
    pub decision: &'a Decision,
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
