//! The example handler `snapshot`: the state of orders, made from their events and from nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Connection;
use serde_json::{Value, json};
use wasmill_tests::redis_server::RedisServer;
use wasmill_tests::worker::Worker;
use wasmill_tests::{eventually, guests};

use super::faults::{Entry, bytes, text};
use super::invoke::{Place, code, said};

const DEADLINE: Duration = Duration::from_secs(60);

fn entries(redis: &mut Connection, stream: &str) -> Vec<Entry> {
    redis::cmd("XRANGE").arg(&[stream, "-", "+"]).query(redis).unwrap()
}

fn data(entry: &Entry) -> Value {
    serde_json::from_slice(bytes(entry, "data")).unwrap()
}

/// What the events say of each order, added up here once more.
fn expected(history: &[Entry]) -> BTreeMap<String, Value> {
    let mut orders: BTreeMap<String, Value> = BTreeMap::new();
    for entry in history {
        let told = data(entry);
        let facts = match text(entry, "ce_type") {
            "order_placed" => json!({"customer": told["customer"], "total": told["total"]}),
            "order_cancelled" => json!({"customer": told["customer"], "cancelled": told["reason"]}),
            _ => continue,
        };
        let order_id = told["order_id"].as_str().unwrap();
        let order = orders.entry(order_id.to_owned()).or_insert_with(|| json!({"order_id": order_id, "events": 0}));
        facts.as_object().unwrap().iter().for_each(|(name, value)| order[name] = value.clone());
        order["events"] = json!(order["events"].as_u64().unwrap() + 1);
    }
    orders
}

#[test]
fn the_last_snapshot_of_each_order_is_what_its_events_say_and_a_replay_makes_it_again() {
    let server = RedisServer::start();
    let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let config = format!(
        "[redis]\nurl = \"{}\"\n[admin]\nlisten = \"\"\n[handlers.snapshot]\ncomponent = \"{}\"\nstreams = [\"orders\"]\n\
         publishes = [\"orders.snapshots\"]\nisolation = \"reuse\"\n[handlers.snapshot.limits]\nconcurrency = 1\n\
         memory = \"256 MiB\"\n[handlers.snapshot.reuse]\nmax_events = 10000000\nmax_memory_growth = \"256 MiB\"\n",
        server.url(),
        guests::component("snapshot").display()
    );
    let place = Place::new(&config);
    for arguments in [
        &["generate", "ecommerce", "--count", "2000", "--rate", "1000000", "--seed", "7"][..],
        &["send", "orders", "snapshot_requested", "{}"],
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), 0, "{}", said(&output));
    }
    let history = entries(&mut redis, "orders");
    let expected = expected(&history);
    assert!(expected.len() > 100 && expected.values().any(|order| order.get("cancelled").is_some()));
    let _worker = Worker::spawn(&config);
    let mut told_since = |first: usize| {
        eventually("every order to have its last state", DEADLINE, || {
            // Later snapshots take the place of earlier ones.
            let snapshots = entries(&mut redis, "orders.snapshots").split_off(first);
            let latest: BTreeMap<String, Value> =
                snapshots.iter().map(|entry| (text(entry, "ce_subject").to_owned(), data(entry))).collect();
            (latest == expected).then_some(first + snapshots.len())
        })
    };
    let live = told_since(0);
    let output = place.run(&["replay", "orders", "--handler", "snapshot", "--from", "0-0"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    told_since(live);
}
