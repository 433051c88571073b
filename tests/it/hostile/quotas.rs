//! Quotas on what a tenant keeps: up to them all is well, over them the tenant waits or is refused, and others are not.

use std::time::Duration;

use serde_json::Value;
use wasmill_tests::mill::{Answer, Mill, Way};
use wasmill_tests::{eventually, guests};

const DEADLINE: Duration = Duration::from_secs(60);

/// Two tenants with a handler each; the quotas are those of `acme`.
fn mill(quotas: &str) -> Mill {
    let component = guests::component("faults").display().to_string();
    let section = |tenant: &str| {
        format!(
            "[tenants.{tenant}.handlers.faults]\ncomponent = \"{component}\"\nstreams = [\"faults.in\"]\n\
             publishes = [\"faults.out\"]\n[tenants.{tenant}.handlers.eater]\ncomponent = \"{component}\"\n\
             streams = [\"faults.out\"]\ntypes = [\"none\"]\n"
        )
    };
    let sections = format!("{}{}[tenants.acme.quotas]\n{quotas}\n", section("acme"), section("other"));
    Mill::start_with(Way::RedisByWorker, &sections, None)
}

fn publish(mill: &Mill, tenant: &str, stream: &str, r#type: &str, data: &str) -> Answer {
    let event = serde_json::json!({
        "specversion": "1.0", "id": uuid(), "source": "/t", "type": r#type, "datacontenttype": "text/plain", "data": data,
    });
    let head = ["content-type: application/cloudevents+json"];
    let path = format!("/v1/tenants/{tenant}/streams/{stream}/events");
    mill.http("POST", &path, &head, event.to_string().as_bytes())
}

fn uuid() -> String {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string()
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, quota: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["type"], "urn:wasmill:problem:quota");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("quotas.{quota} of the tenant acme")), "{detail}");
}

fn length(mill: &Mill, key: &str) -> usize {
    let mut redis = redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
    redis::cmd("XLEN").arg(key).query(&mut redis).unwrap()
}

fn waits(mill: &Mill, quota: &str) -> bool {
    let metrics = mill.http("GET", "/metrics", &[], b"").body;
    metrics.contains(&format!("wasmill_quota_waits_total{{quota=\"{quota}\",tenant=\"acme\"}} 1"))
}

#[test]
fn too_many_dead_letters_have_the_tenant_wait_until_some_are_gone() {
    let mill = mill("dead_letters = 3");
    for tenant in ["acme", "other"] {
        for _ in 0..2 {
            assert_eq!(publish(&mill, tenant, "faults.in", "reject", "").status, 201);
        }
    }
    eventually("two", DEADLINE, || (length(&mill, "acme:faults.dead") == 2).then_some(()));
    std::thread::sleep(Duration::from_millis(1100)); // What was measured is believed for a second.
    assert_eq!(publish(&mill, "acme", "faults.in", "reject", "").status, 201, "two of three");
    eventually("the alarm", DEADLINE, || waits(&mill, "dead_letters").then_some(()));
    assert!(mill.worker.stderr_text().contains("alarm=\"quota_exceeded\" tenant=\"acme\" quota=\"dead_letters\""));
    eventually("a refusal", DEADLINE, || {
        let answer = publish(&mill, "acme", "faults.in", "reject", "");
        (answer.status != 201).then(|| assert_refused(&answer, 429, "dead_letters"))
    });
    // It begins nothing, not even what comes past the API; the other one goes on.
    let letters = length(&mill, "acme:faults.dead");
    let mut redis = redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
    let event = ["*", "ce_id", "past", "ce_source", "/t", "ce_type", "echo", "data", "x"];
    redis::cmd("XADD").arg("acme:faults.in").arg(&event).query::<String>(&mut redis).unwrap();
    for _ in 0..20 {
        assert_eq!(publish(&mill, "other", "faults.in", "reject", "").status, 201);
    }
    eventually("the other one", DEADLINE, || (length(&mill, "other:faults.dead") == 22).then_some(()));
    assert_eq!((length(&mill, "acme:faults.dead"), length(&mill, "acme:faults.out")), (letters, 0));
    // Room again: it goes on where it stood.
    let output = mill.run(&["--tenant", "acme", "dlq", "drop", "faults", "--all"]);
    assert!(output.status.success(), "{output:?}");
    eventually("what had waited", DEADLINE, || (length(&mill, "acme:faults.out") == 1).then_some(()));
    assert!(mill.worker.stderr_text().contains("the tenant is within its quotas again"));
}

#[test]
fn too_many_bytes_in_streams_stop_those_who_publish_and_not_those_who_make_room() {
    let mill = mill("stream_bytes = \"256 KiB\"");
    let large = "x".repeat(100 << 10);
    assert_eq!(publish(&mill, "acme", "faults.in", "echo", &large).status, 201);
    // It was published again: that makes 200 KiB, and the next one is too much.
    eventually("the alarm", DEADLINE, || {
        publish(&mill, "acme", "faults.in", "echo", &large);
        waits(&mill, "stream_bytes").then_some(())
    });
    eventually("a refusal", DEADLINE, || {
        let answer = publish(&mill, "acme", "faults.in", "ok", "");
        (answer.status != 201).then(|| assert_refused(&answer, 429, "stream_bytes"))
    });
    // What is written past the API: the handler that publishes waits, the one that does not goes on.
    let out = length(&mill, "acme:faults.out");
    let mut redis = redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
    for stream in ["acme:faults.in", "acme:faults.out"] {
        let event = ["*", "ce_id", "past", "ce_source", "/t", "ce_type", "echo", "data", "x"];
        redis::cmd("XADD").arg(stream).arg(&event).query::<String>(&mut redis).unwrap();
    }
    let lag = |handler: &str| {
        let stats: Value = mill.http("GET", "/v1/tenants/acme/stats", &[], b"").json();
        stats["handlers"][handler]["lag"].as_u64()
    };
    eventually("the eater to go on", DEADLINE, || (lag("eater") == Some(0)).then_some(()));
    assert_eq!((lag("faults") > Some(0), length(&mill, "acme:faults.out")), (true, out + 1));
    // A stream that nobody counts is no way around it.
    assert_refused(&publish(&mill, "acme", "elsewhere", "ok", ""), 429, "stream_bytes");
    assert_eq!(publish(&mill, "other", "elsewhere", "ok", "").status, 201);
    redis::cmd("XTRIM").arg(&["acme:faults.out", "MAXLEN", "0"]).query::<usize>(&mut redis).unwrap();
    redis::cmd("XTRIM").arg(&["acme:faults.in", "MAXLEN", "1"]).query::<usize>(&mut redis).unwrap();
    eventually("what had waited", DEADLINE, || (length(&mill, "acme:faults.out") >= 1).then_some(()));
}

/// The component of the guest with a custom section of its own: another version.
fn version(number: usize) -> Vec<u8> {
    let name = format!("v{number:08}");
    let section = [&[0, name.len() as u8 + 1, name.len() as u8], name.as_bytes()].concat();
    [std::fs::read(guests::component("faults")).unwrap(), section].concat()
}

/// Deploys, and waits until the version serves.
fn deploy(mill: &Mill, tenant: &str, number: usize) -> Answer {
    let bytes = version(number);
    let path = format!("/v1/tenants/{tenant}/handlers/faults/versions");
    let answer = mill.http("POST", &path, &["content-type: application/wasm"], &bytes);
    if (200..300).contains(&answer.status) {
        let digest = wasmill::wasm::Digest::of(&bytes).hex();
        eventually("it to serve", DEADLINE, || {
            (mill.http("GET", &path, &[], b"").json()["current"] == digest.as_str()).then_some(())
        });
    }
    answer
}

#[test]
fn deployments_are_counted_by_the_minute() {
    let mill = mill("deploys_per_minute = 3");
    for number in 0..3 {
        let answer = deploy(&mill, "acme", number);
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
    assert_refused(&deploy(&mill, "acme", 3), 429, "deploys_per_minute");
    for number in 0..4 {
        let answer = deploy(&mill, "other", number);
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
    // Going back is no matter of quotas.
    let back =
        mill.http("POST", "/v1/tenants/acme/handlers/faults/rollback", &["content-type: application/json"], b"{}");
    assert!((200..300).contains(&back.status), "{back:?}");
}

#[test]
fn versions_that_are_kept_are_bounded_and_gc_makes_room() {
    let size = version(0).len();
    // Three and a half.
    let mill = mill(&format!("component_bytes = \"{} B\"\ndeploys_per_minute = 100", size * 7 / 2));
    for number in 0..3 {
        let answer = deploy(&mill, "acme", number);
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
    assert_refused(&deploy(&mill, "acme", 3), 507, "component_bytes");
    // One that is kept already takes no more room.
    let answer = deploy(&mill, "acme", 0);
    assert!((200..300).contains(&answer.status), "{answer:?}");
    let output = mill.run(&["--tenant", "acme", "gc", "--keep-last", "0"]);
    assert!(output.status.success(), "{output:?}");
    let answer = deploy(&mill, "acme", 3);
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

#[test]
fn a_component_may_have_so_many_bytes() {
    let size = version(0).len();
    for (allowed, status) in [(size, 200), (size - 1, 413)] {
        let mill = mill(&format!("[tenants.acme.limits]\ncomponent_bytes = \"{allowed} B\""));
        let answer = deploy(&mill, "acme", 0);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(status == 200 || answer.body.contains("limits.component_bytes"), "{answer:?}");
    }
    // The one of the configuration as well: its tenant is not served.
    let mill = mill("[tenants.acme.limits]\ncomponent_bytes = \"2 KiB\"");
    let log = mill.worker.stderr_text();
    let line = log.lines().find(|line| line.contains("tenant_faulty")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("acme") && line.contains("limits.component_bytes of the handler allows 2048"), "{line}");
    assert_eq!(publish(&mill, "other", "faults.in", "ok", "").status, 201);
}
