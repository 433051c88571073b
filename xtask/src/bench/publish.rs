//! `cargo xtask bench publish`: `wasmill send --batch` against redis-benchmark, on the same Redis, in the same run, in
//! alternating rounds.
//!
//! `wasmill send` is measured as a user has it: from the start of the process to its end, with reading the file,
//! checking it, and printing the ids.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::measure::Server;
use super::{median, rounded};
use crate::cmd::Result;

/// Events of a round.
const EVENTS: usize = 100_000;
/// Bytes of each event's data.
const SIZE: usize = 100;
/// Requests of redis-benchmark that are on their way on a connection.
const PIPELINE: &str = "100";
const STREAM: &str = "bench.publish";

/// Who publishes.
#[derive(Clone, Copy)]
enum Publisher {
    /// redis-benchmark, with entries that hold the data and nothing else.
    DataAlone,
    /// redis-benchmark, with entries that hold what those of `wasmill send` do.
    SameFields,
    /// `wasmill send --batch`.
    Send,
}

impl Publisher {
    const ALL: [Publisher; 3] = [Publisher::DataAlone, Publisher::SameFields, Publisher::Send];

    fn name(self) -> &'static str {
        match self {
            Publisher::DataAlone => "xadd_data_alone",
            Publisher::SameFields => "xadd_same_fields",
            Publisher::Send => "send_batch",
        }
    }
}

/// Measures; the report as JSON.
pub fn run(root: &Path, quick: bool) -> Result<Value> {
    let rounds = if quick { 3 } else { 11 };
    let server = Server::start()?;
    let directory = tempfile::tempdir()?;
    let input = directory.path().join("events.ndjson");
    fs::write(&input, (0..EVENTS).map(line).collect::<String>())?;
    fs::write(directory.path().join("wasmill.toml"), format!("[redis]\nurl = \"{}\"\n", server.url()))?;
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        for publisher in Publisher::ALL {
            eprintln!("round {round}/{rounds}: {}", publisher.name());
            redis::cmd("FLUSHALL").query::<()>(&mut server.connection()?)?;
            let rate = match publisher {
                Publisher::DataAlone => redis_benchmark(&server, &["data", &"x".repeat(SIZE)])?,
                Publisher::SameFields => redis_benchmark(&server, &same_fields())?,
                Publisher::Send => send(root, directory.path())?,
            };
            let published: usize = redis::cmd("XLEN").arg(STREAM).query(&mut server.connection()?)?;
            if published != EVENTS {
                return Err(format!("{}: {published} events instead of {EVENTS}", publisher.name()).into());
            }
            rates.entry(publisher.name()).or_default().push(rate);
        }
    }
    let rates: BTreeMap<&str, f64> =
        rates.into_iter().map(|(name, rates)| (name, median(rates.into_iter()).round())).collect();
    let ratio = |yardstick: Publisher| rounded(rates[Publisher::Send.name()] / rates[yardstick.name()]);
    Ok(json!({
        "ratios": {
            "publish_100": ratio(Publisher::SameFields),
            "publish_100_data_alone": ratio(Publisher::DataAlone),
        },
        "events_per_second": rates,
        "events_per_round": EVENTS,
        "rounds": rounds,
    }))
}

/// Prints the report for people.
pub fn print_text(report: &Value) {
    for (name, rate) in report["events_per_second"].as_object().into_iter().flatten() {
        println!("{name:<18} {rate:>10} events/s");
    }
    println!("\nwasmill send --batch to redis-benchmark -P {PIPELINE} XADD:");
    println!("  the same fields    {}", report["ratios"]["publish_100"]);
    println!("  the data alone     {}", report["ratios"]["publish_100_data_alone"]);
}

/// The data of an event, [`SIZE`] bytes of JSON, and the end of the line.
fn line(number: usize) -> String {
    let start = format!(r#"{{"order_id":"order-{number:08}","amount":100,"note":""#);
    let note = "x".repeat(SIZE - start.len() - 2);
    format!("{start}{note}\"}}\n")
}

/// Fields and values of the length that `wasmill send` writes.
fn same_fields() -> [&'static str; 14] {
    const DATA: &str = match std::str::from_utf8(&[b'x'; SIZE]) {
        Ok(data) => data,
        Err(_) => unreachable!(),
    };
    [
        "ce_specversion",
        "1.0",
        "ce_id",
        "01920000-0000-7000-8000-000000000000",
        "ce_source",
        "/wasmill/send",
        "ce_type",
        "order_placed",
        "ce_time",
        "2026-01-01T00:00:00.123Z",
        "content-type",
        "application/json",
        "data",
        DATA,
    ]
}

/// XADD as fast as redis-benchmark can; entries a second.
fn redis_benchmark(server: &Server, fields: &[&str]) -> Result<f64> {
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-P", PIPELINE, "-n", &EVENTS.to_string(), "--csv"])
        .args(["XADD", STREAM, "*"])
        .args(fields)
        .output()
        .map_err(|error| {
            format!("redis-benchmark cannot be run ({error}): it comes with redis-server or redis-tools")
        })?;
    let printed = String::from_utf8_lossy(&output.stdout);
    // A line of names and one of values, all in quotes; the first value is the command, the second one the rate.
    let rate = printed.lines().last().and_then(|line| line.split("\",\"").nth(1)?.parse().ok());
    rate.ok_or_else(|| format!("redis-benchmark printed no rate: {printed}").into())
}

/// Publishes the file; events a second over the whole life of the process.
fn send(root: &Path, directory: &Path) -> Result<f64> {
    let start = Instant::now();
    let status = Command::new(root.join("target/release/wasmill"))
        .args(["send", STREAM, "order_placed", "--batch"])
        .current_dir(directory)
        .stdin(File::open(directory.join("events.ndjson"))?)
        .stdout(Stdio::from(File::create(directory.join("ids"))?))
        .status()?;
    let seconds = start.elapsed().as_secs_f64();
    match status.success() {
        true => Ok(EVENTS as f64 / seconds),
        false => Err(format!("wasmill send failed: {status}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_has_the_size_that_is_promised() {
        for number in [0, EVENTS - 1] {
            assert_eq!(line(number).len(), SIZE + 1);
            assert!(serde_json::from_str::<Value>(&line(number)).is_ok());
        }
        assert_eq!(same_fields()[13].len(), SIZE);
    }
}
