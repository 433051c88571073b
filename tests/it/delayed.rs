//! Delayed events through the binary: asked for by `send` and by handlers, moved by workers.

use serde_json::{Value, json};
use wasmill_tests::redis_server::RedisServer;

use super::faults::{Mill, ms, text};
use super::invoke::{code, said};

fn send(mill: &Mill, arguments: &[&str]) -> Value {
    let output = mill.run(&[&["send", "faults.in", "echo", "{}", "--output", "json"], arguments].concat());
    assert_eq!(code(&output), 0, "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {}", said(&output)))
}

#[test]
fn an_event_can_be_sent_for_later() {
    let mut mill = Mill::new("");
    let before = mill.now();
    let sent = send(&mill, &["--delay", "700ms", "--id", "later"]);
    assert_eq!(sent, json!({"stream": "faults.in", "ids": ["later"], "entries": [null]}));
    assert!(mill.entries("faults.in").is_empty());
    // A time that is over means at once.
    let sent = send(&mill, &["--at", "2001-02-03T04:05:06Z", "--id", "at once"]);
    assert!(sent["entries"][0].is_string(), "{sent}");
    let arrived = mill.wait_for("faults.in", 2);
    assert_eq!([text(&arrived[0], "ce_id"), text(&arrived[1], "ce_id")], ["at once", "later"]);
    assert!(ms(&arrived[1].0) >= before + 700, "{before} {arrived:?}");
    assert_eq!(mill.wait_for("faults.out", 2).len(), 2, "they are events like any other");
    mill.wait_settled();
}

/// Nothing that is due already waits for a worker to move it.
#[test]
fn what_is_due_already_needs_no_worker() {
    let server = RedisServer::start();
    let place = super::send::place(&server, "");
    for when in [["--at", "2020-01-01T00:00:00Z"], ["--delay", "0s"]] {
        let output = place.run(&[&["send", "s", "t", "{}", "--output", "json"], &when[..]].concat());
        let sent: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        assert!(sent["entries"][0].is_string(), "{when:?}: {sent}");
    }
    let mut redis = super::send::connect(&server);
    assert_eq!(redis::cmd("XLEN").arg("s").query(&mut redis), Ok(2));
    assert_eq!(redis::cmd("EXISTS").arg("wasmill:delayed").query(&mut redis), Ok(0));
}

/// It is in Redis, not in a worker, and comes once.
#[test]
fn a_delayed_event_survives_the_workers() {
    let mut mill = Mill::new("");
    let first = mill.now() + 1500;
    let time = wasmill::envelope::format_time(first);
    for id in 0..20 {
        send(&mill, &["--at", &time, "--id", &id.to_string()]);
    }
    mill.restart("");
    let second = mill.spawn_another();
    let mut ids: Vec<u32> =
        mill.wait_for("faults.in", 20).iter().map(|entry| text(entry, "ce_id").parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..20).collect::<Vec<_>>());
    assert!(mill.entries("faults.in").iter().all(|entry| ms(&entry.0) >= first));
    mill.wait_settled();
    assert_eq!((mill.entries("faults.in").len(), mill.entries("faults.out").len()), (20, 20));
    drop(second);
}

#[test]
fn a_handler_can_publish_for_later() {
    let mut mill = Mill::new("[handlers.faults.retry]\nmax_attempts = 1");
    let cause = mill.add("cause", "later", b"600");
    let late = mill.wait_for("faults.out", 1);
    assert_eq!((late.len(), text(&late[0], "ce_type"), text(&late[0], "ce_causationid")), (1, "late", "cause"));
    assert!(ms(&late[0].0) >= ms(&cause) + 600, "{cause} {late:?}");
    // One millisecond more than thirty days.
    mill.add("too late", "later", b"2592000001");
    let letters = mill.wait_for("faults.dead", 1);
    assert!(text(&letters[0], "dl_message").contains("30 days"), "{letters:?}");
    mill.wait_settled();
}

#[test]
fn delays_that_cannot_be_meant_are_refused() {
    let mill = Mill::new("");
    for (arguments, words) in [
        (&["--delay", "10"][..], "unit"),
        (&["--delay", "31days"], "30days"),
        (&["--at", "tomorrow"], "RFC 3339"),
        (&["--at", "2999-01-01T00:00:00Z"], "30days"),
        (&["--at", "2001-02-03T04:05:06Z", "--delay", "1s"], "cannot be used with"),
    ] {
        let output = mill.run(&[&["send", "faults.in", "echo", "{}"], arguments].concat());
        assert!(code(&output) == 2 && said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
}
