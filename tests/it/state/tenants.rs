//! The states of tenants: each has its own, and a quota for all of its handlers together.

use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::{eventually, on_every_way};

use super::{DEADLINE, handler, metric, start_as};

/// `acme` has two handlers and a quota, `other` has a handler of the same name and none.
fn sections() -> String {
    format!(
        "[retry]\nbase = \"5ms\"\ncap = \"10ms\"\n{}{}{}[tenants.acme.quotas]\nstate_bytes = \"20 B\"\n",
        handler("tenants.acme.handlers.keeper", "keeper", ""),
        handler("tenants.acme.handlers.second", "second", ""),
        handler("tenants.other.handlers.keeper", "keeper", ""),
    )
}

/// Has the handler of the tenant take these steps, and gives what it saw.
fn take(mill: &Mill, tenant: &str, handler: &str, id: &str, steps: Value) -> Value {
    let event = json!({"specversion": "1.0", "id": id, "source": "/t", "type": "steps", "data": steps.to_string(),
        "datacontenttype": "text/plain"});
    let (path, head) = (format!("/v1/tenants/{tenant}/streams"), ["content-type: application/cloudevents+json"]);
    let stream = format!("{path}/{handler}.in/events");
    let answer = mill.http("POST", &stream, &head, event.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{answer:?}");
    eventually("what the handler saw", DEADLINE, || {
        let answer = mill.http("GET", &format!("{path}/keeper.out/events?from=-&count=1000"), &[], b"");
        let events = answer.json()["events"].as_array().cloned().unwrap_or_default();
        let event = events.into_iter().find(|item| item["event"]["causationid"] == id)?;
        assert_eq!(event["event"]["data"]["attempt"], 1);
        Some(event["event"]["data"]["seen"].clone())
    })
}

on_every_way! {
    shared::{
        the_states_of_a_tenant_are_bounded_together,
    }
}

mod shared {
    use super::*;

    pub fn the_states_of_a_tenant_are_bounded_together(way: Way) {
        let mill = start_as(way, &sections());
        let acme = |handler, id, steps| take(&mill, "acme", handler, id, steps);
        let is_refused = |seen: &Value| {
            seen["error"].as_str().is_some_and(|text| text.contains("quotas.state_bytes: the state may have 20 bytes"))
        };
        assert_eq!(acme("keeper", "1", json!([{"set": ["a", "123456789"]}])), json!([null]));
        let seen = acme("second", "2", json!([{"set": ["b", "1234567890"]}, {"exists": "b"}]));
        assert!(is_refused(&seen[0]) && seen[1] == false, "{seen}");
        assert_eq!(acme("second", "3", json!([{"set": ["b", "123456789"]}])), json!([null]));
        // As much as before is no more, and less makes room for others.
        assert_eq!(acme("second", "4", json!([{"delete": "b"}, {"set": ["c", "12345678"]}])), json!([null, null]));
        assert_eq!(acme("keeper", "5", json!([{"set": ["a", "1234567890"]}])), json!([null]));
        // Another tenant has a state and bounds of its own.
        let other = take(&mill, "other", "keeper", "1", json!([{"get": "a"}, {"set": ["a", "x".repeat(100)]}]));
        assert_eq!(other, json!([null, null]));

        let listed = |tenant: &str, handler: &str| mill.json(&["--tenant", tenant, "state", "ls", handler]);
        let report = |bytes: u64, key: &str| json!({"handler": "keeper", "bytes": bytes, "total": 1, "keys": [key]});
        assert_eq!((listed("acme", "keeper"), listed("other", "keeper")), (report(11, "a"), report(101, "a")));
        assert_eq!(listed("acme", "second")["keys"], json!(["c"]));
        let state = ["--tenant", "acme", "state"];
        let refusal = mill.failure(1, &[&state[..], &["set", "keeper", "d", ""]].concat());
        assert!(
            refusal.contains("quotas.state_bytes of the tenant acme: the states of its handlers may have 20 bytes"),
            "{refusal}"
        );
        let write = json!({"key": "d", "value": {"text": ""}}).to_string();
        let head = ["content-type: application/json"];
        let answer = mill.http("POST", "/v1/tenants/acme/handlers/keeper/state", &head, write.as_bytes());
        assert_eq!(answer.status, 507, "{answer:?}");
        assert!(mill.text(&[&state[..], &["clear", "second"]].concat()).contains("1 key deleted"));
        mill.text(&[&state[..], &["set", "keeper", "d", ""]].concat());
        let usage = mill.json(&["tenants", "show", "acme"]);
        let quotas = usage["quotas"].as_array().expect("they are listed");
        let state_bytes = quotas.iter().find(|quota| quota["quota"] == "state_bytes").expect("it is one of them");
        assert_eq!((&state_bytes["used"], &state_bytes["limit"]), (&json!(12), &json!(20)));
        let metrics = mill.http("GET", "/metrics", &[], b"").body;
        assert_eq!(metric(&metrics, "wasmill_state_over_quota_total"), 1.0);
    }
}
