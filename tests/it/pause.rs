//! Paused handlers in real workers: what runs is finished, nothing is begun, others go on, and a restart changes nothing.

use std::time::{Duration, Instant};

use wasmill_tests::worker::Signal;
use wasmill_tests::{eventually, guests};

use super::faults::{Mill, text};

const DEADLINE: Duration = Duration::from_secs(30);
/// Until then every worker must have seen it.
const SECOND: Duration = Duration::from_secs(1);

/// Another handler on the same stream, with follow-ups of its own.
fn other() -> String {
    format!(
        "[handlers.other]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n",
        guests::component("faults").display()
    )
}

fn by(mill: &mut Mill, handler: &str) -> usize {
    let source = format!("/wasmill/default/{handler}");
    mill.entries("faults.out").iter().filter(|entry| text(entry, "ce_source") == source).count()
}

#[test]
fn a_paused_handler_begins_nothing_and_others_go_on() {
    let mut mill = Mill::new(&other());
    let second = mill.spawn_another();
    mill.add("1", "echo", b"");
    mill.wait_for("faults.out", 2);
    eventually("the second worker", DEADLINE, || second.stderr_text().contains("ready").then_some(()));
    mill.set_paused("faults", true);
    std::thread::sleep(SECOND);
    for id in 2..22 {
        mill.add(&id.to_string(), "echo", b"");
    }
    eventually("the other handler", DEADLINE, || (by(&mut mill, "other") == 21).then_some(()));
    assert_eq!(by(&mut mill, "faults"), 1);
    // Neither does another worker, nor one that starts now.
    let third = mill.spawn_another();
    eventually("the third worker", DEADLINE, || third.stderr_text().contains("ready").then_some(()));
    mill.worker.kill();
    drop(second);
    std::thread::sleep(SECOND);
    assert_eq!(by(&mut mill, "faults"), 1);
    mill.set_paused("faults", false);
    let start = Instant::now();
    eventually("it to go on", DEADLINE, || (by(&mut mill, "faults") == 21).then_some(()));
    // Nothing that was pending anywhere is behind it: none of the events had been handed out.
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    let attempts: Vec<String> =
        mill.entries("faults.out").iter().map(|entry| text(entry, "ce_attempt").to_owned()).collect();
    assert!(attempts.iter().all(|attempt| attempt == "1"), "{attempts:?}");
    assert_eq!(mill.entries("faults.dead").len(), 0);
}

#[test]
fn what_runs_is_finished_and_retries_wait() {
    let mut mill = Mill::new("[handlers.faults.limits]\ndeadline = \"20s\"");
    mill.add("slow", "sleep", b"1500");
    let running = |mill: &mut Mill| -> usize {
        let arguments = ["faults.in", "faults", "IDLE", "100", "-", "+", "10"];
        let entries: Vec<redis::Value> = redis::cmd("XPENDING").arg(&arguments).query(&mut mill.redis).unwrap();
        entries.len()
    };
    eventually("it to run", DEADLINE, || (running(&mut mill) == 1).then_some(()));
    mill.set_paused("faults", true);
    mill.worker.wait_to_say("the handler is paused");
    mill.add("waits", "echo", b"");
    eventually("it to finish", DEADLINE, || (mill.metric("wasmill_events_acked_total") == 1.0).then_some(()));
    // A paused worker ends as fast as any other, and the pause outlives it.
    let start = Instant::now();
    mill.worker.signal(Signal::TERM);
    assert!(mill.worker.wait_exit(DEADLINE).success(), "{}", mill.worker.stderr_text());
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
    mill.restart("");
    mill.worker.wait_to_say("the handler is paused");
    std::thread::sleep(SECOND);
    assert_eq!(mill.entries("faults.out").len(), 0);
    mill.set_paused("faults", false);
    assert_eq!(mill.wait_for("faults.out", 1).len(), 1);
    mill.worker.wait_to_say("the handler goes on");
    mill.wait_settled();
}
