//! Each form of an entry. Its fields are seen in a dead letter, which keeps them to the byte on every broker.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way};

/// An entry as it was written.
type Fields = BTreeMap<String, Vec<u8>>;

/// Publishes an event `mine` into a stream of this form, which its handler rejects, and returns the entry. Before, sees
/// that handlers, `history` and follow-ups speak the form as well.
fn written(way: Way, settings: &str) -> Fields {
    let mill = Mill::start(way, &format!("[streams.\"faults.in\"]\n{settings}\n[streams.\"faults.out\"]\n{settings}"));
    mill.json(&["send", "faults.in", "echo", "{\"total\": \"5\"}", "--id", "first"]);
    let follow_up = mill.wait_for("faults.out", 1).remove(0);
    assert_eq!((&follow_up["type"], total(&follow_up)), (&json!("echoed"), json!("5")), "{follow_up:#}");
    assert_eq!(follow_up["causationid"], "first", "{follow_up:#}");
    let past = &mill.json_lines(&["history", "faults.in"])[0]["event"];
    assert_eq!((&past["id"], &past["type"], total(past)), (&json!("first"), &json!("echo"), json!("5")), "{past:#}");

    mill.json(&["send", "faults.in", "reject", "{\"total\": \"7\"}", "--id", "mine", "--source", "/shop"]);
    mill.wait_for("faults.dead", 1);
    let letter = mill.json(&["dlq", "ls", "faults"]).as_array().unwrap()[0].clone();
    let event = &letter["event"];
    assert_eq!(
        (&event["id"], &event["source"], total(event)),
        (&json!("mine"), &json!("/shop"), json!("7")),
        "{letter:#}"
    );
    // From there it goes back in the same form.
    mill.json(&["dlq", "redrive", "faults", letter["id"].as_str().unwrap()]);
    mill.wait_settled("faults");
    let again = mill.json(&["dlq", "ls", "faults"]);
    assert_eq!(again[0]["original"], letter["original"], "{again:#}");
    letter["original"].as_array().unwrap().iter().map(|pair| (text(&pair[0]), bytes(&pair[1]))).collect()
}

/// `total` of the data, whatever the data is written in.
fn total(event: &Value) -> Value {
    match event["data_base64"].as_str() {
        Some(text) => rmp_serde::from_slice::<Value>(&BASE64.decode(text).unwrap()).unwrap()["total"].clone(),
        None => event["data"]["total"].clone(),
    }
}

fn bytes(raw: &Value) -> Vec<u8> {
    match (&raw["text"], &raw["base64"]) {
        (Value::String(text), _) => text.clone().into_bytes(),
        (_, Value::String(text)) => BASE64.decode(text).unwrap(),
        _ => panic!("{raw}"),
    }
}

fn text(raw: &Value) -> String {
    String::from_utf8(bytes(raw)).unwrap()
}

fn parsed(field: &[u8]) -> Value {
    serde_json::from_slice(field).unwrap_or_else(|_| panic!("no JSON: {}", field.escape_ascii()))
}

fn is_time(text: &Value) -> bool {
    text.as_str().is_some_and(|text| wasmill::envelope::parse_time(text).is_some())
}

fn assert_document(document: &Value) {
    assert!(is_time(&document["timestamp"]), "{document:#}");
    for (name, value) in [
        ("event_id", json!("mine")),
        ("event_type", json!("reject")),
        ("source", json!("/shop")),
        ("data", json!({"total": "7"})),
    ] {
        assert_eq!(document[name], value, "{document:#}");
    }
}

pub fn json_documents(way: Way) {
    let fields = written(way, "envelope = \"json\"");
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["data"]);
    assert_document(&parsed(&fields["data"]));
}

pub fn msgpack_documents(way: Way) {
    let fields = written(way, "envelope = \"msgpack\"");
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["data"]);
    assert_document(&rmp_serde::from_slice(&fields["data"]).unwrap());
}

pub fn name_and_body(way: Way) {
    let fields = written(way, "envelope = \"named\"");
    assert_eq!((&fields["name"][..], parsed(&fields["body"])), (&b"reject"[..], json!({"total": "7"})));
}

pub fn stream_action_and_data(way: Way) {
    let fields = written(way, "envelope = \"action\"");
    assert_eq!((&fields["stream"][..], &fields["action"][..]), (&b"faults.in"[..], &b"reject"[..]));
    assert_eq!(parsed(&fields["data"]), json!({"total": "7"}));
    let fields = written(way, "envelope = \"action\"\nencoding = \"msgpack\"");
    assert_eq!(fields["action"], b"reject");
    assert_eq!(fields["data"], b"\x81\xa5total\xa17");
}

pub fn dapr_components(way: Way) {
    let fields = written(way, "envelope = \"dapr\"");
    let document = parsed(&fields["data"]);
    assert_eq!((&document["specversion"], &document["type"]), (&json!("1.0"), &json!("reject")), "{document:#}");
    assert_eq!((&document["id"], &document["data"]), (&json!("mine"), &json!({"total": "7"})), "{document:#}");
}

pub fn any_fields(way: Way) {
    let fields = written(way, "envelope = \"flat\"\nnames = { type = \"event\", id = \"uuid\" }");
    assert_eq!(
        (&fields["event"][..], &fields["uuid"][..], &fields["total"][..]),
        (&b"reject"[..], &b"mine"[..], &b"7"[..])
    );
}

pub fn names_and_times_of_ones_own(way: Way) {
    let names = "names = { id = \"eventId\", type = \"kind\", time = \"at\", data = \"payload\" }";
    let fields =
        written(way, &format!("envelope = \"json\"\nfield = \"event\"\ntime_format = \"milliseconds\"\n{names}"));
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["event"]);
    let document = parsed(&fields["event"]);
    assert_eq!((&document["eventId"], &document["kind"]), (&json!("mine"), &json!("reject")), "{document:#}");
    assert_eq!(document["payload"], json!({"total": "7"}), "{document:#}");
    assert!(document["at"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{document:#}");
}
