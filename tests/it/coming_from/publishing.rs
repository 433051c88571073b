use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way, faults_section};

use super::super::faults::ms;
use super::super::invoke::{code, said};

fn lines(count: usize) -> String {
    (0..count).map(|number| format!("{{\"n\": {number}}}\n")).collect()
}

fn all(events: &[Value], name: &str) -> Vec<Value> {
    events.iter().map(|event| event[name].clone()).collect()
}

pub fn one_event_is_published(way: Way) {
    let mill = Mill::start(way, "");
    let words = "--id mine --source /shop --subject s-1 --key c-7 --attribute region=eu";
    let arguments: Vec<&str> =
        ["send", "faults.in", "echo", "{\"a\": 1}"].into_iter().chain(words.split(' ')).collect();
    let sent = mill.json(&arguments);
    let event = mill.wait_for("faults.in", 1).remove(0);
    assert_eq!(sent, json!({"stream": "faults.in", "ids": ["mine"], "entries": [event["entry"]]}));
    for (name, value) in [
        ("id", "mine"),
        ("source", "/shop"),
        ("type", "echo"),
        ("subject", "s-1"),
        ("partitionkey", "c-7"),
        ("region", "eu"),
    ] {
        assert_eq!(event[name], value, "{event:#}");
    }
    let follow_up = mill.wait_for("faults.out", 1).remove(0);
    assert_eq!((&follow_up["data"], &follow_up["causationid"]), (&json!({"a": 1}), &json!("mine")));
    // For people, the id alone.
    assert_eq!(mill.text(&["send", "faults.in", "echo", "{}", "--id", "another"]), "another\n");
}

pub fn many_events_are_published_in_order(way: Way) {
    const COUNT: usize = 3000;
    let mill = Mill::start(way, "");
    let output = mill.run_with_stdin(&["send", "other", "ok", "--batch", "--output", "json"], lines(COUNT).as_bytes());
    assert_eq!(code(&output), 0, "{}", said(&output));
    let sent: Value = serde_json::from_slice(&output.stdout).unwrap();
    let events = mill.events("other");
    let expected: Vec<Value> = (0..COUNT).map(|n| json!({"n": n})).collect();
    assert_eq!(all(&events, "data"), expected);
    assert_eq!(sent["ids"], json!(all(&events, "id")));
    assert_eq!(sent["entries"], json!(all(&events, "entry")));
}

pub fn a_batch_is_published_whole_or_not_at_all(way: Way) {
    let mill = Mill::start(way, "");
    let input = format!("{}{{\n{}", lines(1500), lines(10));
    let output = mill.run_with_stdin(&["send", "other", "ok", "--batch"], input.as_bytes());
    assert!(code(&output) != 0 && said(&output).contains("line 1501"), "{}", said(&output));
    let good = json!({"specversion": "1.0", "id": "1", "source": "/t", "type": "ok"});
    let body = json!([good, {"specversion": "1.0", "id": "2"}]).to_string();
    let head = ["content-type: application/cloudevents-batch+json"];
    let answer = mill.http("POST", "/v1/streams/other/events", &head, body.as_bytes());
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.json()["detail"].as_str().unwrap().contains("event 1"), "{answer:?}");
    assert_eq!(mill.events("other").len(), 0);
    // So it is with what a handler publishes.
    let event = mill.json(&["send", "faults.in", "batch_denied", "{}"]);
    mill.json(&["send", "faults.in", "batch", "{}"]);
    mill.wait_for("faults.out", 3);
    mill.wait_settled("faults");
    let causes = all(&mill.events("faults.out"), "causationid");
    assert_eq!(causes.len(), 3, "{causes:?}");
    assert!(!causes.contains(&event["ids"][0]), "{causes:?}");
}

pub fn events_are_published_by_http(way: Way) {
    let mill = Mill::start(way, "");
    let post = |head: &[&str], body: &str| mill.http("POST", "/v1/streams/faults.in/events", head, body.as_bytes());
    let event = |id: &str| json!({"specversion": "1.0", "id": id, "source": "/t", "type": "echo", "data": {"id": id}});
    let one = post(&["content-type: application/cloudevents+json"], &event("1").to_string());
    assert_eq!((one.status, &one.json()["ids"]), (201, &json!(["1"])));
    let batch = json!([event("2"), event("3")]).to_string();
    let two = post(&["content-type: application/cloudevents-batch+json"], &batch);
    assert_eq!((two.status, &two.json()["ids"]), (201, &json!(["2", "3"])));
    let binary =
        ["ce-specversion: 1.0", "ce-id: 4", "ce-source: /t", "ce-type: echo", "content-type: application/json"];
    assert_eq!(post(&binary, "{\"id\": \"4\"}").status, 201);
    let mut data = all(&mill.wait_for("faults.out", 4), "data");
    data.sort_by_key(|data| data["id"].as_str().map(str::to_owned));
    assert_eq!(data, ["1", "2", "3", "4"].map(|id| json!({"id": id})));
}

pub fn events_wait_for_their_time(way: Way) {
    let mill = Mill::start(way, "");
    let now = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let start = now();
    let time = wasmill::envelope::format_time(start + 900);
    for (id, when) in
        [("delay", ["--delay", "700ms"]), ("at", ["--at", &time]), ("past", ["--at", "2001-01-01T00:00:00Z"])]
    {
        let sent = mill.json(&[&["send", "faults.in", "echo", "{}", "--id", id], &when[..]].concat());
        assert_eq!((&sent["stream"], &sent["ids"]), (&json!("faults.in"), &json!([id])), "{sent}");
        // What waits has no place yet; a time that is over means now.
        assert_eq!(sent["entries"][0].is_string(), id == "past", "{sent}");
    }
    let body = json!({"specversion": "1.0", "id": "http", "source": "/t", "type": "echo"}).to_string();
    let head = ["content-type: application/cloudevents+json"];
    let answer = mill.http("POST", "/v1/streams/faults.in/events?delay_ms=800", &head, body.as_bytes());
    assert_eq!(answer.status, 201, "{answer:?}");
    let events = mill.wait_for("faults.in", 4);
    assert_eq!(events[0]["id"], "past", "{events:#?}");
    for (id, after) in [("delay", 700), ("at", 900), ("http", 800)] {
        let event = events.iter().find(|event| event["id"] == id).unwrap_or_else(|| panic!("{id}: {events:#?}"));
        assert!(ms(event["entry"].as_str().unwrap()) >= start + after, "{start}: {event:#}");
    }
    // A handler can ask for it as well, and all of them come once.
    let cause = mill.publish("faults.in", "cause", "later", "600");
    mill.wait_for("faults.out", 5);
    mill.wait_settled("faults");
    let events = mill.events("faults.out");
    let late = events.iter().find(|event| event["causationid"] == "cause").unwrap();
    assert!(ms(late["entry"].as_str().unwrap()) >= ms(&cause) + 600, "{cause}: {late:#}");
    assert_eq!(events.len(), 5);
}

pub fn made_up_events_are_published(way: Way) {
    let mill = Mill::start(way, "");
    let shop = |stream: &str| {
        let words = "--count 300 --rate 100000 --sources 3 --seed 7 --stream";
        let arguments: Vec<&str> =
            ["generate", "ecommerce"].into_iter().chain(words.split(' ')).chain([stream]).collect();
        let summary = mill.json(&arguments);
        assert_eq!((&summary["published"], &summary["stream"]), (&json!(300), &json!(stream)), "{summary:#}");
        let mut events = mill.events(stream);
        assert_eq!(events.len(), 300);
        events.sort_by_key(|event| (event["source"].to_string(), event["id"].to_string()));
        events
    };
    let (once, again) = (shop("once"), shop("again"));
    for name in ["id", "source", "type", "data"] {
        assert_eq!(all(&once, name), all(&again, name), "the same seed makes the same events");
    }
    let sources: std::collections::BTreeSet<String> = once.iter().map(|event| event["source"].to_string()).collect();
    assert_eq!(sources.len(), 3);
}

pub fn schemas_are_kept(way: Way) {
    let (sections, _dir) = with_schemas("");
    let mill = Mill::start_with(way, &sections, None);
    let listed = mill.json(&["schema", "ls"]);
    assert_eq!((&listed[0]["type"], &listed[0]["versions"][1]["version"]), (&json!("echo"), &json!("2")), "{listed:#}");
    assert_eq!(mill.json(&["schema", "show", "echo", "1"])["schema"], json!({"required": ["id"]}));
    // What says no version has the greatest, and the handler is told.
    mill.json(&["send", "faults.in", "echo", "{\"id\": \"a\", \"n\": 1}"]);
    mill.json(&["send", "faults.in", "version", "{}", "--schema-version", "7"]);
    let events = mill.wait_for("faults.in", 2);
    assert_eq!(all(&events, "dataschema"), ["2", "7"]);
    let told = mill.wait_for("faults.out", 2);
    let told = told.iter().find(|event| event["type"] == "versioned").unwrap();
    assert_eq!(told["data"], json!({"version": "7"}));
}

/// Sections with a folder of schemas: two versions of `echo`, and other types are not checked.
pub fn with_schemas(more: &str) -> (String, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let types = dir.path().join("echo");
    std::fs::create_dir(&types).unwrap();
    let second = json!({"required": ["id"], "properties": {"n": {"type": "integer"}}});
    for (version, schema) in [("1", json!({"required": ["id"]})), ("2", second)] {
        std::fs::write(types.join(format!("{version}.json")), schema.to_string()).unwrap();
    }
    let sections = format!("{}\n[schemas]\ndirectory = \"{}\"\n{more}", faults_section(""), dir.path().display());
    (sections, dir)
}
