//! The HTTP API itself: who is let in, limits, the form of errors, and that its description is true.

use std::time::Duration;

use serde_json::{Value, json};
use wasmill_tests::eventually;
use wasmill_tests::mill::{Mill, Way, faults_section};
use wasmill_tests::worker::wasmill;

const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/t","type":"ok","data":{"a":1}}"#;
const STRUCTURED: &str = "content-type: application/cloudevents+json";

#[track_caller]
fn assert_problem(answer: &wasmill_tests::mill::Answer, status: u16, kind: &str, part: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.head.contains("content-type: application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["type"], format!("urn:wasmill:problem:{kind}"), "{problem}");
    assert_eq!(problem["status"], status, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
}

#[test]
fn events_are_published_in_all_three_modes() {
    let mill = Mill::start(Way::Embedded, "");
    let post = |head: &[&str], body: &str| mill.http("POST", "/v1/streams/in/events", head, body.as_bytes());
    assert_eq!(post(&[STRUCTURED], EVENT).status, 201);
    let batch = format!("[{EVENT},{EVENT}]");
    let answer = post(&["content-type: application/cloudevents-batch+json"], &batch);
    assert_eq!((answer.status, answer.json()["ids"].clone()), (201, json!(["1", "1"])));
    let binary = ["ce-specversion: 1.0", "ce-id: 9", "ce-source: /b", "ce-type: ok", "content-type: application/json"];
    assert_eq!(post(&binary, "{\"b\": 2}").status, 201);
    let events = mill.events("in");
    let data: Vec<&Value> = events.iter().map(|event| &event["data"]).collect();
    assert_eq!(data, [&json!({"a": 1}), &json!({"a": 1}), &json!({"a": 1}), &json!({"b": 2})]);
    assert_eq!((&events[3]["id"], &events[3]["source"]), (&json!("9"), &json!("/b")));
}

#[test]
fn a_batch_is_published_whole_or_not_at_all() {
    let mill = Mill::start(Way::Embedded, "");
    let large = json!({"specversion": "1.0", "id": "2", "source": "/t", "type": "ok", "data": "x".repeat(64 << 10)});
    let batch = format!("[{EVENT},{large}]");
    let head = ["content-type: application/cloudevents-batch+json"];
    let answer = mill.http("POST", "/v1/streams/in/events", &head, batch.as_bytes());
    assert_problem(&answer, 413, "too-large", "event 1: the event has");
    let batch = format!("[{EVENT},{{\"id\":\"2\"}}]");
    let answer = mill.http("POST", "/v1/streams/in/events", &head, batch.as_bytes());
    assert_problem(&answer, 400, "invalid", "event 1: ");
    assert_eq!(mill.events("in").len(), 0);
}

#[test]
fn bad_requests_are_problems_that_say_what_is_wrong() {
    let mill = Mill::start(Way::Embedded, "");
    let get = |path: &str| mill.http("GET", path, &[], b"");
    assert_problem(&get("/v1/nothing"), 404, "no-such-path", "/openapi.json");
    assert_problem(&mill.http("DELETE", "/v1/streams", &[], b""), 405, "method-not-allowed", "/openapi.json");
    assert_problem(&get("/v1/streams/nope"), 404, "unknown-stream", "`nope`");
    assert_problem(&get("/v1/handlers/nope/pending"), 404, "unknown-handler", "`nope`");
    assert_problem(&get("/v1/handlers/faults/dead-letters/1-1"), 404, "unknown-dead-letter", "1-1");
    assert_problem(&get("/v1/handlers/faults/dead-letters/x"), 400, "invalid", "not an entry id");
    assert_problem(&get("/v1/streams/faults.in/events?count=0"), 400, "invalid", "1 to 1000");
    assert_problem(&get("/v1/streams/faults.in/events?count=1001"), 400, "invalid", "1 to 1000");
    assert_problem(&get("/v1/streams/faults.in/events?qqq=1"), 400, "invalid", "qqq");
    let post = |path: &str, head: &[&str], body: &[u8]| mill.http("POST", path, head, body);
    assert_problem(&post("/v1/streams/in/events", &[STRUCTURED], b"{"), 400, "invalid", "");
    assert_problem(&post("/v1/streams/in/events", &[], b"x"), 400, "invalid", "`ce-id` is missing");
    assert_problem(
        &post("/v1/streams/wasmill:x/events", &[STRUCTURED], EVENT.as_bytes()),
        400,
        "invalid",
        "wasmill's own",
    );
    let json = ["content-type: application/json"];
    assert_problem(&post("/v1/handlers/faults/replay", &json, b"{\"qqq\": 1}"), 422, "invalid", "qqq");
    let many: Value = (0..1001).map(|at| format!("{at}-0")).collect();
    let body = json!({"ids": many}).to_string();
    let path = "/v1/handlers/faults/dead-letters/drop";
    assert_problem(&post(path, &json, body.as_bytes()), 413, "too-large", "the limit is 1000");
    let large = vec![b' '; (16 << 20) + 1];
    assert_problem(&post("/v1/streams/in/events", &[STRUCTURED], &large), 413, "too-large", "16 MiB");
}

#[test]
fn without_a_token_only_this_machine_is_let_in_and_no_web_page() {
    let mill = Mill::start(Way::Embedded, "");
    let answer = mill.http("GET", "/v1/streams", &["host: evil.example"], b"");
    assert_problem(&answer, 403, "foreign-host", "loopback");
    let origin = [STRUCTURED, "origin: http://evil.example", "sec-fetch-site: cross-site"];
    let answer = mill.http("POST", "/v1/streams/in/events", &origin, EVENT.as_bytes());
    assert_problem(&answer, 403, "cross-origin", "");
    assert_eq!(mill.events("in").len(), 0);
}

#[test]
fn a_token_is_asked_for_and_only_the_right_one_opens() {
    let mill = Mill::start_with(Way::RedisByWorker, &faults_section(""), Some("a-token-of-some-length"));
    // The harness sends it.
    assert_eq!(mill.http("GET", "/v1/streams", &[], b"").status, 200);
    assert_eq!(mill.json(&["workers"]).as_array().unwrap().len(), 1);
    for (head, kind) in [("authorization: none", "no-token"), ("authorization: Bearer wrong", "wrong-token")] {
        for path in ["/v1/streams", "/metrics", "/openapi.json"] {
            assert_problem(&mill.http("GET", path, &[head], b""), 401, kind, "token");
        }
        assert_eq!(mill.http("GET", "/healthz", &[head], b"").status, 200);
        assert_eq!(mill.http("GET", "/readyz", &[head], b"").status, 200);
    }
    let mut command = mill.command(&["streams"]);
    let output = command.env("WASMILL_ADMIN_TOKEN", "wrong").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the token is wrong"), "{output:?}");
    assert!(!mill.worker.stderr_text().contains("a-token-of-some-length"));
}

#[test]
fn another_address_needs_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wasmill.toml");
    let check = |admin: &str, token: &str| {
        std::fs::write(dir.path().join("token"), token).unwrap();
        let handler = faults_section("");
        std::fs::write(&path, format!("[admin]\nlisten = \"0.0.0.0:0\"\n{admin}\n{handler}")).unwrap();
        let output = wasmill(["check", "--config", path.to_str().unwrap()]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = check("", "");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("admin.listen") && said.contains("there is no token"), "{said}");
    let (code, said) = check("token_file = \"token\"", "0123456789abcdef");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check("token_file = \"token\"", "0123456789abcde");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("it has 15 bytes; at least 16"), "{said}");
}

#[test]
fn readiness_follows_redis() {
    let mut mill = Mill::start(Way::Redis, "");
    assert_eq!(mill.http("GET", "/readyz", &[], b"").status, 200);
    mill.server.as_mut().unwrap().stop();
    let answer = eventually("the worker to notice", Duration::from_secs(30), || {
        Some(mill.http("GET", "/readyz", &[], b"")).filter(|answer| answer.status == 503)
    });
    assert_problem(&answer, 503, "not-ready", "waiting for Redis: ");
    assert_problem(&mill.http("GET", "/v1/streams", &[], b""), 503, "broker-unreachable", "Redis cannot be reached");
    mill.server.as_mut().unwrap().restart();
    eventually("the worker to be ready again", Duration::from_secs(30), || {
        (mill.http("GET", "/readyz", &[], b"").status == 200).then_some(())
    });
}

#[test]
fn a_client_that_does_not_finish_does_not_hold_up_the_end() {
    let mut mill = Mill::start(Way::Embedded, "");
    let address = mill.admin_url().replace("http://", "");
    let mut half = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut half, b"GET /healthz HTTP/1.1\r\nHost: lo").unwrap();
    // The server has it: another request on the same thread is answered after it.
    assert_eq!(mill.http("GET", "/healthz", &[], b"").status, 200);
    mill.worker.signal(wasmill_tests::worker::Signal::TERM);
    assert!(mill.worker.wait_exit(Duration::from_secs(20)).success());
}

/// Every `$ref` of the description leads somewhere, and every operation in it is served.
#[test]
fn the_description_is_true() {
    let mill = Mill::start(Way::Embedded, "");
    let document = mill.http("GET", "/openapi.json", &[], b"").json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."), "{document}");
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference}"));
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let path = path.replace("{stream}", "faults.in").replace("{handler}", "faults").replace("{id}", "1-0");
            let path = path.replace("{type}", "echo").replace("{digest}", &"0".repeat(64));
            assert!(!path.contains('{'), "{path}: what stands for this?");
            let answer = mill.http(&method.to_uppercase(), &path, &["content-type: application/json"], b"{}");
            let is_served = ![404, 405].contains(&answer.status) || !answer.body.contains("/openapi.json");
            assert!(is_served, "{method} {path}: {answer:?}");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{method} {path}");
            let statuses: Vec<&String> = operation["responses"].as_object().unwrap().keys().collect();
            assert!(statuses.contains(&&"default".to_owned()), "{method} {path}: {statuses:?}");
        }
    }
}

/// No operation is served that the description does not know.
#[test]
fn every_route_is_described() {
    let mill = Mill::start(Way::Embedded, "");
    let document = mill.http("GET", "/openapi.json", &[], b"").json();
    let source = include_str!("../../../runtime/src/admin.rs");
    let mut routes = 0;
    for route in source.split(".route(").skip(1) {
        let (path, handlers) = route.split_once(',').expect("a path and what serves it");
        let path = path.trim().trim_matches('"');
        if ["/healthz", "/readyz", "/metrics", "/openapi.json"].contains(&path) {
            continue;
        }
        routes += 1;
        // Up to what follows the chain of routes.
        let handlers = handlers.split_once([';', '|']).map_or(handlers, |(handlers, _)| handlers);
        for method in ["get", "post", "put", "patch", "delete"] {
            let is_served = handlers.contains(&format!("{method}("));
            let is_described = document["paths"][path][method].is_object();
            assert_eq!(is_served, is_described, "{method} {path}: served, described");
        }
    }
    assert!(routes > 10, "only {routes} routes were found");
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                references.push(reference.to_owned());
            }
            members.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}
