use std::time::Duration;

use serde_json::Value;
use wasmill_tests::eventually;
use wasmill_tests::mill::{Mill, Way};

use super::super::invoke::code;

const DEADLINE: Duration = Duration::from_secs(30);

/// What the doctor says, and the exit code.
fn doctor(mill: &Mill, arguments: &[&str]) -> (Value, i32) {
    let output = mill.run(&[&["doctor", "--output", "json"], arguments].concat());
    (serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}")), code(&output))
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check} in {report:#}"))
}

pub fn the_doctor_names_dead_letters_with_the_remedy(way: Way) {
    let mill = Mill::start(way, "");
    mill.publish("faults.in", "1", "reject", "");
    mill.wait_settled("faults");
    let (report, code) = doctor(&mill, &[]);
    assert_eq!((&report["level"], code), (&"warning".into(), 3), "{report:#}");
    let dead = finding(&report, "dead-letters");
    assert!(dead["message"].as_str().unwrap().contains("faults.dead holds 1"), "{dead}");
    assert!(dead["remedy"].as_str().unwrap().contains("wasmill dlq"), "{dead}");
    assert_eq!(finding(&report, "workers")["level"], "ok");
}

#[test]
fn the_doctor_sees_the_server_and_mends_orphans() {
    let mut mill = Mill::start(Way::Redis, "");
    let server = mill.server.as_ref().unwrap();
    let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let (report, _) = doctor(&mill, &[]);
    // The servers of tests have no append-only file.
    assert_eq!(finding(&report, "persistence")["level"], "warning", "{report:#}");
    assert_eq!(finding(&report, "version")["level"], "ok");
    let set = |redis: &mut redis::Connection, name: &str, value: &str| {
        redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query::<()>(redis).unwrap();
    };
    set(&mut redis, "maxmemory-policy", "allkeys-lru");
    let (report, code) = doctor(&mill, &[]);
    assert_eq!((finding(&report, "eviction-policy")["level"].as_str(), code), (Some("error"), 4), "{report:#}");
    set(&mut redis, "maxmemory-policy", "noeviction");
    mill.publish("faults.in", "1", "ok", "");
    mill.wait_settled("faults");
    // A worker that dies leaves consumers; once its heartbeat has ended, they are orphans.
    mill.worker.kill();
    let keys: Vec<String> = redis::cmd("ZRANGE").arg(&["wasmill:workers", "0", "-1"]).query(&mut redis).unwrap();
    redis::cmd("DEL").arg(format!("wasmill:worker:{}", keys[0])).query::<()>(&mut redis).unwrap();
    let (report, _) = doctor(&mill, &[]);
    let orphan = finding(&report, "orphaned-consumers");
    assert_eq!((&orphan["level"], &orphan["fixable"]), (&"warning".into(), &true.into()), "{report:#}");
    assert!(finding(&report, "workers")["message"].as_str().unwrap().contains("no worker serves faults"));
    let (report, _) = doctor(&mill, &["--fix"]);
    assert_eq!(finding(&report, "orphaned-consumers")["fixed"], true, "{report:#}");
    let (report, _) = doctor(&mill, &[]);
    assert_eq!(finding(&report, "orphaned-consumers")["level"], "ok", "{report:#}");
}

#[test]
fn the_doctor_finds_what_would_wait_for_ever_and_makes_it_due() {
    let mill = Mill::start(Way::Redis, "[handlers.faults.retry]\nbase = \"1h\"\ncap = \"1h\"\n");
    let mut redis = redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
    mill.publish("faults.in", "1", "retry_always", "");
    let due = "wasmill:due:faults:faults.in";
    let mut parked = || redis::cmd("ZCARD").arg(due).query::<usize>(&mut redis).unwrap();
    eventually("the event to be parked", DEADLINE, || (parked() == 1).then_some(()));
    let (report, _) = doctor(&mill, &["--fix"]);
    assert_eq!(finding(&report, "parked-without-time")["level"], "ok", "{report:#}");
    assert_eq!(mill.json(&["pending", "faults"])["entries"][0]["attempts"], 1);
    redis::cmd("DEL").arg(due).query::<()>(&mut redis).unwrap();
    let (report, code) = doctor(&mill, &[]);
    let lost = finding(&report, "parked-without-time");
    assert_eq!((&lost["level"], &lost["fixable"], code), (&"error".into(), &true.into(), 4), "{report:#}");
    assert!(lost["message"].as_str().unwrap().starts_with("1 events of faults.in wait for another attempt of faults"));
    let (report, _) = doctor(&mill, &["--fix"]);
    assert_eq!(finding(&report, "parked-without-time")["fixed"], true, "{report:#}");
    eventually("the second attempt", DEADLINE, || {
        (mill.json(&["pending", "faults"])["entries"][0]["attempts"] == 2).then_some(())
    });
    let (report, _) = doctor(&mill, &[]);
    assert_eq!(finding(&report, "parked-without-time")["level"], "ok", "{report:#}");
}

#[test]
fn the_doctor_says_that_redis_is_away() {
    let mut mill = Mill::start(Way::Redis, "");
    mill.server.as_mut().unwrap().stop();
    let (report, code) = doctor(&mill, &[]);
    assert_eq!((finding(&report, "connection")["level"].as_str(), code), (Some("error"), 4), "{report:#}");
    assert!(finding(&report, "connection")["remedy"].as_str().unwrap().contains("redis.url"));
}
