//! Smoke tests of a deployment: what each worker runs through a version before it may serve.

use std::time::Duration;

use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::worker::Worker;
use wasmill_tests::{eventually, on_every_way};

use crate::deploy::{deploy, serving, version};
use crate::smoke as subject;

const DEADLINE: Duration = Duration::from_secs(60);

/// Writes events, each a type and what is expected of it, into a folder of the mill.
fn events(mill: &Mill, folder: &str, events: &[(&str, Option<Value>)]) -> String {
    let folder = mill.dir().join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    for (r#type, expected) in events {
        let event = json!({
            "specversion": "1.0", "id": r#type, "source": "/smoke", "type": r#type, "datacontenttype": "text/plain",
            "data": "",
        });
        std::fs::write(folder.join(format!("{type}.json")), event.to_string()).unwrap();
        if let Some(expected) = expected {
            std::fs::write(folder.join(format!("{type}.expected.json")), expected.to_string()).unwrap();
        }
    }
    folder.to_str().unwrap().to_owned()
}

#[track_caller]
fn fails(mill: &Mill, component: &std::path::Path, smoke: &str, why: &str) {
    let before = serving(mill);
    let said = mill.failure(1, &["deploy", "faults", component.to_str().unwrap(), "--smoke", smoke]);
    assert!(said.contains("faults stays as it was") && said.contains(why), "{said}");
    assert_eq!(serving(mill), before);
}

on_every_way!(subject::{a_version_serves_only_after_its_smoke_tests});

pub fn a_version_serves_only_after_its_smoke_tests(way: Way) {
    let mill = Mill::start(way, "");
    let first = version(&mill, b'1');
    let rejected = json!({"outcome": "reject", "message": "rejected as asked"});
    let good = events(&mill, "good", &[("echo", None), ("ok", None), ("reject", Some(rejected.clone()))]);
    let bad = events(&mill, "bad", &[("ok", None), ("reject", None)]);
    let other = events(&mill, "other", &[("reject", Some(json!({"outcome": "reject", "message": "no"})))]);
    let spins = events(&mill, "spins", &[("spin", None)]);
    fails(&mill, &first, &bad, "smoke test reject: reject (rejected as asked) instead of ack");
    fails(&mill, &first, &other, "smoke test reject: reject as expected, but with {\"message\":\"rejected as asked\"}");
    fails(&mill, &first, &spins, "smoke test spin: timeout");
    // One file, and at once after the same version has failed.
    let one = format!("{bad}/ok.json");
    assert!(mill.json(&["deploy", "faults", first.to_str().unwrap(), "--smoke", &one])["current"].is_string());
    let second = version(&mill, b'2');
    let report = mill.json(&["deploy", "faults", second.to_str().unwrap(), "--smoke", &good]);
    assert_eq!(report["current"], report["versions"][0]["digest"]);
    // The first one is held ready; it has to pass these tests all the same.
    fails(&mill, &first, &bad, "smoke test reject");
    // Nothing has come of any of them, and nothing is kept of them.
    assert!(mill.events("faults.out").is_empty());
    assert_eq!(mill.json(&["gc", "--keep-last", "0"])["kept"], 2);
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
}

#[test]
fn every_worker_runs_them() {
    let mill = Mill::start(Way::Redis, "");
    // What the first one passes, the second one cannot: it lets nothing be published.
    let config = std::fs::read_to_string(mill.dir().join("wasmill.toml")).unwrap();
    let second = Worker::spawn(&config.replace("publishes = [\"faults.out\"]", "publishes = []"));
    eventually("the second worker", DEADLINE, || second.stderr_text().contains("ready").then_some(()));
    let echo = events(&mill, "echo", &[("echo", None)]);
    fails(&mill, &version(&mill, b'1'), &echo, "smoke test echo: ");
    assert!(!second.stderr_text().contains("another version serves"), "{}", second.stderr_text());
    deploy(&mill, &version(&mill, b'1'));
}

#[test]
fn what_is_no_smoke_test_is_refused_before_anything_is_sent() {
    let mill = Mill::start(Way::Redis, "");
    let component = version(&mill, b'1');
    let refused = |smoke: &str, why: &str| {
        let said = mill.failure(2, &["deploy", "faults", component.to_str().unwrap(), "--smoke", smoke]);
        assert!(said.contains(why), "{said}");
    };
    refused("absent", "absent");
    let empty = events(&mill, "empty", &[]);
    refused(&empty, "there are no events");
    let many: Vec<String> = (0..101).map(|number| format!("t{number}")).collect();
    let many: Vec<(&str, Option<Value>)> = many.iter().map(|name| (name.as_str(), None)).collect();
    refused(&events(&mill, "many", &many), "101 smoke tests; 1 to 100 are allowed");
    let slip = events(&mill, "slip", &[("ok", Some(json!({"outcom": "ack"})))]);
    refused(&slip, "outcom");
    // By HTTP, where others send what they like.
    let post = |path: &str, body: &[u8]| mill.http("POST", path, &["content-type: application/json"], body);
    assert_eq!(post("/v1/smoke-tests", b"{}").status, 400);
    let digest = "0".repeat(64);
    let unknown = post(&format!("/v1/handlers/faults/versions?smoke={digest}"), &std::fs::read(&component).unwrap());
    assert!(unknown.status == 400 && unknown.body.contains("no smoke tests"), "{unknown:?}");
}
