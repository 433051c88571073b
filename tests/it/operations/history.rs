use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::redis_server::RedisServer;

use crate::invoke::said;
use crate::send::{connect, place};

fn ids(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"]["id"].as_str().unwrap()).collect()
}

pub fn history_shows_the_last_events_and_ranges(way: Way) {
    let mill = Mill::start(way, "");
    let entries: Vec<String> = (0..30).map(|at| mill.publish("faults.in", &at.to_string(), "ok", "x")).collect();
    let shown = |arguments: &[&str]| mill.json_lines(&[&["history", "faults.in"], arguments].concat());
    // Twenty if nothing else is said, oldest first.
    let expected: Vec<String> = (10..30).map(|at| at.to_string()).collect();
    assert_eq!(ids(&shown(&[])), expected);
    assert_eq!(ids(&shown(&["-n", "2"])), ["28", "29"]);
    assert_eq!(ids(&shown(&["--since", &entries[3], "--until", &entries[5]])), ["3", "4", "5"]);
    assert_eq!(ids(&shown(&["--since", &entries[3], "--until", &entries[5], "-n", "2"])), ["4", "5"]);
    // A time, in both of its forms, takes in its whole millisecond.
    let ms = entries[29].split('-').next().unwrap();
    assert!(ids(&shown(&["--since", ms])).contains(&"29"));
    assert_eq!(shown(&["--since", "1h"]).len(), 30);
    assert_eq!(shown(&["--until", "1h"]).len(), 0);
    assert_eq!(shown(&["--since", "2020-01-01T00:00:00Z"]).len(), 30);
    let last = shown(&["-n", "1"]).remove(0);
    assert_eq!((&last["entry"], &last["event"]["data"]), (&json!(entries[29]), &json!("x")));
    // For people: one line an event.
    let text = mill.text(&["history", "faults.in", "-n", "3"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.lines().next().unwrap().starts_with(&entries[27]), "{text}");
}

pub fn history_is_filtered_by_type(way: Way) {
    let mill = Mill::start(way, "");
    for (id, r#type) in [("1", "ok"), ("2", "order_placed"), ("3", "order_paid"), ("4", "ok")] {
        mill.publish("faults.in", id, r#type, "");
    }
    assert_eq!(ids(&mill.json_lines(&["history", "faults.in", "--type", "order_*"])), ["2", "3"]);
    assert_eq!(ids(&mill.json_lines(&["history", "faults.in", "--type", "ok", "-n", "1"])), ["4"]);
    assert_eq!(ids(&mill.json_lines(&["history", "faults.in", "--since", "-", "--type", "order_paid"])), ["3"]);
}

pub fn history_follows(way: Way) {
    let mill = Mill::start(way, "");
    mill.publish("faults.in", "before", "ok", "");
    let mut command = mill.command(&["history", "faults.in", "--follow", "--output", "json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["event"]["id"], "before");
    for id in ["1", "2", "3"] {
        mill.publish("faults.in", id, "ok", "");
        assert_eq!(next()["event"]["id"], id);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Nobody who waits holds up another, and an idle stream does not hold up a busy one.
pub fn several_follow_at_once(way: Way) {
    let mill = Mill::start(way, "");
    for stream in ["a", "b"] {
        mill.publish(stream, "before", "ok", "");
    }
    let follow = |stream: &str| {
        let mut command = mill.command(&["history", stream, "--follow", "--output", "json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    };
    let mut followers: Vec<_> = ["a", "a", "b", "b"].into_iter().map(follow).collect();
    let next = |lines: &mut std::io::Lines<BufReader<std::process::ChildStdout>>| -> Value {
        serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
    };
    for (_, lines) in &mut followers {
        assert_eq!(next(lines)["event"]["id"], "before");
    }
    let start = std::time::Instant::now();
    mill.publish("b", "after", "ok", "");
    for (_, lines) in &mut followers[2..] {
        assert_eq!(next(lines)["event"]["id"], "after");
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
    for (child, _) in &mut followers {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

pub fn history_pages_through_thousands(way: Way) {
    let mill = Mill::start(way, "");
    let event = |id: usize| json!({"specversion": "1.0", "id": id.to_string(), "source": "/t", "type": "ok"});
    let batch: Value = (0..2500).map(event).collect();
    let head = ["content-type: application/cloudevents-batch+json"];
    let answer = mill.http("POST", "/v1/streams/other/events", &head, batch.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{answer:?}");
    let all: Vec<String> = (0..2500).map(|id| id.to_string()).collect();
    assert_eq!(ids(&mill.json_lines(&["history", "other", "--since", "-"])), all);
    // More than one page from the end.
    assert_eq!(ids(&mill.json_lines(&["history", "other", "-n", "1700"])), all[800..]);
}

pub fn history_refuses_what_makes_no_sense(way: Way) {
    let mill = Mill::start(way, "");
    mill.publish("faults.in", "1", "ok", "");
    // A stream of the configuration is made when it is first needed; until then it is empty.
    assert_eq!(mill.json_lines(&["history", "faults.out"]), [serde_json::Value::Null; 0]);
    let unknown = mill.failure(2, &["history", "fault.in"]);
    assert!(unknown.contains("there is no stream `fault.in`") && unknown.contains("faults.in"), "{unknown}");
    let time = mill.failure(2, &["history", "faults.in", "--since", "yesterday"]);
    assert!(time.contains("`yesterday` is no place in a stream") && time.contains("10m"), "{time}");
    let order = mill.failure(2, &["history", "faults.in", "--since", "2-0", "--until", "1-0"]);
    assert!(order.contains("begins (2-0) after its end (1-0)"), "{order}");
    let pattern = mill.failure(2, &["history", "faults.in", "--type", " x"]);
    assert!(pattern.contains("white space"), "{pattern}");
}

pub fn streams_are_listed_with_their_readers(way: Way) {
    let mill = Mill::start(way, "");
    mill.publish("faults.in", "1", "ok", "");
    mill.publish("elsewhere", "1", "ok", "");
    mill.wait_settled("faults");
    let streams = mill.json(&["streams"]);
    let named = |streams: &Value, name: &str| {
        streams.as_array().unwrap().iter().find(|stream| stream["stream"] == name).cloned().unwrap_or_default()
    };
    let input = named(&streams, "faults.in");
    assert_eq!((&input["length"], &input["exists"]), (&json!(1), &json!(true)), "{streams:#}");
    assert!(input["memory_bytes"].as_u64().unwrap() > 0 && input["last_age_ms"].as_u64().is_some(), "{streams:#}");
    let group = &input["groups"][0];
    assert_eq!((&group["group"], &group["handler"]), (&json!("faults"), &json!("faults")));
    assert_eq!((&group["lag"], &group["pending"]), (&json!(0), &json!(0)));
    assert_eq!(named(&streams, "faults.dead")["exists"], false);
    assert_eq!(named(&streams, "elsewhere"), Value::Null, "it is not in the configuration");
    assert_eq!(named(&mill.json(&["streams", "--all"]), "elsewhere")["length"], 1);
    assert_eq!(mill.json(&["streams", "elsewhere"])[0]["length"], 1);
    assert!(mill.failure(2, &["streams", "nowhere"]).contains("there is no stream `nowhere`"));
    assert!(mill.text(&["streams"]).contains("faults.in"));
}

#[test]
fn a_key_of_another_type_hides_nothing_else() {
    let mill = Mill::start(Way::Redis, "");
    let mut redis = redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
    redis::cmd("SET").arg(&["faults.dead", "x"]).query::<()>(&mut redis).unwrap();
    mill.publish("faults.in", "1", "ok", "");
    mill.wait_settled("faults");
    let streams = mill.json(&["streams"]);
    let named =
        |name: &str| streams.as_array().unwrap().iter().find(|stream| stream["stream"] == name).unwrap().clone();
    assert!(named("faults.dead")["error"].as_str().unwrap().contains("wrong type"), "{streams:#}");
    assert_eq!(named("faults.in")["length"], 1, "{streams:#}");
    assert!(mill.text(&["streams"]).contains("wrong type"));
    assert_eq!(mill.json(&["stats"])["handlers"]["faults"]["pending"], 0);
    // Where it is what was asked for, it is named.
    assert!(mill.failure(1, &["dlq", "ls", "faults"]).contains("stream `faults.dead`"));
}

/// What cannot be written is refused before anything is: nothing is acknowledged that has not had its effects.
#[test]
fn an_event_with_too_many_fields_is_refused_and_not_lost() {
    for way in [Way::Redis, Way::Embedded] {
        let mill = Mill::start(way, "[streams.\"faults.out\"]\nenvelope = \"flat\"");
        let members: serde_json::Map<String, Value> = (0..5000).map(|n| (format!("m{n}"), json!(n))).collect();
        let event = json!({"specversion": "1.0", "id": "1", "source": "/t", "type": "echo", "data": members});
        let post = |stream: &str| {
            let head = ["content-type: application/cloudevents+json"];
            mill.http("POST", &format!("/v1/streams/{stream}/events"), &head, event.to_string().as_bytes())
        };
        // From outside, and from a handler, whose event then is a dead letter.
        let refused = post("faults.out");
        assert!(refused.status == 400 && refused.body.contains("at most 1000"), "{refused:?}");
        assert_eq!(post("faults.in").status, 201);
        mill.wait_settled("faults");
        assert_eq!(mill.events("faults.out").len(), 0);
        assert_eq!(mill.json(&["dlq", "ls"]).as_array().unwrap().len(), 1);
    }
}

/// A rare type is looked for a thousand entries at a time.
#[test]
fn a_rare_type_is_found_with_few_requests() {
    let server = RedisServer::start();
    let place = place(&server, "");
    let input = "{}\n".repeat(6000);
    assert!(place.run(&["send", "s", "rare", "{}"]).status.success());
    assert!(place.run_with_stdin(&["send", "s", "usual", "--batch"], input.as_bytes()).status.success());
    let output = place.run(&["history", "s", "--type", "rare"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.lines().count() == 1 && text.contains("rare"), "{text} {}", said(&output));
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut connect(&server)).unwrap();
    let calls = stats.split_once("cmdstat_xrevrange:calls=").unwrap().1.split(',').next().unwrap();
    assert!(calls.parse::<u32>().unwrap() < 50, "{calls}");
}
