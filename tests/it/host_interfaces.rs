//! The host interfaces that are granted by name, through the binary: what is refused at load, what configuration, clocks
//! and randomness show. HTTP is in `http.rs`.

use std::collections::HashMap;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use wasmill_tests::redis_server::{RedisServer, free_port};
use wasmill_tests::worker::Worker;
use wasmill_tests::{eventually, guests};

use super::invoke::{Place, code, said};

/// A place with a handler `outside`, whose component needs all grants. `settings` go into its section.
pub(super) fn place(settings: &str, sections: &str) -> Place {
    let component = guests::component("outside");
    Place::new(&format!(
        "[limits]\ndeadline = \"5s\"\n[handlers.outside]\ncomponent = \"{}\"\nstreams = [\"in\"]\n\
         publishes = [\"outside.out\"]\n{settings}\n{sections}",
        component.display()
    ))
}

pub(super) const GRANTS: &str = "grants = [\"logging\", \"clocks\", \"random\", \"config\", \"http\"]";
const HTTP: &str = "http.allow = [\"https://unused.example\"]";

pub(super) fn granted(settings: &str, sections: &str) -> Place {
    place(&format!("{GRANTS}\n{settings}"), sections)
}

/// The document that `invoke` prints for an event.
pub(super) fn invoke(place: &Place, event: &Value, arguments: &[&str]) -> Value {
    place.write("event.json", event.to_string().as_bytes());
    let component = guests::component("outside");
    let fixed =
        ["invoke", component.to_str().unwrap(), "--event", "event.json", "--output", "json", "--handler", "outside"];
    let output = place.run(&[&fixed, arguments].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{event}: {}", said(&output)))
}

pub(super) fn event(r#type: &str, data: &str) -> Value {
    json!({
        "specversion": "1.0", "id": "e-1", "source": "/t", "type": r#type, "time": "2024-05-06T07:08:09.123Z",
        "datacontenttype": "text/plain", "data": data,
    })
}

/// What the guest saw.
pub(super) fn seen(document: &Value) -> Value {
    assert_eq!(document["outcome"], "ack", "{document}");
    document["published"][0]["data"].clone()
}

fn check(place: &Place) -> Output {
    place.run(&["--config", "wasmill.toml", "check"])
}

#[test]
fn what_is_not_granted_is_refused_at_load_with_the_remedy() {
    let output = check(&place("", ""));
    assert_eq!(code(&output), 2, "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("wasi:http/outgoing-handler@0.2."), "{text}");
    assert!(text.contains("(not granted: add \"http\" to handlers.NAME.grants and name the hosts in"), "{text}");
    assert!(text.contains("wasi:config/store@0.2.0-rc.1 (not granted: add \"config\" to"), "{text}");
    assert!(!text.contains("wasi:random"), "{text}");

    let output = check(&place("grants = [\"http\", \"config\"]\nhttp.allow = [\"https://a\"]", ""));
    let text = said(&output);
    assert!(text.contains("wasi:clocks/") && text.contains("add \"clocks\" to handlers.NAME.grants"), "{text}");
    assert!(text.contains("wasi:random/random@0.2.") && !text.contains("wasi:http"), "{text}");

    let output = check(&granted(HTTP, ""));
    assert_eq!(code(&output), 0, "{}", said(&output));
}

#[test]
fn without_a_handler_invoke_grants_what_cannot_reach_outside() {
    let place = Place::new("");
    place.write("event.json", event("config", "key").to_string().as_bytes());
    let outside = guests::component("outside");
    let output = place.run(&["invoke", outside.to_str().unwrap(), "--event", "event.json"]);
    assert_eq!(code(&output), 2);
    let text = said(&output);
    assert!(text.contains("add \"http\"") && !text.contains("add \"config\""), "{text}");
}

#[test]
fn configuration_comes_from_the_file_the_environment_and_secret_files() {
    let values = "[handlers.outside.config]\ncurrency = \"EUR\"\nfrom_env = { env = \"OUTSIDE_KEY\" }\n\
                  from_file = { file = \"secret.txt\" }";
    let place = granted(HTTP, values);
    place.write("secret.txt", b"of the file\n");
    let component = guests::component("outside");
    let look = |key: &str| {
        place.write("event.json", event("config", key).to_string().as_bytes());
        let arguments = [
            "invoke",
            component.to_str().unwrap(),
            "--event",
            "event.json",
            "--output",
            "json",
            "--handler",
            "outside",
        ];
        let output = place.command(&arguments).env("OUTSIDE_KEY", "of the environment").output().unwrap();
        let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        seen(&document)
    };
    assert_eq!(look("currency")["value"], "EUR");
    assert_eq!(look("from_env")["value"], "of the environment");
    assert_eq!(look("from_file")["value"], "of the file");
    assert_eq!(look("none")["value"], Value::Null);
    assert_eq!(look("none")["keys"], json!(["currency", "from_env", "from_file", "wasmill.idempotency-key"]));
}

#[test]
fn secrets_are_missed_at_load_and_shown_nowhere() {
    let values = "[handlers.outside.config]\nkey = { env = \"OUTSIDE_KEY\" }\nother = { file = \"secret.txt\" }";
    let place = granted(HTTP, values);
    let output = check(&place);
    assert_eq!(code(&output), 2);
    let wanted = "handlers.outside.config.key: the environment variable `OUTSIDE_KEY` is not set or empty";
    assert!(said(&output).contains(wanted), "{}", said(&output));

    let with = |arguments: &[&str]| place.command(arguments).env("OUTSIDE_KEY", "hunter2").output().unwrap();
    let output = with(&["check"]);
    assert!(said(&output).contains("handlers.outside.config.other: "), "{}", said(&output));
    assert_eq!(code(&output), 2);

    place.write("secret.txt", b"swordfish");
    place.write("event.json", event("config", "none").to_string().as_bytes());
    let component = guests::component("outside");
    let component = component.to_str().unwrap();
    for arguments in [
        &["check"][..],
        &["check", "--output", "json"],
        &["invoke", component, "--event", "event.json", "--handler", "outside"],
        &["invoke", component, "--event", "event.json", "--handler", "outside", "--output", "json"],
    ] {
        let mut command = place.command(arguments);
        let output =
            command.env("OUTSIDE_KEY", "hunter2").env("WASMILL_LOG__LEVEL", "info,wasmill=trace").output().unwrap();
        let text = said(&output);
        assert_eq!(code(&output), 0, "{text}");
        assert!(!text.contains("hunter2") && !text.contains("swordfish"), "{text}");
    }
}

#[test]
fn randomness_is_bounded_per_call_and_per_delivery() {
    let place = granted(HTTP, "");
    let ask = |data: &str| invoke(&place, &event("random", data), &[]);
    assert_eq!(seen(&ask("1 65536"))["got"], 65536);
    assert_eq!(seen(&ask("16 65535"))["got"], 16 * 65535);
    let refused = |data: &str, wanted: &str| {
        let document = ask(data);
        assert_eq!(document["outcome"], "trap", "{document}");
        assert!(document["message"].as_str().unwrap().contains(wanted), "{document}");
    };
    refused("1 65537", "65537 bytes of randomness in one call; 65536 are allowed");
    refused("17 65536", "more than 1048576 bytes of randomness in one delivery");
}

#[test]
fn clocks_and_randomness_differ_from_run_to_run() {
    let place = granted(HTTP, "");
    let runs = [(); 2].map(|()| seen(&invoke(&place, &event("ambient", ""), &[])));
    for key in ["wall", "secure", "number", "insecure", "seed"] {
        assert_ne!(runs[0][key], runs[1][key], "{key}");
    }
    assert!(runs[0]["slept"].as_u64().unwrap() >= 20_000_000);
}

#[test]
fn a_deterministic_handler_sees_what_the_event_and_the_attempt_say() {
    let place = granted(&format!("{HTTP}\ndeterministic = true"), "");
    let run = |event: &Value, attempt| invoke(&place, event, &["--attempt", attempt]);
    let one = event("ambient", "");
    let (first, again) = (run(&one, "1"), run(&one, "1"));
    assert_eq!(first["published"], again["published"], "follow-ups are the same, their times included");
    let first = seen(&first);
    assert_eq!(first["wall"], 1_714_979_289_123_u64);
    // 20 ms of sleep, and two looks at the clock.
    let slept = first["slept"].as_u64().unwrap();
    assert!((20_000_000..20_010_000).contains(&slept), "{slept}");

    let mut other = one.clone();
    other["id"] = json!("e-2");
    for differs in [run(&other, "1"), run(&one, "2")].map(|document| seen(&document)) {
        for key in ["secure", "number", "insecure", "seed"] {
            assert_ne!(first[key], differs[key], "{key}");
        }
    }
}

/// A worker with the handler `outside` on a server of its own.
pub(super) struct Mill {
    pub(super) redis: redis::Connection,
    pub(super) admin: u16,
    _worker: Worker,
    _server: RedisServer,
}

impl Mill {
    /// `settings` go into the section of the handler.
    pub(super) fn new(settings: &str) -> Mill {
        let (server, admin) = (RedisServer::start(), free_port());
        let component = guests::component("outside");
        let worker = Worker::spawn(&format!(
            "[redis]\nurl = \"{}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n[worker]\nthreads = 1\n\
             [handlers.outside]\ncomponent = \"{}\"\nstreams = [\"in\"]\npublishes = [\"outside.out\"]\n{GRANTS}\n{settings}",
            server.url(),
            component.display()
        ));
        let redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        Mill { redis, admin, _worker: worker, _server: server }
    }

    pub(super) fn add(&mut self, id: &str, r#type: &str, data: &str) {
        let mut add = redis::cmd("XADD");
        add.arg("in").arg("*").arg(&["ce_id", id, "ce_source", "/t", "ce_type", r#type, "data", data]);
        add.arg("ce_time").arg("2024-05-06T07:08:09Z").query::<String>(&mut self.redis).unwrap();
    }

    /// What the guest saw, once it has handled so many events.
    pub(super) fn wait_for(&mut self, count: usize) -> Vec<HashMap<String, String>> {
        eventually(&format!("{count} entries"), Duration::from_secs(30), || {
            let read = redis::cmd("XRANGE").arg(&["outside.out", "-", "+"]).query(&mut self.redis);
            let entries: Vec<(String, HashMap<String, String>)> = read.unwrap();
            (entries.len() >= count).then(|| entries.into_iter().map(|(_, fields)| fields).collect())
        })
    }
}

#[test]
fn determinism_is_per_delivery_on_instances_that_are_used_again() {
    let mut mill = Mill::new(&format!("{HTTP}\ndeterministic = true\nisolation = \"reuse\"\nlimits.concurrency = 1"));
    for id in ["a", "b", "a"] {
        mill.add(id, "ambient", "");
    }
    let entries = mill.wait_for(3);
    let of = |event: &str| entries.iter().filter(|entry| entry["ce_causationid"] == event).collect::<Vec<_>>();
    let [first, again] = of("a")[..] else { panic!("{entries:?}") };
    assert_eq!(first, again);
    assert_ne!(first["data"], of("b")[0]["data"]);
}
