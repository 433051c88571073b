//! The state of handlers through the binary: what a handler remembers, and that nothing of it is lost, doubled or outdated.

mod tenants;

use std::collections::BTreeMap;
use std::time::Duration;

use ::redis::Connection;
use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::{eventually, guests, on_every_way};

use super::invoke::{Place, code, said};

const DEADLINE: Duration = Duration::from_secs(60);
/// The hash of the handler `keeper`.
const HASH: &str = "wasmill:state:keeper";

/// Sections with the handler `keeper`, which reads `keeper.in`; `settings` go into its section.
fn sections(settings: &str) -> String {
    format!("[retry]\nbase = \"5ms\"\ncap = \"10ms\"\n{}", handler("handlers.keeper", "keeper", settings))
}

/// The section of a handler that takes steps: it reads `NAME.in`.
fn handler(section: &str, name: &str, settings: &str) -> String {
    format!(
        "[{section}]\ncomponent = \"{}\"\nstreams = [\"{name}.in\"]\npublishes = [\"keeper.out\"]\n\
         grants = [\"logging\", \"clocks\", \"random\", \"state\"]\n{settings}\n",
        guests::component("keeper").display(),
    )
}

fn start(way: Way, settings: &str) -> Mill {
    start_as(way, &sections(settings))
}

fn start_as(way: Way, sections: &str) -> Mill {
    Mill::start_with(way, sections, None)
}

fn connect(mill: &Mill) -> Connection {
    let url = mill.server.as_ref().expect("it is on Redis").url();
    ::redis::Client::open(url).expect("a URL").get_connection().expect("the server answers")
}

/// Has the handler take these steps.
fn steps(mill: &Mill, id: &str, steps: Value) {
    mill.publish("keeper.in", id, "steps", &steps.to_string());
}

/// What the handler saw, by the id of the event.
fn seen(mill: &Mill, count: usize) -> BTreeMap<String, Value> {
    let events = mill.wait_for("keeper.out", count).into_iter();
    let seen = events.map(|event| {
        let data = event["data"].clone();
        (event["causationid"].as_str().expect("a cause").to_owned(), data)
    });
    seen.collect()
}

/// All values in the state of the handler, by key.
fn state(redis: &mut Connection) -> BTreeMap<String, String> {
    ::redis::cmd("HGETALL").arg(HASH).query(redis).expect("the state is a hash")
}

/// A metric of the worker at this address, over all labels.
fn metric(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

on_every_way! {
    shared::{
        what_a_handler_sets_it_finds_again,
        failures_write_nothing,
        operators_look_at_it_and_change_it,
    }
}

mod shared {
    use super::*;

    pub fn what_a_handler_sets_it_finds_again(way: Way) {
        let mill = start(way, "");
        let first = json!([
            {"get": "a"}, {"set": ["a", "1"]}, {"get": "a"}, {"set-many": [["b", ""], ["c", "3"]]}, {"exists": "c"},
            {"delete": "c"}, {"exists": "c"}, {"list": null}, {"open": ""}, {"open": "other"},
        ]);
        steps(&mill, "one", first);
        let seen_first = json!([
            null, null, "1", null, true, null, false, {"keys": ["a", "b"], "cursor": null}, null, {"error": "no-such-store"},
        ]);
        assert_eq!(seen(&mill, 1)["one"], json!({"seen": seen_first, "attempt": 1}));
        mill.wait_settled("keeper");
        let second = json!([
            {"get-many": ["b", "c", "a"]}, {"exists": "a"}, {"list": "a"}, {"delete-many": ["a", "b", "never"]}, {"get": "a"},
        ]);
        steps(&mill, "two", second);
        let seen_second = json!([[["b", ""], null, ["a", "1"]], true, {"keys": ["b"], "cursor": null}, null, null]);
        assert_eq!(seen(&mill, 2)["two"]["seen"], seen_second);
        mill.wait_settled("keeper");
        steps(&mill, "three", json!([{"list": null}, {"get": "a\n"}]));
        let third = &seen(&mill, 3)["three"]["seen"];
        assert_eq!(third[0], json!({"keys": [], "cursor": null}));
        assert!(third[1]["error"].as_str().is_some_and(|text| text.contains("control character")), "{third}");
    }

    pub fn failures_write_nothing(way: Way) {
        let mill = start(way, "retry = { max_attempts = 2 }\nlimits = { deadline = \"300ms\" }");
        for (id, end) in [
            ("retry", json!({"retry": "no"})),
            ("reject", json!({"reject": "no"})),
            ("exit", json!("exit")),
            ("late", json!({"sleep": 10_000})),
        ] {
            steps(&mill, id, json!([{"set": [id, "lost"]}, {"set": ["shared", id]}, end]));
        }
        assert_eq!(mill.wait_for("keeper.dead", 4).len(), 4);
        mill.wait_settled("keeper");
        steps(&mill, "look", json!([{"list": null}]));
        assert_eq!(seen(&mill, 1)["look"]["seen"][0]["keys"], json!([]));
    }

    pub fn operators_look_at_it_and_change_it(way: Way) {
        let mill = start(way, "limits = { state_bytes = \"10 B\" }");
        assert_eq!(mill.text(&["state", "ls", "keeper"]), "there are no keys\n");
        assert!(mill.text(&["state", "set", "keeper", "a/b c", "-1"]).contains("was not there"));
        assert!(mill.text(&["state", "set", "keeper", "a/b c", "text"]).contains("had another value"));
        let output = mill.run_with_stdin(&["state", "set", "keeper", "k", "--file", "-"], b"\xff\0\n");
        assert!(output.status.success());
        assert_eq!(mill.run(&["state", "get", "keeper", "k"]).stdout, b"\xff\0\n");
        assert_eq!(mill.text(&["state", "get", "keeper", "a/b c"]), "text");
        let value = json!({"key": "k", "value": {"base64": "/wAK"}});
        assert_eq!(mill.json(&["state", "get", "keeper", "k"]), value);
        assert_eq!(
            mill.json(&["state", "ls", "keeper"]),
            json!({"handler": "keeper", "bytes": 13, "total": 2, "keys": ["a/b c", "k"]})
        );
        let listed = mill.json(&["state", "ls", "keeper", "--prefix", "a", "--limit", "1"]);
        assert_eq!((&listed["total"], &listed["keys"]), (&json!(1), &json!(["a/b c"])));
        assert!(mill.text(&["state", "ls", "keeper", "--limit", "1"]).contains("and 1 more"));
        // The handler sees it.
        steps(&mill, "e", json!([{"get": "a/b c"}]));
        assert_eq!(seen(&mill, 1)["e"]["seen"], json!(["text"]));
        assert!(mill.text(&["state", "rm", "keeper", "a/b c"]).contains("deleted"));
        assert!(mill.text(&["state", "rm", "keeper", "a/b c"]).contains("was not there"));
        assert!(
            mill.failure(1, &["state", "get", "keeper", "a/b c"]).contains("no key \"a/b c\" in the state of keeper")
        );
        assert!(mill.failure(2, &["state", "ls", "nobody"]).contains("no handler `nobody`"));
        // What the handler could not read is refused: a key of one byte and a value of nine are ten.
        mill.text(&["state", "set", "keeper", "x", "123456789"]);
        assert!(
            mill.failure(2, &["state", "set", "keeper", "x", "1234567890"])
                .contains("limits.state_bytes of keeper is 10")
        );
        assert!(mill.failure(2, &["state", "set", "keeper", "", "v"]).contains("1 to 512 bytes"));
        assert_eq!(mill.text(&["state", "clear", "keeper"]), "2 keys deleted\n");
        assert_eq!(mill.json(&["state", "ls", "keeper"])["bytes"], 0);
        let audit = mill.json(&["audit"]);
        let changes = audit["changes"].as_array().expect("they are listed").iter();
        let changes: Vec<_> =
            changes.map(|it| [&it["verb"], &it["what"], &it["detail"]].map(Value::to_string)).collect();
        assert_eq!(changes[0], [r#""state""#, r#""set \"a/b c\" to 2 bytes""#, r#""it was not there""#]);
        assert_eq!(changes[3], [r#""state""#, r#""delete \"a/b c\"""#, r#""it was there""#]);
        assert_eq!(changes.last().map(|it| &it[0]), Some(&r#""clear-state""#.to_owned()));
        assert_eq!(mill.http("GET", "/v1/handlers/keeper/state/value?key=none", &[], b"").status, 404);
        assert_eq!(mill.http("GET", "/v1/handlers/keeper/state?limit=0", &[], b"").status, 400);
    }
}

/// One key for all events, two workers of two threads each: the worst that there is for writing what was not outdated.
#[test]
fn a_hot_key_is_counted_exactly_by_two_workers() {
    const EVENTS: usize = 500;
    let mill = start(Way::Redis, "");
    let mut redis = connect(&mill);
    let another = mill.spawn_another();
    eventually("the other worker", DEADLINE, || another.stderr_text().contains("ready").then_some(()));
    let mut pipeline = ::redis::pipe();
    for n in 0..EVENTS {
        let add = pipeline.cmd("XADD").arg("keeper.in").arg("*").arg("ce_id").arg(n).arg("ce_source").arg("/t");
        add.arg("ce_type").arg("count").arg("data").arg("hot").ignore();
    }
    pipeline.query::<()>(&mut redis).expect("events are added");
    let out = mill.wait_for("keeper.out", EVENTS);
    mill.wait_settled("keeper");
    assert_eq!(state(&mut redis)["hot"], EVENTS.to_string());
    // Each number once: no two saw the same.
    let mut counts: Vec<u64> = out.iter().filter_map(|event| event["data"]["seen"].as_u64()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=EVENTS as u64).collect::<Vec<_>>());
    assert!(out.iter().all(|event| event["data"]["attempt"] == 1));
    let metrics = mill.http("GET", "/metrics", &[], b"").body;
    let (runs, stale) =
        (metric(&metrics, "wasmill_handler_duration_seconds_count"), metric(&metrics, "wasmill_stale_runs_total"));
    assert!(stale <= 3.0 * EVENTS as f64, "{stale} of {runs} runs were outdated");
}

/// The only attempt that there is.
#[test]
fn a_run_that_was_outdated_is_made_again_and_costs_no_attempt() {
    let mill = start(Way::Redis, "retry = { max_attempts = 1 }");
    let mut redis = connect(&mill);
    let set = |redis: &mut Connection, key: &str, value: &str| {
        ::redis::cmd("HSET").arg(HASH).arg(key).arg(value).query::<()>(redis).expect("it is set");
    };
    set(&mut redis, "k", "0");
    let stale = || metric(&mill.http("GET", "/metrics", &[], b"").body, "wasmill_stale_runs_total");
    // It reads, waits for so long that the value changes under it, and writes.
    steps(&mill, "e", json!([{"get": "k"}, {"exists": "new"}, {"sleep": 500}, {"set": ["done", "yes"]}]));
    let mut changes = 0;
    eventually("the run to be outdated twice", DEADLINE, || {
        changes += 1;
        set(&mut redis, "k", &changes.to_string());
        (stale() >= 2.0).then_some(())
    });
    let seen = &seen(&mill, 1)["e"];
    mill.wait_settled("keeper");
    assert_eq!(mill.events("keeper.out").len(), 1);
    assert_eq!((&seen["seen"], &seen["attempt"]), (&json!([changes.to_string(), false, null, null]), &json!(1)));
    assert_eq!(state(&mut redis)["done"], "yes");
    assert!(mill.events("keeper.dead").is_empty());
}

/// What cannot be read costs no attempt either, and the others go on.
#[test]
fn a_state_that_cannot_be_read_is_waited_for() {
    let mill = start(Way::Redis, "retry = { max_attempts = 1 }");
    let mut redis = connect(&mill);
    ::redis::cmd("SET").arg(HASH).arg("in the way").query::<()>(&mut redis).expect("it is set");
    steps(&mill, "reads", json!([{"get": "k"}, {"set": ["k", "1"]}]));
    eventually("the alarm", DEADLINE, || {
        let text = mill.worker.stderr_text();
        (text.contains("state_unreadable") && text.contains("wrong type")).then_some(())
    });
    // One that asks for nothing is handled meanwhile.
    steps(&mill, "other", json!([{"sleep": 0}]));
    assert!(seen(&mill, 1).contains_key("other"));
    ::redis::cmd("DEL").arg(HASH).query::<()>(&mut redis).expect("it is deleted");
    assert_eq!(seen(&mill, 2)["reads"], json!({"seen": [null, null], "attempt": 1}));
    mill.wait_settled("keeper");
    assert!(mill.events("keeper.dead").is_empty());
    assert_eq!(state(&mut redis)["k"], "1");
}

/// An answer that does not come says nothing of the handler, which would have run into its deadline.
#[test]
fn a_server_that_does_not_answer_costs_no_attempt() {
    let mill = start(Way::Redis, "retry = { max_attempts = 1 }\nlimits = { deadline = \"300ms\" }");
    let mut redis = connect(&mill);
    // It has begun before the server stops answering, and reads after that.
    steps(&mill, "e", json!([{"sleep": 100}, {"get": "k"}, {"set": ["k", "1"]}]));
    ::redis::cmd("CLIENT").arg("PAUSE").arg(2000).arg("ALL").query::<()>(&mut redis).expect("it pauses");
    assert_eq!(seen(&mill, 1)["e"]["attempt"], 1);
    mill.wait_settled("keeper");
    assert!(mill.events("keeper.dead").is_empty());
    assert_eq!(state(&mut redis)["k"], "1");
}

/// A handle that an instance keeps shows the state of the delivery that uses it, and nothing of one that failed.
#[test]
fn an_instance_that_is_used_again_begins_with_the_state_as_it_is() {
    let mill = start(Way::Redis, "isolation = \"reuse\"\nlimits = { concurrency = 1 }\nretry = { max_attempts = 1 }");
    let mut redis = connect(&mill);
    steps(&mill, "fails", json!([{"get": "k"}, {"set": ["k", "lost"]}, "keep", {"reject": "no"}]));
    mill.wait_for("keeper.dead", 1);
    mill.wait_settled("keeper");
    ::redis::cmd("HSET").arg(HASH).arg("k").arg("from outside").query::<()>(&mut redis).expect("it is set");
    for id in ["one", "two", "three"] {
        steps(&mill, id, json!([{"get": "k"}, "keep"]));
    }
    assert!(seen(&mill, 3).values().all(|seen| seen["seen"][0] == "from outside"));
}

#[test]
fn the_example_keeps_totals() {
    let section = format!(
        "[handlers.totals]\ncomponent = \"{}\"\nstreams = [\"payments\"]\npublishes = [\"totals\"]\n\
         grants = [\"logging\", \"clocks\", \"random\", \"state\"]\n",
        guests::component("totals").display()
    );
    let mill = Mill::start_with(Way::Embedded, &section, None);
    for (n, (customer, amount)) in [("c-1", 5), ("c-2", 7), ("c-1", 10)].into_iter().enumerate() {
        let payment = json!({"order_id": format!("o-{n}"), "customer": customer, "amount": amount});
        mill.publish("payments", &n.to_string(), "payment_processed", &payment.to_string());
        mill.wait_settled("totals");
    }
    let totals: Vec<Value> = mill.wait_for("totals", 3).iter().map(|event| event["data"].clone()).collect();
    let total = |customer: &str, total: u64| json!({"customer": customer, "total": total});
    assert_eq!(totals, [total("c-1", 5), total("c-2", 7), total("c-1", 15)]);
}

#[test]
fn fixtures_begin_with_a_state_and_expect_what_is_written() {
    let place = Place::new(&sections(""));
    std::fs::create_dir(place.path().join("events")).expect("a folder");
    let event = json!({
        "specversion": "1.0", "id": "e", "source": "/t", "type": "steps",
        "data": [{"get": "k"}, {"set": ["k", "2"]}, {"delete": "old"}],
    });
    place.write("events/e.json", event.to_string().as_bytes());
    place.write("events/e.state.json", br#"{"k": "1", "old": {"base64": "/wAK"}}"#);
    let output = place.run(&["test", "--update"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let expected = std::fs::read(place.path().join("events/e.expected.json")).expect("it is written");
    let expected: Value = serde_json::from_slice(&expected).expect("it is JSON");
    assert_eq!(expected["state"], json!({"k": "2", "old": null}));
    assert_eq!(expected["published"][0]["data"]["seen"][0], "1");
    place.write("events/e.state.json", br#"{"k": "0"}"#);
    assert_eq!(code(&place.run(&["test"])), 1);
    place.write("events/e.state.json", br#"{"k": 0}"#);
    let output = place.run(&["test"]);
    assert!(said(&output).contains("e.state.json: not keys with texts"), "{}", said(&output));

    let component = guests::component("keeper");
    let output =
        place.run(&["invoke", component.to_str().expect("a path"), "--event", "events/e.json", "--output", "json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(shown["state"], json!({"k": "2", "old": null}));
}

#[test]
fn state_is_there_for_whom_it_is_granted() {
    let place = Place::new(&sections("").replace(", \"state\"", ""));
    let output = place.run(&["check"]);
    assert_eq!(code(&output), 2, "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("wasi:keyvalue/store@0.2.0-draft2 (not granted: add \"state\" to"), "{text}");
}
