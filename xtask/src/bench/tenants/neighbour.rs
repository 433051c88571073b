//! A quiet tenant beside hostile ones, against the same without them: in the same run, in alternation.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::load::{Load, Seen};
use super::super::measure::Server;
use super::super::{median, rounded};
use super::hostile;
use super::worker::Worker;
use crate::cmd::Result;

/// Events a second of the quiet tenant.
const RATE: f64 = 1000.0;
/// What its keys begin with.
const PREFIX: &str = "quiet:";

/// Measures; the figures as JSON.
pub fn run(root: &Path, quick: bool) -> Result<Value> {
    let (rounds, seconds) = if quick { (2, 5) } else { (5, 10) };
    let phase = Duration::from_secs(seconds);
    let server = Server::start()?;
    let (mut undisturbed, mut disturbed) = (Seen::default(), Seen::default());
    let (mut p99s, mut rss_mib) = ([Vec::new(), Vec::new()], 0.0_f64);
    for round in 1..=rounds {
        // Whatever the first one of a round suffers from is not always the other's luck.
        let mut order = [false, true];
        if round % 2 == 0 {
            order.reverse();
        }
        for is_disturbed in order {
            let name = if is_disturbed { "disturbed" } else { "undisturbed" };
            eprintln!("neighbour: round {round}/{rounds}: {name}");
            let worker = Worker::start(root, &server, &config(root))?;
            let seen = measure(&server, phase, is_disturbed)?;
            p99s[usize::from(is_disturbed)].push(rounded(seen.percentile_ms(0.99)));
            if is_disturbed {
                rss_mib = rss_mib.max(worker.rss_mib()?);
                disturbed.add(seen);
            } else {
                undisturbed.add(seen);
            }
        }
    }
    // Each round has its pair: what the machine did besides is the same for both.
    let ratios = p99s[0].iter().zip(&p99s[1]).map(|(without, with)| with / without);
    Ok(json!({
        "ratios": { "neighbour_p99": rounded(median(ratios)) },
        "lost": undisturbed.lost() + disturbed.lost(),
        "doubled": undisturbed.doubled() + disturbed.doubled(),
        "neighbour": {
            "hostile": hostile::ALL.map(|hostile| hostile.name),
            "undisturbed": undisturbed.summary(&p99s[0]),
            "disturbed": disturbed.summary(&p99s[1]),
            "worker_rss_mib": rounded(rss_mib),
        },
    }))
}

fn config(root: &Path) -> String {
    let component = root.join("target/guests/bench.wasm");
    let quiet = format!(
        "[tenants.quiet.handlers.bench]\ncomponent = \"{}\"\nstreams = [\"bench.in\"]\npublishes = [\"bench.out\"]\n",
        component.display()
    );
    let hostile = hostile::ALL.iter().map(|hostile| hostile.config(root));
    hostile.chain([quiet]).collect()
}

/// One phase: the quiet tenant's events, with the hostile ones at work or without.
fn measure(server: &Server, phase: Duration, is_disturbed: bool) -> Result<Seen> {
    let (mut redis, is_over) = (server.connection()?, AtomicBool::new(false));
    let load = |duration| Load { prefix: PREFIX, rate: RATE, duration, first: 0 };
    // The first events of a worker find everything cold.
    load(Duration::from_secs(1)).run(server, || Ok(()))?;
    std::thread::scope(|scope| {
        let hostile = is_disturbed.then(|| {
            let keep_busy = || hostile::keep_busy(&mut redis, &is_over).map_err(|error| error.to_string());
            scope.spawn(keep_busy)
        });
        if is_disturbed {
            // All of them are at work.
            std::thread::sleep(Duration::from_secs(1));
        }
        let seen = load(phase).run(server, || Ok(()));
        is_over.store(true, Ordering::Relaxed);
        if let Some(hostile) = hostile {
            hostile.join().unwrap_or_else(|_| Err("the hostile tenants' thread has panicked".to_owned()))?;
        }
        seen
    })
}
