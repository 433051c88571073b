//! The proof: events go through a chain of four handlers on two workers, one of which is killed and one of which
//! sleeps past its heartbeat, and every order comes out exactly once.

use std::collections::HashMap;
use std::time::Duration;

use redis::Connection;
use wasmill_tests::redis_server::RedisServer;
use wasmill_tests::worker::{Signal, Worker};
use wasmill_tests::{eventually, guests};

const EVENTS: usize = 10_000;
const HANDLERS: [(&str, &str, &str, &str); 4] = [
    ("payment", "orders", "order_placed", "payments"),
    ("inventory", "payments", "payment_processed", "inventory"),
    ("shipment", "inventory", "inventory_updated", "shipments"),
    ("notification", "shipments", "shipment_created", "notifications"),
];

fn config(server: &RedisServer) -> String {
    let mut text = format!(
        "[redis]\nurl = \"{}\"\n[admin]\nlisten = \"\"\n[worker]\nheartbeat = \"200ms\"\nheartbeat_ttl = \"1s\"\n",
        server.url()
    );
    for (name, stream, r#type, publishes) in HANDLERS {
        let component = guests::component(name);
        text += &format!(
            "[handlers.{name}]\ncomponent = \"{}\"\nstreams = [\"{stream}\"]\ntypes = [\"{type}\"]\n\
             publishes = [\"{publishes}\"]\n",
            component.display()
        );
    }
    text
}

fn connect(server: &RedisServer) -> Connection {
    let client = redis::Client::open(server.url()).expect("a valid URL");
    client.get_connection().expect("the server answers")
}

fn order(number: usize) -> String {
    format!("order-{number:05}")
}

fn publish_orders(redis: &mut Connection) {
    for chunk in (0..EVENTS).collect::<Vec<_>>().chunks(500) {
        let mut pipeline = redis::pipe();
        for &number in chunk {
            let order = order(number);
            let data = format!(
                r#"{{"order_id":"{order}","customer":"c","items":[{{"sku":"mug","quantity":1,"price":5}}],"total":5}}"#
            );
            pipeline.cmd("XADD").arg("orders").arg("*").arg("ce_id").arg(&order).arg("ce_source").arg("/test");
            pipeline.arg("ce_type").arg("order_placed").arg("ce_subject").arg(&order).arg("data").arg(data).ignore();
        }
        pipeline.query::<()>(redis).expect("the orders are published");
    }
}

/// How often each order is in the stream, by its subject.
fn outcomes(redis: &mut Connection, stream: &str) -> HashMap<String, usize> {
    let reply = redis::cmd("XRANGE").arg(&[stream, "-", "+"]).query(redis);
    let entries: Vec<Entry> = raw_entries(reply.expect("the stream can be read"));
    let mut counts = HashMap::new();
    for (_, fields) in entries {
        let subject = fields.into_iter().find(|(name, _)| name == "ce_subject").expect("follow-ups have a subject").1;
        *counts.entry(String::from_utf8(subject).expect("text")).or_default() += 1;
    }
    counts
}

/// An entry's id and fields.
type Entry = (String, Vec<(String, Vec<u8>)>);

fn raw_entries(reply: redis::Value) -> Vec<Entry> {
    redis::from_redis_value(reply).expect("a list of entries")
}

fn is_exactly_once(counts: &HashMap<String, usize>) -> bool {
    counts.len() == EVENTS && counts.values().all(|&count| count == 1)
}

fn pending(redis: &mut Connection, stream: &str, group: &str) -> usize {
    let summary: (usize, redis::Value, redis::Value, redis::Value) =
        redis::cmd("XPENDING").arg(stream).arg(group).query(redis).expect("the group exists");
    summary.0
}

#[test]
fn every_order_comes_out_once_though_workers_die_and_sleep() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let config = config(&server);
    publish_orders(&mut redis);
    let [mut first, mut second] = [Worker::spawn(&config), Worker::spawn(&config)];
    let length =
        |redis: &mut Connection| redis::cmd("XLEN").arg("notifications").query::<usize>(redis).expect("a length");
    let deadline = Duration::from_secs(120);
    eventually("the first tenth", deadline, || (length(&mut redis) > EVENTS / 10).then_some(()));
    first.signal(Signal::STOP);
    eventually("the second fifth", deadline, || (length(&mut redis) > EVENTS / 5).then_some(()));
    // The stopped worker loses its heartbeat; the other one takes over what it held.
    let heartbeats = |redis: &mut Connection| {
        redis::cmd("KEYS").arg("wasmill:worker:*").query::<Vec<String>>(redis).expect("keys").len()
    };
    eventually("a heartbeat to end", deadline, || (heartbeats(&mut redis) == 1).then_some(()));
    let mut third = Worker::spawn(&config);
    eventually("the third worker", deadline, || (heartbeats(&mut redis) == 2).then_some(()));
    second.kill();
    first.signal(Signal::CONT);
    eventually("all orders", deadline, || (length(&mut redis) >= EVENTS).then_some(()));
    for (name, stream, ..) in HANDLERS {
        eventually("nothing pending", deadline, || (pending(&mut redis, stream, name) == 0).then_some(()));
    }
    for (.., stream) in HANDLERS {
        let counts = outcomes(&mut redis, stream);
        assert!(is_exactly_once(&counts), "{stream}: {} orders", counts.len());
    }
    for worker in [&mut first, &mut third] {
        worker.signal(Signal::TERM);
        assert!(worker.wait_exit(Duration::from_secs(30)).success(), "{}", worker.stderr_text());
    }
    for (name, stream, ..) in HANDLERS {
        assert_eq!(pending(&mut redis, stream, name), 0, "{name}");
    }
}

/// The negative control: a loop that writes the follow-up first and acknowledges afterwards, which most libraries do,
/// fails the same check under the same treatment. So the check can fail.
#[test]
fn an_at_least_once_settle_fails_the_same_check() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    publish_orders(&mut redis);
    redis::cmd("XGROUP").arg(&["CREATE", "orders", "naive", "0"]).query::<()>(&mut redis).expect("a group");
    let read = |redis: &mut Connection, id: &str, consumer: &str| {
        let reply: redis::Value = redis::cmd("XREADGROUP")
            .arg(&["GROUP", "naive", consumer, "COUNT", "500", "STREAMS", "orders", id])
            .query(redis)
            .expect("entries");
        type Reply = Option<Vec<(String, redis::Value)>>;
        let streams: Reply = redis::from_redis_value(reply).expect("streams");
        streams.unwrap_or_default().pop().map(|(_, entries)| raw_entries(entries)).unwrap_or_default()
    };
    let publish = |redis: &mut Connection, fields: &[(String, Vec<u8>)]| {
        let subject = &fields.iter().find(|(name, _)| name == "ce_subject").expect("a subject").1;
        let added: String =
            redis::cmd("XADD").arg("done").arg("*").arg("ce_subject").arg(subject).query(redis).expect("an id");
        assert!(!added.is_empty());
    };
    // The first worker dies between the follow-up and the acknowledgement of the entries that it holds.
    for (_, fields) in read(&mut redis, ">", "dies") {
        publish(&mut redis, &fields);
    }
    redis::cmd("XAUTOCLAIM")
        .arg(&["orders", "naive", "survives", "0", "0", "COUNT", "500"])
        .query::<redis::Value>(&mut redis)
        .expect("entries are taken over");
    for id in ["0", ">"] {
        loop {
            let entries = read(&mut redis, id, "survives");
            if entries.is_empty() {
                break;
            }
            for (entry, fields) in entries {
                publish(&mut redis, &fields);
                redis::cmd("XACK").arg(&["orders", "naive", &entry]).query::<usize>(&mut redis).expect("an ack");
            }
        }
    }
    let counts = outcomes(&mut redis, "done");
    assert_eq!(counts.len(), EVENTS, "nothing is lost");
    assert!(!is_exactly_once(&counts), "but some orders came out twice, and the check must see it");
}
