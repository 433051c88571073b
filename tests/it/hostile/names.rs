//! Text of tenants is never taken for anything else: not for another log line, key, pattern, label, column or tag.

use std::time::Duration;

use serde_json::Value;
use wasmill_tests::eventually;

use super::super::faults::{Mill, text};
use super::super::invoke::said;

const DEADLINE: Duration = Duration::from_secs(30);

/// Ends a line, moves the cursor, turns the direction of writing around, and looks like a log line, a label, a pattern, a
/// path, an argument, a tag and a script.
const FORGED: &str = "x\r\n2026-01-01T00:00:00Z ERROR alarm=\"forged\" \u{1b}[2J\u{9b}31m\u{202e}\u{2028}\u{7}\0 \
                      {handler=\"other\"} 1 %s $(id) `id` ../.. * {a,b} [a-z] ? '\"\\ <script>alert(1)</script> \
                      redis.call('FLUSHALL')";

/// Nothing in it does anything to a terminal, or begins a line of its own.
#[track_caller]
fn assert_harmless(what: &str, output: &str) {
    let bad = output.chars().find(|&character| {
        (character.is_control() && character != '\n') || matches!(character, '\u{202e}' | '\u{2028}')
    });
    assert!(bad.is_none(), "{what} has {bad:?}: {output:?}");
    assert!(!output.lines().any(|line| line.starts_with("2026-01-01")), "{what}: {output}");
}

#[test]
fn forged_text_in_an_event_stays_text_in_logs_metrics_tables_and_answers() {
    let mut mill =
        Mill::new("[handlers.faults.limits]\nlog_bytes = \"16 KiB\"\n[handlers.faults.retry]\nmax_attempts = 1");
    // In the data, from where the guest puts it everywhere; and in what the event itself says of itself.
    mill.add("1", "forge", FORGED.as_bytes());
    mill.add(FORGED, FORGED, b"");
    // What is no event is said to be none, with what is wrong.
    let time: [(&[u8], &[u8]); 4] =
        [(b"ce_id", b"2"), (b"ce_source", b"/t"), (b"ce_type", b"ok"), (b"ce_time", FORGED.as_bytes())];
    mill.add_raw("faults.in", &time);
    let letters = mill.wait_for("faults.dead", 3);
    mill.wait_settled();
    let of = |id: &str| letters.iter().find(|letter| text(letter, "ce_id") == id).unwrap();
    assert_eq!(text(of("1"), "data"), FORGED, "what is kept is what was sent");
    assert_eq!(text(of(FORGED), "ce_type"), FORGED);
    assert!(mill.entries("faults.out").is_empty(), "a rejected delivery publishes nothing");

    eventually("both to be logged", DEADLINE, || {
        (mill.worker.stderr_text().matches("forged").count() >= 4).then_some(())
    });
    assert_harmless("the log", &mill.worker.stderr_text());
    let metrics = mill.metrics();
    let body = metrics.split("\r\n\r\n").nth(1).unwrap();
    assert!(!body.contains("forged") && !body.contains("handler=\"other\""), "{body}");
    for arguments in [
        &["dlq", "ls", "faults"][..],
        &["dlq", "show", "faults", &dead_id(&mut mill, "1")],
        &["dlq", "show", "faults", &dead_id(&mut mill, FORGED)],
        &["dlq", "show", "faults", &dead_id(&mut mill, "2")],
        &["history", "faults.in", "--since", "-"],
        &["stats"],
        &["streams"],
    ] {
        let output = mill.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        assert_harmless(&arguments.join(" "), &said(&output));
        let output = mill.run(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.lines().all(|line| !line.starts_with("2026-01-01")), "{text}");
    }
    // Everything of Redis is still there.
    assert_eq!(mill.entries("faults.in").len(), 3);
}

fn dead_id(mill: &mut Mill, event: &str) -> String {
    let letters = mill.entries("faults.dead");
    letters.iter().find(|letter| text(letter, "ce_id") == event).unwrap().0.clone()
}

#[test]
fn names_that_are_patterns_or_paths_name_nothing_else() {
    let mill = Mill::new("");
    let names =
        ["faults.*", "faults.{in,out}", "faults.[io]*", "*", "../faults.in", "faults.in/../x", "%2a", "a b", "<b>"];
    for name in names {
        let output = mill.run(&["send", name, "ok", "{}", "--output", "json"]);
        assert!(output.status.success(), "{name}: {}", said(&output));
        let sent: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        assert!(!sent.is_null());
    }
    let mut redis = redis::Client::open(mill.url()).unwrap().get_connection().unwrap();
    for name in names {
        let length: usize = redis::cmd("XLEN").arg(name).query(&mut redis).unwrap();
        assert_eq!(length, 1, "{name}");
        // A name that looks like a pattern selects one stream.
        let output = mill.run(&["history", name, "--since", "-", "--output", "json"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1, "{name}: {}", said(&output));
    }
    for name in ["wasmill:workers", "a\u{1b}[2J", "a\u{202e}b", "", "two\nlines"] {
        let output = mill.run(&["send", name, "ok", "{}"]);
        assert!(!output.status.success(), "{name:?}");
        assert_harmless("the refusal", &said(&output));
    }
}
