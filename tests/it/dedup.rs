//! `dedup` through the binary: what is the same event is handled once.

use std::time::Duration;

use serde_json::json;
use wasmill_tests::eventually;

use super::faults::{Mill, text};
use super::invoke::{code, said};

const DEADLINE: Duration = Duration::from_secs(30);

fn wait_counted(mill: &Mill, acked: u32, duplicate: u32) {
    let metric = |name: &str| mill.metric(&format!("wasmill_events_{name}_total"));
    eventually("the events to be counted", DEADLINE, || {
        let counted = (metric("acked"), metric("duplicate"));
        assert!(counted.0 <= f64::from(acked) && counted.1 <= f64::from(duplicate), "{counted:?}");
        (counted == (f64::from(acked), f64::from(duplicate))).then_some(())
    });
}

#[test]
fn the_same_event_is_handled_once() {
    let mut mill = Mill::new("dedup = \"1h\"");
    for data in ["first", "second"] {
        mill.add("same", "echo", data.as_bytes());
    }
    mill.wait_for("faults.out", 1);
    // Long after, and beside another one of the same content.
    mill.wait_settled();
    mill.add("same", "echo", b"third");
    mill.add("other", "echo", b"first");
    mill.wait_for("faults.out", 2);
    mill.wait_settled();
    wait_counted(&mill, 2, 2);
    let out = mill.entries("faults.out");
    let causes: Vec<&str> = out.iter().map(|entry| text(entry, "ce_causationid")).collect();
    assert_eq!(causes, ["same", "other"]);
    // What has been looked up is not run: a fault would show.
    mill.add("same", "panic", b"");
    mill.wait_settled();
    wait_counted(&mill, 2, 3);
    assert!(mill.entries("faults.dead").is_empty());
    // Other workers, and this one after a restart, know it as well.
    mill.restart("dedup = \"1h\"");
    mill.add("same", "panic", b"");
    mill.wait_settled();
    wait_counted(&mill, 0, 1);
    // Without the setting every entry is run.
    mill.restart("");
    mill.add("same", "echo", b"fourth");
    assert_eq!(mill.wait_for("faults.out", 3).len(), 3);
}

#[test]
fn content_can_be_what_counts() {
    let mut mill = Mill::new("dedup = \"1h\"\ndedup_by = \"content\"");
    for (id, data) in [("1", "a"), ("2", "a"), ("1", "b"), ("3", "b")] {
        mill.add(id, "echo", data.as_bytes());
        mill.wait_settled();
    }
    wait_counted(&mill, 2, 2);
    let out = mill.entries("faults.out");
    let data: Vec<&str> = out.iter().map(|entry| text(entry, "data")).collect();
    assert_eq!(data, ["a", "b"]);
}

/// What failed has not been handled. What somebody asks for is run whatever has been.
#[test]
fn dead_letters_leave_no_mark_and_redrives_and_replays_are_run() {
    let mut mill = Mill::new("dedup = \"1h\"\n[handlers.faults.retry]\nmax_attempts = 1");
    mill.add("same", "retry", b"");
    let letter = mill.wait_for("faults.dead", 1).remove(0).0;
    mill.wait_settled();
    mill.restart("dedup = \"1h\"");
    mill.add("same", "echo", b"x");
    mill.wait_for("faults.out", 1);
    let run = |arguments: &[&str]| {
        let output = mill.run(arguments);
        assert_eq!(code(&output), 0, "{}", said(&output));
    };
    run(&["dlq", "redrive", "faults", &letter]);
    eventually("the redriven event", DEADLINE, || (mill.metric("wasmill_events_acked_total") == 2.0).then_some(()));
    run(&["replay", "faults.in", "--handler", "faults", "--from", "-"]);
    eventually("the replay", DEADLINE, || (mill.metric("wasmill_events_acked_total") == 4.0).then_some(()));
    assert_eq!(mill.metric("wasmill_events_duplicate_total"), 0.0);
    mill.wait_settled();
    assert_eq!(mill.entries("faults.out").len(), 4);
}

#[test]
fn bounds_of_dedup_are_checked() {
    let place = super::invoke::Place::new("");
    for (settings, fault) in [
        ("dedup = \"1s\"", None),
        ("dedup = \"30days\"", None),
        ("dedup = \"999ms\"", Some("out of bounds")),
        ("dedup = \"30days 1s\"", Some("from 1s to 30days")),
        ("dedup = 5", Some("dedup")),
        ("dedup_by = \"hash\"", Some("dedup_by")),
    ] {
        let component = wasmill_tests::guests::component("faults");
        let text = json!(component.to_str().unwrap());
        let config = format!("[handlers.faults]\ncomponent = {text}\nstreams = [\"a\"]\n{settings}\n");
        place.write("wasmill.toml", config.as_bytes());
        let output = place.run(&["check"]);
        let ok = fault.map_or(code(&output) == 0, |fault| code(&output) != 0 && said(&output).contains(fault));
        assert!(ok, "{settings}: {}", said(&output));
    }
}
