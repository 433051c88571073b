//! Handlers that fail, in a real worker on a real Redis, at the edges: when they run again, what their effects are, what
//! they are told, and what of them survives in an instance. How each fault ends is in `handlers.rs`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

use redis::Connection;
use serde_json::Value;
use wasmill::wasm::Digest;
use wasmill_tests::redis_server::{RedisServer, free_port};
use wasmill_tests::worker::{Signal, Worker};
use wasmill_tests::{eventually, guests};

use super::invoke::{Place, code, said};

const DEADLINE: Duration = Duration::from_secs(30);

/// An entry's id and fields.
pub(super) type Entry = (String, Vec<(Vec<u8>, Vec<u8>)>);

/// A server, and workers on it with a handler `faults` that reads `faults.in`.
pub(super) struct Mill {
    pub(super) redis: Connection,
    pub(super) worker: Worker,
    pub(super) place: Place,
    admin: u16,
    server: RedisServer,
}

impl Mill {
    /// `settings` go into the section of the handler, and what follows them behind it.
    pub(super) fn new(settings: &str) -> Mill {
        let (server, admin) = (RedisServer::start(), free_port());
        let config = config(&server, admin, settings);
        let worker = Worker::spawn(&config);
        let redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        let mill = Mill { redis, worker, place: Place::new(&config), admin, server };
        mill.wait_ready();
        mill
    }

    /// Ends the worker and starts another one with other settings.
    pub(super) fn restart(&mut self, settings: &str) {
        self.worker.kill();
        let config = config(&self.server, self.admin, settings);
        self.place.write("wasmill.toml", config.as_bytes());
        self.worker = Worker::spawn(&config);
        self.wait_ready();
    }

    /// Has the worker take over other settings.
    pub(super) fn reload(&self, settings: &str) {
        self.worker.reconfigure(&config(&self.server, self.admin, settings));
        self.worker.signal(Signal::HUP);
    }

    /// Pauses a handler, or lets it go on.
    pub(super) fn set_paused(&self, handler: &str, paused: bool) {
        use wasmill::broker::Inspect as _;
        use wasmill::broker::redis::{RedisBroker, RedisSettings};
        let broker = RedisBroker::new(RedisSettings::new(&self.server.url()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(runtime.block_on(broker.set_paused(handler, paused)).unwrap());
    }

    /// Starts one more worker with the same configuration, but for the admin port.
    pub(super) fn spawn_another(&self) -> Worker {
        let config = std::fs::read_to_string(self.place.path().join("wasmill.toml")).unwrap();
        let own = format!("127.0.0.1:{}", self.admin);
        Worker::spawn(&config.replace(&own, &format!("127.0.0.1:{}", free_port())))
    }

    fn wait_ready(&self) {
        eventually("the worker", DEADLINE, || self.worker.stderr_text().contains("ready").then_some(()));
    }

    /// Where clients connect to.
    pub(super) fn url(&self) -> String {
        self.server.url()
    }

    pub(super) fn add_raw(&mut self, stream: &str, fields: &[(&[u8], &[u8])]) -> String {
        let mut command = redis::cmd("XADD");
        command.arg(stream).arg("*");
        for (name, value) in fields {
            command.arg(*name).arg(*value);
        }
        command.query(&mut self.redis).unwrap()
    }

    /// Adds an event to `faults.in`, and returns the id of its entry.
    pub(super) fn add(&mut self, id: &str, r#type: &str, data: &[u8]) -> String {
        let fields: [(&[u8], &[u8]); 4] =
            [(b"ce_id", id.as_bytes()), (b"ce_source", b"/t"), (b"ce_type", r#type.as_bytes()), (b"data", data)];
        self.add_raw("faults.in", &fields)
    }

    pub(super) fn entries(&mut self, stream: &str) -> Vec<Entry> {
        redis::cmd("XRANGE").arg(&[stream, "-", "+"]).query(&mut self.redis).unwrap()
    }

    pub(super) fn wait_for(&mut self, stream: &str, count: usize) -> Vec<Entry> {
        let what = format!("{count} entries in {stream}");
        eventually(&what, DEADLINE, || Some(self.entries(stream)).filter(|entries| entries.len() >= count))
    }

    /// Waits until all entries have been read and nothing is pending.
    pub(super) fn wait_settled(&mut self) {
        for stream in ["faults.in", "wasmill:inbox:faults"] {
            eventually(&format!("{stream} to be settled"), DEADLINE, || {
                let groups: Vec<std::collections::HashMap<String, redis::Value>> =
                    redis::cmd("XINFO").arg(&["GROUPS", stream]).query(&mut self.redis).unwrap();
                let zero = |group: &std::collections::HashMap<_, _>, name| group[name] == redis::Value::Int(0);
                let done =
                    !groups.is_empty() && groups.iter().all(|group| zero(group, "pending") && zero(group, "lag"));
                done.then_some(())
            });
        }
        let pending: (usize, redis::Value, redis::Value, redis::Value) =
            redis::cmd("XPENDING").arg(&["faults.in", "faults"]).query(&mut self.redis).unwrap();
        assert_eq!(pending.0, 0);
    }

    /// The server's clock, in milliseconds since the Unix epoch.
    pub(super) fn now(&mut self) -> u64 {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(&mut self.redis).unwrap();
        seconds * 1000 + micros / 1000
    }

    /// All metrics of the worker.
    pub(super) fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    pub(super) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{handler=\"faults\"}}")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// What a verb says with the worker's configuration.
    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        self.place.run(arguments)
    }
}

fn config(server: &RedisServer, admin: u16, settings: &str) -> String {
    format!(
        "[redis]\nurl = \"{}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [worker]\nthreads = 2\nheartbeat = \"200ms\"\nheartbeat_ttl = \"1s\"\nretention_interval = \"50ms\"\n\
         [limits]\ndeadline = \"300ms\"\nmemory = \"8 MiB\"\nevent_bytes = \"64 KiB\"\n\
         [retry]\nmax_attempts = 3\nbase = \"10ms\"\ncap = \"50ms\"\n\
         [handlers.faults]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n{settings}\n",
        server.url(),
        guests::component("faults").display(),
    )
}

/// The milliseconds of an entry's id.
pub(super) fn ms(id: &str) -> u64 {
    id.split('-').next().unwrap().parse().unwrap()
}

pub(super) fn bytes<'a>(entry: &'a Entry, name: &str) -> &'a [u8] {
    let found = entry.1.iter().find(|(field, _)| field == name.as_bytes());
    &found.unwrap_or_else(|| panic!("no field {name} in {entry:?}")).1
}

pub(super) fn text<'a>(entry: &'a Entry, name: &str) -> &'a str {
    std::str::from_utf8(bytes(entry, name)).unwrap()
}

#[test]
fn a_handler_is_not_run_again_before_the_time_it_asked_for() {
    // Beyond the longest pause of its own retries, so that only obeying it explains the wait.
    let mut mill = Mill::new("");
    let added = mill.add("1", "retry_after", b"");
    eventually("the first attempt", DEADLINE, || (mill.metric("wasmill_events_retried_total") == 1.0).then_some(()));
    mill.wait_settled();
    let waited = mill.now() - ms(&added);
    assert!((200..10_000).contains(&waited), "settled after {waited} ms");
    eventually("the second", DEADLINE, || (mill.metric("wasmill_events_acked_total") == 1.0).then_some(()));
    assert_eq!(mill.entries("faults.dead").len(), 0);
}

#[test]
fn refused_and_failed_deliveries_have_no_effects_and_careless_ones_what_is_allowed() {
    let mut mill = Mill::new("[handlers.faults.limits]\npublishes = 5\nmemory = \"32 MiB\"\ndeadline = \"20s\"");
    for r#type in ["flood", "denied", "oversized", "abuse_attributes", "batch_denied"] {
        mill.add(r#type, r#type, b"");
    }
    let letters = mill.wait_for("faults.dead", 4);
    mill.wait_settled();
    let class = |id: &str| {
        let letter = letters.iter().find(|letter| text(letter, "ce_id") == id);
        letter.map(|letter| (text(letter, "dl_class").to_owned(), text(letter, "dl_message").to_owned()))
    };
    assert_eq!(class("flood"), Some(("rejected".into(), "too-many after 5".into())));
    assert!(class("denied").is_some_and(|(class, message)| class == "rejected" && message.contains("forbidden")));
    assert!(class("oversized").is_some_and(|(class, _)| class == "trap"));
    assert!(class("abuse_attributes").is_some_and(|(class, _)| class == "rejected"));
    assert_eq!(class("batch_denied"), None, "it goes on without its batch");
    let known: Vec<String> = redis::cmd("KEYS").arg("f*").query(&mut mill.redis).unwrap();
    assert!(!known.contains(&"forbidden".to_owned()) && mill.entries("faults.out").is_empty(), "{known:?}");
    mill.add("careless", "flood_ignore", b"");
    let mut ids: Vec<String> =
        mill.wait_for("faults.out", 5).iter().map(|entry| text(entry, "ce_id").to_owned()).collect();
    mill.wait_settled();
    assert_eq!(mill.entries("faults.out").len(), 5);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5, "each follow-up has an id of its own");
}

#[test]
fn a_worker_and_invoke_derive_the_same_follow_ups() {
    let mut mill = Mill::new("");
    mill.add("cause", "batch", b"");
    let out = mill.wait_for("faults.out", 3);
    let event = mill.place.write("e.json", br#"{"specversion":"1.0","id":"cause","source":"/t","type":"batch"}"#);
    let component = guests::component("faults");
    let digest = Digest::of(&std::fs::read(&component).unwrap()).to_string();
    let (component, event) = (component.to_str().unwrap(), event.to_str().unwrap());
    let output = mill.run(&["invoke", component, "--event", event, "--handler", "faults", "--output", "json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let published = json["published"].as_array().unwrap();
    assert_eq!(published.len(), 3);
    for (entry, event) in out.iter().zip(published) {
        for (field, name) in [("ce_id", "id"), ("ce_type", "type"), ("ce_source", "source")] {
            assert_eq!(event[name], text(entry, field), "{json}");
        }
        assert_eq!((text(entry, "ce_causationid"), text(entry, "ce_correlationid")), ("cause", "cause"));
        assert_eq!((text(entry, "ce_handlerdigest"), &event["handlerdigest"]), (&*digest, &Value::from(&*digest)));
    }
    mill.wait_settled();
}

#[test]
fn payloads_pass_through_to_the_byte() {
    let mut mill = Mill::new("");
    let json = r#"{"z": 1.50, "a": [1, "ü"],  "n": null}"#;
    let output = mill.run(&["send", "faults.in", "echo", json, "--msgpack", "--id", "packed"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let structured: [&[u8]; 2] = [
        br#"{"specversion":"1.0","id":"s1","source":"/t","type":"echo","data_base64":"AP/+"}"#,
        br#"{"specversion":"1.0","id":"s2","source":"/t","type":"echo","data":"plain","datacontenttype":"text/plain"}"#,
    ];
    for document in structured {
        let media: (&[u8], &[u8]) = (b"content-type", b"application/cloudevents+json; charset=utf-8");
        mill.add_raw("faults.in", &[media, (b"data", document)]);
    }
    mill.add("raw", "echo", &(0..=255).collect::<Vec<u8>>());
    let out = mill.wait_for("faults.out", 4);
    let of = |cause: &str| out.iter().find(|entry| text(entry, "ce_causationid") == cause).unwrap();
    let sent = mill.entries("faults.in").into_iter().find(|entry| text(entry, "ce_id") == "packed").unwrap();
    assert_eq!(bytes(&sent, "data")[..3], [0x83, 0xa1, b'z'], "a map of three whose first key is z");
    assert_eq!(bytes(of("packed"), "data"), bytes(&sent, "data"));
    assert_eq!(text(of("packed"), "content-type"), "application/msgpack");
    assert_eq!(bytes(of("s1"), "data"), b"\x00\xff\xfe");
    assert_eq!((text(of("s2"), "data"), text(of("s2"), "content-type")), ("plain", "text/plain"));
    assert_eq!(bytes(of("raw"), "data"), (0..=255).collect::<Vec<u8>>());
    mill.wait_settled();
}

#[test]
fn structured_entries_that_are_no_events_keep_every_byte() {
    let mut mill = Mill::new("");
    let documents: [&[u8]; 4] = [
        b"{\"specversion\":\"1.0\"",
        b"\xff\xfe",
        br#"{"specversion":"1.0","id":"1","source":"/t"}"#,
        br#"{"specversion":"1.0","id":"1","source":"/t","type":"ok","data":1,"data_base64":"AA=="}"#,
    ];
    for document in documents {
        mill.add_raw("faults.in", &[(b"content-type", b"application/cloudevents+json"), (b"data", document)]);
    }
    let letters = mill.wait_for("faults.dead", documents.len());
    // In any order: two threads settle them.
    for document in documents {
        let letter = letters.iter().find(|letter| bytes(letter, "data") == document).expect("one for each");
        assert_eq!((text(letter, "dl_class"), text(letter, "dl_attempts")), ("malformed", "1"));
        assert!(!text(letter, "dl_message").is_empty());
        assert_eq!(text(letter, "dl_original_fields"), "2");
    }
    mill.wait_settled();
}

#[test]
fn the_largest_event_is_handled_and_one_byte_more_is_not() {
    let mut mill = Mill::new("");
    // All texts of the event count: id, source and type.
    let room = (64 << 10) - "1".len() - "/t".len() - "echo".len();
    mill.add("1", "echo", &vec![b'x'; room]);
    mill.add("2", "echo", &vec![b'x'; room + 1]);
    let letters = mill.wait_for("faults.dead", 1);
    assert_eq!((text(&letters[0], "ce_id"), text(&letters[0], "dl_class")), ("2", "too_large"));
    assert_eq!(bytes(&letters[0], "data").len(), room + 1, "the dead letter keeps the payload");
    let out = mill.wait_for("faults.out", 1);
    assert_eq!((out.len(), bytes(&out[0], "data").len()), (1, room));
    mill.wait_settled();
}

#[test]
fn log_floods_are_bounded_counted_and_no_failure() {
    let mut mill = Mill::new("[handlers.faults.limits]\ndeadline = \"5s\"\nlog_bytes = \"4 KiB\"");
    mill.add("1", "log_flood", b"");
    eventually("it to be handled", DEADLINE, || (mill.metric("wasmill_events_acked_total") == 1.0).then_some(()));
    let dropped = mill.metric("wasmill_guest_log_dropped_bytes_total");
    assert!(dropped > f64::from(3 << 20) - 8192.0, "{dropped}");
    let log = mill.worker.stderr_text();
    assert!(log.len() < 64 << 10 && log.contains("limits.log_bytes"), "{} bytes", log.len());
    mill.wait_settled();
}

#[test]
fn what_a_guest_says_is_logged_with_its_delivery() {
    let mut mill = Mill::new("[log]\nformat = \"json\"");
    let entry = mill.add("event-1", "log", b"line one\nforged line");
    let find = |text: &str| {
        let log = mill.worker.stderr_text();
        // The last line may be half written.
        let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
        let mut lines =
            whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}")));
        lines.rfind(|line| line.to_string().contains(text))
    };
    let line = eventually("the line", DEADLINE, || find("hello from the guest"));
    let all = line.to_string();
    let digest = Digest::of(&std::fs::read(guests::component("faults")).unwrap()).to_string();
    for (name, value) in [
        ("tenant", "default"),
        ("handler", "faults"),
        ("stream", "faults.in"),
        ("entry", &entry),
        ("event", "event-1"),
        ("digest", &digest),
        ("outcome", "ack"),
    ] {
        assert!(all.contains(&format!("\"{name}\":\"{value}\"")), "{name} is missing in {line:#}");
    }
    for name in ["\"attempt\":1", "\"duration_us\":"] {
        assert!(all.contains(name), "{name} is missing in {line:#}");
    }
    assert!(all.contains("line one forged line"), "a line break is no way to another line: {line:#}");
    eventually("its stdout", DEADLINE, || find("to stdout"));
    eventually("its stderr", DEADLINE, || find("to stderr"));
    mill.wait_settled();
}

#[test]
fn concurrency_bounds_what_runs_at_the_same_time() {
    let mut mill = Mill::new("[handlers.faults.limits]\ndeadline = \"5s\"\nconcurrency = 1");
    let first = mill.add("0", "sleep", b"150");
    for number in 1..4 {
        mill.add(&number.to_string(), "sleep", b"150");
    }
    mill.wait_settled();
    let one_by_one = mill.now() - ms(&first);
    assert!(one_by_one >= 600, "four times 150 ms took {one_by_one} ms");
    mill.restart("[handlers.faults.limits]\ndeadline = \"5s\"\nconcurrency = 16");
    let first = mill.add("0", "sleep", b"1000");
    for number in 1..16 {
        mill.add(&number.to_string(), "sleep", b"1000");
    }
    mill.wait_settled();
    let together = mill.now() - ms(&first);
    assert!((1000..8000).contains(&together), "sixteen times 1000 ms at once took {together} ms");
}

/// What `remember` has counted, in order.
fn counts(mill: &mut Mill, adds: &[&str]) -> Vec<String> {
    let mut published = 0;
    for (number, r#type) in adds.iter().enumerate() {
        let id = number.to_string();
        mill.add(&id, r#type, b"");
        if *r#type == "remember" {
            published += 1;
            mill.wait_for("faults.out", published);
        }
        // One after the other, so that it is known which instance has what.
        mill.wait_settled();
    }
    mill.entries("faults.out").iter().map(|entry| text(entry, "data").to_owned()).collect()
}

fn reuse(more: &str) -> String {
    format!(
        "isolation = \"reuse\"\n[handlers.faults.limits]\nconcurrency = 1\nmemory = \"32 MiB\"\n\
         [handlers.faults.retry]\nmax_attempts = 1\n[handlers.faults.reuse]\n{more}"
    )
}

#[test]
fn a_reused_instance_that_grows_too_much_is_replaced() {
    let adds = ["remember", "grow", "grow", "grow", "grow", "remember", "remember"];
    for (bound, expected) in [("2 MiB", ["1", "1", "2"]), ("30 MiB", ["1", "2", "3"])] {
        let mut mill = Mill::new(&reuse(&format!("max_memory_growth = \"{bound}\"")));
        assert_eq!(counts(&mut mill, &adds), expected, "max_memory_growth = {bound}");
        assert_eq!(mill.entries("faults.dead").len(), 0);
    }
}

#[test]
fn a_reused_instance_survives_a_refusal_and_no_fault() {
    for (fault, expected) in [
        ("reject", ["1", "2"]),
        ("retry_always", ["1", "2"]),
        ("denied", ["1", "2"]),
        ("spin", ["1", "1"]),
        ("sleep", ["1", "1"]),
        ("hog", ["1", "1"]),
        ("overflow", ["1", "1"]),
        ("exit", ["1", "1"]),
    ] {
        let mut mill = Mill::new(&reuse(""));
        assert_eq!(counts(&mut mill, &["remember", fault, "remember"]), expected, "{fault}");
        assert_eq!(mill.entries("faults.dead").len(), 1, "{fault}");
    }
}

#[test]
fn a_worker_that_is_told_to_end_finishes_what_runs() {
    let mut mill = Mill::new("[handlers.faults.limits]\ndeadline = \"20s\"\nconcurrency = 2");
    mill.add("1", "sleep", b"2000");
    mill.add("2", "sleep", b"2000");
    // Pending for a while: they run, and are not on their way from Redis.
    let running = |mill: &mut Mill| -> usize {
        let arguments = ["faults.in", "faults", "IDLE", "300", "-", "+", "10"];
        let entries: Vec<redis::Value> = redis::cmd("XPENDING").arg(&arguments).query(&mut mill.redis).unwrap();
        entries.len()
    };
    eventually("both to run", DEADLINE, || (running(&mut mill) == 2).then_some(()));
    mill.worker.signal(Signal::TERM);
    eventually("it to drain", DEADLINE, || mill.worker.stderr_text().contains("draining").then_some(()));
    assert!(mill.worker.wait_exit(DEADLINE).success(), "{}", mill.worker.stderr_text());
    let pending: (usize, redis::Value, redis::Value, redis::Value) =
        redis::cmd("XPENDING").arg(&["faults.in", "faults"]).query(&mut mill.redis).unwrap();
    assert_eq!(pending.0, 0, "{}", mill.worker.stderr_text());
    // What comes now is for the next one, and only that.
    mill.add("3", "echo", b"");
    mill.restart("");
    assert_eq!(mill.wait_for("faults.out", 1).len(), 1);
    mill.wait_settled();
    eventually("it alone", DEADLINE, || (mill.metric("wasmill_events_acked_total") == 1.0).then_some(()));
    assert_eq!(mill.entries("faults.dead").len(), 0);
}
