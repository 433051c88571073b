//! `wasmill dlq` at its edges: all of the evidence, what a redriven event comes to, streams that are shared, and
//! entries that are no dead letters. The usual way is in `handlers.rs`.

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use wasmill_tests::guests;

use super::faults::{Mill, bytes, ms, text};
use super::invoke::{code, said};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What `dlq` prints as JSON; panics unless it succeeds.
fn dlq(mill: &Mill, arguments: &[&str]) -> Value {
    let output = run(mill, &[arguments, &["--output", "json"]].concat());
    assert_eq!(code(&output), 0, "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {}", said(&output)))
}

fn run(mill: &Mill, arguments: &[&str]) -> Output {
    mill.run(&[&["dlq"], arguments].concat())
}

fn ids(letters: &Value) -> Vec<String> {
    letters.as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_dead_letter_has_all_the_evidence() {
    let mut mill = Mill::new("");
    let fields: [(&[u8], &[u8]); 6] = [
        (b"ce_id", b"the-id"),
        (b"ce_source", b"/t"),
        (b"ce_type", b"panic"),
        (b"traceparent", PARENT.as_bytes()),
        (b"note", b"\xff is no text"),
        (b"data", b"{\"n\": 1}"),
    ];
    let entry = mill.add_raw("faults.in", &fields);
    mill.wait_for("faults.dead", 1);
    let listed = dlq(&mill, &["ls", "faults"]);
    let letter = &listed[0];
    for (name, expected) in [
        ("stream", "faults.in"),
        ("entry_id", &entry),
        ("handler", "faults"),
        ("class", "trap"),
        ("traceparent", PARENT),
    ] {
        assert_eq!(letter[name], expected, "{name}: {letter:#}");
    }
    // The digest is that of the file.
    let component = guests::component("faults");
    let sum = std::process::Command::new("sha256sum").arg(component).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(letter["digest"], format!("sha256:{}", sum.split(' ').next().unwrap()), "{letter:#}");
    assert!(letter["message"].as_str().unwrap().contains("panicked as asked"), "{letter:#}");
    assert!(mill.worker.stderr_text().contains(letter["worker"].as_str().unwrap()), "{letter:#}");
    let time = |name: &str| letter[name].as_u64().unwrap_or_else(|| panic!("{name}: {letter:#}"));
    assert_eq!((time("attempts"), time("first_time")), (3, ms(&entry)));
    let written = ms(letter["id"].as_str().unwrap());
    assert!((time("first_time")..=written).contains(&time("last_time")), "{letter:#}");
    assert_eq!((&letter["event"]["id"], &letter["event"]["data"]), (&json!("the-id"), &json!({"n": 1})));
    // The original to the byte, whatever it is.
    let original = letter["original"].as_array().unwrap();
    assert_eq!(original.len(), fields.len(), "{letter:#}");
    assert_eq!(original[4], json!([{"text": "note"}, {"base64": "/yBpcyBubyB0ZXh0"}]));
    assert_eq!(original[5], json!([{"text": "data"}, {"text": "{\"n\": 1}"}]));
    // The same for people.
    let shown = run(&mill, &["show", "faults", letter["id"].as_str().unwrap()]);
    for line in ["class: trap", "stream: faults.in", "attempts: 3", "original:", "  ce_id: the-id"] {
        assert!(said(&shown).lines().any(|shown| shown == line), "{line} is missing in {}", said(&shown));
    }
    let table = run(&mill, &["ls"]);
    assert!(said(&table).contains("CLASS") && said(&table).contains("wasm trap"), "{}", said(&table));
    mill.wait_settled();
}

/// The reason for redriving: what was wrong has been mended, and the event has the effects that it never had.
#[test]
fn a_redriven_event_starts_over_and_has_its_effects_once() {
    let mut mill = Mill::new("[handlers.faults.retry]\nmax_attempts = 1");
    let entry = mill.add("the-id", "retry", b"");
    mill.wait_for("faults.dead", 1);
    let id = ids(&dlq(&mill, &["ls", "faults"])).remove(0);
    mill.restart("");
    // Two operators at the same time.
    let both: Vec<_> = (0..2)
        .map(|_| {
            let mut command = mill.place.command(&["dlq", "redrive", "faults", &id, "--output", "json"]);
            command.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let both: Vec<Value> = both
        .into_iter()
        .map(|child| serde_json::from_slice(&child.wait_with_output().unwrap().stdout).expect("JSON"))
        .collect();
    let total = |name: &str| both.iter().map(|json| json[name].as_array().unwrap().len()).sum::<usize>();
    assert_eq!((total("redriven"), total("absent")), (1, 1), "{both:?}");
    let out = mill.wait_for("faults.out", 1);
    mill.wait_settled();
    assert_eq!((mill.entries("faults.out").len(), mill.entries("faults.dead").len()), (1, 0));
    assert_eq!((text(&out[0], "ce_type"), text(&out[0], "ce_causationid")), ("retried", "the-id"));
    // The stream itself is as it was: nobody else reads the event again.
    let stream = mill.entries("faults.in");
    assert_eq!((stream.len(), &stream[0].0), (1, &entry));
    assert_eq!(dlq(&mill, &["redrive", "faults", &id]), json!({"redriven": [], "absent": [id], "refused": []}));
}

#[test]
fn what_was_malformed_stays_it_and_keeps_its_bytes() {
    let mut mill = Mill::new("");
    let fields: [(&[u8], &[u8]); 3] = [(b"\xff\x00", b"\n"), (b"ce_id", b""), (b"dl_original_fields", b"9")];
    let entry = mill.add_raw("faults.in", &fields);
    mill.wait_for("faults.dead", 1);
    for _ in 0..2 {
        let letters = dlq(&mill, &["ls", "faults"]);
        assert_eq!((letters.as_array().unwrap().len(), &letters[0]["class"]), (1, &json!("malformed")));
        assert_eq!((&letters[0]["entry_id"], &letters[0]["event"]), (&json!(entry), &Value::Null));
        let id = ids(&letters).remove(0);
        let letter = mill.entries("faults.dead").remove(0);
        let original = &letter.1[letter.1.len() - fields.len()..];
        assert!(original.iter().zip(fields).all(|((a, b), (c, d))| a == c && b == d), "{letter:?}");
        assert_eq!(text(&letter, "dl_original_fields"), "3", "{letter:?}");
        assert_eq!(dlq(&mill, &["redrive", "faults", &id])["redriven"], json!([id]));
        mill.wait_settled();
        let again = mill.wait_for("faults.dead", 1);
        assert!(again.len() == 1 && again[0].0 != id, "a new dead letter");
    }
}

#[test]
fn what_has_lost_its_original_is_not_redriven_and_holds_up_no_other() {
    let mut mill = Mill::new("");
    mill.add("1", "reject", b"");
    mill.wait_for("faults.dead", 1);
    let evidence: [(&[u8], &[u8]); 4] = [
        (b"dl_stream", b"faults.in"),
        (b"dl_entry_id", b"1-0"),
        (b"dl_handler", b"faults"),
        (b"dl_original_fields", b"0"),
    ];
    let bare = mill.add_raw("faults.dead", &evidence);
    mill.add("2", "reject", b"");
    mill.wait_for("faults.dead", 3);
    let output = run(&mill, &["redrive", "faults", "--all"]);
    let said = said(&output);
    assert!(code(&output) == 1 && said.contains("redriven: 2") && said.contains(&bare), "{said}");
    assert!(said.contains("trimmed") && said.contains("wasmill dlq drop"), "{said}");
    // Programs are told the same.
    let output = run(&mill, &["redrive", "faults", &bare, "--output", "json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(code(&output) == 1 && told["refused"][0].as_str().unwrap().contains(&bare), "{told}");
    // Both come back, behind the one that stays.
    let left = mill.wait_for("faults.dead", 3);
    assert_eq!((left.len(), &left[0].0), (3, &bare));
    mill.wait_settled();
}

/// Two handlers that share a dead-letter stream, each with two dead letters in it.
fn sharing() -> Mill {
    let other = format!(
        "dead_letter = \"shared.dead\"\n[handlers.other]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\n\
         dead_letter = \"shared.dead\"\n",
        guests::component("faults").display()
    );
    let mut mill = Mill::new(&other);
    mill.add("1", "reject", b"");
    mill.add("2", "reject", b"");
    mill.wait_for("shared.dead", 4);
    mill
}

fn handlers(mill: &mut Mill) -> Vec<String> {
    mill.entries("shared.dead").iter().map(|letter| text(letter, "dl_handler").to_owned()).collect()
}

#[test]
fn all_means_all_of_this_handler() {
    let mut mill = sharing();
    let listed = dlq(&mill, &["ls", "faults"]);
    let listed: Vec<&str> =
        listed.as_array().unwrap().iter().map(|letter| letter["handler"].as_str().unwrap()).collect();
    assert_eq!(listed, ["faults", "faults"], "the dead letters of others are not listed");
    let dropped = dlq(&mill, &["drop", "faults", "--all"]);
    assert_eq!(dropped["dropped"].as_array().unwrap().len(), 2, "{dropped}");
    assert_eq!(handlers(&mut mill), ["other", "other"]);
}

/// A dead letter that is redriven through another handler would be lost to its own, and come back under a wrong name.
#[test]
fn nothing_is_redriven_through_another_handler() {
    let mut mill = sharing();
    let letters = mill.entries("shared.dead");
    let foreign = letters.iter().find(|letter| text(letter, "dl_handler") == "other").unwrap();
    let output = run(&mill, &["redrive", "faults", &foreign.0]);
    mill.wait_settled();
    let mut left = handlers(&mut mill);
    left.sort();
    assert_eq!(left, ["faults", "faults", "other", "other"], "{}", said(&output));
}

#[test]
fn lists_are_limited_and_dropping_is_exact() {
    let mut mill = Mill::new("");
    for number in 0..5 {
        mill.add(&number.to_string(), "reject", b"");
    }
    mill.wait_for("faults.dead", 5);
    // Written by somebody else: neither listed, nor moved, nor deleted.
    let foreign = mill.add_raw("faults.dead", &[(b"note", b"not a dead letter")]);
    let all = ids(&dlq(&mill, &["ls", "faults"]));
    assert_eq!(all.len(), 5);
    assert_eq!(ids(&dlq(&mill, &["ls", "faults", "--limit", "2"])), all[..2]);
    let dropped = dlq(&mill, &["drop", "faults", &all[0], &all[3]]);
    assert_eq!(dropped, json!({"dropped": [all[0], all[3]], "absent": [], "refused": []}));
    assert_eq!(dlq(&mill, &["drop", "faults", &all[0]]), json!({"dropped": [], "absent": [all[0]], "refused": []}));
    assert_eq!(ids(&dlq(&mill, &["ls"])), [&*all[1], &all[2], &all[4]]);
    let output = run(&mill, &["redrive", "faults", &foreign]);
    assert!(code(&output) == 1 && said(&output).contains("not a dead letter"), "{}", said(&output));
    assert_eq!(dlq(&mill, &["drop", "faults", "--all"])["dropped"].as_array().unwrap().len(), 3);
    let left = mill.entries("faults.dead");
    assert_eq!((left.len(), bytes(&left[0], "note")), (1, &b"not a dead letter"[..]));
    assert_eq!(dlq(&mill, &["ls"]), json!([]));
    assert!(said(&run(&mill, &["ls"])).contains("no dead letters"));
    mill.wait_settled();
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let mill = Mill::new("");
    for (arguments, exit, words) in [
        (&["ls", "nobody"][..], 2, "there are: faults"),
        (&["redrive", "nobody", "--all"], 2, "nobody"),
        (&["drop", "faults"], 2, "<IDS>"),
        (&["drop", "faults", "1-0", "--all"], 2, "--all"),
        (&["show", "faults", "yesterday"], 2, "yesterday"),
        (&["show", "faults", "1-0"], 1, "no dead letter 1-0"),
    ] {
        let output = run(&mill, arguments);
        assert!(code(&output) == exit && said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
    // Done already is no failure.
    assert_eq!(dlq(&mill, &["redrive", "faults", "1-0"]), json!({"redriven": [], "absent": ["1-0"], "refused": []}));
    assert_eq!(dlq(&mill, &["redrive", "faults", "--all"]), json!({"redriven": [], "absent": [], "refused": []}));
}
