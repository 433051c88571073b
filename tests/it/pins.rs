//! Dead letters on a version that does not serve: workers hold it for them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::{eventually, guests, on_every_way};

use crate::pins;

const DEADLINE: Duration = Duration::from_secs(60);
/// Instances that remember are on one thread, so that they can be told apart.
const SETTINGS: &str = "isolation = \"reuse\"\n[handlers.faults.limits]\nconcurrency = 1";

/// A version of `faults`. A broken one cannot handle `echo`: it asks for an attribute that there cannot be.
fn version(mill: &Mill, name: u8, is_broken: bool) -> PathBuf {
    let mut bytes = std::fs::read(guests::component("faults")).unwrap();
    if is_broken {
        let at = bytes.windows(13).position(|window| window == b"attemptreplay").expect("the names of the attributes");
        bytes[at..at + 7].copy_from_slice(b"ATTEMPT");
    }
    let path = mill.dir().join(format!("v{}.wasm", char::from(name)));
    std::fs::write(&path, [&bytes[..], &[0, 2, 1, name]].concat()).unwrap();
    path
}

/// Deploys it; its digest.
fn deploy(mill: &Mill, component: &Path) -> String {
    mill.json(&["deploy", "faults", component.to_str().unwrap()])["current"].as_str().unwrap().to_owned()
}

/// Publishes events that the version which serves cannot handle, and waits until they are dead.
fn die(mill: &Mill, count: usize) -> Vec<Value> {
    for at in 0..count {
        mill.publish("faults.in", &format!("dead-{at}"), "echo", "");
    }
    let letters = || mill.json(&["dlq", "ls", "faults"]).as_array().unwrap().clone();
    eventually("dead letters", DEADLINE, || Some(letters()).filter(|letters| letters.len() == count))
}

/// What made the follow-ups of these types.
fn makers(events: &[Value], r#type: &str) -> Vec<String> {
    let of_type = events.iter().filter(|event| event["type"] == r#type);
    of_type.map(|event| event["handlerdigest"].as_str().unwrap().to_owned()).collect()
}

on_every_way!(pins::{dead_letters_run_on_the_version_that_is_named});

pub fn dead_letters_run_on_the_version_that_is_named(way: Way) {
    let mill = Mill::start(way, SETTINGS);
    let good = deploy(&mill, &version(&mill, b'1', false));
    let broken = deploy(&mill, &version(&mill, b'2', true));
    mill.publish("faults.in", "r-1", "remember", "");
    mill.wait_for("faults.out", 1);
    let letters = die(&mill, 3);
    assert!(letters.iter().all(|letter| letter["digest"] == format!("sha256:{broken}")), "{letters:#?}");

    let moved = mill.json(&["dlq", "redrive", "faults", "--all", "--to", &good[..12]]);
    assert_eq!((moved["redriven"].as_array().unwrap().len(), &moved["refused"]), (3, &json!([])), "{moved}");
    let events = mill.wait_for("faults.out", 4);
    assert_eq!(makers(&events, "echoed"), vec![format!("sha256:{good}"); 3]);
    mill.wait_settled("faults");
    assert_eq!(mill.json(&["dlq", "ls", "faults"]), json!([]));
    // The version that serves is another one all the time, and its instance served nothing of this.
    mill.publish("faults.in", "r-2", "remember", "");
    let events = mill.wait_for("faults.out", 5);
    assert_eq!(makers(&events, "counted"), vec![format!("sha256:{broken}"); 2]);
    assert_eq!(mill.json(&["versions", "faults"])["current"], json!(broken));
    // As long as it is held, it is kept.
    deploy(&mill, &version(&mill, b'3', false));
    let other = deploy(&mill, &version(&mill, b'4', true));
    let removed = mill.json(&["gc", "--keep-last", "0"])["removed"].clone();
    assert_eq!(removed, json!([broken]));
    assert_eq!(die(&mill, 1)[0]["digest"], format!("sha256:{other}"));
    let letter = mill.json(&["dlq", "ls", "faults"])[0]["id"].as_str().unwrap().to_owned();
    let moved = mill.json(&["dlq", "redrive", "faults", &letter, "--to", &good, "--by", "me"]);
    assert_eq!(moved["redriven"], json!([letter]));
    assert_eq!(makers(&mill.wait_for("faults.out", 6), "echoed"), vec![format!("sha256:{good}"); 4]);
}

#[test]
fn nothing_is_redriven_to_what_cannot_run() {
    let mill = Mill::start(Way::Redis, SETTINGS);
    deploy(&mill, &version(&mill, b'1', true));
    let empty = mill.dir().join("empty.wasm");
    std::fs::write(&empty, wat::parse_str("(component)").unwrap()).unwrap();
    mill.failure(1, &["deploy", "faults", empty.to_str().unwrap()]);
    let unfit = mill.json(&["versions", "faults"])["versions"][0]["digest"].as_str().unwrap().to_owned();
    let letters = die(&mill, 2);
    let said = mill.failure(1, &["dlq", "redrive", "faults", "--all", "--to", &unfit]);
    assert!(said.contains("does not export") && said.contains("nothing was redriven"), "{said}");
    let said = mill.failure(2, &["dlq", "redrive", "faults", "--all", "--to", "0123"]);
    assert!(said.contains("no version of faults"), "{said}");
    assert_eq!(mill.json(&["dlq", "ls", "faults"]).as_array().unwrap(), &letters);
    // It is not tried for ever: nobody holds it any more.
    let removed = mill.json(&["gc", "--keep-last", "0"])["removed"].clone();
    assert_eq!(removed, json!([unfit]));
    let said = mill.failure(2, &["dlq", "redrive", "faults", "--all", "--to", &unfit]);
    assert!(said.contains("has been deleted"), "{said}");
    let answer = mill.http(
        "POST",
        "/v1/handlers/faults/dead-letters/drop",
        &["content-type: application/json"],
        b"{\"to\": \"x\"}",
    );
    assert_eq!(answer.status, 400, "{answer:?}");
}

/// The record as it is in Redis, and another one in its place.
fn change_record(mill: &Mill, change: impl FnOnce(&mut Value)) {
    let mut redis = ::redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
    let text: String = ::redis::cmd("HGET").arg("wasmill:deployments").arg("faults").query(&mut redis).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    change(&mut record);
    let text = record.to_string();
    ::redis::cmd("HSET").arg("wasmill:deployments").arg("faults").arg(text).query::<()>(&mut redis).unwrap();
}

#[test]
fn a_worker_that_comes_later_has_the_version_before_it_takes_events() {
    let mut mill = Mill::start(Way::Redis, SETTINGS);
    let good = deploy(&mill, &version(&mill, b'1', false));
    deploy(&mill, &version(&mill, b'2', true));
    die(&mill, 2);
    mill.pause("faults", &[]);
    mill.json(&["dlq", "redrive", "faults", "--all", "--to", &good]);
    mill.worker.kill();
    let second = mill.spawn_another();
    eventually("the second worker", DEADLINE, || second.stderr_text().contains("ready").then_some(()));
    mill.run(&["resume", "faults"]);
    let events = eventually("the follow-ups", DEADLINE, || {
        let events = mill.json_lines(&["history", "faults.out"]);
        (events.len() == 2).then_some(events)
    });
    let events: Vec<Value> = events.into_iter().map(|item| item["event"].clone()).collect();
    assert_eq!(makers(&events, "echoed"), vec![format!("sha256:{good}"); 2]);
}

#[test]
fn what_is_not_held_any_more_ends_among_the_dead_letters_again() {
    let mill = Mill::start(Way::Redis, SETTINGS);
    let good = deploy(&mill, &version(&mill, b'1', false));
    deploy(&mill, &version(&mill, b'2', true));
    die(&mill, 1);
    mill.pause("faults", &[]);
    mill.json(&["dlq", "redrive", "faults", "--all", "--to", &good]);
    // A day later.
    change_record(&mill, |record| record["pins"][&good]["until_ms"] = json!(1));
    eventually("the pin to go", DEADLINE, || {
        let answer = mill.http("GET", "/v1/workers", &[], b"").json();
        answer[0]["handlers"]["faults"]["pinned"].is_null().then_some(())
    });
    mill.run(&["resume", "faults"]);
    let letter = eventually("the dead letter", DEADLINE, || {
        let letters = mill.json(&["dlq", "ls", "faults"]);
        letters.as_array().unwrap().first().cloned()
    });
    assert_eq!(letter["class"], "version_gone", "{letter:#}");
    assert!(letter["message"].as_str().unwrap().contains(&good), "{letter:#}");
    // The event is whole, and goes its way when it is asked for again.
    assert_eq!((&letter["event"]["id"], &letter["stream"]), (&json!("dead-0"), &json!("faults.in")));
    mill.json(&["dlq", "redrive", "faults", "--all", "--to", &good]);
    assert_eq!(makers(&mill.wait_for("faults.out", 1), "echoed"), [format!("sha256:{good}")]);
}
