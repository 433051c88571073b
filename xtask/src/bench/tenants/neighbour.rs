//! A quiet tenant beside hostile ones, against the same without them: in the same run, in alternation. The hostile ones have
//! the limits and quotas that `docs/security.md` advises for such tenants, and in another phase none.

use std::fs;
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

/// The page that has the settings.
const ADVICE: &str = "docs/security.md";
/// What the heads of sections of its example begin with.
const EXAMPLE: &str = "[tenants.acme.";

/// What is beside the quiet tenant.
#[derive(Clone, Copy)]
enum Beside {
    Nobody,
    HostileWithQuotas,
    HostileWithoutQuotas,
}

/// What was measured beside one of them.
#[derive(Default)]
struct Phases {
    seen: Seen,
    /// Of each phase, in milliseconds.
    p99s: Vec<f64>,
    rss_mib: f64,
}

/// Measures; the figures as JSON.
pub fn run(root: &Path, quick: bool) -> Result<Value> {
    let (rounds, seconds) = if quick { (3, 5) } else { (9, 5) };
    let (duration, server) = (Duration::from_secs(seconds), Server::start()?);
    let mut phases: [Phases; 3] = Default::default();
    for round in 1..=rounds {
        // Whatever the first one of a round suffers from is not always the same one's luck.
        let mut order = Beside::ALL;
        order.rotate_left(round % Beside::ALL.len());
        for beside in order {
            eprintln!("neighbour: round {round}/{rounds}: {}", beside.name());
            let worker = Worker::start(root, &server, &beside.config(root)?)?;
            let seen = measure(&server, duration, !matches!(beside, Beside::Nobody))?;
            let phase = &mut phases[beside as usize];
            phase.p99s.push(rounded(seen.percentile_ms(0.99)));
            phase.rss_mib = phase.rss_mib.max(rounded(worker.rss_mib()?));
            phase.seen.add(seen);
        }
    }
    let all: Vec<&Seen> = phases.iter().map(|phase| &phase.seen).collect();
    let [nobody, with_quotas, without_quotas] = &phases;
    Ok(json!({
        "ratios": {
            "neighbour_p99": with_quotas.against(nobody),
            "neighbour_p99_without_quotas": without_quotas.against(nobody),
        },
        "lost": all.iter().map(|seen| seen.lost()).sum::<usize>(),
        "doubled": all.iter().map(|seen| seen.doubled()).sum::<usize>(),
        "neighbour": {
            "hostile": hostile::ALL.map(|hostile| hostile.name),
            "undisturbed": nobody.summary(),
            "with_quotas": with_quotas.summary(),
            "without_quotas": without_quotas.summary(),
        },
    }))
}

impl Phases {
    /// The p99 against that beside somebody else. Each round has its pair: what the machine did besides is the same for both.
    fn against(&self, other: &Phases) -> f64 {
        rounded(median(self.p99s.iter().zip(&other.p99s).map(|(one, other)| one / other)))
    }

    fn summary(&self) -> Value {
        let mut summary = self.seen.summary(&self.p99s);
        summary["worker_rss_mib"] = json!(self.rss_mib);
        summary
    }
}

impl Beside {
    const ALL: [Beside; 3] = [Beside::Nobody, Beside::HostileWithQuotas, Beside::HostileWithoutQuotas];

    fn name(self) -> &'static str {
        match self {
            Beside::Nobody => "nobody",
            Beside::HostileWithQuotas => "hostile tenants with quotas",
            Beside::HostileWithoutQuotas => "hostile tenants without quotas",
        }
    }

    /// The tenants, which are there in each phase.
    fn config(self, root: &Path) -> Result<String> {
        let advised = match self {
            Beside::HostileWithoutQuotas => String::new(),
            Beside::Nobody | Beside::HostileWithQuotas => advised(root)?,
        };
        let hostile = hostile::ALL
            .iter()
            .map(|hostile| hostile.config(root) + &advised.replace(EXAMPLE, &format!("[tenants.{}.", hostile.name)));
        Ok(hostile.chain([quiet(root)]).collect())
    }
}

/// The limits and quotas that the page advises, for the tenant of its example.
fn advised(root: &Path) -> Result<String> {
    let page = fs::read_to_string(root.join(ADVICE)).map_err(|error| format!("cannot read {ADVICE}: {error}"))?;
    let section = |kind: &str| {
        let head = format!("{EXAMPLE}{kind}]");
        let (_, section) = page.split_once(&head).ok_or_else(|| format!("{ADVICE} has no {head}"))?;
        Ok::<_, String>(format!("{head}{}\n", section.split("\n[").next().unwrap_or_default()))
    };
    Ok(section("limits")? + &section("quotas")?)
}

fn quiet(root: &Path) -> String {
    let component = root.join("target/guests/bench.wasm");
    format!(
        "[tenants.quiet.handlers.bench]\ncomponent = \"{}\"\nstreams = [\"bench.in\"]\npublishes = [\"bench.out\"]\n",
        component.display()
    )
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
        // All of them are at work. Without them the pause is the same, since it lets caches cool down.
        std::thread::sleep(Duration::from_secs(1));
        let seen = load(phase).run(server, || Ok(()));
        is_over.store(true, Ordering::Relaxed);
        if let Some(hostile) = hostile {
            hostile.join().unwrap_or_else(|_| Err("the hostile tenants' thread has panicked".to_owned()))?;
        }
        seen
    })
}
