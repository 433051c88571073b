//! Tokens with roles: who may do what through the HTTP API.

use serde_json::Value;
use wasmill_tests::mill::{Answer, Mill, Way, faults_section};

const ROLES: [&str; 4] = ["view", "operate", "deploy", "admin"];

fn token(role: &str) -> String {
    format!("the-token-of-{role}")
}

fn ask(mill: &Mill, role: &str, method: &str, path: &str) -> Answer {
    let bearer = format!("authorization: Bearer {}", token(role));
    mill.http(method, path, &[&bearer, "content-type: application/json"], b"{}")
}

fn kind(answer: &Answer) -> String {
    let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    problem["type"].as_str().unwrap_or_default().rsplit(':').next().unwrap_or_default().to_owned()
}

fn mill() -> Mill {
    let tokens = ROLES.map(|role| (if role == "admin" { "token" } else { role }, token(role)));
    Mill::start_with_tokens(Way::RedisByWorker, &tokens)
}

/// Each role gets through to what it may do, and no further. What stands behind may find fault with the question.
#[test]
fn each_role_may_do_so_much() {
    let mill = mill();
    let routes = [
        ("GET", "/v1/streams", 0),
        ("GET", "/v1/streams/faults.in/events", 0),
        ("GET", "/v1/handlers/faults/dead-letters", 0),
        ("GET", "/v1/handlers/faults/versions", 0),
        ("GET", "/v1/stats", 0),
        ("POST", "/v1/streams/faults.in/events", 1),
        ("POST", "/v1/handlers/faults/pause", 1),
        ("POST", "/v1/handlers/faults/resume", 1),
        ("POST", "/v1/handlers/faults/replay", 1),
        ("POST", "/v1/handlers/faults/dead-letters/redrive", 1),
        ("POST", "/v1/handlers/faults/dead-letters/drop", 1),
        ("POST", "/v1/handlers/faults/versions", 2),
        ("POST", "/v1/handlers/faults/rollback", 2),
        ("POST", "/v1/smoke-tests", 2),
        ("POST", "/v1/gc", 3),
        ("POST", "/v1/doctor", 3),
        ("GET", "/v1/audit", 3),
        ("POST", "/v1/reload", 3),
        ("GET", "/metrics", 3),
        ("GET", "/openapi.json", 3),
    ];
    for (method, path, least) in routes {
        for (rank, role) in ROLES.iter().enumerate() {
            let answer = ask(&mill, role, method, path);
            let is_refused = answer.status == 403 && kind(&answer) == "role";
            assert_eq!(is_refused, rank < least, "{role} {method} {path}: {answer:?}");
            if is_refused {
                let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                assert!(detail.contains(&format!("`{}`", ROLES[least])), "{detail}");
                assert!(detail.contains(&format!("`{role}`")), "{detail}");
            }
        }
    }
    // Nothing tells more to one who may less.
    assert_eq!(kind(&ask(&mill, "view", "GET", "/v1/nothing")), "no-such-path");
    assert_eq!(kind(&ask(&mill, "admin", "DELETE", "/v1/streams")), "method-not-allowed");
    assert_eq!(ask(&mill, "view", "HEAD", "/v1/stats").status, 200);
    assert_eq!(ask(&mill, "view", "HEAD", "/metrics").status, 403);
}

#[test]
fn refusals_are_counted_and_written_down_without_the_token() {
    let mill = mill();
    assert_eq!(ask(&mill, "view", "POST", "/v1/handlers/faults/pause").status, 403);
    assert_eq!(ask(&mill, "nobody", "POST", "/v1/handlers/faults/pause").status, 401);
    assert_eq!(mill.http("GET", "/v1/stats", &["authorization: none"], b"").status, 401);
    let metrics = ask(&mill, "admin", "GET", "/metrics").body;
    for reason in ["role", "wrong_token", "no_token"] {
        let line = format!("wasmill_admin_refused_total{{reason=\"{reason}\"}} 1");
        assert!(metrics.contains(&line), "{reason}: {metrics}");
    }
    let audit = ask(&mill, "admin", "GET", "/v1/audit").json();
    let refused: Vec<String> = audit["changes"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(refused.len(), 3, "{refused:#?}");
    let expected = [("token:view@default", "pause"), ("nobody", "pause"), ("nobody", "/v1/stats")];
    for (line, (actor, part)) in refused.iter().zip(expected) {
        assert!(line.contains(&format!("\"actor\":\"{actor}\"")) && line.contains(part), "{line}");
        assert!(line.contains("\"outcome\":\"refused\""), "{line}");
    }
    // What was done is somebody's.
    assert_eq!(ask(&mill, "operate", "POST", "/v1/handlers/faults/pause").status, 200);
    let audit = ask(&mill, "admin", "GET", "/v1/audit?limit=1").json();
    assert_eq!(audit["changes"][0]["actor"], "token:operate@default", "{audit:#}");
    let all = format!("{audit}{refused:?}{}", mill.worker.stderr_text());
    assert!(!all.contains("the-token-of"), "{all}");
}

/// Refusals cannot push out what was done: so many are written down in a minute.
#[test]
fn a_flood_of_refusals_is_counted_and_not_written_down() {
    let mill = mill();
    assert_eq!(ask(&mill, "operate", "POST", "/v1/handlers/faults/pause").status, 200);
    for _ in 0..50 {
        assert_eq!(ask(&mill, "nobody", "GET", "/v1/stats").status, 401);
    }
    let metrics = ask(&mill, "admin", "GET", "/metrics").body;
    assert!(metrics.contains("wasmill_admin_refused_total{reason=\"wrong_token\"} 50"), "{metrics}");
    let audit = ask(&mill, "admin", "GET", "/v1/audit?limit=1000").json();
    let verbs: Vec<&str> = audit["changes"].as_array().unwrap().iter().map(|c| c["verb"].as_str().unwrap()).collect();
    assert_eq!(verbs.iter().filter(|verb| **verb == "request").count(), 20, "{verbs:?}");
    assert_eq!(verbs[0], "pause");
}

/// A token that is exchanged in its file holds from the next reload on, and the old one no longer.
#[test]
fn tokens_are_read_again_with_a_reload() {
    let mill = mill();
    std::fs::write(mill.dir().join("view"), "another-token-to-look-with").unwrap();
    assert_eq!(ask(&mill, "view", "GET", "/v1/stats").status, 200);
    assert_eq!(ask(&mill, "admin", "POST", "/v1/reload").status, 200);
    assert_eq!(ask(&mill, "view", "GET", "/v1/stats").status, 401);
    let bearer = "authorization: Bearer another-token-to-look-with";
    assert_eq!(mill.http("GET", "/v1/stats", &[bearer], b"").status, 200);
    // One that cannot be used changes nothing.
    std::fs::write(mill.dir().join("view"), token("operate")).unwrap();
    let answer = ask(&mill, "admin", "POST", "/v1/reload");
    assert_eq!((answer.status, kind(&answer).as_str()), (422, "not-reloaded"), "{answer:?}");
    assert!(answer.body.contains("admin.operate and admin.view hold the same token"), "{answer:?}");
    assert_eq!(mill.http("GET", "/v1/stats", &[bearer], b"").status, 200);
}

/// The keys of `default` have no prefix: those of wasmill itself are seen by the admin alone.
#[test]
fn the_keys_of_the_worker_are_hidden_from_tenants() {
    let mill = mill();
    assert_eq!(ask(&mill, "operate", "POST", "/v1/handlers/faults/pause").status, 200);
    let path = "/v1/streams/wasmill:audit/events";
    assert_eq!(ask(&mill, "admin", "GET", path).status, 200);
    let answer = ask(&mill, "deploy", "GET", path);
    assert_eq!((answer.status, kind(&answer).as_str()), (400, "invalid"), "{answer:?}");
    assert_eq!(ask(&mill, "deploy", "GET", "/v1/streams/wasmill:audit").status, 400);
    assert!(ask(&mill, "admin", "GET", "/v1/streams?all=true").body.contains("wasmill:audit"));
    let seen = ask(&mill, "deploy", "GET", "/v1/streams?all=true").body;
    assert!(seen.contains("faults.in") && !seen.contains("wasmill:audit"), "{seen}");
}

/// What a tenant's token can do, and that the others are as if they were not there.
#[test]
fn tokens_of_tenants_are_for_their_tenant_alone() {
    let directory = tempfile::tempdir().unwrap();
    let tenant = |name: &str| {
        let files = ["view", "operate", "deploy"].map(|role| {
            let path = directory.path().join(format!("{name}-{role}"));
            std::fs::write(&path, token(&format!("{role}-of-{name}"))).unwrap();
            format!("{role}_file = {path:?}\n")
        });
        let faults = faults_section("");
        let component = faults.lines().find(|line| line.starts_with("component")).unwrap();
        format!(
            "[tenants.{name}.tokens]\n{}[tenants.{name}.handlers.h]\n{component}\nstreams = [\"in\"]\n",
            files.concat()
        )
    };
    let admin = token("admin");
    let sections = format!("{}{}{}", faults_section(""), tenant("acme"), tenant("bob"));
    let mill = Mill::start_with(Way::RedisByWorker, &sections, Some(&admin));
    let of = |tenant: &str, path: &str| format!("/v1/tenants/{tenant}{path}");

    assert_eq!(ask(&mill, "operate-of-acme", "POST", &of("acme", "/handlers/h/pause")).status, 200);
    assert_eq!(kind(&ask(&mill, "view-of-acme", "POST", &of("acme", "/handlers/h/resume"))), "role");
    assert_eq!(ask(&mill, "view-of-acme", "GET", &of("acme", "/stats")).status, 200);
    for path in ["/stats", "/handlers/h/versions", "/audit", "/nothing", "/streams/in/events"] {
        let there = ask(&mill, "deploy-of-acme", "GET", &of("bob", path));
        let not_there = ask(&mill, "deploy-of-acme", "GET", &of("carol", path));
        // For no such path the answer is the same as well, whoever asks.
        assert_eq!((there.status, &there.body), (not_there.status, &not_there.body), "{path}");
        assert_eq!(there.status, 404, "{path}: {there:?}");
    }
    for path in ["/v1/stats", "/v1/audit", "/v1/tenants", "/metrics", "/openapi.json", "/v1/streams/acme:in/events"] {
        let answer = ask(&mill, "deploy-of-acme", "GET", path);
        assert_eq!((answer.status, kind(&answer).as_str()), (403, "tenant"), "{path}: {answer:?}");
    }
    assert_eq!(kind(&ask(&mill, "deploy-of-acme", "POST", &of("acme", "/reload"))), "role");
    assert_eq!(ask(&mill, "admin", "GET", &of("acme", "/stats")).status, 200);

    // Each has an audit log of its own, with what was refused to its tokens; the worker's has neither.
    let verbs = |role: &str, path: &str| -> Vec<String> {
        let changes = ask(&mill, role, "GET", path).json()["changes"].clone();
        let line =
            |change: &Value| format!("{} {}", change["actor"].as_str().unwrap(), change["verb"].as_str().unwrap());
        changes.as_array().unwrap().iter().map(line).collect()
    };
    let own = verbs("view-of-acme", &of("acme", "/audit?limit=1000"));
    assert_eq!(own[..2], ["token:operate@acme pause", "token:view@acme request"], "{own:?}");
    assert!(own.iter().all(|line| line.contains("@acme ")), "{own:?}");
    assert!(verbs("view-of-bob", &of("bob", "/audit")).is_empty());
    assert!(verbs("admin", "/v1/audit").is_empty());
    assert_eq!(verbs("admin", &of("acme", "/audit?limit=1000")), own);

    // With a reload they come and go.
    mill.reconfigure(&format!("{}{}", faults_section(""), tenant("bob")));
    assert_eq!(ask(&mill, "admin", "POST", "/v1/reload").status, 200);
    assert_eq!(ask(&mill, "view-of-acme", "GET", &of("acme", "/stats")).status, 401);
    assert_eq!(ask(&mill, "view-of-bob", "GET", &of("bob", "/stats")).status, 200);
    // Whoever takes another one's token is not served; the other is not touched.
    std::fs::write(directory.path().join("acme-view"), token("view-of-bob")).unwrap();
    mill.reconfigure(&sections);
    let report = ask(&mill, "admin", "POST", "/v1/reload").json();
    assert!(report["faulty"]["acme"].as_str().is_some_and(|why| why.contains("hold the same token")), "{report:#}");
    assert_eq!(ask(&mill, "view-of-bob", "GET", &of("bob", "/stats")).status, 200);
    assert_eq!(ask(&mill, "view-of-bob", "GET", &of("acme", "/stats")).status, 404);
}

#[test]
fn the_command_line_says_which_role_it_takes() {
    let mill = mill();
    let mut command = mill.command(&["pause", "faults"]);
    let output = command.env("WASMILL_ADMIN_TOKEN", token("view")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a token of the role `operate`; this one has the role `view`"), "{said}");
}
