//! A component that was written for `wasi:messaging`, in a real worker on a real Redis and through `invoke`.

use std::time::Duration;

use serde_json::{Value, json};
use wasmill_tests::redis_server::{RedisServer, free_port};
use wasmill_tests::worker::Worker;
use wasmill_tests::{eventually, guests};

use super::invoke::{Place, code, said};

const DEADLINE: Duration = Duration::from_secs(30);

fn section(settings: &str) -> String {
    let component = guests::component("messaging");
    format!("[handlers.messaging]\ncomponent = \"{}\"\nstreams = [\"orders\"]\n{settings}\n", component.display())
}

const GRANTED: &str = "grants = [\"clocks\", \"random\", \"messaging\"]\npublishes = [\"receipts\"]";

/// What `invoke` prints for an order, and its exit code.
fn invoke(settings: &str, data: &Value) -> (Value, i32) {
    let place = Place::new(&section(settings));
    let event = json!({
        "specversion": "1.0", "id": "e-1", "source": "/shop", "type": "order_placed", "subject": "s",
        "time": "2024-05-06T07:08:09Z", "partitionkey": "p", "region": "eu", "data": data,
    });
    place.write("event.json", event.to_string().as_bytes());
    let component = guests::component("messaging");
    let arguments =
        ["invoke", component.to_str().unwrap(), "--event", "event.json", "--output", "json", "--handler", "messaging"];
    let output = place.run(&arguments);
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    (document, code(&output))
}

fn order() -> Value {
    json!({"order_id": "o-1", "total": 1999})
}

#[test]
fn a_message_that_is_sent_is_a_follow_up() {
    let (document, code) = invoke(GRANTED, &order());
    assert_eq!((document["outcome"].as_str(), code), (Some("ack"), 0), "{document}");
    let [receipt] = &document["published"].as_array().unwrap()[..] else { panic!("{document}") };
    assert_eq!(receipt["stream"], "receipts");
    assert_eq!(receipt["type"], "receipt");
    assert_eq!(receipt["subject"], "o-1");
    assert_eq!(receipt["datacontenttype"], "application/json");
    assert_eq!((&receipt["partitionkey"], &receipt["region"]), (&json!("p"), &json!("eu")));
    assert_eq!(receipt["data"], json!({"order_id": "o-1", "paid": 1999, "topic": "orders"}));
    // What the host decides stays its own, although the guest has passed on all metadata.
    assert_eq!((&receipt["source"], &receipt["causationid"]), (&json!("/wasmill/default/messaging"), &json!("e-1")));
    assert_ne!(receipt["id"], "e-1");
}

#[test]
fn an_error_is_tried_again() {
    let (document, code) = invoke(GRANTED, &json!("nonsense"));
    assert_eq!((document["outcome"].as_str(), code), (Some("retry"), 10), "{document}");
    assert!(document["message"].as_str().unwrap().starts_with("the message is no order: "), "{document}");
    assert_eq!(document["published"], json!([]));
}

#[test]
fn a_topic_that_is_not_among_the_handlers_streams_is_denied() {
    let (document, code) = invoke(&GRANTED.replace("receipts", "elsewhere"), &order());
    assert_eq!((document["outcome"].as_str(), code), (Some("retry"), 10), "{document}");
    let wanted = "permission denied: `receipts` is not among the handler's `publishes`";
    assert_eq!(document["message"], wanted);
}

#[test]
fn the_interface_has_to_be_granted() {
    let place = Place::new(&section("publishes = [\"receipts\"]"));
    let output = place.run(&["check"]);
    assert_eq!(code(&output), 2);
    let wanted = "wasi:messaging/types@0.2.0-draft (not granted: add \"messaging\" to handlers.NAME.grants)";
    assert!(said(&output).contains(wanted), "{}", said(&output));
}

#[test]
fn a_worker_runs_it_on_instances_that_are_used_again() {
    let server = RedisServer::start();
    let config = format!(
        "[redis]\nurl = \"{}\"\n[admin]\nlisten = \"127.0.0.1:{}\"\n{}",
        server.url(),
        free_port(),
        section(&format!("{GRANTED}\nisolation = \"reuse\""))
    );
    let _worker = Worker::spawn(&config);
    let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    for number in 0..300 {
        let data = json!({"order_id": format!("o-{number}"), "total": number}).to_string();
        let mut add = redis::cmd("XADD");
        add.arg("orders").arg("*").arg(&["ce_id", &number.to_string(), "ce_source", "/s", "ce_type", "t"]);
        add.arg("data").arg(data).query::<String>(&mut redis).unwrap();
    }
    eventually("300 receipts", DEADLINE, || {
        let count: usize = redis::cmd("XLEN").arg("receipts").query(&mut redis).unwrap();
        (count == 300).then_some(())
    });
}
