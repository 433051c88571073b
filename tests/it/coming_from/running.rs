use std::time::{Duration, Instant};

use wasmill_tests::eventually;
use wasmill_tests::mill::{Mill, Way, faults_section};
use wasmill_tests::worker::Signal;

const DEADLINE: Duration = Duration::from_secs(30);

pub fn health_and_metrics_are_served(way: Way) {
    let mill = Mill::start(way, "");
    let get = |path: &str| mill.http("GET", path, &[], b"");
    assert_eq!((get("/healthz").status, get("/readyz").status), (200, 200));
    for id in ["1", "2"] {
        mill.publish("faults.in", id, "echo", "");
    }
    mill.publish("faults.in", "3", "reject", "");
    mill.wait_settled("faults");
    let has = |text: &str, line: &str| text.lines().any(|other| other == line);
    let text = eventually("the outcomes to be counted", DEADLINE, || {
        Some(get("/metrics").body).filter(|text| has(text, "wasmill_events_acked_total{handler=\"faults\"} 2"))
    });
    for line in [
        "wasmill_events_dead_total{handler=\"faults\"} 1",
        "wasmill_events_published_total{handler=\"faults\"} 2",
        "wasmill_handler_duration_seconds_count{handler=\"faults\"} 3",
        "# TYPE wasmill_events_acked_total counter",
    ] {
        assert!(has(&text, line), "{line} is not in:\n{text}");
    }
}

pub fn what_runs_is_finished_at_the_end(way: Way) {
    let section = faults_section("").replace("deadline = \"300ms\"", "deadline = \"20s\"");
    let mut mill = Mill::start_with(way, &section, None);
    let start = Instant::now();
    mill.publish("faults.in", "1", "sleep", "2000");
    eventually("it to run", DEADLINE, || (mill.json(&["pending", "faults"])["total"] == 1).then_some(()));
    mill.worker.signal(Signal::TERM);
    let status = mill.worker.wait_exit(DEADLINE);
    assert!(status.success(), "{status}: {}", mill.worker.stderr_text());
    assert!(start.elapsed() >= Duration::from_secs(2), "it was waited for: {:?}", start.elapsed());
    assert!(mill.worker.stderr_text().trim_end().ends_with("stopped"), "{}", mill.worker.stderr_text());
    // With the embedded broker everything ends; in Redis its outcome is there.
    if way == Way::Redis {
        assert_eq!(mill.json(&["pending", "faults"])["total"], 0);
        assert_eq!(mill.json(&["dlq", "ls"]), serde_json::json!([]));
    }
}

/// There is no Redis behind an embedded broker: the one in the configuration cannot be reached.
#[test]
fn redis_is_not_needed() {
    let mill = Mill::start(Way::Embedded, "");
    mill.json(&["send", "faults.in", "echo", "{}", "--id", "1"]);
    assert_eq!(mill.wait_for("faults.out", 1)[0]["causationid"], "1");
    let mut direct = mill.command(&["streams"]);
    let output = direct.env_remove("WASMILL_ADMIN_URL").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1"), "{output:?}");
}
