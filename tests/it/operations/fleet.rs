use std::time::Duration;

use serde_json::{Value, json};
use wasmill_tests::eventually;
use wasmill_tests::mill::{Mill, Way, faults_section};

pub fn workers_and_stats_say_what_is_done(way: Way) {
    let mill = Mill::start(way, "");
    for id in 0..7 {
        mill.publish("faults.in", &id.to_string(), "echo", "x");
    }
    mill.publish("faults.in", "bad", "reject", "x");
    mill.wait_for("faults.out", 7);
    mill.wait_settled("faults");
    // Counts come with the next heartbeat.
    let stats = eventually("the heartbeat", Duration::from_secs(10), || {
        let stats = mill.json(&["stats"]);
        let faults = &stats["handlers"]["faults"];
        (faults["acked"] == 7 && faults["dead"] == 1).then(|| stats.clone())
    });
    let faults = &stats["handlers"]["faults"];
    for (name, expected) in [("published", 7), ("workers", 1), ("lag", 0), ("pending", 0), ("dead_letters", 1)] {
        assert_eq!(faults[name], expected, "{name}: {stats:#}");
    }
    assert!(faults["p99_us"].as_u64().unwrap() >= faults["p50_us"].as_u64().unwrap());
    assert!(faults["runs"].as_u64().unwrap() == 8 && faults["max_us"].as_u64().unwrap() > 0, "{stats:#}");
    assert!(mill.text(&["stats"]).contains("faults"));
    let workers = mill.json(&["workers"]);
    let worker = &workers[0];
    assert_eq!(workers.as_array().unwrap().len(), 1, "{workers:#}");
    assert_eq!((&worker["pid"], &worker["threads"]), (&json!(mill.worker.pid()), &json!(2)), "{workers:#}");
    assert_eq!(worker["handlers"]["faults"]["acked"], 7, "{workers:#}");
    assert!(worker["handlers"]["faults"]["digest"].as_str().unwrap().starts_with("sha256:"), "{workers:#}");
    assert!(mill.text(&["workers"]).contains(worker["worker"].as_str().unwrap()));
}

pub fn pending_events_are_listed_with_who_has_them(way: Way) {
    let section = faults_section("").replace("base = \"10ms\"\ncap = \"50ms\"", "base = \"1h\"\ncap = \"1h\"");
    let mill = Mill::start_with(way, &section, None);
    let entry = mill.publish("faults.in", "1", "retry", "");
    let pending: Value = eventually("the event to be parked", Duration::from_secs(10), || {
        let pending = mill.json(&["pending", "faults"]);
        (pending["consumers"][0]["state"] == "parked").then_some(pending)
    });
    assert_eq!((&pending["total"], &pending["consumers"][0]["count"]), (&json!(1), &json!(1)), "{pending:#}");
    let row = &pending["entries"][0];
    assert_eq!((&row["entry"], &row["attempts"]), (&json!(entry), &json!(1)), "{pending:#}");
    assert_eq!(row["stream"], "faults.in");
    assert!(row["age_ms"].as_u64().unwrap() >= row["idle_ms"].as_u64().unwrap(), "{pending:#}");
    let text = mill.text(&["pending", "faults"]);
    assert!(text.contains("wasmill-parked") && text.contains(&entry), "{text}");
    assert!(mill.failure(2, &["pending", "nobody"]).contains("no handler `nobody`"));
}

pub fn a_handler_is_paused_and_resumed(way: Way) {
    let mill = Mill::start(way, "");
    assert_eq!(mill.json(&["pause", "faults"]), json!({"handler": "faults", "paused": true, "changed": true}));
    assert_eq!(mill.json(&["pause", "faults"])["changed"], false);
    assert_eq!(mill.json(&["stats"])["handlers"]["faults"]["paused"], true);
    eventually("the worker to pause it", Duration::from_secs(1), || {
        mill.worker.stderr_text().contains("the handler is paused").then_some(())
    });
    mill.publish("faults.in", "1", "echo", "");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(mill.events("faults.out").len(), 0, "it ran though it was paused");
    assert!(mill.text(&["stats"]).contains("paused"));
    assert_eq!(mill.json(&["resume", "faults"])["changed"], true);
    let start = std::time::Instant::now();
    mill.wait_for("faults.out", 1);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(mill.json(&["resume", "faults"])["changed"], false);
    assert!(mill.failure(2, &["pause", "nobody"]).contains("no handler `nobody`"));
}
