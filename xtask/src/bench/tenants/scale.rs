//! Many tenants that share the events of one: what an event costs then, at the same total rate and when there is more to do
//! than can be done; how many connections it takes, how long the start, and how much memory.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::measure::{IN, OUT, Server, add_event, cpu_seconds, wait};
use super::super::{median, rounded};
use super::worker::Worker;
use crate::cmd::{self, Result};

/// The tenants among which the events are shared; each has one handler.
const MANY: usize = 1000;
/// Bytes of each event's payload.
const SIZE: usize = 100;
/// How often it is looked what has been done.
const LOOK: Duration = Duration::from_millis(50);
/// How long a worker is watched that has nothing to do.
const IDLE: Duration = Duration::from_secs(3);
/// How often events are sent: those whose time has come since.
const TICK: Duration = Duration::from_millis(1);
/// How long a worker that is ready is left alone before it is measured.
const SETTLE: Duration = Duration::from_secs(2);

/// How much is measured.
struct Plan {
    rounds: usize,
    /// Events a second, over all tenants.
    rate: usize,
    seconds: usize,
    /// Events that lie ready when there is more to do than can be done.
    backlog: usize,
}

impl Plan {
    fn new(quick: bool) -> Plan {
        match quick {
            true => Plan { rounds: 1, rate: 2000, seconds: 5, backlog: 50_000 },
            false => Plan { rounds: 3, rate: 2000, seconds: 15, backlog: 200_000 },
        }
    }
}

/// What one load cost.
struct Cost {
    /// CPU time of the worker, per event.
    worker_us: f64,
    /// CPU time of Redis, per event, with that of adding the event and of looking at what comes of it.
    redis_us: f64,
    /// Events a second.
    rate: f64,
}

/// What is measured of one number of tenants.
#[derive(Default)]
struct Measured {
    offered: Vec<Cost>,
    saturated: Vec<Cost>,
    start_ms: Vec<f64>,
    rss_mib: Vec<f64>,
    idle_cpu_ms: Vec<f64>,
    idle_redis_cpu_ms: Vec<f64>,
    connections: usize,
    lost: usize,
    doubled: usize,
}

/// A worker with so many tenants.
struct Setup<'a> {
    tenants: usize,
    server: &'a Server,
    worker: Worker,
    start_ms: f64,
}

/// Measures; the figures as JSON.
pub fn run(root: &Path, quick: bool) -> Result<Value> {
    let plan = Plan::new(quick);
    let server = Server::start()?;
    // Fills the compiled cache.
    drop(Setup::start(root, &server, 1)?);
    let (mut one, mut many) = (Measured::default(), Measured::default());
    for round in 1..=plan.rounds {
        // Whatever the first one of a round suffers from is not always the other's luck.
        let mut order = [(1, &mut one), (MANY, &mut many)];
        if round % 2 == 0 {
            order.reverse();
        }
        for (tenants, measured) in order {
            eprintln!("scale: round {round}/{}: tenants: {tenants}", plan.rounds);
            measured.add(Setup::start(root, &server, tenants)?, &plan)?;
        }
    }
    let per_event = |of: &[Cost]| median(of.iter().map(|cost| cost.worker_us + cost.redis_us));
    Ok(json!({
        "ratios": {
            // CPU time of worker and Redis per event, at the same total rate.
            "tenants_1000": rounded(per_event(&many.offered) / per_event(&one.offered)),
            // The same when there is more to do than can be done.
            "tenants_1000_saturated": rounded(per_event(&many.saturated) / per_event(&one.saturated)),
        },
        "redis_connections": many.connections,
        "lost": one.lost + many.lost,
        "doubled": one.doubled + many.doubled,
        "scale": { "events_per_second": plan.rate, "one": one.summary(), "tenants_1000": many.summary() },
    }))
}

impl Measured {
    fn add(&mut self, setup: Setup, plan: &Plan) -> Result<()> {
        std::thread::sleep(SETTLE);
        let (worker, redis) = setup.idle(IDLE)?;
        self.idle_cpu_ms.push(worker * 1e3);
        self.idle_redis_cpu_ms.push(redis * 1e3);
        self.start_ms.push(setup.start_ms);
        self.offered.push(setup.offered(plan)?);
        self.connections = self.connections.max(setup.connections()?);
        self.count(setup.take_follow_ups(plan.rate * plan.seconds)?);
        self.saturated.push(setup.saturated(plan)?);
        self.count(setup.take_follow_ups(plan.backlog)?);
        self.rss_mib.push(setup.worker.rss_mib()?);
        Ok(())
    }

    fn count(&mut self, (lost, doubled): (usize, usize)) {
        self.lost += lost;
        self.doubled += doubled;
    }

    fn summary(&self) -> Value {
        let of = |costs: &[Cost]| {
            json!({
                "worker_us_per_event": rounded(median(costs.iter().map(|cost| cost.worker_us))),
                "redis_us_per_event": rounded(median(costs.iter().map(|cost| cost.redis_us))),
                "events_per_second": median(costs.iter().map(|cost| cost.rate)).round(),
            })
        };
        json!({
            "offered": of(&self.offered),
            "saturated": of(&self.saturated),
            "idle_worker_cpu_ms_per_second": rounded(median(self.idle_cpu_ms.iter().copied())),
            "idle_redis_cpu_ms_per_second": rounded(median(self.idle_redis_cpu_ms.iter().copied())),
            "start_ms": rounded(median(self.start_ms.iter().copied())),
            "rss_mib": rounded(median(self.rss_mib.iter().copied())),
            "redis_connections": self.connections,
        })
    }
}

fn stream(tenant: usize, name: &str) -> String {
    format!("t{tenant}:{name}")
}

fn config(root: &Path, tenants: usize) -> String {
    let component = root.join("target/guests/bench.wasm");
    let tenant = |number| {
        format!(
            "[tenants.t{number}.handlers.bench]\ncomponent = \"{}\"\nstreams = [\"{IN}\"]\npublishes = [\"{OUT}\"]\n",
            component.display(),
        )
    };
    (0..tenants).map(tenant).collect()
}

/// A process that is stopped, until this is dropped.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Result<Stopped> {
        signal("STOP", pid)?;
        Ok(Stopped(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // If it cannot be sent, the wait for what the process does fails.
        let _ = signal("CONT", self.0);
    }
}

fn signal(name: &str, pid: u32) -> Result<()> {
    cmd::run(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()))
}

impl<'a> Setup<'a> {
    fn start(root: &Path, server: &'a Server, tenants: usize) -> Result<Setup<'a>> {
        let (config, start) = (config(root, tenants), Instant::now());
        let worker = Worker::start(root, server, &config)?;
        Ok(Setup { tenants, server, worker, start_ms: start.elapsed().as_secs_f64() * 1e3 })
    }

    /// CPU time of worker and Redis while nothing happens, in seconds a second.
    fn idle(&self, time: Duration) -> Result<(f64, f64)> {
        let before = self.cpu()?;
        std::thread::sleep(time);
        let after = self.cpu()?;
        Ok(((after.0 - before.0) / time.as_secs_f64(), (after.1 - before.1) / time.as_secs_f64()))
    }

    fn cpu(&self) -> Result<(f64, f64)> {
        Ok((cpu_seconds(self.worker.pid())?, self.server.cpu()?))
    }

    /// Events at a steady rate, to each tenant in turn.
    fn offered(&self, plan: &Plan) -> Result<Cost> {
        let mut redis = self.server.connection()?;
        let (all, rate) = (plan.rate * plan.seconds, plan.rate as f64);
        let (before, start) = (self.cpu()?, Instant::now());
        let mut sent = 0;
        while sent < all {
            std::thread::sleep(TICK);
            let due = ((start.elapsed().as_secs_f64() * rate) as usize).min(all);
            self.send(&mut redis, sent..due)?;
            sent = due;
        }
        self.finish(&mut redis, all, before, start)
    }

    /// Events that lie ready for all tenants at once: the worker is held up until they do.
    fn saturated(&self, plan: &Plan) -> Result<Cost> {
        let mut redis = self.server.connection()?;
        let stopped = Stopped::new(self.worker.pid())?;
        for from in (0..plan.backlog).step_by(1000) {
            self.send(&mut redis, from..(from + 1000).min(plan.backlog))?;
        }
        let (before, start) = (self.cpu()?, Instant::now());
        drop(stopped);
        self.finish(&mut redis, plan.backlog, before, start)
    }

    fn send(&self, redis: &mut redis::Connection, numbers: Range<usize>) -> Result<()> {
        let mut pipeline = redis::pipe();
        for number in numbers {
            add_event(&mut pipeline, &stream(number % self.tenants, IN), number, SIZE);
        }
        Ok(pipeline.query::<()>(redis)?)
    }

    /// Waits until so many events are handled; what one of them cost.
    fn finish(&self, redis: &mut redis::Connection, events: usize, before: (f64, f64), start: Instant) -> Result<Cost> {
        wait("the last event", || {
            // Looking costs the server something, too.
            std::thread::sleep(LOOK);
            let mut lengths = redis::pipe();
            (0..self.tenants).for_each(|tenant| _ = lengths.cmd("XLEN").arg(stream(tenant, OUT)));
            let done: usize = lengths.query::<Vec<usize>>(redis)?.into_iter().sum();
            Ok((done >= events).then_some(()))
        })?;
        let (seconds, after, events) = (start.elapsed().as_secs_f64(), self.cpu()?, events as f64);
        Ok(Cost {
            worker_us: (after.0 - before.0) * 1e6 / events,
            redis_us: (after.1 - before.1) * 1e6 / events,
            rate: events / seconds,
        })
    }

    /// The connections of the worker.
    fn connections(&self) -> Result<usize> {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut self.server.connection()?)?;
        // This one is not the worker's.
        Ok(clients.lines().count() - 1)
    }

    /// Removes the follow-ups of that many events; how many events have none, and how many follow-ups are too many.
    fn take_follow_ups(&self, sent: usize) -> Result<(usize, usize)> {
        // Whatever comes late is too much.
        std::thread::sleep(LOOK);
        let mut redis = self.server.connection()?;
        let (mut orders, mut count) = (HashSet::new(), 0);
        for tenant in 0..self.tenants {
            type Entries = Vec<(String, HashMap<String, Vec<u8>>)>;
            let key = stream(tenant, OUT);
            let entries: Entries = redis::cmd("XRANGE").arg(&key).arg("-").arg("+").query(&mut redis)?;
            redis::cmd("DEL").arg(&key).query::<()>(&mut redis)?;
            for (_, mut fields) in entries {
                let data: Value = serde_json::from_slice(&fields.remove("data").ok_or("a follow-up without data")?)?;
                orders.insert(data["order_id"].as_str().unwrap_or_default().to_owned());
                count += 1;
            }
        }
        Ok((sent.saturating_sub(orders.len()), count - orders.len()))
    }
}
