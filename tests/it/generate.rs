//! `wasmill generate`: what it publishes, how fast, and how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use redis::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use wasmill_tests::redis_server::RedisServer;
use wasmill_tests::worker::Worker;
use wasmill_tests::{eventually, guests, workspace};

use super::faults::{Entry, bytes, text};
use super::invoke::{Place, code, said};

/// More than any of these runs needs on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn place(server: &RedisServer) -> Place {
    Place::new(&format!("[redis]\nurl = \"{}\"\n", server.url()))
}

fn connect(server: &RedisServer) -> Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

fn entries(server: &RedisServer, stream: &str) -> Vec<Entry> {
    redis::cmd("XRANGE").arg(&[stream, "-", "+"]).query(&mut connect(server)).unwrap()
}

fn length(redis: &mut Connection, stream: &str) -> u64 {
    redis::cmd("XLEN").arg(stream).query(redis).unwrap()
}

/// Generates, and returns the summary.
fn generate(place: &Place, arguments: &[&str]) -> Value {
    let output = place.run(&[&["generate", "ecommerce", "--output", "json"], arguments].concat());
    assert_eq!(code(&output), 0, "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
}

/// Id, type and data of the events of each source, in order.
type BySource = BTreeMap<String, Vec<(String, String, Value)>>;

fn by_source(entries: &[Entry]) -> BySource {
    let mut sources = BySource::new();
    for entry in entries {
        let data = serde_json::from_slice(bytes(entry, "data")).unwrap();
        let told = (text(entry, "ce_id").to_owned(), text(entry, "ce_type").to_owned(), data);
        sources.entry(text(entry, "ce_source").to_owned()).or_default().push(told);
    }
    sources
}

#[test]
fn several_sources_publish_what_the_summary_says_and_a_seed_repeats_it() {
    let server = RedisServer::start();
    let place = place(&server);
    let fixed = ["--count", "4002", "--rate", "1000000", "--sources", "4", "--seed", "7"];
    let summary = generate(&place, &fixed);
    let first = entries(&server, "orders");
    assert_eq!((summary["published"].as_u64(), summary["seed"].as_u64(), first.len()), (Some(4002), Some(7), 4002));
    assert_eq!(summary["interrupted"], false);
    let sources = by_source(&first);
    let counted = |counts: BTreeMap<String, usize>| serde_json::to_value(counts).unwrap();
    let lengths = sources.iter().map(|(source, events)| (source.clone(), events.len())).collect();
    assert_eq!(summary["per_source"], counted(lengths));
    assert_eq!(sources.values().map(Vec::len).collect::<BTreeSet<_>>(), BTreeSet::from([1000, 1001]));
    let mut types = BTreeMap::new();
    first.iter().for_each(|entry| *types.entry(text(entry, "ce_type").to_owned()).or_default() += 1);
    assert_eq!(summary["per_type"], counted(types));
    let ids: BTreeSet<&str> = first.iter().map(|entry| text(entry, "ce_id")).collect();
    assert_eq!(ids.len(), first.len());

    generate(&place, &[&fixed[..], &["--stream", "again", "--pattern", "burst"]].concat());
    assert_eq!(by_source(&entries(&server, "again")), sources, "the same seed makes the same events per source");
    generate(&place, &["--count", "4002", "--rate", "1000000", "--sources", "4", "--stream", "other"]);
    assert_ne!(by_source(&entries(&server, "other")), sources, "without a seed there are others each time");
}

#[test]
fn a_dry_run_prints_the_same_events_and_writes_none() {
    let server = RedisServer::start();
    let place = place(&server);
    let fixed = ["--count", "300", "--rate", "100000", "--sources", "3", "--seed", "7"];
    generate(&place, &fixed);
    let published = by_source(&entries(&server, "orders"));
    let output = place.run(&[&["generate", "ecommerce", "--dry-run", "--stream", "dry"], &fixed[..]].concat());
    assert_eq!(code(&output), 0, "{}", said(&output));
    let mut printed = BySource::new();
    let mut times = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let mut event: Value = serde_json::from_str(line).unwrap();
        let word = |name: &str| event[name].as_str().unwrap().to_owned();
        let (source, id, kind) = (word("source"), word("id"), word("type"));
        times.push(word("time"));
        printed.entry(source).or_default().push((id, kind, event["data"].take()));
    }
    assert_eq!(printed, published);
    assert!(times.iter().map(String::len).max() <= Some("2026-01-01T00:00:00.000Z".len()), "times are in ms");
    assert_eq!(length(&mut connect(&server), "dry"), 0);
    // It needs no Redis, and a reader that has read enough is no fault.
    let place = Place::new("[redis]\nurl = \"redis://127.0.0.1:1\"\n");
    let mut command = place.command(&["generate", "ecommerce", "--dry-run", "--duration", "300d", "--seed", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("order") || line.contains("cart"), "{line}");
    let status = eventually("a dry run without a reader to end", DEADLINE, || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_rate_is_kept_over_the_duration() {
    let server = RedisServer::start();
    let place = place(&server);
    for pattern in ["steady", "burst", "daily"] {
        let arguments = ["--rate", "300", "--duration", "2s", "--sources", "2", "--stream", pattern];
        let summary = generate(&place, &[&arguments[..], &["--pattern", pattern]].concat());
        assert_eq!(summary["published"].as_u64(), Some(600), "{pattern}: {summary}");
        // Never faster than asked; how much slower is the machine's business.
        assert!(summary["seconds"].as_f64() > Some(1.5), "{pattern}: {summary}");
        assert!(summary["rate"].as_f64() < Some(400.0), "{pattern}: {summary}");
    }
}

#[test]
fn a_signal_ends_it_and_the_summary_counts_what_is_in() {
    let server = RedisServer::start();
    let place = place(&server);
    let mut redis = connect(&server);
    for (signal, stream) in [(Signal::INT, "first"), (Signal::TERM, "second")] {
        let arguments = ["generate", "ecommerce", "--rate", "2000", "--duration", "1h", "--output", "json"];
        let mut command = place.command(&[&arguments[..], &["--sources", "4", "--stream", stream]].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the first events", DEADLINE, || (length(&mut redis, stream) > 100).then_some(()));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = eventually("the end", DEADLINE, || child.try_wait().unwrap());
        let mut printed = String::new();
        child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        let summary: Value = serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{printed}"));
        assert_eq!((status.code(), &summary["interrupted"]), (Some(0), &Value::Bool(true)));
        assert_eq!(summary["published"].as_u64(), Some(length(&mut redis, stream)));
    }
}

#[test]
fn what_redis_refuses_ends_it_and_arguments_are_checked() {
    let server = RedisServer::start();
    let place = place(&server);
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "6mb"]).query::<()>(&mut connect(&server)).unwrap();
    let output = place.run(&["generate", "ecommerce", "--rate", "1000000", "--count", "1000000", "--sources", "4"]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    let published = length(&mut connect(&server), "orders");
    assert!(
        published > 0 && said(&output).contains(&format!("{published} events were published")),
        "{}",
        said(&output)
    );
    assert!(said(&output).contains("maxmemory"), "{}", said(&output));
    for wrong in [
        ["--rate", "0"],
        ["--sources", "0"],
        ["--sources", "65"],
        ["--duration", "0s"],
        ["--duration", "5"],
        ["--count", "0"],
        ["--pattern", "odd"],
        ["--stream", ""],
    ] {
        let output = place.run(&[&["generate", "ecommerce"], &wrong[..]].concat());
        assert_eq!(code(&output), 2, "{wrong:?}: {}", said(&output));
    }
}

#[test]
fn the_example_handlers_take_every_order() {
    let server = RedisServer::start();
    let summary = generate(&place(&server), &["--count", "500", "--rate", "100000", "--sources", "3"]);
    let orders = summary["per_type"]["order_placed"].as_u64().unwrap();
    assert!(orders > 0, "{summary}");
    let guests = guests::component("payment");
    let guests = guests.parent().and_then(Path::to_str).unwrap();
    let example = std::fs::read_to_string(workspace().join("config/ecommerce.toml")).unwrap();
    let example = example.replace("../target/guests", guests);
    let _worker = Worker::spawn(&format!("[redis]\nurl = \"{}\"\n[admin]\nlisten = \"\"\n{example}", server.url()));
    let mut redis = connect(&server);
    let out = |redis: &mut Connection| (length(redis, "notifications") >= orders).then_some(());
    eventually("every order to be notified of", DEADLINE, || out(&mut redis));
    assert_eq!((length(&mut redis, "notifications"), length(&mut redis, "payment.dead")), (orders, 0));
}
