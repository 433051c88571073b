//! Events at a fixed rate, whatever becomes of them, and when their follow-ups arrive.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::measure::{IN, OUT, Server, add_event, wait};
use super::rounded;
use crate::cmd::Result;

/// How often events are sent: those whose time has come since.
const TICK: Duration = Duration::from_micros(500);
/// Follow-ups that are taken at a time.
const BATCH: usize = 2000;
/// What stands before the number in the id of an event.
const ID_PREFIX: usize = "00000000-0000-4000-8000-".len();

/// Bytes of each event's payload.
const SIZE: usize = 100;

/// An open loop.
pub struct Load {
    /// What the keys of the streams begin with.
    pub prefix: &'static str,
    /// Events a second.
    pub rate: f64,
    /// For so long.
    pub duration: Duration,
    /// The number of the first event.
    pub first: usize,
}

/// What became of the events.
#[derive(Default)]
pub struct Seen {
    /// Events that were sent.
    pub sent: usize,
    /// Follow-ups by the version that made them.
    pub digests: BTreeMap<String, usize>,
    /// For each event how many follow-ups it has.
    follow_ups: Vec<u8>,
    /// From the intended time of each event until its follow-up was read, in microseconds, in order.
    latencies: Vec<u32>,
}

/// A follow-up as it was read.
struct FollowUp {
    number: usize,
    digest: String,
    at: Instant,
}

impl Load {
    /// Sends, reads what comes of it, and does something else meanwhile. Leaves empty streams.
    pub fn run(&self, server: &Server, meanwhile: impl FnOnce() -> Result<()>) -> Result<Seen> {
        let mut redis = server.connection()?;
        let (mut sending, mut reading) = (server.connection()?, server.connection()?);
        let is_over = AtomicBool::new(false);
        // All threads are at work before the first event is due.
        let start = Instant::now() + Duration::from_millis(50);
        let threads: Result<_> = std::thread::scope(|scope| {
            // Errors of other threads as text: theirs cannot be sent.
            let sender = scope.spawn(|| self.send(&mut sending, start).map_err(|error| error.to_string()));
            let reader = scope.spawn(|| read(&mut reading, self.prefix, &is_over).map_err(|error| error.to_string()));
            let done = meanwhile();
            let sent = sender.join().unwrap_or_else(|_| Err("the sender has panicked".to_owned()));
            let settled = wait("every event is settled", || is_settled(&mut redis, self.prefix));
            is_over.store(true, Ordering::Relaxed);
            let read = reader.join().unwrap_or_else(|_| Err("the reader has panicked".to_owned()));
            done?;
            settled?;
            Ok((sent?, read?))
        });
        let (sent, follow_ups) = threads?;
        clear(&mut redis, self.prefix)?;
        self.count(sent, follow_ups, start)
    }

    /// When an event is to be sent.
    fn intended(&self, start: Instant, number: usize) -> Instant {
        start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// Sends every event at its time, or as soon as the server has taken those before.
    fn send(&self, redis: &mut redis::Connection, start: Instant) -> Result<usize> {
        let all = (self.rate * self.duration.as_secs_f64()) as usize;
        let (input, mut sent) = (format!("{}{IN}", self.prefix), 0);
        while sent < all {
            std::thread::sleep(TICK.max(self.intended(start, sent).saturating_duration_since(Instant::now())));
            let now = Instant::now();
            let mut pipeline = redis::pipe();
            while sent < all && self.intended(start, sent) <= now {
                add_event(&mut pipeline, &input, self.first + sent, SIZE);
                sent += 1;
            }
            pipeline.query::<()>(redis)?;
        }
        Ok(sent)
    }

    fn count(&self, sent: usize, read: Vec<FollowUp>, start: Instant) -> Result<Seen> {
        let mut seen = Seen { sent, follow_ups: vec![0; sent], ..Seen::default() };
        for FollowUp { number, digest, at } in read {
            let number = number.checked_sub(self.first).filter(|&number| number < sent).ok_or("an event of nobody")?;
            seen.follow_ups[number] = seen.follow_ups[number].saturating_add(1);
            *seen.digests.entry(digest).or_default() += 1;
            let latency = at.saturating_duration_since(self.intended(start, number));
            seen.latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        }
        seen.latencies.sort_unstable();
        Ok(seen)
    }
}

impl Seen {
    /// Together with another one.
    pub fn add(&mut self, other: Seen) {
        self.sent += other.sent;
        self.follow_ups.extend(other.follow_ups);
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
        for (digest, count) in other.digests {
            *self.digests.entry(digest).or_default() += count;
        }
    }

    /// Events without a follow-up.
    pub fn lost(&self) -> usize {
        self.follow_ups.iter().filter(|&&count| count == 0).count()
    }

    /// Follow-ups that are too many.
    pub fn doubled(&self) -> usize {
        self.follow_ups.iter().map(|&count| usize::from(count.saturating_sub(1))).sum()
    }

    /// The latency that this share of the events does not exceed.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let at = (self.latencies.len() as f64 * share).ceil() as usize;
        self.latencies.get(at.saturating_sub(1)).map_or(f64::NAN, |&micros| f64::from(micros) / 1e3)
    }

    /// The latencies of all rounds, and the p99 of each.
    pub fn summary(&self, p99s: &[f64]) -> Value {
        json!({
            "events": self.sent,
            "p50_ms": rounded(self.percentile_ms(0.5)),
            "p99_ms": rounded(self.percentile_ms(0.99)),
            "p999_ms": rounded(self.percentile_ms(0.999)),
            "max_ms": rounded(self.percentile_ms(1.0)),
            "p99_ms_of_each": p99s,
        })
    }
}

/// Reads follow-ups as they come, until it is over and there are no more.
fn read(redis: &mut redis::Connection, prefix: &str, is_over: &AtomicBool) -> Result<Vec<FollowUp>> {
    type Entries = Vec<(String, Vec<Vec<u8>>)>;
    let (mut last, mut found) = ("0-0".to_owned(), Vec::new());
    let output = format!("{prefix}{OUT}");
    loop {
        // What was published before it was over is there by now.
        let is_last = is_over.load(Ordering::Relaxed);
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(BATCH).arg("BLOCK").arg(100).arg("STREAMS").arg(&output).arg(&last);
        let value: redis::Value = command.query(redis)?;
        let at = Instant::now();
        let streams: Option<Vec<(String, Entries)>> = redis::from_redis_value(value)?;
        let Some((_, entries)) = streams.and_then(|streams| streams.into_iter().next()) else {
            if is_last {
                return Ok(found);
            }
            continue;
        };
        for (id, fields) in entries {
            let [cause, digest] = ["ce_causationid", "ce_handlerdigest"].map(|name| field(&fields, name));
            let number = cause?.get(ID_PREFIX..).and_then(|number| number.parse().ok()).ok_or("an event of nobody")?;
            found.push(FollowUp { number, digest: digest?, at });
            last = id;
        }
    }
}

fn field(fields: &[Vec<u8>], name: &str) -> Result<String> {
    let pair = fields.chunks_exact(2).find(|pair| pair[0] == name.as_bytes());
    let value = pair.and_then(|pair| String::from_utf8(pair[1].clone()).ok());
    Ok(value.ok_or_else(|| format!("a follow-up without {name}"))?)
}

/// How many follow-ups there are.
pub fn published(redis: &mut redis::Connection) -> Result<usize> {
    Ok(redis::cmd("XLEN").arg(OUT).query(redis)?)
}

/// Whether the handler has nothing left to do; something if so.
pub fn is_settled(redis: &mut redis::Connection, prefix: &str) -> Result<Option<()>> {
    let input = format!("{prefix}{IN}");
    let groups: Vec<BTreeMap<String, redis::Value>> = redis::cmd("XINFO").arg("GROUPS").arg(input).query(redis)?;
    let is_zero = |name: &str| groups.iter().all(|group| group.get(name) == Some(&redis::Value::Int(0)));
    Ok((!groups.is_empty() && is_zero("pending") && is_zero("lag")).then_some(()))
}

/// Empties the streams, and leaves the groups as they are.
pub fn clear(redis: &mut redis::Connection, prefix: &str) -> Result<()> {
    for stream in [IN, OUT] {
        redis::cmd("XTRIM").arg(format!("{prefix}{stream}")).arg("MAXLEN").arg(0).query::<()>(redis)?;
    }
    Ok(())
}
