//! One of the two versions that are compared: what runs, and what it took.

use std::sync::Arc;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use wasmill::state;
use wasmill::wasm::{Execution, GuestDelivery, GuestEvent, Handler, Surroundings, WarmInstance};

/// A version, and what was seen of it.
pub struct Side {
    /// What runs.
    pub handler: Handler,
    /// Where it comes from, in words.
    pub from: String,
    /// The instance that served the last event, if it may serve another.
    warm: Option<WarmInstance>,
    /// In nanoseconds.
    durations: Histogram<u64>,
    /// The most memory of a delivery, in bytes.
    memory: usize,
    /// HTTP requests that were refused.
    denied: u64,
}

impl Side {
    /// A version that has not run yet.
    pub fn new(handler: Handler, from: String) -> Side {
        // Two digits are exact to 1 %, and take some kilobytes.
        let durations = Histogram::new(2).expect("two significant digits are allowed");
        Side { handler, from, warm: None, durations, memory: 0, denied: 0 }
    }

    /// Its digest, `sha256:` and 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        self.handler.component.digest.to_string()
    }

    /// Runs a delivery.
    pub async fn run(&mut self, event: &Arc<GuestEvent>, delivery: &GuestDelivery) -> Execution {
        // The time of follow-ups and of the clock is that of the event: the handler is deterministic here.
        let surroundings = Surroundings { now: event.time, ..Surroundings::here(Some(state::empty())) };
        let running = self.handler.run(self.warm.take(), event.clone(), delivery.clone(), surroundings);
        let (execution, warm) = running.await;
        self.warm = warm;
        // An auto-resizing histogram takes every value.
        let _ = self.durations.record(u64::try_from(execution.wall.as_nanos()).unwrap_or(u64::MAX));
        self.memory = self.memory.max(execution.peak_memory);
        self.denied += execution.http_denied;
        execution
    }

    /// The duration below which so many percent of the deliveries were, in nanoseconds.
    pub fn duration(&self, percent: f64) -> u64 {
        self.durations.value_at_quantile(percent / 100.0)
    }

    /// The most memory of a delivery, in bytes.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// All of that, for programs.
    pub fn as_json(&self) -> Value {
        let micros = |percent| self.duration(percent) as f64 / 1000.0;
        json!({
            "digest": self.digest(),
            "from": self.from,
            "wall_us": {"p50": micros(50.0), "p99": micros(99.0), "max": micros(100.0)},
            "memory_bytes": self.memory,
            "http_denied": self.denied,
        })
    }
}
