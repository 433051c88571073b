//! Many handlers that share the events of one: what an event costs then, at the same total rate and when there is more to do
//! than can be done; how many connections it takes, how long the start, and how much memory.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::measure::{
    Process, Server, add_event_to, cpu_seconds, free_port, get, ready, rss_mib, server_cpu, wait,
};
use super::super::{median, rounded};
use crate::cmd::Result;

/// The handlers among which the events are shared.
const MANY: usize = 1000;
/// Bytes of each event's payload.
const SIZE: usize = 100;
/// Where all handlers publish to.
const OUT: &str = "bench.out";
/// How often events are sent: those whose time has come since.
const TICK: Duration = Duration::from_millis(1);
/// How long a worker that is ready is left alone before it is measured.
const SETTLE: Duration = Duration::from_secs(2);

/// How much is measured.
struct Plan {
    rounds: usize,
    /// Events a second, over all handlers.
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

/// What is measured of one number of handlers.
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

/// A worker with so many handlers, and a Redis of its own.
struct Setup {
    handlers: usize,
    server: Server,
    worker: Process,
    start_ms: f64,
    next_event: usize,
}

/// Measures; the report as JSON.
pub fn run(root: &Path, quick: bool) -> Result<Value> {
    let plan = Plan::new(quick);
    let directory = tempfile::tempdir()?;
    let (mut one, mut many) = (Measured::default(), Measured::default());
    for round in 1..=plan.rounds {
        // Whatever the first one of a round suffers from is not always the other's luck.
        let mut order = [(1, &mut one), (MANY, &mut many)];
        if round % 2 == 0 {
            order.reverse();
        }
        for (handlers, measured) in order {
            eprintln!("round {round}/{}: {handlers} handlers", plan.rounds);
            measured.add(root, directory.path(), handlers, &plan)?;
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
        "start_ms": rounded(median(many.start_ms.iter().copied())),
        "rss_mib": rounded(median(many.rss_mib.iter().copied())),
        "lost": one.lost + many.lost,
        "doubled": one.doubled + many.doubled,
        "offered_events_per_second": plan.rate,
        "one": one.summary(),
        "many": many.summary(),
    }))
}

impl Measured {
    fn add(&mut self, root: &Path, directory: &Path, handlers: usize, plan: &Plan) -> Result<()> {
        // The first one warms the compiled cache, and makes the groups.
        let setup = Setup::start(root, directory, handlers, None)?;
        let mut setup = setup.again(root, directory)?;
        std::thread::sleep(SETTLE);
        let (worker, redis) = setup.idle(Duration::from_secs(3))?;
        self.idle_cpu_ms.push(worker * 1e3);
        self.idle_redis_cpu_ms.push(redis * 1e3);
        self.start_ms.push(setup.start_ms);
        self.offered.push(setup.offered(plan)?);
        self.connections = self.connections.max(setup.connections()?);
        let (lost, doubled) = setup.take_follow_ups()?;
        self.saturated.push(setup.saturated(plan)?);
        let (lost_then, doubled_then) = setup.take_follow_ups()?;
        self.lost += lost + lost_then;
        self.doubled += doubled + doubled_then;
        self.rss_mib.push(rss_mib(setup.worker.0.id())?);
        Ok(())
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

fn stream(handler: usize) -> String {
    format!("bench.in.{handler}")
}

fn config(root: &Path, server: &Server, admin: u16, handlers: usize) -> String {
    let component: PathBuf = root.join("target/guests/bench.wasm");
    let head = format!(
        "[redis]\nurl = \"{}\"\n[log]\nlevel = \"error\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [worker]\ncache_dir = \"cache\"\n",
        server.url()
    );
    let handler = |number| {
        format!(
            "[handlers.h{number}]\ncomponent = \"{}\"\nstreams = [\"{}\"]\npublishes = [\"{OUT}\"]\n",
            component.display(),
            stream(number)
        )
    };
    head + &(0..handlers).map(handler).collect::<String>()
}

impl Setup {
    fn start(root: &Path, directory: &Path, handlers: usize, server: Option<Server>) -> Result<Setup> {
        let server = server.map_or_else(Server::start, Ok)?;
        let admin = free_port()?;
        let file = directory.join("wasmill.toml");
        fs::write(&file, config(root, &server, admin, handlers))?;
        let start = Instant::now();
        let mut command = Command::new(root.join("target/release/wasmill"));
        let worker = Process(command.arg("run").arg("--config").arg(file).spawn()?);
        wait("the worker is ready", || Ok(ready(admin).then_some(())))?;
        let start_ms = start.elapsed().as_secs_f64() * 1e3;
        // It serves what it says that it serves.
        get(admin, "/metrics")?;
        Ok(Setup { handlers, server, worker, start_ms, next_event: 0 })
    }

    /// The same with another worker on the same Redis.
    fn again(self, root: &Path, directory: &Path) -> Result<Setup> {
        let Setup { handlers, server, worker, .. } = self;
        drop(worker);
        Setup::start(root, directory, handlers, Some(server))
    }

    /// CPU time of worker and Redis while nothing happens, in seconds a second.
    fn idle(&self, time: Duration) -> Result<(f64, f64)> {
        let before = self.cpu()?;
        std::thread::sleep(time);
        let after = self.cpu()?;
        let seconds = time.as_secs_f64();
        Ok(((after.0 - before.0) / seconds, (after.1 - before.1) / seconds))
    }

    fn cpu(&self) -> Result<(f64, f64)> {
        Ok((cpu_seconds(self.worker.0.id())?, server_cpu(&self.server)?))
    }

    /// Events at a steady rate, to each handler in turn.
    fn offered(&mut self, plan: &Plan) -> Result<Cost> {
        let mut redis = self.server.connection()?;
        let (all, rate) = (plan.rate * plan.seconds, plan.rate as f64);
        let (before, start) = (self.cpu()?, Instant::now());
        let mut sent = 0;
        while sent < all {
            std::thread::sleep(TICK);
            let due = ((start.elapsed().as_secs_f64() * rate) as usize).min(all);
            self.send(&mut redis, sent, due)?;
            sent = due;
        }
        self.next_event += all;
        self.finish(&mut redis, all, before, start)
    }

    /// Events that lie ready for all handlers at once: the worker is held up until they do.
    fn saturated(&mut self, plan: &Plan) -> Result<Cost> {
        let mut redis = self.server.connection()?;
        let stopped = rustix_signal(&self.worker, "STOP")?;
        for from in (0..plan.backlog).step_by(1000) {
            self.send(&mut redis, from, (from + 1000).min(plan.backlog))?;
        }
        let (before, start) = (self.cpu()?, Instant::now());
        drop(stopped);
        self.next_event += plan.backlog;
        self.finish(&mut redis, plan.backlog, before, start)
    }

    fn send(&self, redis: &mut redis::Connection, from: usize, to: usize) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for number in self.next_event + from..self.next_event + to {
            add_event_to(&mut pipeline, &stream(number % self.handlers), number, SIZE);
        }
        Ok(pipeline.query::<()>(redis)?)
    }

    /// Waits until so many events are handled; what one of them cost.
    fn finish(
        &self,
        redis: &mut redis::Connection,
        events: usize,
        before: (f64, f64),
        start: Instant,
    ) -> Result<Cost> {
        wait("the last event", || {
            // Looking has its price, too.
            std::thread::sleep(Duration::from_millis(20));
            Ok((redis::cmd("XLEN").arg(OUT).query::<usize>(redis)? >= events).then_some(()))
        })?;
        let (seconds, after, events) = (start.elapsed().as_secs_f64(), self.cpu()?, events as f64);
        let per_event = |before: f64, after: f64| (after - before) * 1e6 / events;
        Ok(Cost {
            worker_us: per_event(before.0, after.0),
            redis_us: per_event(before.1, after.1),
            rate: events / seconds,
        })
    }

    /// The connections of the worker.
    fn connections(&self) -> Result<usize> {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut self.server.connection()?)?;
        // This one is not the worker's.
        Ok(clients.lines().count() - 1)
    }

    /// Empties the stream of follow-ups; how many events have none, and how many follow-ups are too many.
    fn take_follow_ups(&mut self) -> Result<(usize, usize)> {
        let mut redis = self.server.connection()?;
        let (mut from, mut seen, mut count) = ("-".to_owned(), HashSet::new(), 0);
        loop {
            type Entries = Vec<(String, Vec<(String, redis::Value)>)>;
            let page: Entries =
                redis::cmd("XRANGE").arg(OUT).arg(&from).arg("+").arg("COUNT").arg(5000).query(&mut redis)?;
            let Some((last, _)) = page.last() else { break };
            from = format!("({last}");
            for (_, fields) in &page {
                let data = fields.iter().find(|(name, _)| name == "data").map(|(_, value)| format!("{value:?}"));
                seen.insert(data.ok_or("a follow-up without data")?);
                count += 1;
            }
        }
        redis::cmd("DEL").arg(OUT).query::<()>(&mut redis)?;
        let sent = std::mem::take(&mut self.next_event);
        // Numbers go on, so that no follow-up of another load is taken for one of this.
        Ok((sent.saturating_sub(seen.len()), count - seen.len()))
    }
}
