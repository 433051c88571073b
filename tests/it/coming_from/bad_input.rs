//! What cannot be done is told in words, by the exit code, and changes nothing.

use serde_json::json;
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::redis_server::free_port;

use super::publishing::with_schemas;

const STRUCTURED: [&str; 1] = ["content-type: application/cloudevents+json"];

pub fn what_breaks_a_schema_is_refused(way: Way) {
    let (sections, _dir) = with_schemas("unknown = \"refuse\"");
    let mill = Mill::start_with(way, &sections, None);
    for (arguments, words) in [
        (&["echo", "{}"][..], "/id: is missing"),
        (&["echo", "{\"id\": 1, \"n\": \"x\"}"], "/n: expected integer"),
        (&["echo", "{}", "--schema-version", "3"], "1, 2"),
        (&["echo", "{"], "JSON"),
        (&["other", "{}"], "other"),
    ] {
        // Found by the command, or by the worker: the same words.
        let said = mill.run(&[&["send", "faults.in"], arguments].concat());
        let errors = String::from_utf8_lossy(&said.stderr);
        assert!(!said.status.success() && errors.contains(words), "{arguments:?}: {}: {errors}", said.status);
    }
    let bad = json!({"specversion": "1.0", "id": "1", "source": "/t", "type": "echo", "data": {"n": 1}}).to_string();
    let answer = mill.http("POST", "/v1/streams/faults.in/events", &STRUCTURED, bad.as_bytes());
    assert_eq!(
        (answer.status, answer.json()["type"].as_str()),
        (422, Some("urn:wasmill:problem:schema")),
        "{answer:?}"
    );
    assert!(answer.json()["detail"].as_str().unwrap().contains("/id: is missing"), "{answer:?}");
    let checked = mill.run_with_stdin(&["schema", "check", "echo"], b"{}");
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    assert!(mill.failure(2, &["schema", "show", "ech"]).contains("echo"));
    assert_eq!(mill.events("faults.in").len(), 0);
}

pub fn what_is_too_large_is_refused(way: Way) {
    let mill = Mill::start(way, "");
    let send = |data: usize| {
        std::fs::write(mill.dir().join("data"), vec![b'x'; data]).unwrap();
        mill.run(&["send", "other", "ok", "--content-type", "text/plain", "--file", "data"])
    };
    // The limit is 64 KiB for the event, its attributes included.
    let output = send(64 << 10);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("65536") && errors.contains("event_bytes"), "{errors}");
    let body = vec![b'x'; 64 << 10];
    let head = ["ce-specversion: 1.0", "ce-id: 1", "ce-source: /t", "ce-type: ok", "content-type: text/plain"];
    let answer = mill.http("POST", "/v1/streams/other/events", &head, &body);
    assert_eq!((answer.status, answer.json()["type"].as_str()), (413, Some("urn:wasmill:problem:too-large")));
    assert_eq!(mill.events("other").len(), 0);
    assert!(send((64 << 10) - 200).status.success());
    assert_eq!(mill.events("other").len(), 1);
}

pub fn what_is_no_id_time_or_name_is_refused(way: Way) {
    let mill = Mill::start(way, "");
    for (arguments, words) in [
        (&["history", "faults.in", "--since", "1-2-3"][..], "`1-2-3` is no place in a stream"),
        (&["history", "nowhere"], "there is no stream `nowhere`"),
        (&["streams", "nowhere"], "there is no stream `nowhere`"),
        (&["replay", "faults.in", "--handler", "faults", "--from", "2026-13-01T00:00:00Z"], "no place in a stream"),
        (&["replay", "faults.in", "--handler", "nobody", "--from", "-"], "no handler `nobody`"),
        (&["dlq", "show", "faults", "x"], "not an entry id"),
        (&["dlq", "redrive", "faults", "x"], "not an entry id"),
        (&["dlq", "ls", "nobody"], "no handler `nobody`"),
        (&["pending", "nobody"], "no handler `nobody`"),
        (&["resume", "nobody"], "no handler `nobody`"),
        (&["send", "wasmill:x", "ok", "{}"], "wasmill's own"),
        (&["send", "a\nb", "ok", "{}"], "\"a\\nb\""),
        (&["history", ""], ""),
        (&["send", "other", "", "{}"], "type"),
        (&["send", "other", "ok", "{}", "--at", "tomorrow"], "RFC 3339"),
        (&["send", "other", "ok", "{}", "--delay", "31days"], "30days"),
        (&["send", "other", "ok", "{}", "--attribute", "Region=eu"], "a-z and 0-9"),
    ] {
        let said = mill.failure(2, arguments);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    let streams = mill.json(&["streams", "--all"]);
    let written = streams.as_array().unwrap().iter().filter(|stream| stream["length"] != 0).count();
    assert_eq!(written, 0, "{streams:#}");
}

pub fn a_worker_that_is_away_is_told(way: Way) {
    let mill = Mill::start(way, "");
    let away = format!("http://127.0.0.1:{}", free_port());
    for arguments in [&["streams"][..], &["send", "other", "ok", "{}"], &["history", "faults.in"], &["stats"]] {
        let said = mill.failure(1, &[arguments, &["--admin", &away]].concat());
        assert!(said.contains(&away) && said.contains("refused"), "{arguments:?}: {said}");
    }
    for wrong in ["127.0.0.1:9464", "https://127.0.0.1", "http://"] {
        let said = mill.failure(2, &["streams", "--admin", wrong]);
        assert!(said.contains("http://HOST:PORT"), "{wrong}: {said}");
    }
    assert_eq!(mill.events("other").len(), 0);
}

/// What was published before is still there, what could not be is not, and the same command works again.
#[test]
fn a_redis_that_is_away_is_told_and_nothing_is_lost() {
    for way in [Way::Redis, Way::RedisByWorker] {
        let mut mill = Mill::start(way, "");
        for id in ["1", "2", "3"] {
            mill.json(&["send", "faults.in", "echo", "{}", "--id", id]);
        }
        mill.wait_for("faults.out", 3);
        mill.wait_settled("faults");
        let server = mill.server.as_mut().unwrap();
        let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        redis::cmd("SAVE").query::<()>(&mut redis).unwrap();
        server.stop();
        let address = format!("127.0.0.1:{}", server.port());
        for arguments in [
            &["send", "faults.in", "echo", "{}", "--id", "4"][..],
            &["history", "faults.in"],
            &["streams"],
            &["replay", "faults.in", "--handler", "faults", "--from", "-"],
            &["dlq", "ls"],
            &["pause", "faults"],
        ] {
            let said = mill.failure(1, arguments);
            assert!(said.contains(&address) || said.contains(&mill.admin_url()), "{arguments:?}: {said}");
            assert!(said.to_lowercase().contains("cannot be reached"), "{arguments:?}: {said}");
        }
        mill.server.as_mut().unwrap().restart();
        wasmill_tests::eventually("the worker to be ready again", std::time::Duration::from_secs(30), || {
            let is_up = |path| mill.http("GET", path, &[], b"").status == 200;
            (is_up("/readyz") && is_up("/v1/streams")).then_some(())
        });
        mill.json(&["send", "faults.in", "echo", "{}", "--id", "4"]);
        mill.wait_for("faults.out", 4);
        mill.wait_settled("faults");
        let mut causes: Vec<String> =
            mill.events("faults.out").iter().map(|event| event["causationid"].as_str().unwrap().to_owned()).collect();
        // The threads of the worker take no turns.
        causes.sort();
        assert_eq!(causes, ["1", "2", "3", "4"], "{way:?}");
    }
}
