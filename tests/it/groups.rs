//! A consumer group that another program has used: its entries, its consumers, and both programs side by side.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::Connection;
use serde_json::json;
use wasmill_tests::redis_server::RedisServer;
use wasmill_tests::worker::{Signal, Worker};
use wasmill_tests::{eventually, guests};

use super::invoke::{Place, code, said};

const DEADLINE: Duration = Duration::from_secs(30);
/// Consumers of the other program: one has ended, one lives.
const GONE: &str = "python-gone";
const LIVING: &str = "python-living";

fn query<T: redis::FromRedisValue>(redis: &mut Connection, words: &[&str]) -> T {
    let answer = redis::cmd(words[0]).arg(&words[1..]).query(redis);
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn add(redis: &mut Connection, id: u32) {
    let id = id.to_string();
    let _: String =
        query(redis, &["XADD", "faults.in", "*", "ce_id", &id, "ce_source", "/t", "ce_type", "echo", "data", &id]);
}

/// Reads as the other program does, and returns the ids of the entries.
fn read(redis: &mut Connection, consumer: &str, count: u32) -> Vec<String> {
    let count = count.to_string();
    let words = ["XREADGROUP", "GROUP", "legacy", consumer, "COUNT", &count, "STREAMS", "faults.in", ">"];
    type Streams = Vec<(String, Vec<(String, Vec<String>)>)>;
    let streams: Option<Streams> = query(redis, &words);
    streams.unwrap_or_default().into_iter().flat_map(|(_, entries)| entries).map(|(id, _)| id).collect()
}

fn pending(redis: &mut Connection, consumer: &str) -> usize {
    let entries: Vec<redis::Value> = query(redis, &["XPENDING", "faults.in", "legacy", "-", "+", "100", consumer]);
    entries.len()
}

/// The causes of all follow-ups.
fn handled(redis: &mut Connection) -> Vec<u32> {
    let out: Vec<(String, Vec<(String, String)>)> = query(redis, &["XRANGE", "faults.out", "-", "+"]);
    let cause = |fields: &[(String, String)]| {
        fields.iter().find(|(name, _)| name == "ce_causationid").map(|(_, cause)| cause.parse().unwrap())
    };
    out.iter().map(|(_, fields)| cause(fields).expect("a cause")).collect()
}

#[test]
fn a_handler_goes_on_where_another_program_stopped() {
    let server = RedisServer::start();
    let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let _: () = query(&mut redis, &["XGROUP", "CREATE", "faults.in", "legacy", "0", "MKSTREAM"]);
    (0..10).for_each(|id| add(&mut redis, id));
    // 0 and 1 were settled there; 2 and 3 are left behind by one that ended, 4 and 5 are being worked on.
    let settled = read(&mut redis, GONE, 2);
    let acked: i64 = query(&mut redis, &["XACK", "faults.in", "legacy", &settled[0], &settled[1]]);
    assert_eq!(acked, 2);
    assert_eq!(read(&mut redis, GONE, 2).len(), 2);
    std::thread::sleep(Duration::from_millis(2500));
    let living = read(&mut redis, LIVING, 2);

    let config = format!(
        "[redis]\nurl = \"{}\"\n[admin]\nlisten = \"\"\n[worker]\nheartbeat = \"200ms\"\nheartbeat_ttl = \"1s\"\n\
         [handlers.faults]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n\
         group = \"legacy\"\ntake_over_idle = \"2500ms\"\n",
        server.url(),
        guests::component("faults").display()
    );
    let mut worker = Worker::spawn(&config);
    eventually("what the one that ended left behind", DEADLINE, || {
        // The living one says so, as such programs do.
        for id in &living {
            let words = ["XCLAIM", "faults.in", "legacy", LIVING, "0", id, "JUSTID"];
            let _: redis::Value = query(&mut redis, &words);
        }
        let handled: BTreeSet<u32> = handled(&mut redis).into_iter().collect();
        [2, 3, 6, 7, 8, 9].iter().all(|id| handled.contains(id)).then_some(())
    });
    assert!(worker.stderr_text().contains("idle under another program"), "{}", worker.stderr_text());
    // The living one is not robbed, and both go on side by side.
    assert_eq!(pending(&mut redis, LIVING), 2);
    let acked: i64 = query(&mut redis, &["XACK", "faults.in", "legacy", &living[0], &living[1]]);
    assert_eq!(acked, 2);
    let (mut theirs, mut next) = (0, 10);
    eventually("both to get some", DEADLINE, || {
        add(&mut redis, next);
        next += 1;
        for id in read(&mut redis, LIVING, 1) {
            let _: i64 = query(&mut redis, &["XACK", "faults.in", "legacy", &id]);
            theirs += 1;
        }
        (theirs > 0 && handled(&mut redis).len() > 6).then_some(())
    });
    eventually("everything to be settled", DEADLINE, || {
        (handled(&mut redis).len() + theirs == next as usize - 4 && pending(&mut redis, LIVING) == 0).then_some(())
    });
    let all = handled(&mut redis);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "each once: {all:?}");
    assert!([0, 1, 4, 5].iter().all(|id| !all.contains(id)), "{all:?}");
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(DEADLINE).success(), "{}", worker.stderr_text());
    // Theirs are theirs.
    let consumers: Vec<std::collections::HashMap<String, redis::Value>> =
        query(&mut redis, &["XINFO", "CONSUMERS", "faults.in", "legacy"]);
    let names: BTreeSet<String> =
        consumers.iter().map(|consumer| redis::from_redis_value_ref(&consumer["name"]).unwrap()).collect();
    assert!(names.contains(GONE) && names.contains(LIVING), "{names:?}");
}

#[test]
fn groups_and_idle_times_are_checked() {
    let place = Place::new("");
    let component = json!(guests::component("faults").to_str().unwrap());
    for (first, second, fault) in [
        ("group = \"legacy\"", "group = \"other\"", None),
        ("group = \"legacy\"", "group = \"legacy\"\nstreams = [\"c\"]", None),
        ("group = \"legacy\"", "group = \"legacy\"", Some("handlers.one")),
        ("group = \"two\"", "", Some("handlers.one")),
        ("group = \"\"", "", Some("name of a consumer group")),
        ("take_over_idle = \"999ms\"", "", Some("too short")),
        ("take_over_idle = \"1s\"", "", None),
    ] {
        let section = |name: &str, settings: &str| {
            let streams = if settings.contains("streams") { "" } else { "streams = [\"a\", \"b\"]\n" };
            format!("[handlers.{name}]\ncomponent = {component}\n{streams}{settings}\n")
        };
        place.write("wasmill.toml", format!("{}{}", section("one", first), section("two", second)).as_bytes());
        let output = place.run(&["check"]);
        let ok = fault.map_or(code(&output) == 0, |fault| code(&output) != 0 && said(&output).contains(fault));
        assert!(ok, "{first}, {second}: {}", said(&output));
    }
}
