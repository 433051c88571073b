//! A version runs a share of the events first: the same ones everywhere, and it serves only if it does well. Rollouts that
//! nobody wants any more, and how fast the way back is.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmill::deploy::canary::Percent;
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::worker::{Signal, Worker};
use wasmill_tests::{eventually, on_every_way};

use crate::bad_components::{child_of, is_alive, module_of};
use crate::canary;
use crate::deploy::{deploy, second_worker, settled, version, write};

const DEADLINE: Duration = Duration::from_secs(60);

/// Begins a canary on half of the events, and waits until it runs; the digest of its version.
fn begin(mill: &Mill, component: &Path, arguments: &[&str]) -> String {
    let component = component.to_str().unwrap();
    let asked = ["deploy", "faults", component, "--canary", "50%", "--no-wait"];
    let begun = mill.json(&[&asked, arguments].concat());
    let digest = begun["rollout"]["digest"].as_str().unwrap().to_owned();
    eventually("the canary to run", DEADLINE, || {
        let report = mill.json(&["versions", "faults"]);
        let workers = report["workers"].as_array().unwrap();
        let runs = workers.iter().all(|worker| worker["rollout"]["canary"].is_object());
        (runs && report["canary"].is_object()).then_some(())
    });
    digest
}

/// Publishes an event with this key and returns when it has been acknowledged or not: that is for the caller to see.
fn publish_keyed(mill: &Mill, id: &str, key: &str) {
    let event = json!({
        "specversion": "1.0", "id": id, "source": "/t", "type": "echo", "partitionkey": key,
        "datacontenttype": "text/plain", "data": "",
    });
    let head = ["content-type: application/cloudevents+json"];
    let answer = mill.http("POST", "/v1/streams/faults.in/events", &head, event.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// The digest of the version that made each follow-up, by the id of the event that it was made of.
fn made_by(mill: &Mill, events: usize) -> Vec<(String, String)> {
    let follow_ups = mill.wait_for("faults.out", events);
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    follow_ups.iter().map(|event| (text(event, "causationid"), text(event, "handlerdigest"))).collect()
}

fn takes(digest: &str, key: &str) -> bool {
    "50%".parse::<Percent>().unwrap().takes(digest, key)
}

on_every_way!(canary::{a_share_of_the_events_runs_on_a_candidate_which_then_serves, one_that_does_badly_does_not_serve});

pub fn a_share_of_the_events_runs_on_a_candidate_which_then_serves(way: Way) {
    const EVENTS: usize = 40;
    let mill = Mill::start(way, "isolation = \"reuse\"\n");
    let (first, second) = (version(&mill, b'1'), version(&mill, b'2'));
    let current = format!("sha256:{}", deploy(&mill, &first)["current"].as_str().unwrap());
    let candidate = format!("sha256:{}", begin(&mill, &second, &["--promote-after", "24h"]));
    (0..EVENTS).for_each(|id| drop(mill.publish("faults.in", &id.to_string(), "echo", "")));
    let made = made_by(&mill, EVENTS);
    for (id, digest) in &made {
        let expected = if takes(&candidate, id) { &candidate } else { &current };
        assert_eq!(digest, expected, "event {id}");
    }
    let on_it = made.iter().filter(|(_, digest)| *digest == candidate).count();
    assert!((1..EVENTS).contains(&on_it), "{on_it}");
    // That is what workers say, too.
    let report = eventually("the counts", DEADLINE, || {
        Some(mill.json(&["versions", "faults"])).filter(|report| report["canary"]["acked"] == on_it)
    });
    assert_eq!((&report["canary"]["failed"], &report["versions"][0]["state"]), (&json!(0), &json!("canary")));
    let text = mill.text(&["versions", "faults"]);
    assert!(
        text.contains(&format!("canary on 50% of the events: 0 of {on_it} deliveries failed, 1% allowed")),
        "{text}"
    );
    let stats = eventually("the statistics", DEADLINE, || {
        let stats = mill.json(&["stats"])["handlers"]["faults"]["versions"].clone();
        (stats[&candidate]["acked"] == on_it && stats[&current]["acked"] == EVENTS - on_it).then_some(stats)
    });
    assert_eq!(stats[&candidate]["runs"], on_it);
    let metrics = mill.http("GET", "/metrics", &[], b"").body;
    let labels = format!("digest=\"{candidate}\",handler=\"faults\",outcome=\"ack\"");
    assert!(metrics.contains(&format!("wasmill_version_deliveries_total{{{labels}}} {on_it}\n")), "{metrics}");
    let serving = format!("wasmill_handler_version_info{{digest=\"{current}\",handler=\"faults\"}} 1\n");
    assert!(metrics.contains(&serving), "{metrics}");
    // Nothing else can be deployed meanwhile. Cancelled, all events run on the version that serves.
    let said = mill.failure(1, &["deploy", "faults", version(&mill, b'3').to_str().unwrap()]);
    assert!(said.contains("`wasmill rollback"), "{said}");
    let cancelled = mill.json(&["rollback", "faults", "--by", "mia"]);
    assert_eq!((&cancelled["rollout"], &cancelled["last"]["failed"]), (&Value::Null, &json!("cancelled by mia")));
    assert_eq!(format!("sha256:{}", cancelled["current"].as_str().unwrap()), current);
    eventually("the candidate to be out of use", DEADLINE, || {
        let id = mill.events("faults.out").len().to_string();
        mill.publish("faults.in", &id, "echo", "");
        let made = made_by(&mill, id.parse::<usize>().unwrap() + 1);
        made[EVENTS..].iter().any(|(id, digest)| takes(&candidate, id) && *digest == current).then_some(())
    });
    // Once more, to its end: the command comes back when it serves.
    let component = second.to_str().unwrap();
    let arguments = ["deploy", "faults", component, "--canary", "50%", "--promote-after", "2s", "--output", "json"];
    let mut command = mill.command(&arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the canary to run", DEADLINE, || {
        mill.json(&["versions", "faults"])["canary"].is_object().then_some(())
    });
    (0..200).for_each(|id| drop(mill.publish("faults.in", &format!("again-{id}"), "echo", "")));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(format!("sha256:{}", report["current"].as_str().unwrap()), candidate);
}

pub fn one_that_does_badly_does_not_serve(way: Way) {
    let mill = Mill::start(way, "");
    deploy(&mill, &version(&mill, b'0'));
    let current = deploy(&mill, &version(&mill, b'1'))["current"].clone();
    let component = version(&mill, b'2');
    let digest = format!("sha256:{}", begin(&mill, &component, &["--promote-after", "24h", "--max-error-rate", "10%"]));
    let ids: Vec<String> = (0..200).map(|id| id.to_string()).collect();
    ids.iter().for_each(|id| drop(mill.publish("faults.in", id, "reject", "")));
    let on_it = ids.iter().filter(|id| takes(&digest, id)).count();
    assert!(on_it >= 20, "{on_it}");
    let last = eventually("the canary to end", DEADLINE, || {
        let report = mill.json(&["versions", "faults"]);
        report["rollout"].is_null().then(|| report["last"]["failed"].clone())
    });
    let why = last.as_str().unwrap();
    assert!(why.starts_with("100% of ") && why.ends_with("deliveries failed, 10% is allowed"), "{why}");
    assert_eq!(settled(&mill).0, current);
    // Whoever would have ended it by hand comes too late, and does not go back further than that.
    assert!(mill.failure(1, &["rollback", "faults"]).contains("has ended without effect"));
    assert_eq!(settled(&mill).0, current);
    // Without events nothing is known of it: it does not serve, and the command says so.
    let component = component.to_str().unwrap();
    let said = mill.failure(1, &["deploy", "faults", component, "--canary", "50%", "--promote-after", "1s"]);
    assert!(said.contains("stays as it was: only 0 deliveries ran on it in 1 s, 20 are needed"), "{said}");
    assert_eq!(settled(&mill).0, current);
    for (asked, why) in [
        (["--canary", "0%", "--promote-after", "1s"], "more than 0%"),
        (["--canary", "1%", "--promote-after", "999ms"], "must be 1000 to 86400000"),
        (["--canary", "1%", "--promote-after", "24h1ms"], "must be 1000 to 86400000"),
        (["--canary", "101%", "--promote-after", "1s"], "is not a percentage"),
        (["--canary", "1%", "--prepare-time", "1h1ms"], "must be 1 to 3600000"),
        (["--canary", "1%", "--by", "x".repeat(1025).as_str()], "`by` has at most 1024 bytes"),
    ] {
        let said = mill.failure(2, &[&["deploy", "faults", component][..], &asked].concat());
        assert!(said.contains(why), "{asked:?}: {said}");
    }
}

#[test]
fn a_key_sees_one_version_on_all_workers_also_on_those_that_come_later() {
    // Which of them are chosen depends on the build: so many that some are, and some are not.
    const KEYS: usize = 50;
    let mill = Mill::start(Way::Redis, "");
    let _second = second_worker(&mill);
    let serves = mill.json(&["versions", "faults"])["workers"][0]["serves"].clone();
    let current = format!("sha256:{}", serves.as_str().unwrap());
    let candidate = format!("sha256:{}", begin(&mill, &version(&mill, b'2'), &["--promote-after", "24h"]));
    let third = second_worker(&mill);
    let text = third.stderr_text();
    let (runs, ready) = (text.find("a version runs 50% of the events"), text.find("ready"));
    assert!(runs.is_some() && runs < ready, "{text}");
    let key = |id: usize| format!("key-{}", id % KEYS);
    (0..200).for_each(|id| publish_keyed(&mill, &id.to_string(), &key(id)));
    for (id, digest) in made_by(&mill, 200) {
        let expected = if takes(&candidate, &key(id.parse().unwrap())) { &candidate } else { &current };
        assert_eq!(&digest, expected, "event {id}");
    }
    let on_it = (0..KEYS).map(key).filter(|key| takes(&candidate, key)).count();
    assert!((1..KEYS).contains(&on_it), "the keys show nothing: {on_it}");
}

/// What a worker has said counts though it is gone.
#[test]
fn a_canary_ends_though_the_worker_that_saw_it_fail_dies() {
    let mill = Mill::start(Way::Redis, "");
    let digest = format!("sha256:{}", begin(&mill, &version(&mill, b'2'), &["--promote-after", "24h"]));
    let on_it: Vec<String> = (0..).map(|id: usize| id.to_string()).filter(|id| takes(&digest, id)).take(20).collect();
    // One less than what says something.
    on_it[..19].iter().for_each(|id| drop(mill.publish("faults.in", id, "reject", "")));
    eventually("the counts", DEADLINE, || (mill.json(&["versions", "faults"])["canary"]["failed"] == 19).then_some(()));
    let mut mill = mill;
    mill.worker.kill();
    let _second = second_worker(&mill);
    let canary = eventually("it to be alone", DEADLINE, || {
        let report = mill.json(&["versions", "faults"]);
        (report["workers"].as_array().unwrap().len() == 1).then(|| report["canary"].clone())
    });
    assert_eq!(canary["failed"], 19);
    let last = mill.run(&["send", "faults.in", "reject", "x", "--id", &on_it[19]]);
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    let why = eventually("the canary to end", DEADLINE, || {
        let report = mill.json(&["versions", "faults"]);
        report["rollout"].is_null().then_some(report)
    });
    assert_eq!(why["last"]["failed"], "100% of 20 deliveries failed, 1% is allowed");
    assert_eq!(why["current"], Value::Null);
}

#[test]
fn a_rollout_that_is_cancelled_stops_what_workers_compile_for_it() {
    let mill = Mill::start(Way::Redis, "");
    let second = second_worker(&mill);
    let current = deploy(&mill, &version(&mill, b'1'))["current"].clone();
    let bomb = write(&mill, "bomb.wasm", &module_of(1, 600_000));
    let mut command = mill.command(&["deploy", "faults", bomb.to_str().unwrap()]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let compiles = |worker: &Worker| eventually("a compiler", DEADLINE, || child_of(worker.pid()));
    let compilers = [compiles(&mill.worker), compiles(&second)];
    // Whoever stops waiting is told what goes on without them.
    assert!(child.try_wait().unwrap().is_none());
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("the rollout goes on"), "{said}");
    assert!(said.contains("`wasmill rollback faults`"), "{said}");
    assert!(compilers.into_iter().all(is_alive));
    let text = mill.text(&["rollback", "faults"]);
    assert!(text.contains("is cancelled: faults goes on with sha256:"), "{text}");
    eventually("the compilers to end", DEADLINE, || (!compilers.into_iter().any(is_alive)).then_some(()));
    assert_eq!(settled(&mill), (current, 2));
    // They compile the next one, as nothing had happened.
    let next = deploy(&mill, &version(&mill, b'2'))["current"].clone();
    assert_eq!(settled(&mill), (next, 2));
}

/// From the command to the HTTP API until the last worker has switched, over what workers hold ready. The benchmark has the
/// figure; here half of the times have to be good, since the machine may be busy.
#[test]
fn the_way_back_takes_no_time() {
    const LIMIT: Duration = Duration::from_millis(100);
    let mill = Mill::start(Way::Redis, "");
    let _second = second_worker(&mill);
    deploy(&mill, &version(&mill, b'1'));
    deploy(&mill, &version(&mill, b'2'));
    let url = mill.server.as_ref().unwrap().url();
    let mut redis = ::redis::Client::open(url).unwrap().get_connection().unwrap();
    let mut switch = || {
        let body = json!({ "by": "me" }).to_string();
        let head = ["content-type: application/json"];
        let start = Instant::now();
        let begun = mill.http("POST", "/v1/handlers/faults/rollback", &head, body.as_bytes()).json();
        // It may have ended before the answer was made.
        let rollout = if begun["rollout"].is_null() { &begun["last"] } else { &begun["rollout"] };
        let id = rollout["id"].as_str().unwrap().to_owned();
        loop {
            let said: std::collections::BTreeMap<String, String> =
                ::redis::cmd("HGETALL").arg("wasmill:deploying:faults").query(&mut redis).unwrap();
            let serves = said.values().filter(|text| text.contains(&id) && text.contains("serving")).count();
            if serves == 2 {
                return start.elapsed();
            }
            assert!(start.elapsed() < DEADLINE, "{said:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let mut times = Vec::new();
    for _ in 0..10 {
        times.push(switch());
        settled(&mill);
    }
    times.sort();
    assert!(times[times.len() / 2] <= LIMIT, "{times:?}");
    assert!(times.iter().all(|time| *time <= 20 * LIMIT), "{times:?}");
}
