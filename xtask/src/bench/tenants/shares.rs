//! Three tenants of weights 1, 2 and 4 that all want more than there is: the time that each one gets.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::measure::Server;
use super::super::rounded;
use super::worker::Worker;
use crate::cmd::Result;

/// The tenants: name, weight, and how long each of their events runs. What their events cost must not matter; it is so much
/// that they do not run out.
const TENANTS: [(&str, u32, &str); 3] = [("one", 1, "500ms"), ("two", 2, "250ms"), ("four", 4, "125ms")];
/// The one that is idle at first.
const LAST: usize = 2;
/// How long the others are alone.
const ALONE: Duration = Duration::from_secs(2);
/// How often it is looked what they have used.
const LOOK: Duration = Duration::from_millis(50);
/// Over how many looks a share is taken.
const WINDOW: usize = 5;
/// The part of its due at which a tenant is taken to have its share.
const NEARLY: f64 = 0.9;

/// What the tenants had used at a time.
type Used = BTreeMap<String, f64>;

/// Measures; the figures as JSON.
pub fn run(root: &Path, quick: bool) -> Result<Value> {
    let window = Duration::from_secs(if quick { 8 } else { 30 });
    let server = Server::start()?;
    let worker = Worker::start(root, &server, &config(root))?;
    let mut redis = server.connection()?;
    eprintln!("shares: two tenants");
    TENANTS[..LAST].iter().try_for_each(|(name, ..)| fill(&mut redis, name, window))?;
    std::thread::sleep(ALONE);
    eprintln!("shares: the third one wakes up");
    let woken = Instant::now();
    fill(&mut redis, TENANTS[LAST].0, window)?;
    let wake_ms = wait_for_share(&worker, woken)?;
    eprintln!("shares: all three for {window:?}");
    let before = worker.cpu_seconds()?;
    std::thread::sleep(window);
    let shares = shares(&before, &worker.cpu_seconds()?);
    for (name, ..) in TENANTS {
        let key = format!("{name}:faults.in");
        let groups: Vec<BTreeMap<String, redis::Value>> =
            redis::cmd("XINFO").arg("GROUPS").arg(key).query(&mut redis)?;
        if groups.iter().all(|group| group.get("lag") == Some(&redis::Value::Int(0))) {
            return Err(format!("the events of `{name}` have run out: a fault of the benchmark").into());
        }
    }
    let dues = TENANTS.map(|(.., weight, _)| due(weight));
    let errors = shares.iter().zip(dues).map(|(share, due)| (share / due - 1.0).abs());
    let named = |values: &[f64]| -> Value {
        TENANTS.iter().zip(values).map(|((name, ..), value)| ((*name).to_owned(), json!(rounded(*value)))).collect()
    };
    Ok(json!({
        "ratios": { "share_error": rounded(errors.fold(0.0, f64::max)) },
        "shares": {
            "seconds": window.as_secs(),
            "wanted": named(&dues),
            "had": named(&shares),
            "share_after_waking_up_ms": rounded(wake_ms),
        },
    }))
}

/// The share of a weight.
fn due(weight: u32) -> f64 {
    f64::from(weight) / f64::from(TENANTS.iter().map(|(_, weight, _)| weight).sum::<u32>())
}

fn config(root: &Path) -> String {
    let component = root.join("target/guests/faults.wasm");
    let tenant = |(name, weight, runs): &(&str, u32, &str)| {
        format!(
            "[tenants.{name}]\nweight = {weight}\n[tenants.{name}.handlers.faults]\ncomponent = \"{}\"\n\
             streams = [\"faults.in\"]\n[tenants.{name}.handlers.faults.limits]\ndeadline = \"{runs}\"\n\
             [tenants.{name}.handlers.faults.retry]\nmax_attempts = 1\n",
            component.display()
        )
    };
    TENANTS.iter().map(tenant).collect()
}

/// More events than can be run while it is measured, even by one that is alone on two threads.
fn fill(redis: &mut redis::Connection, tenant: &str, window: Duration) -> Result<()> {
    let events = (window + Duration::from_secs(20)).as_millis() as usize / 2;
    for _ in 0..events.div_ceil(1000) {
        let mut pipeline = redis::pipe();
        for _ in 0..1000 {
            pipeline.cmd("XADD").arg(format!("{tenant}:faults.in")).arg("*").arg("ce_specversion").arg("1.0");
            pipeline.arg("ce_id").arg("0").arg("ce_source").arg("/bench").arg("ce_type").arg("spin").ignore();
        }
        pipeline.query::<()>(redis)?;
    }
    Ok(())
}

/// Of all that was used in between, what each one had.
fn shares(before: &Used, after: &Used) -> Vec<f64> {
    let of = |used: &Used, name: &str| used.get(name).copied().unwrap_or(0.0);
    let used = TENANTS.map(|(name, ..)| of(after, name) - of(before, name));
    let all: f64 = used.iter().sum();
    used.iter().map(|used| used / all).collect()
}

/// Waits until the last tenant has nearly its share; how long that took, in milliseconds. The beginning of the first window
/// in which it had it counts.
fn wait_for_share(worker: &Worker, woken: Instant) -> Result<f64> {
    let mut looks: Vec<(Instant, Used)> = Vec::new();
    while woken.elapsed() < Duration::from_secs(30) {
        looks.push((Instant::now(), worker.cpu_seconds()?));
        if let Some((begin, before)) = looks.len().checked_sub(WINDOW + 1).map(|at| &looks[at]) {
            let had = shares(before, &looks[looks.len() - 1].1)[LAST];
            if had >= NEARLY * due(TENANTS[LAST].1) {
                return Ok(begin.duration_since(woken).as_secs_f64() * 1e3);
            }
        }
        std::thread::sleep(LOOK);
    }
    Err("a tenant that woke up did not get its share within 30 s".into())
}
