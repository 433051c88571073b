//! Tenants that do harm, each in its own way, with events of a kind of `guest-examples/faults`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cmd::Result;

/// The stream that they read.
const IN: &str = "faults.in";
/// Events of each that wait, at least: few and often, since a flood of thousands at once keeps Redis from serving anybody,
/// whatever the worker does.
const BACKLOG: i64 = 60;
/// The same of those with a large payload: it is not the server that is to be filled.
const BIG_BACKLOG: i64 = 1;
/// What is not large, in bytes.
const SMALL: usize = 1024;
/// How often that is looked after.
const LOOK: Duration = Duration::from_millis(20);

/// A tenant that does harm.
pub struct Hostile {
    /// Its name.
    pub name: &'static str,
    /// The type of its events: what they do.
    kind: &'static str,
    /// Bytes of the payload of each.
    size: usize,
    /// What its handler is limited to, besides the defaults.
    limits: &'static str,
}

/// All of them.
pub const ALL: [Hostile; 8] = [
    Hostile::new("spin", "spin", 2, ""),
    Hostile::new("spin-briefly", "spin", 2, "deadline = \"20ms\""),
    Hostile::new("hog", "hog", 2, ""),
    Hostile::new("overflow", "overflow", 2, ""),
    Hostile::new("flood", "flood_ignore", 2, ""),
    Hostile::new("shout", "log_flood", 2, ""),
    Hostile::new("big", "ok", 1 << 20, ""),
    Hostile::new("fail", "retry_always", 2, ""),
];

impl Hostile {
    const fn new(name: &'static str, kind: &'static str, size: usize, limits: &'static str) -> Hostile {
        Hostile { name, kind, size, limits }
    }

    /// Its section of the configuration.
    pub fn config(&self, root: &Path) -> String {
        let Hostile { name, limits, .. } = self;
        let component = root.join("target/guests/faults.wasm");
        // What was given up goes: the memory of this machine is no part of what is measured.
        format!(
            "[tenants.{name}.handlers.faults]\ncomponent = \"{}\"\nstreams = [\"{IN}\"]\npublishes = [\"faults.out\"]\n\
             [tenants.{name}.handlers.faults.limits]\n{limits}\n[tenants.{name}.handlers.faults.retry]\nmax_attempts = 1\n\
             [tenants.{name}.streams.\"faults.out\"]\nmax_length = 1000\n",
            component.display(),
        )
    }

    fn key(&self) -> String {
        format!("{}:{IN}", self.name)
    }

    /// Adds events.
    fn feed(&self, pipeline: &mut redis::Pipeline) {
        let data = "x".repeat(self.size);
        for _ in 0..self.backlog() {
            pipeline.cmd("XADD").arg(self.key()).arg("MAXLEN").arg(4 * self.backlog()).arg("*");
            pipeline.arg("ce_specversion").arg("1.0");
            pipeline.arg("ce_id").arg("0").arg("ce_source").arg("/hostile").arg("ce_type").arg(self.kind);
            pipeline.arg("data").arg(&data).ignore();
        }
    }

    /// Events that wait, at least.
    fn backlog(&self) -> i64 {
        if self.size > SMALL { BIG_BACKLOG } else { BACKLOG }
    }
}

/// Adds events of those of which few wait.
fn feed_all(redis: &mut redis::Connection) -> Result<()> {
    let mut groups = redis::pipe();
    ALL.iter().for_each(|hostile| _ = groups.cmd("XINFO").arg("GROUPS").arg(hostile.key()));
    let groups: Vec<Vec<BTreeMap<String, redis::Value>>> = groups.query(redis)?;
    let mut events = redis::pipe();
    for (hostile, groups) in ALL.iter().zip(groups) {
        let lag = groups.first().and_then(|group| group.get("lag"));
        if !matches!(lag, Some(redis::Value::Int(lag)) if *lag >= hostile.backlog()) {
            hostile.feed(&mut events);
        }
    }
    if !events.is_empty() {
        events.query::<()>(redis)?;
    }
    Ok(())
}

/// Keeps all of them busy until it is over.
pub fn keep_busy(redis: &mut redis::Connection, is_over: &AtomicBool) -> Result<()> {
    while !is_over.load(Ordering::Relaxed) {
        feed_all(redis)?;
        std::thread::sleep(LOOK);
    }
    Ok(())
}
