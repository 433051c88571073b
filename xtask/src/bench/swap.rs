//! `cargo xtask bench swap`: exchanging versions under load, against the same load undisturbed, and the throughput while a
//! large component compiles, against that without. Everything in the same run, in alternation, on two workers of a thread
//! each.

mod fleet;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::fleet::{Fleet, PYTHON_HANDLER};
use super::load::{self, Load, Seen};
use super::measure::{Server, fill, wait};
use super::{median, rounded};
use crate::cmd::Result;

/// Bytes of each event's payload where the maximum is measured.
const SIZE: usize = 100;
/// From one swap to the next.
const SWAP_EVERY: Duration = Duration::from_secs(2);

/// How much is measured.
struct Plan {
    /// Events with which the maximum is measured.
    events: usize,
    /// Times that each load is measured: undisturbed, with swaps.
    rounds: usize,
    /// How long each time.
    phase: Duration,
    /// Times that the throughput is measured: without and with compiling.
    compiles: usize,
    /// How long each time, or until the first worker has compiled.
    window: Duration,
}

impl Plan {
    fn new(quick: bool) -> Plan {
        let seconds = Duration::from_secs;
        match quick {
            true => Plan { events: 60_000, rounds: 2, phase: seconds(4), compiles: 1, window: seconds(3) },
            false => Plan { events: 200_000, rounds: 6, phase: seconds(10), compiles: 5, window: seconds(8) },
        }
    }
}

/// Measures; the report as JSON.
pub fn run(root: &Path, quick: bool) -> Result<Value> {
    let plan = Plan::new(quick);
    let server = Server::start()?;
    let mut fleet = Fleet::start(root, &server)?;
    eprintln!("the maximum");
    let maxima = (0..3).map(|_| maximum(&server, &mut fleet, plan.events)).collect::<Result<Vec<_>>>()?;
    let max = median(maxima.into_iter());
    let (mut undisturbed, mut swapping) = (Seen::default(), Seen::default());
    let mut p99s: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 1..=plan.rounds {
        // Whatever the first one of a round suffers from is not always the other's luck.
        let mut order = [false, true];
        if round % 2 == 0 {
            order.reverse();
        }
        for with_swaps in order {
            let name = if with_swaps { "swapping" } else { "undisturbed" };
            eprintln!("round {round}/{}: {name}", plan.rounds);
            let load = Load { prefix: "", rate: max / 2.0, duration: plan.phase, first: fleet.next_event };
            let seen = load.run(&server, || if with_swaps { fleet.swap_during(plan.phase) } else { Ok(()) })?;
            fleet.next_event += seen.sent;
            p99s.entry(name).or_default().push(rounded(seen.percentile_ms(0.99)));
            if with_swaps { swapping.add(seen) } else { undisturbed.add(seen) }
        }
    }
    if swapping.digests.len() != 2 {
        return Err(format!("two versions were to run, not {:?}", swapping.digests).into());
    }
    let switches = fleet.switch_ms()?;
    let compile = compiling(&server, &mut fleet, &plan, max)?;
    let [before, with] = [&undisturbed, &swapping].map(|seen| seen.percentile_ms(0.99));
    let last = switches.iter().copied().fold(0.0, f64::max);
    Ok(json!({
        "lost": undisturbed.lost() + swapping.lost(),
        "doubled": undisturbed.doubled() + swapping.doubled(),
        "ratios": {
            "swap_p99": rounded(with / before),
            "compile_rate": rounded(compile.ratio),
        },
        "max_events_per_second": max.round(),
        "offered_events_per_second": (max / 2.0).round(),
        "undisturbed": summary(&undisturbed, &p99s["undisturbed"]),
        "swapping": summary(&swapping, &p99s["swapping"]),
        "swaps": fleet.swaps(),
        "rollback_ms": { "median": rounded(median(switches.iter().copied())), "max": rounded(last) },
        "compiling": {
            "events_per_second": compile.rate.round(),
            "events_per_second_without": compile.rate_without.round(),
            "component_mib": rounded(fleet.python_mib()),
            "seconds_measured": rounded(compile.seconds),
        },
    }))
}

/// Events a second when there is more to do than can be done.
fn maximum(server: &Server, fleet: &mut Fleet, events: usize) -> Result<f64> {
    let mut redis = server.connection()?;
    fleet.pause(true)?;
    fill(&mut redis, fleet.next_event, events, SIZE)?;
    fleet.next_event += events;
    fleet.pause(false)?;
    let (first, start) = under_way(&mut redis)?;
    wait("the last event", || Ok((load::published(&mut redis)? >= events).then_some(())))?;
    let rate = (events - first) as f64 / start.elapsed().as_secs_f64();
    load::clear(&mut redis, "")?;
    Ok(rate)
}

/// Waits until all workers are at work: how many follow-ups there are then, and when that is.
fn under_way(redis: &mut redis::Connection) -> Result<(usize, Instant)> {
    wait("the first event", || Ok((load::published(redis)? > 0).then_some(())))?;
    // Workers do not notice at the same time that they may go on.
    std::thread::sleep(Duration::from_millis(500));
    Ok((load::published(redis)?, Instant::now()))
}

/// The throughput beside a compilation.
struct Compiling {
    rate: f64,
    rate_without: f64,
    /// The median over the rounds of what is left of the rate: a round is short, and machines change slowly.
    ratio: f64,
    /// How long it was looked at while both workers compiled.
    seconds: f64,
}

fn compiling(server: &Server, fleet: &mut Fleet, plan: &Plan, max: f64) -> Result<Compiling> {
    let mut redis = server.connection()?;
    let (mut rates, mut rates_without, mut seconds) = (Vec::<f64>::new(), Vec::<f64>::new(), 0.0);
    // Never less than can be done in that time.
    let events = (max * 1.5 * (plan.window.as_secs_f64() + 1.0)) as usize;
    for round in 1..=plan.compiles {
        for with_compiler in [false, true] {
            let name = if with_compiler { "compiling" } else { "not compiling" };
            eprintln!("round {round}/{}: {name}", plan.compiles);
            fleet.pause(true)?;
            fill(&mut redis, fleet.next_event, events, SIZE)?;
            fleet.next_event += events;
            if with_compiler {
                fleet.begin_compiling(round)?;
            }
            fleet.pause(false)?;
            let (first, start) = under_way(&mut redis)?;
            while start.elapsed() < plan.window && (!with_compiler || fleet.is_compiling()?) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let (done, elapsed) = (load::published(&mut redis)?, start.elapsed().as_secs_f64());
            if done >= events {
                return Err("too few events for the window: a fault of the benchmark".into());
            }
            let rate = (done - first) as f64 / elapsed;
            if with_compiler {
                seconds += elapsed;
                rates.push(rate);
            } else {
                rates_without.push(rate);
            }
            wait("the last event", || load::is_settled(&mut redis, ""))?;
            load::clear(&mut redis, "")?;
            if with_compiler {
                fleet.end_compiling()?;
            }
        }
    }
    if seconds < 1.0 {
        return Err(format!("{PYTHON_HANDLER} compiled for {seconds} s only: nothing was measured").into());
    }
    let ratio = median(rates.iter().zip(&rates_without).map(|(with, without)| with / without));
    Ok(Compiling { rate: median(rates.into_iter()), rate_without: median(rates_without.into_iter()), ratio, seconds })
}

fn summary(seen: &Seen, p99s: &[f64]) -> Value {
    let mut summary = seen.summary(p99s);
    summary["digests"] = json!(seen.digests);
    summary
}

/// For people.
pub fn print_text(report: &Value) {
    println!("maximum on two workers of a thread each: {} events/s", report["max_events_per_second"]);
    println!(
        "offered: {} events/s; end to end, from the intended time of each event:\n",
        report["offered_events_per_second"]
    );
    println!("                events    p50 ms    p99 ms   p99.9 ms    max ms");
    for name in ["undisturbed", "swapping"] {
        let of = &report[name];
        println!(
            "{name:<12} {:>9} {:>9} {:>9} {:>10} {:>9}",
            of["events"], of["p50_ms"], of["p99_ms"], of["p999_ms"], of["max_ms"]
        );
    }
    println!("\nlost: {}, doubled: {}, swaps: {}", report["lost"], report["doubled"], report["swaps"]);
    let switch = &report["rollback_ms"];
    println!(
        "from the request until a worker serves the other version: median {} ms, at most {} ms",
        switch["median"], switch["max"]
    );
    let compiling = &report["compiling"];
    println!(
        "while both compile {} MiB: {} events/s, without: {}",
        compiling["component_mib"], compiling["events_per_second"], compiling["events_per_second_without"]
    );
    println!("ratios: p99 {}, throughput {}", report["ratios"]["swap_p99"], report["ratios"]["compile_rate"]);
}
