//! A candidate beside the version that serves: what it would change is told, and nothing is written.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::program::Program;
use wasmill_tests::worker::Signal;
use wasmill_tests::{eventually, guests, on_every_way};

use crate::shadow;

const DEADLINE: Duration = Duration::from_secs(60);

/// The component of `faults` with texts in it replaced by others of the same length.
fn candidate(mill: &Mill, replaced: &[(&str, &str)]) -> PathBuf {
    let mut bytes = std::fs::read(guests::component("faults")).unwrap();
    for (before, after) in replaced {
        let at = bytes.windows(before.len()).position(|window| window == before.as_bytes()).expect(before);
        bytes[at..at + after.len()].copy_from_slice(after.as_bytes());
    }
    let path = mill.dir().join(format!("candidate-{}.wasm", replaced.len()));
    // The custom section makes it another version even if nothing is replaced.
    std::fs::write(&path, [&bytes[..], &[0, 2, 1, b'c']].concat()).unwrap();
    path
}

/// A key of the data of `files`, and what `reject` says.
const CHANGES: [(&str, &str); 2] = [("filesenvnet", "filesENVnet"), ("rejected as asked", "rejected as ASKED")];

/// Publishes events, waits until they are handled, and says what there is then.
fn past(mill: &Mill, types: &[&str]) -> (usize, Value) {
    for (at, r#type) in types.iter().enumerate() {
        mill.publish("faults.in", &format!("e-{at}"), r#type, "");
    }
    mill.wait_settled("faults");
    (mill.events("faults.out").len(), mill.json(&["dlq", "ls", "faults"]))
}

on_every_way!(shadow::{
    past_events_show_what_a_candidate_would_change,
    what_comes_is_followed_until_enough_was_seen,
    a_candidate_is_compared_with_what_was_deployed,
});

pub fn past_events_show_what_a_candidate_would_change(way: Way) {
    let mill = Mill::start(way, "");
    let before = past(&mill, &["ok", "files", "reject", "files", "random", "echo"]);
    let other = candidate(&mill, &CHANGES);
    let shadow = ["shadow", "faults", other.to_str().unwrap(), "--replay", "1h.."];
    let report = mill.json(&shadow);
    assert_eq!(report["events"]["compared"], 6, "{report:#}");
    assert_eq!(
        (&report["same"], &report["differ"]),
        (&json!(3), &json!({"outcome": 1, "follow_ups": 2})),
        "{report:#}"
    );
    let examples = report["examples"].as_array().unwrap();
    let of = |id: &str| examples.iter().find(|example| example["id"] == id).unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(examples.len(), 3);
    let expected = json!([
        {"op": "remove", "path": "/published/0/data/env", "before": 0},
        {"op": "add", "path": "/published/0/data/ENV", "after": 0},
    ]);
    let changes = of("e-1")["diff"].as_array().unwrap();
    assert!(
        changes.len() == 2 && expected.as_array().unwrap().iter().all(|change| changes.contains(change)),
        "{report:#}"
    );
    assert_eq!(of("e-2")["kind"], "outcome");
    let path = "/message";
    let change = json!({"op": "replace", "path": path, "before": "rejected as asked", "after": "rejected as ASKED"});
    assert_eq!(of("e-2")["diff"], json!([change]));
    for side in ["current", "candidate"] {
        let side = &report[side];
        assert!(side["wall_us"]["p99"].as_f64() > Some(0.0) && side["memory_bytes"].as_u64() > Some(0), "{side:#}");
    }
    assert_ne!(report["current"]["digest"], report["candidate"]["digest"]);
    // Nothing was written.
    assert_eq!((mill.events("faults.out").len(), mill.json(&["dlq", "ls", "faults"])), before);

    let text = mill.run(&[&shadow[..], &["--fail-on-diff"]].concat());
    let said = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text.status.code(), Some(1), "{said}");
    for part in [
        "3 the same; 1 difference by outcome, 2 differences by follow-ups",
        "remove /published/0/data/env: 0",
        "time p99",
    ] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    let same = candidate(&mill, &[]);
    let said = mill.text(&["shadow", "faults", same.to_str().unwrap(), "--replay", "1h..", "--fail-on-diff"]);
    assert!(said.contains("all came to the same"), "{said}");
}

pub fn what_comes_is_followed_until_enough_was_seen(way: Way) {
    let mill = Mill::start(way, "");
    past(&mill, &["files", "files"]);
    let other = candidate(&mill, &CHANGES);
    let url = if way == Way::Redis { "none".to_owned() } else { mill.admin_url() };
    let arguments =
        ["shadow", "faults", other.to_str().unwrap(), "--sample", "100%", "--output", "json", "--admin", &url];
    let mut enough = Program::spawn(mill.dir(), &[&arguments[..], &["--events", "3"]].concat());
    let mut interrupted = Program::spawn(mill.dir(), &arguments);
    for program in [&enough, &interrupted] {
        eventually("it to follow", DEADLINE, || program.text().contains("following faults").then_some(()));
    }
    for at in 0..3 {
        mill.publish("faults.in", &format!("n-{at}"), ["files", "ok", "unknown"][at], "");
    }
    assert!(enough.wait_exit(DEADLINE).success(), "{}", enough.text());
    interrupted.signal(Signal::INT);
    assert!(interrupted.wait_exit(DEADLINE).success(), "{}", interrupted.text());
    let report = |program: &Program| -> Value {
        let text = program.text();
        let report = &text[text.find('{').expect("a report")..=text.rfind('}').expect("a report")];
        serde_json::from_str(report).unwrap()
    };
    // What was there before is not compared on.
    let all = report(&enough);
    assert_eq!((&all["events"]["compared"], &all["same"]), (&json!(3), &json!(2)), "{all:#}");
    assert_eq!(all["differ"], json!({"outcome": 0, "follow_ups": 1}), "{all:#}");
    // The other one may not have come so far.
    let some = report(&interrupted);
    assert!(some["events"]["compared"].as_u64().is_some_and(|compared| compared <= 3), "{some:#}");
    mill.wait_settled("faults");
    assert_eq!(mill.events("faults.out").len(), 3);
}

pub fn a_candidate_is_compared_with_what_was_deployed(way: Way) {
    let mill = Mill::start(way, "");
    let deployed = candidate(&mill, &CHANGES);
    mill.json(&["deploy", "faults", deployed.to_str().unwrap()]);
    past(&mill, &["files"]);
    let of_configuration = guests::component("faults");
    let replay =
        |component: &PathBuf| mill.json(&["shadow", "faults", component.to_str().unwrap(), "--replay", "1h.."]);
    let report = replay(&of_configuration);
    assert_eq!(
        (&report["current"]["from"], &report["differ"]["follow_ups"]),
        (&json!("deployed"), &json!(1)),
        "{report:#}"
    );
    assert_eq!((&replay(&deployed)["same"], &report["notes"]), (&json!(1), &json!([])));
    let digest = report["current"]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let answer = mill.http("GET", &format!("/v1/components/{digest}"), &[], b"");
    assert!(answer.status == 200 && answer.head.contains("content-type: application/wasm"), "{}", answer.head);
    assert_eq!(mill.http("GET", &format!("/v1/components/{}", "0".repeat(64)), &[], b"").status, 404);
    assert_eq!(mill.http("GET", "/v1/components/abc", &[], b"").status, 400);
}

#[test]
fn a_sample_is_a_part_and_types_that_are_not_wanted_are_passed_over() {
    let mill = Mill::start(Way::Redis, "types = [\"ok\"]");
    past(&mill, &[["ok"; 60].as_slice(), &["echo"; 5]].concat());
    let same = candidate(&mill, &[]);
    let shadow =
        |sample| mill.json(&["shadow", "faults", same.to_str().unwrap(), "--replay", "1h..", "--sample", sample]);
    let report = shadow("50%");
    let count = |name: &str| report["events"][name].as_u64().unwrap();
    assert_eq!(
        (count("seen"), count("not_wanted"), count("compared") + count("not_sampled")),
        (65, 5, 60),
        "{report:#}"
    );
    assert!((10..50).contains(&count("compared")), "{report:#}");
    assert_eq!(shadow("50%")["events"], report["events"]);
    assert_eq!(shadow("100%")["events"]["compared"], 60);
}

#[test]
fn what_cannot_be_compared_is_told() {
    let mill = Mill::start(Way::Redis, "");
    let same = candidate(&mill, &[]);
    let same = same.to_str().unwrap();
    let wrong = mill.dir().join("wrong.wasm");
    std::fs::write(&wrong, wat::parse_str("(component)").unwrap()).unwrap();
    let wrong = wrong.to_str().unwrap();
    for (arguments, why) in [
        (&["shadow", "faults", wrong, "--replay", "1h.."][..], "does not export"),
        (&["shadow", "nobody", same, "--replay", "1h.."], "no handler `nobody`"),
        (&["shadow", "faults", same], "--sample"),
        (&["shadow", "faults", same, "--sample", "0%"], "percentage"),
        (&["shadow", "faults", same, "--replay", "1h"], "FROM..TO"),
        (&["shadow", "faults", same, "--replay", "1h..", "--stream", "other"], "does not read `other`"),
        (&["shadow", "faults", same, "--replay", "1h..", "--for", "1s"], "cannot be used with"),
    ] {
        let said = mill.failure(2, arguments);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    // A comparison on nothing shows nothing.
    let nothing = mill.run(&["shadow", "faults", same, "--replay", "1h..", "--fail-on-diff"]);
    assert_eq!(nothing.status.code(), Some(1));
    let over = mill.json(&["shadow", "faults", same, "--sample", "10%", "--for", "300ms"]);
    assert_eq!(over["events"]["compared"], 0);
}
