use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way, faults_section};
use wasmill_tests::{eventually, guests};

const DEADLINE: Duration = Duration::from_secs(30);

/// Another handler that reads `faults.in`.
fn other(settings: &str) -> String {
    let component = guests::component("faults");
    let component = component.display();
    format!(
        "[handlers.other]\ncomponent = \"{component}\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n{settings}\n"
    )
}

/// The causes of what each handler has published, in order.
fn causes(events: &[Value]) -> BTreeMap<String, Vec<u32>> {
    let mut causes: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for event in events {
        let handler = event["source"].as_str().unwrap().rsplit('/').next().unwrap();
        causes.entry(handler.to_owned()).or_default().push(event["causationid"].as_str().unwrap().parse().unwrap());
    }
    causes.values_mut().for_each(|causes| causes.sort_unstable());
    causes
}

fn counts(mill: &Mill, names: [&str; 3]) -> [u64; 3] {
    let stats = mill.json(&["stats"]);
    names.map(|name| stats["handlers"]["faults"][name].as_u64().unwrap_or_default())
}

/// Counts come with the next heartbeat.
#[track_caller]
fn wait_counts(mill: &Mill, names: [&str; 3], expected: [u64; 3]) {
    eventually(&format!("{names:?} to be {expected:?}"), DEADLINE, || (counts(mill, names) == expected).then_some(()));
}

/// A consumer group for each handler; the workers, and the threads of a worker, share its events.
pub fn every_handler_has_every_event_once(way: Way) {
    let mill = Mill::start_with(way, &format!("{}\n{}", faults_section(""), other("")), None);
    let workers = if way == Way::Embedded { 1 } else { 2 };
    let _second = (workers == 2).then(|| mill.spawn_another());
    let mut next = 0;
    eventually("all workers to have a share", DEADLINE, || {
        for _ in 0..20 {
            mill.publish("faults.in", &next.to_string(), "echo", "");
            next += 1;
        }
        let report = mill.json(&["workers"]);
        let busy = report.as_array().unwrap().iter().filter(|worker| worker["handlers"]["faults"]["acked"] != 0);
        (busy.count() == workers).then_some(())
    });
    mill.wait_for("faults.out", 2 * next as usize);
    mill.wait_settled("faults");
    mill.wait_settled("other");
    let all: Vec<u32> = (0..next).collect();
    let expected = ["faults", "other"].map(|handler| (handler.to_owned(), all.clone()));
    assert_eq!(causes(&mill.events("faults.out")), expected.into());
}

pub fn types_are_matched_by_patterns(way: Way) {
    let sections =
        format!("{}\n{}", faults_section("types = [\"ec*\", \"ok\"]"), other("types = [\"*o\", \"ba?ch\", \"batc*\"]"));
    let mill = Mill::start_with(way, &sections, None);
    for (id, r#type) in [("1", "echo"), ("2", "batch"), ("3", "reject"), ("4", "ok")] {
        mill.publish("faults.in", id, r#type, "");
    }
    mill.wait_for("faults.out", 5);
    mill.wait_settled("faults");
    mill.wait_settled("other");
    let expected = [("faults".to_owned(), vec![1]), ("other".to_owned(), vec![1, 2, 2, 2])];
    assert_eq!(causes(&mill.events("faults.out")), expected.into());
    // What no handler wants is acknowledged and counted.
    wait_counts(&mill, ["acked", "skipped", "dead"], [2, 2, 0]);
}

pub fn failures_are_tried_again(way: Way) {
    let mill = Mill::start(way, "");
    mill.publish("faults.in", "1", "retry", "");
    mill.publish("faults.in", "2", "retry_always", "");
    mill.wait_for("faults.out", 1);
    mill.wait_settled("faults");
    assert_eq!(mill.events("faults.out")[0]["causationid"], "1");
    let letters = mill.json(&["dlq", "ls", "faults"]);
    assert_eq!((&letters[0]["event"]["id"], &letters[0]["attempts"]), (&json!("2"), &json!(3)), "{letters:#}");
    assert_eq!(letters[0]["message"], "failed on attempt 3 as asked", "{letters:#}");
    wait_counts(&mill, ["acked", "retried", "dead"], [1, 4, 1]);
}

pub fn a_handler_says_when_to_retry(way: Way) {
    let section = faults_section("").replace("base = \"10ms\"\ncap = \"50ms\"", "base = \"1h\"\ncap = \"1h\"");
    let mill = Mill::start_with(way, &section, None);
    let start = Instant::now();
    // After 200 ms, it says, and is obeyed though the configuration says an hour.
    mill.publish("faults.in", "1", "retry_after", "");
    wait_counts(&mill, ["acked", "retried", "dead"], [1, 1, 0]);
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
}

pub fn duplicates_are_not_run(way: Way) {
    let mill = Mill::start(way, "dedup = \"24h\"");
    for (id, data) in [("1", "a"), ("1", "b"), ("2", "a"), ("1", "a")] {
        mill.publish("faults.in", id, "echo", data);
        mill.wait_settled("faults");
    }
    assert_eq!(causes(&mill.events("faults.out"))["faults"], [1, 2]);
    wait_counts(&mill, ["acked", "duplicate", "dead"], [2, 2, 0]);
}

pub fn equal_contents_are_not_run(way: Way) {
    let mill = Mill::start(way, "dedup = \"24h\"\ndedup_by = \"content\"");
    for (id, data) in [("1", "a"), ("2", "a"), ("1", "b"), ("3", "b")] {
        mill.publish("faults.in", id, "echo", data);
        mill.wait_settled("faults");
    }
    let out = mill.events("faults.out");
    let data: BTreeSet<&str> = out.iter().map(|event| event["data"].as_str().unwrap()).collect();
    assert_eq!((out.len(), data), (2, ["a", "b"].into()), "{out:#?}");
    wait_counts(&mill, ["acked", "duplicate", "dead"], [2, 2, 0]);
}

pub fn streams_are_kept_short(way: Way) {
    let settings = "[streams.\"faults.in\"]\nmax_length = 10\n[streams.\"faults.out\"]\nmax_age = \"1s\"";
    // What comes first still belongs to [worker].
    let sections = format!("retention_interval = \"100ms\"\n{}", faults_section(settings));
    let mill = Mill::start_with(way, &sections, None);
    let entries: Vec<String> = (0..40).map(|id| mill.publish("faults.in", &id.to_string(), "echo", "")).collect();
    mill.wait_settled("faults");
    wait_counts(&mill, ["acked", "published", "dead"], [40, 40, 0]);
    eventually("the streams to be short", DEADLINE, || {
        let lengths = [mill.events("faults.in").len(), mill.events("faults.out").len()];
        (lengths == [10, 0]).then_some(())
    });
    let kept = mill.events("faults.in");
    let kept: Vec<&str> = kept.iter().map(|event| event["entry"].as_str().unwrap()).collect();
    assert_eq!(kept, entries[30..]);
    // Nothing goes that a handler has not settled.
    mill.pause("faults", &[]);
    for id in 40..60 {
        mill.publish("faults.in", &id.to_string(), "echo", "");
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(mill.events("faults.in").len() >= 20);
    mill.json(&["resume", "faults"]);
    wait_counts(&mill, ["acked", "published", "dead"], [60, 60, 0]);
    eventually("the stream to be short again", DEADLINE, || (mill.events("faults.in").len() == 10).then_some(()));
}
