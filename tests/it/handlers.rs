//! Handlers that fail in every way, in a real worker on a real Redis: what becomes of their events, and of the others.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

use redis::Connection;
use serde_json::Value;
use wasmill_tests::redis_server::{RedisServer, free_port};
use wasmill_tests::worker::{Signal, Worker, wasmill};
use wasmill_tests::{eventually, guests};

const DEADLINE: Duration = Duration::from_secs(30);

/// The names and values of an entry.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A server, a worker with the handler `faults` on it, and a way to ask.
struct Mill {
    server: RedisServer,
    worker: Worker,
    redis: Connection,
    admin: u16,
    config: tempfile::NamedTempFile,
}

impl Mill {
    /// `settings` go into the section of the handler, `more` behind it.
    fn new(settings: &str, more: &str) -> Mill {
        let server = RedisServer::start();
        let admin = free_port();
        let component = guests::component("faults");
        let config = format!(
            "[redis]\nurl = \"{}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
             [limits]\ndeadline = \"300ms\"\nmemory = \"8 MiB\"\nevent_bytes = \"64 KiB\"\n\
             [retry]\nmax_attempts = 3\nbase = \"10ms\"\ncap = \"50ms\"\n\
             [handlers.faults]\ncomponent = \"{}\"\nstreams = [\"in\"]\npublishes = [\"faults.out\"]\n{settings}\n{more}",
            server.url(),
            component.display(),
        );
        let worker = Worker::spawn(&config);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        let redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        eventually("the worker", DEADLINE, || worker.stderr_text().contains("ready").then_some(()));
        Mill { server, worker, redis, admin, config: file }
    }

    fn add_raw(&mut self, fields: &[(&[u8], &[u8])]) {
        let mut command = redis::cmd("XADD");
        command.arg("in").arg("*");
        for (name, value) in fields {
            command.arg(*name).arg(*value);
        }
        command.query::<String>(&mut self.redis).unwrap();
    }

    fn add(&mut self, r#type: &str, data: &[u8]) {
        let fields: [(&[u8], &[u8]); 4] =
            [(b"ce_id", b"1"), (b"ce_source", b"/t"), (b"ce_type", r#type.as_bytes()), (b"data", data)];
        self.add_raw(&fields);
    }

    fn entries(&mut self, stream: &str) -> Vec<Fields> {
        let entries: Vec<(String, Fields)> =
            redis::cmd("XRANGE").arg(&[stream, "-", "+"]).query(&mut self.redis).unwrap();
        entries.into_iter().map(|(_, fields)| fields).collect()
    }

    fn wait_for(&mut self, stream: &str, count: usize) -> Vec<Fields> {
        let what = format!("{count} entries in {stream}");
        eventually(&what, DEADLINE, || Some(self.entries(stream)).filter(|entries| entries.len() >= count))
    }

    fn wait_settled(&mut self) {
        for (stream, count) in [("in", "pending"), ("wasmill:inbox:faults", "pending")] {
            eventually(&format!("nothing {count} in {stream}"), DEADLINE, || {
                let groups: Vec<Vec<redis::Value>> =
                    redis::cmd("XINFO").arg(&["GROUPS", stream]).query(&mut self.redis).unwrap();
                // name, consumers, pending, last-delivered-id, entries-read, lag
                groups
                    .iter()
                    .all(|group| group[5] == redis::Value::Int(0) && group[11] == redis::Value::Int(0))
                    .then_some(())
            });
        }
    }

    fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{handler=\"faults\"}}")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn dlq(&self, arguments: &[&str]) -> Output {
        let config = self.config.path().to_str().unwrap();
        wasmill([&["dlq"], arguments, &["--config", config, "--output", "json"]].concat())
    }

    fn stop(mut self) {
        self.wait_settled();
        self.worker.signal(Signal::TERM);
        assert!(self.worker.wait_exit(DEADLINE).success(), "{}", self.worker.stderr_text());
    }
}

fn value(fields: &Fields, name: &str) -> String {
    let found = fields.iter().find(|(field, _)| field == name.as_bytes());
    String::from_utf8(found.unwrap_or_else(|| panic!("no field {name}")).1.clone()).unwrap()
}

#[test]
fn failures_are_tried_again_and_end_as_dead_letters_of_their_class() {
    let cases = [
        ("retry_always", "exhausted", "3"),
        ("reject", "rejected", "1"),
        ("panic", "trap", "3"),
        ("spin", "timeout", "3"),
        ("sleep", "timeout", "3"),
        ("hog", "out_of_memory", "3"),
        ("overflow", "stack_overflow", "3"),
        ("flood", "rejected", "1"),
    ];
    let mut mill = Mill::new("", "");
    for (r#type, ..) in cases {
        mill.add(r#type, b"");
    }
    let letters = mill.wait_for("faults.dead", cases.len());
    for (r#type, class, attempts) in cases {
        let letter = letters.iter().find(|letter| value(letter, "ce_type") == r#type).unwrap();
        assert_eq!(
            (value(letter, "dl_class").as_str(), value(letter, "dl_attempts").as_str()),
            (class, attempts),
            "{type}"
        );
        assert!(value(letter, "dl_digest").starts_with("sha256:"), "{type}");
    }
    assert_eq!(mill.entries("faults.out").len(), 0, "a delivery that fails publishes nothing");
    mill.stop();
}

#[test]
fn a_passing_failure_has_its_effects_once() {
    let mut mill = Mill::new("", "");
    mill.add("retry", b"");
    mill.add("retry_after", b"");
    let out = mill.wait_for("faults.out", 1);
    assert_eq!(value(&out[0], "ce_type"), "retried");
    mill.wait_settled();
    assert_eq!((mill.entries("faults.out").len(), mill.entries("faults.dead").len()), (1, 0));
    eventually("both to be counted", DEADLINE, || (mill.metric("wasmill_events_acked_total") == 2.0).then_some(()));
    assert_eq!(mill.metric("wasmill_events_retried_total"), 3.0, "two of `retry`, one of `retry_after`");
    mill.stop();
}

#[test]
fn entries_that_are_no_events_keep_every_byte_in_their_dead_letter() {
    let mut mill = Mill::new("", "[worker]\nthreads = 1\n");
    let cases: [&[(&[u8], &[u8])]; 5] = [
        &[(b"ce_source", b"/t"), (b"ce_type", b"ok"), (b"data", b"\xff\x00")],
        &[(b"ce_id", b"1"), (b"ce_source", b"/t"), (b"ce_type", b"ok"), (b"ce_type", b"reject")],
        &[(b"ce_id", b"1"), (b"ce_source", b"\xff\xfe"), (b"ce_type", b"ok")],
        &[(b"ce_id", b"1"), (b"ce_source", b"/t"), (b"ce_type", b"ok"), (b"ce_time", b"yesterday")],
        &[(b"", b""), (b"\x00", b"\xff")],
    ];
    for fields in cases {
        mill.add_raw(fields);
    }
    let letters = mill.wait_for("faults.dead", cases.len());
    for (letter, fields) in letters.iter().zip(cases) {
        assert_eq!(value(letter, "dl_class"), "malformed");
        let original = &letter[letter.len() - fields.len()..];
        let expected: Fields = fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        assert_eq!(original, expected);
    }
    mill.stop();
}

#[test]
fn unusual_events_are_handled() {
    let mut mill = Mill::new("types = [\"ok\", \"echo\"]", "");
    mill.add("echo", b"");
    mill.add("echo", b"\x81\xa1a\x01\xff\x00");
    let document = br#"{"specversion":"1.0","id":"s","source":"/t","type":"echo","data":{"b": 2}}"#;
    mill.add_raw(&[(b"content-type", b"application/cloudevents+json"), (b"data", document)]);
    mill.add("unwanted", b"");
    mill.add("echo", &[b'x'; 65 << 10]);
    let mut payloads: Vec<String> = mill
        .wait_for("faults.out", 3)
        .iter()
        .map(|fields| String::from_utf8_lossy(&fields.iter().find(|(name, _)| name == b"data").unwrap().1).into_owned())
        .collect();
    payloads.sort();
    let mut expected = [String::new(), String::from_utf8_lossy(b"\x81\xa1a\x01\xff\x00").into(), r#"{"b": 2}"#.into()];
    expected.sort();
    assert_eq!(payloads, expected);
    let letters = mill.wait_for("faults.dead", 1);
    assert_eq!(value(&letters[0], "dl_class"), "too_large");
    eventually("it to be counted", DEADLINE, || (mill.metric("wasmill_events_skipped_total") == 1.0).then_some(()));
    mill.stop();
}

#[test]
fn a_stuck_handler_holds_up_no_other() {
    let component = guests::component("faults");
    let other = format!(
        "[handlers.other]\ncomponent = \"{}\"\nstreams = [\"other\"]\npublishes = [\"faults.out\"]\n",
        component.display()
    );
    let mut mill = Mill::new("[handlers.faults.limits]\ndeadline = \"20s\"", &other);
    for _ in 0..20 {
        mill.add("spin", b"");
    }
    for number in 0..100 {
        let mut command = redis::cmd("XADD");
        command.arg(&["other", "*", "ce_id", &number.to_string(), "ce_source", "/t", "ce_type", "echo", "data", ""]);
        command.query::<String>(&mut mill.redis).unwrap();
    }
    // Well before the first of the stuck ones is given up.
    let what = "the other handler's follow-ups";
    eventually(what, Duration::from_secs(10), || (mill.entries("faults.out").len() == 100).then_some(()));
    assert_eq!(mill.entries("faults.dead").len(), 0);
    mill.worker.kill();
}

#[test]
fn reused_instances_remember_and_fresh_ones_do_not() {
    for (isolation, counts) in [("fresh", ["1", "1", "1"]), ("reuse", ["1", "2", "3"])] {
        let settings = format!("isolation = \"{isolation}\"\n[handlers.faults.limits]\nconcurrency = 1");
        let mut mill = Mill::new(&settings, "");
        for count in 1..=3 {
            mill.add("remember", b"");
            mill.wait_for("faults.out", count);
        }
        let seen: Vec<String> = mill.entries("faults.out").iter().map(|fields| value(fields, "data")).collect();
        assert_eq!(seen, counts, "{isolation}");
        mill.stop();
    }
}

#[test]
fn a_reused_instance_is_replaced_after_a_trap_and_after_its_events() {
    let settings = "isolation = \"reuse\"\n[handlers.faults.limits]\nconcurrency = 1\n\
                    [handlers.faults.reuse]\nmax_events = 3\n[handlers.faults.retry]\nmax_attempts = 1";
    let mut mill = Mill::new(settings, "");
    mill.add("remember", b"");
    mill.wait_for("faults.out", 1);
    mill.add("panic", b"");
    mill.wait_for("faults.dead", 1);
    for count in 2..=5 {
        mill.add("remember", b"");
        mill.wait_for("faults.out", count);
    }
    let seen: Vec<String> = mill.entries("faults.out").iter().map(|fields| value(fields, "data")).collect();
    assert_eq!(seen, ["1", "1", "2", "3", "1"]);
    mill.stop();
}

#[test]
fn dead_letters_are_listed_shown_redriven_once_and_dropped() {
    let other = format!(
        "[handlers.bystander]\ncomponent = \"{}\"\nstreams = [\"in\"]\npublishes = [\"bystander.out\"]\n",
        guests::component("faults").display()
    );
    let mut mill = Mill::new("", &other);
    mill.add("reject", b"why");
    mill.wait_for("faults.dead", 1);
    mill.wait_for("bystander.dead", 1);
    let listed: Value = serde_json::from_slice(&mill.dlq(&["ls", "faults"]).stdout).unwrap();
    let letter = &listed[0];
    let id = letter["id"].as_str().unwrap().to_owned();
    for (name, expected) in
        [("stream", "in"), ("handler", "faults"), ("class", "rejected"), ("message", "rejected as asked")]
    {
        assert_eq!(letter[name], expected, "{letter}");
    }
    assert_eq!((letter["attempts"].as_u64(), letter["event"]["id"].as_str()), (Some(1), Some("1")));
    assert!(letter["first_time"].as_u64() <= letter["last_time"].as_u64() && letter["first_time"].as_u64() > Some(0));
    assert!(letter["worker"].as_str().unwrap().starts_with("wasmill-"));
    let shown: Value = serde_json::from_slice(&mill.dlq(&["show", "faults", &id]).stdout).unwrap();
    assert_eq!(&shown, letter);

    let redriven: Value = serde_json::from_slice(&mill.dlq(&["redrive", "faults", &id]).stdout).unwrap();
    assert_eq!(redriven["redriven"][0], id.as_str());
    // It is rejected again: a new dead letter of the same event and place, and only of this handler.
    let again = mill.wait_for("faults.dead", 1);
    assert_eq!(
        (value(&again[0], "ce_id"), value(&again[0], "dl_stream"), value(&again[0], "dl_attempts")),
        ("1".into(), "in".into(), "1".into())
    );
    assert_eq!(value(&again[0], "dl_entry_id"), letter["entry_id"].as_str().unwrap());
    let twice: Value = serde_json::from_slice(&mill.dlq(&["redrive", "faults", &id]).stdout).unwrap();
    assert_eq!((twice["redriven"].as_array().unwrap().len(), twice["absent"][0].as_str()), (0, Some(id.as_str())));
    mill.wait_settled();
    assert_eq!((mill.entries("faults.dead").len(), mill.entries("bystander.dead").len()), (1, 1));

    let dropped: Value = serde_json::from_slice(&mill.dlq(&["drop", "faults", "--all"]).stdout).unwrap();
    assert_eq!((dropped["dropped"].as_array().unwrap().len(), mill.entries("faults.dead").len()), (1, 0));
    assert_eq!(mill.dlq(&["show", "faults", &id]).status.code(), Some(1));
    assert_eq!(mill.dlq(&["ls", "nobody"]).status.code(), Some(2));
    assert!(!mill.server.url().is_empty());
    mill.stop();
}
