//! The audit log: every change has a line that says who asked for it and what came of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wasmill::clock::now_ms;
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::worker::Signal;
use wasmill_tests::{eventually, guests};

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

/// The changes that are written down, oldest first.
fn changes(mill: &Mill) -> Vec<Value> {
    mill.json(&["audit", "--limit", "1000"])["changes"].as_array().unwrap().clone()
}

/// The newest change of a kind.
fn last(mill: &Mill, verb: &str) -> Value {
    let found = changes(mill).into_iter().rev().find(|change| change["verb"] == verb);
    found.unwrap_or_else(|| panic!("no {verb} in {:#?}", changes(mill)))
}

/// What is in `detail` of the newest change of a kind, which was done.
#[track_caller]
fn assert_done(mill: &Mill, verb: &str, what: &str, detail: &str) {
    let change = last(mill, verb);
    assert_eq!(change["outcome"], "done", "{change:#}");
    let contains = |field: &str, part: &str| change[field].as_str().unwrap().contains(part);
    assert!(contains("what", what) && contains("detail", detail), "{change:#}");
}

pub fn every_change_is_written_down(way: Way) {
    let mill = Mill::start(way, "");
    assert_eq!(mill.text(&["audit"]), "no changes\n");
    for id in ["1", "2"] {
        mill.publish("faults.in", id, "reject", "x");
    }
    let letters = mill.wait_for("faults.dead", 2);
    let before = now_ms();
    mill.text(&["pause", "faults"]);
    assert_done(&mill, "pause", "", "");
    mill.text(&["resume", "faults"]);
    mill.text(&["resume", "faults"]);
    assert_done(&mill, "resume", "", "it was so before");
    let ids: Vec<&str> = letters.iter().map(|letter| letter["entry"].as_str().unwrap()).collect();
    mill.text(&["dlq", "drop", "faults", ids[0]]);
    assert_done(&mill, "drop", ids[0], "1 done, 0 absent");
    mill.text(&["dlq", "redrive", "faults", ids[1]]);
    assert_done(&mill, "redrive", ids[1], "1 done, 0 absent");
    mill.text(&["replay", "faults.in", "--handler", "faults", "--from", "-", "--count", "1"]);
    assert_done(&mill, "replay", "stream faults.in, run ", "1 from 0-0 to");
    let component = guests::component("faults");
    let deployed = mill.json(&["deploy", "faults", component.to_str().unwrap()]);
    let digest = deployed["current"].as_str().unwrap();
    assert_done(&mill, "deploy", &format!("sha256:{digest}"), "the rollout has begun");
    let said = mill.failure(1, &["rollback", "faults", "--to", digest]);
    let change = last(&mill, "rollback");
    assert_eq!((&change["outcome"], &change["what"]), (&json!("failed"), &json!(format!("to sha256:{digest}"))));
    assert!(said.contains("serves already") && change["detail"].as_str().unwrap().contains("serves already"), "{said}");
    mill.text(&["gc"]);
    assert_done(&mill, "gc", "keep the last", "0 components");
    mill.run(&["doctor", "--fix"]);
    assert_done(&mill, "doctor-fix", "", "0 findings mended");

    let actor = match way {
        Way::Redis => "shell:",
        Way::RedisByWorker | Way::Embedded => "anybody",
    };
    let changes = changes(&mill);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for change in &changes {
        *counts.entry(change["verb"].as_str().unwrap()).or_default() += 1;
        assert!(change["actor"].as_str().unwrap().starts_with(actor), "{change:#}");
        assert_eq!(change["tenant"], "default", "{change:#}");
        assert!((before - 1000..=now_ms() + 1000).contains(&change["at_ms"].as_u64().unwrap()), "{change:#}");
        let is_of_handler = !["gc", "doctor-fix"].contains(&change["verb"].as_str().unwrap());
        assert_eq!(change["handler"], if is_of_handler { "faults" } else { "" }, "{change:#}");
    }
    let expected =
        ["deploy", "doctor-fix", "drop", "gc", "pause", "redrive", "replay", "rollback"].map(|verb| (verb, 1));
    assert_eq!(counts, BTreeMap::from_iter(expected.into_iter().chain([("resume", 2)])), "{changes:#?}");
    // What only looks, and what cannot be meant, changes nothing.
    mill.text(&["stats"]);
    mill.failure(2, &["pause", "nobody"]);
    assert_eq!(self::changes(&mill), changes);
}

pub fn the_audit_log_is_read_by_place(way: Way) {
    let mill = Mill::start(way, "");
    for _ in 0..3 {
        mill.text(&["pause", "faults"]);
        mill.text(&["resume", "faults"]);
    }
    let all = changes(&mill);
    assert_eq!(all.len(), 6, "{all:#?}");
    let page = mill.json(&["audit", "-n", "2"]);
    assert_eq!(page["changes"], json!(all[4..]), "the newest");
    let older = mill.json(&["audit", "-n", "2", "--until", page["next"].as_str().unwrap()]);
    assert_eq!(older["changes"], json!(all[2..4]), "those before, with how they ended");
    let since = all[5]["id"].as_str().unwrap();
    assert_eq!(mill.json(&["audit", "--since", since]), json!({"changes": all[5..]}));
    assert_eq!(mill.json(&["audit", "--since", "1h"]), json!({"changes": all}));
    let text = mill.text(&["audit", "-n", "1"]);
    assert!(text.contains("resume") && text.contains("faults") && text.contains("older ones: --until"), "{text}");
    assert!(mill.failure(2, &["audit", "-n", "1001"]).contains("1 to 1000"));
    assert!(mill.failure(2, &["audit", "--since", "yesterday"]).contains("is no place"));
}

/// Of a thousand pages of a replay one line is enough; another replay has another.
pub fn the_pages_of_a_replay_are_one_change(way: Way) {
    let mill = Mill::start(way, "");
    for id in 0..20 {
        mill.publish("faults.in", &id.to_string(), "echo", "x");
    }
    mill.wait_for("faults.out", 20);
    let replay = || mill.text(&["replay", "faults.in", "--handler", "faults", "--from", "-", "--rate", "50"]);
    replay();
    let replays = || changes(&mill).into_iter().filter(|change| change["verb"] == "replay").count();
    assert_eq!(replays(), 1);
    replay();
    assert_eq!(replays(), 2);
}

/// What cannot be written down is not done.
#[test]
fn a_change_that_cannot_be_written_down_is_refused() {
    for way in [Way::Redis, Way::RedisByWorker] {
        let mill = Mill::start(way, "");
        let mut redis = redis(&mill);
        redis::cmd("SET").arg("wasmill:audit").arg("no stream").exec(&mut redis).unwrap();
        let said = mill.failure(1, &["pause", "faults"]);
        assert!(said.contains("nothing was done") && said.contains("`wasmill:audit`"), "{said}");
        assert_eq!(mill.json(&["stats"])["handlers"]["faults"]["paused"], false);
        redis::cmd("DEL").arg("wasmill:audit").exec(&mut redis).unwrap();
        mill.text(&["pause", "faults"]);
        assert_eq!(mill.json(&["stats"])["handlers"]["faults"]["paused"], true);
    }
}

/// When memory is full, what makes room can be done and is written down.
#[test]
fn room_can_be_made_when_memory_is_full() {
    let mill = Mill::start(Way::Redis, "");
    mill.publish("faults.in", "1", "reject", "x");
    let letters = mill.wait_for("faults.dead", 1);
    let mut redis = redis(&mill);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1mb").exec(&mut redis).unwrap();
    let refused = redis::cmd("SET").arg("x").arg("y").exec(&mut redis).unwrap_err();
    assert!(refused.to_string().contains("OOM"), "{refused}");
    mill.text(&["dlq", "drop", "faults", letters[0]["entry"].as_str().unwrap()]);
    assert_done(&mill, "drop", "1 dead letters", "1 done");
}

/// A reload is told whoever asked for it.
#[test]
fn reloads_are_written_down() {
    let mill = Mill::start(Way::RedisByWorker, "");
    mill.text(&["reload"]);
    let change = last(&mill, "reload");
    assert_eq!((&change["actor"], &change["outcome"]), (&json!("anybody"), &json!("done")), "{change:#}");
    assert_eq!(change["detail"], "nothing has changed", "{change:#}");
    mill.reconfigure("[handlers.x]\ncomponent = \"nothing.wasm\"\nstreams = [\"x\"]\n");
    mill.worker.signal(Signal::HUP);
    let change = eventually("the reload to fail", DEADLINE, || {
        Some(last(&mill, "reload")).filter(|change| change["actor"] == "signal" && change["outcome"] != "unknown")
    });
    assert_eq!(change["outcome"], "failed", "{change:#}");
    assert!(change["detail"].as_str().unwrap().contains("nothing.wasm"), "{change:#}");
    let log = mill.worker.stderr_text();
    assert!(log.contains("audit") && log.contains("verb=\"reload\" tenant=\"default\""), "{log}");
}

/// What stands in the log reaches no terminal as it is, whoever has put it there.
#[test]
fn control_characters_are_shown() {
    let mill = Mill::start(Way::Redis, "");
    let mut command = mill.command(&["pause", "faults"]);
    let output = command.env("USER", "a\u{1b}[2J\n\u{202e}b").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = mill.text(&["audit"]);
    assert!(text.contains("shell:a\\u{1b}[2J\\n\\u{202e}b@") && !text.contains('\u{1b}'), "{text}");
}

fn redis(mill: &Mill) -> redis::Connection {
    let url = mill.server.as_ref().unwrap().url();
    redis::Client::open(url).unwrap().get_connection().unwrap()
}
