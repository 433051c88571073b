//! Retention by a worker: streams become as short as configured, but not shorter than their groups allow.

use std::time::Duration;

use wasmill_tests::eventually;

use super::faults::Mill;
use super::invoke::{Place, code, said};

const DEADLINE: Duration = Duration::from_secs(30);

fn wait_length(mill: &mut Mill, stream: &str, length: usize) {
    let mut last = 0;
    eventually(&format!("{stream} to have {length} entries"), DEADLINE, || {
        last = redis::cmd("XLEN").arg(stream).query(&mut mill.redis).unwrap();
        (last == length).then_some(())
    });
}

#[test]
fn a_worker_keeps_streams_short_and_says_who_holds_them_back() {
    let mut mill = Mill::new("[streams.\"faults.in\"]\nmax_length = 10\n[streams.\"faults.out\"]\nmax_age = \"1s\"\n");
    let other: [&str; 4] = ["CREATE", "faults.in", "other", "0"];
    redis::cmd("XGROUP").arg(&other).query::<()>(&mut mill.redis).unwrap();
    for n in 0..300 {
        mill.add(&n.to_string(), if n % 3 == 0 { "echo" } else { "ok" }, b"{}");
    }
    let acked = "wasmill_events_acked_total{handler=\"faults\"} 300\n";
    eventually("all to be handled", DEADLINE, || mill.metrics().contains(acked).then_some(()));
    eventually("the alarm", DEADLINE, || mill.worker.stderr_text().contains("retention_held_back").then_some(()));
    let line = mill.worker.stderr_text().lines().find(|line| line.contains("retention_held_back")).unwrap().to_owned();
    assert!(line.contains("faults.in") && line.contains("other"), "{line}");
    assert_eq!(mill.entries("faults.in").len(), 300, "nothing is removed that the other group needs");
    // What is in nobody's group goes by its age alone.
    wait_length(&mut mill, "faults.out", 0);

    redis::cmd("XGROUP").arg(&["DESTROY", "faults.in", "other"]).query::<()>(&mut mill.redis).unwrap();
    wait_length(&mut mill, "faults.in", 10);
    eventually("the counters", DEADLINE, || {
        let text = mill.metrics();
        let has = |stream: &str, count: u32| {
            text.contains(&format!("wasmill_stream_trimmed_total{{stream=\"{stream}\"}} {count}\n"))
        };
        (has("faults.in", 290) && has("faults.out", 100)).then_some(())
    });
    let told = mill.worker.stderr_text().matches("retention_held_back").count();
    assert_eq!(told, 1, "an alarm is raised once, not every time");
    assert_eq!(mill.entries("faults.dead").len(), 0);
}

#[test]
fn limits_that_cannot_be_meant_are_refused() {
    for (settings, words) in [
        ("[streams.a]\nmax_length = 0", "streams.a.max_length: must be at least 1"),
        ("[streams.a]\nmax_age = \"0s\"", "streams.a.max_age: must be longer than 0"),
        ("[streams.a]\nmax_len = 5", "did you mean `max_length`?"),
        ("[streams.\"wasmill:x\"]\nmax_length = 5", "wasmill's own"),
        ("[worker]\nretention_interval = \"0s\"", "worker.retention_interval: must be longer than 0"),
    ] {
        let output = Place::new(settings).run(&["check"]);
        assert!(code(&output) == 2 && said(&output).contains(words), "{settings}: {}", said(&output));
    }
    let output = Place::new("[streams.a]\nmax_length = 1\nmax_age = \"7d\"").run(&["check"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
}
