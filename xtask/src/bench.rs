//! `cargo xtask bench`: wasmill against a native loop, on the same Redis, in the same run, in alternating rounds.
//!
//! Every case is measured from the outside in the same way: the events lie ready in the stream, the consumer is
//! started, and the follow-ups are counted while they arrive.

mod languages;
mod load;
mod measure;
mod publish;
mod swap;
mod tenants;

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::measure::{Case, Consumer, Round, Server, start_up};

/// Arguments of `bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// What is measured
    #[arg(value_enum, default_value_t = Subject::Handlers)]
    subject: Subject,
    /// Fewer events and rounds: under a minute once built
    #[arg(long)]
    quick: bool,
    /// Of `tenants`: this part alone
    #[arg(long, value_enum)]
    only: Option<tenants::Part>,
    /// Print one JSON document
    #[arg(long, value_parser = ["text", "json"], default_value = "text")]
    output: String,
}

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Running handlers, against a native loop
    Handlers,
    /// Publishing a batch, against redis-benchmark
    Publish,
    /// One handler in every language; a full run writes docs/languages.md
    Languages,
    /// Exchanging versions under load, and compiling beside it, against the same without
    Swap,
    /// What tenants of one worker feel of each other
    Tenants,
}

impl BenchArgs {
    /// Builds the components that are needed.
    pub fn build_guests(&self, root: &Path) -> Result<()> {
        match self.subject {
            Subject::Handlers | Subject::Tenants => guests::build_workspace(root),
            Subject::Publish => Ok(()),
            Subject::Languages => guests::build_languages(root, &guests::Language::ALL),
            Subject::Swap => {
                guests::build_workspace(root)?;
                guests::build_languages(root, &[guests::Language::Python])
            }
        }
    }
}

/// Sizes of the payload, in bytes.
const SIZES: [usize; 2] = [100, 1024];

use crate::cmd::Result;
use crate::guests;

/// Measures and prints.
pub fn run(root: &Path, args: &BenchArgs) -> Result<()> {
    let (report, print_text): (Value, fn(&Value)) = match args.subject {
        Subject::Handlers => (handlers(root, args)?, print_text),
        Subject::Publish => (publish::run(root, args.quick)?, publish::print_text),
        Subject::Languages => (languages::run(root, args.quick)?, languages::print_text),
        Subject::Swap => (swap::run(root, args.quick)?, swap::print_text),
        Subject::Tenants => (tenants::run(root, args.quick, args.only)?, tenants::print_text),
    };
    match args.output.as_str() {
        "json" => println!("{report:#}"),
        _ => print_text(&report),
    }
    Ok(())
}

/// Runs handlers; the report as JSON.
fn handlers(root: &Path, args: &BenchArgs) -> Result<Value> {
    let (rounds, events) = if args.quick { (3, 60_000) } else { (5, 200_000) };
    let server = Server::start()?;
    let mut results: BTreeMap<String, Vec<Round>> = BTreeMap::new();
    for round in 1..=rounds {
        for size in SIZES {
            for consumer in Consumer::ALL {
                let case = Case { consumer, size, events };
                eprintln!("round {round}/{rounds}: {}", case.name());
                results.entry(case.name()).or_default().push(case.measure(root, &server)?);
            }
        }
    }
    eprintln!("start and idle");
    let idle = start_up(root, &server)?;
    let cases: BTreeMap<&str, Value> = results.iter().map(|(name, rounds)| (name.as_str(), summary(rounds))).collect();
    let rate = |name: &str| median(results[name].iter().map(|round| round.events_per_second));
    let ratio = |consumer: &str, size: usize| {
        // The better of the two ways to write the native loop is the yardstick.
        let native = ["native1", "native2"].map(|native| rate(&format!("{native}_{size}")));
        rate(&format!("{consumer}_{size}")) / native[0].max(native[1])
    };
    Ok(json!({
        "ratios": {
            "fresh_100": rounded(ratio("fresh", 100)),
            "reuse_100": rounded(ratio("reuse", 100)),
            "fresh_1024": rounded(ratio("fresh", 1024)),
            "reuse_1024": rounded(ratio("reuse", 1024)),
        },
        "idle_rss_mib": rounded(idle.rss_mib),
        "start_to_ready_ms": rounded(idle.ready_ms),
        "events_per_round": events,
        "rounds": rounds,
        "cases": cases,
    }))
}

/// To three decimal places.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn summary(rounds: &[Round]) -> Value {
    let of = |pick: fn(&Round) -> f64| (median(rounds.iter().map(pick)) * 100.0).round() / 100.0;
    json!({
        "events_per_second": of(|round| round.events_per_second).round(),
        "cpu_us_per_event": of(|round| round.cpu_us),
        "redis_cpu_us_per_event": of(|round| round.redis_cpu_us),
        "rss_mib": of(|round| round.rss_mib),
        "handler_us": of(|round| round.handler_us),
    })
}

fn print_text(report: &Value) {
    println!("case          events/s   CPU us/event   Redis CPU us/event   RSS MiB   handler us");
    for (name, case) in report["cases"].as_object().into_iter().flatten() {
        println!(
            "{name:<12} {:>9} {:>14} {:>20} {:>9} {:>12}",
            case["events_per_second"],
            case["cpu_us_per_event"],
            case["redis_cpu_us_per_event"],
            case["rss_mib"],
            case["handler_us"],
        );
    }
    println!("\nratio to native (the better of one and two threads):");
    for (name, ratio) in report["ratios"].as_object().into_iter().flatten() {
        println!("  {name:<11} {ratio}");
    }
    println!("idle worker with four handlers: {} MiB RSS", report["idle_rss_mib"]);
    println!("start to ready with a warm cache: {} ms", report["start_to_ready_ms"]);
}
