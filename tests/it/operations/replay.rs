use serde_json::Value;
use wasmill_tests::mill::{Mill, Way, faults_section};
use wasmill_tests::redis_server::RedisServer;

use crate::invoke::{code, said};
use crate::send::{connect, place};

pub fn past_events_run_again_through_one_handler(way: Way) {
    let mill = Mill::start(way, "");
    for id in 0..5 {
        mill.publish("faults.in", &id.to_string(), "echo", "x");
    }
    mill.wait_for("faults.out", 5);
    let replay = mill.json(&["replay", "faults.in", "--handler", "faults", "--from", "-"]);
    assert_eq!((&replay["replayed"], &replay["workers"]), (&5.into(), &1.into()), "{replay}");
    let out = mill.wait_for("faults.out", 10);
    mill.wait_settled("faults");
    assert_eq!(mill.events("faults.out").len(), 10);
    // The handler is told.
    let told: Vec<&str> = out.iter().map(|event| event["replay"].as_str().unwrap()).collect();
    assert_eq!(told, [["false"; 5], ["true"; 5]].concat());
    // The follow-ups name their causes, and have ids of their own.
    let causes: Vec<&str> = out.iter().map(|event| event["causationid"].as_str().unwrap()).collect();
    assert_eq!(
        {
            let mut causes = causes.clone();
            causes.sort_unstable();
            causes
        },
        ["0", "0", "1", "1", "2", "2", "3", "3", "4", "4"]
    );
    let ids: std::collections::BTreeSet<&str> = out.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 10, "{out:#?}");
    // Unless the old ones are asked for.
    mill.json(&["replay", "faults.in", "--handler", "faults", "--from", "-", "--same-ids"]);
    let out = mill.wait_for("faults.out", 15);
    let again: std::collections::BTreeSet<&str> = out.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(again, ids);
}

pub fn a_replay_has_bounds_and_a_count(way: Way) {
    let mill = Mill::start(way, "");
    let entries: Vec<String> = (0..6).map(|id| mill.publish("faults.in", &id.to_string(), "echo", "")).collect();
    mill.wait_for("faults.out", 6);
    let replay = |arguments: &[&str]| {
        mill.json(&[&["replay", "faults.in", "--handler", "faults"], arguments].concat())["replayed"].clone()
    };
    assert_eq!(replay(&["--from", &entries[1], "--to", &entries[3]]), 3);
    assert_eq!(replay(&["--from", &entries[4], "--rate", "100"]), 2);
    assert_eq!(replay(&["--from", "1h", "--count", "1"]), 1);
    assert_eq!(replay(&["--from", &entries[5].replace('-', "-1")]), 0);
    let out = mill.wait_for("faults.out", 12);
    mill.wait_settled("faults");
    assert_eq!(mill.events("faults.out").len(), 12);
    let mut causes: Vec<&str> = out[6..].iter().map(|event| event["causationid"].as_str().unwrap()).collect();
    causes.sort_unstable();
    assert_eq!(causes, ["0", "1", "2", "3", "4", "5"]);
}

pub fn a_dry_run_writes_nothing(way: Way) {
    let mill = Mill::start(way, "");
    for (id, r#type) in [("1", "echo"), ("2", "reject"), ("3", "ok")] {
        mill.publish("faults.in", id, r#type, "x");
    }
    mill.wait_for("faults.out", 1);
    mill.wait_settled("faults");
    let before = (mill.events("faults.out").len(), mill.json(&["dlq", "ls"]));
    let lines = mill.json_lines(&["replay", "faults.in", "--handler", "faults", "--from", "-", "--dry-run"]);
    let outcomes: Vec<&str> = lines.iter().filter_map(|line| line["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["ack", "reject", "ack"]);
    assert_eq!(lines[0]["published"][0]["stream"], "faults.out", "{:#}", lines[0]);
    let summary = &lines[3]["summary"];
    assert_eq!((&summary["events"], &summary["follow_ups"]), (&3.into(), &1.into()), "{summary}");
    assert_eq!((mill.events("faults.out").len(), mill.json(&["dlq", "ls"])), before);
    assert_eq!(mill.json(&["pending", "faults"])["total"], 0);
}

pub fn a_replay_refuses_what_makes_no_sense(way: Way) {
    let mill = Mill::start(way, "");
    mill.publish("faults.in", "1", "ok", "");
    let replay = |arguments: &[&str]| mill.failure(2, &[&["replay"], arguments].concat());
    let handler = replay(&["faults.in", "--handler", "fault", "--from", "-"]);
    assert!(handler.contains("no handler `fault`") && handler.contains("faults"), "{handler}");
    let stream = replay(&["other", "--handler", "faults", "--from", "-"]);
    assert!(stream.contains("faults does not read `other`; it reads: faults.in"), "{stream}");
    let place = replay(&["faults.in", "--handler", "faults", "--from", "then"]);
    assert!(place.contains("`then` is no place in a stream"), "{place}");
    let dry = replay(&["other", "--handler", "faults", "--from", "-", "--dry-run"]);
    assert!(dry.contains("faults does not read `other`"), "{dry}");
    let run = replay(&["faults.in", "--handler", "faults", "--from", "-", "--run", &"x".repeat(65)]);
    assert!(run.contains("at most 64 bytes"), "{run}");
}

/// What a worker would do is what a dry run says.
#[test]
fn a_dry_run_says_what_a_worker_would_do() {
    let server = RedisServer::start();
    let place = place(
        &server,
        &format!(
            "[schemas]\ndirectory = \"schemas\"\non_read = true\n{}",
            faults_section("isolation = \"reuse\"\n[handlers.faults.limits]\nevent_bytes = \"1 KiB\"\n"),
        ),
    );
    std::fs::create_dir_all(place.path().join("schemas/echo")).unwrap();
    place.write("schemas/echo/1.json", br#"{"required": ["n"]}"#);
    let mut redis = connect(&server);
    let mut add = |r#type: &str, data: &str| {
        let fields = [("ce_id", "1"), ("ce_source", "/t"), ("ce_type", r#type), ("data", data)];
        redis::cmd("XADD").arg("faults.in").arg("*").arg(&fields[..]).query::<()>(&mut redis).unwrap();
    };
    add("remember", "{}");
    add("remember", &format!("\"{}\"", "x".repeat(1024)));
    add("echo", "{}");
    add("remember", "{}");
    let replay = |stream: &str, more: &[&str]| {
        let usual = ["replay", stream, "--handler", "faults", "--from", "-", "--dry-run", "--output", "json"];
        place.run(&[&usual, more].concat())
    };
    let output = replay("other", &[]);
    assert!(code(&output) == 2 && said(&output).contains("faults does not read `other`"), "{}", said(&output));
    let lines = |more: &[&str]| -> Vec<Value> {
        let output = replay("faults.in", more);
        assert_eq!(code(&output), 0, "{}", said(&output));
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>().unwrap()
    };
    let all = lines(&[]);
    let outcomes: Vec<&str> = all.iter().filter_map(|line| line["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["ack", "too_large", "schema", "ack"], "{all:#?}");
    // One instance served both.
    assert_eq!((&all[0]["published"][0]["data"], &all[3]["published"][0]["data"]), (&1.into(), &2.into()), "{all:#?}");
    // The follow-ups have the ids of the run that it would be.
    let id = |more: &[&str]| lines(more)[0]["published"][0]["id"].clone();
    assert_eq!(id(&["--run", "r"]), id(&["--run", "r"]));
    assert_ne!(id(&["--run", "r"]), id(&["--same-ids"]));
}
