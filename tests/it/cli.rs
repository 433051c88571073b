//! The verbs that end by themselves: `check`, `invoke`, `send`, `dlq`. What they print, and how they exit.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use wasmill_tests::guests;
use wasmill_tests::redis_server::{RedisServer, free_port};
use wasmill_tests::worker::{binary, wasmill};

/// A directory with a configuration.
struct Place(TempDir);

impl Place {
    fn new(config: &str) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.write("wasmill.toml", config.as_bytes());
        place
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_stdin(arguments, "")
    }

    fn run_with_stdin(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut child = Command::new(binary())
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that does not read its input closes it.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Runs one event of a type through the component `faults`; the JSON that comes out, and the exit code.
    fn invoke(&self, r#type: &str, arguments: &[&str]) -> (Value, i32) {
        let event = format!(r#"{{"specversion":"1.0","id":"1","source":"/t","type":"{type}","data":{{"a":1}}}}"#);
        self.write("event.json", event.as_bytes());
        let component = guests::component("faults");
        let fixed = ["invoke", component.to_str().unwrap(), "--event", "event.json", "--output", "json"];
        let output = self.run(&[&fixed, arguments].concat());
        let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", all(&output)));
        (json, output.status.code().unwrap())
    }
}

fn all(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

const LIMITS: &str = "[limits]\ndeadline = \"300ms\"\nmemory = \"16 MiB\"\nlog_bytes = \"2 KiB\"\n";

#[test]
fn invoke_tells_outcomes_apart() {
    let place = Place::new(LIMITS);
    let cases = [
        ("ok", "ack", 0, Value::Null, ""),
        ("reject", "reject", 11, Value::Null, "rejected as asked"),
        ("retry", "retry", 10, Value::Null, "attempt 1"),
        ("panic", "trap", 12, "trap".into(), "panicked as asked"),
        ("overflow", "trap", 12, "stack_overflow".into(), "stack"),
        ("hog", "trap", 12, "out_of_memory".into(), "16777216 bytes"),
        ("exit", "trap", 12, "trap".into(), "exit"),
        ("spin", "timeout", 13, "timeout".into(), "300ms"),
        ("sleep", "timeout", 13, "timeout".into(), "300ms"),
        ("flood", "reject", 11, Value::Null, "too-many after 64"),
        ("oversized", "trap", 12, "trap".into(), "too much data"),
        ("unheard_of", "reject", 11, Value::Null, "unheard_of"),
    ];
    for (r#type, outcome, code, class, message) in cases {
        let (json, exit) = place.invoke(r#type, &[]);
        assert_eq!((json["outcome"].as_str(), exit), (Some(outcome), code), "{type}: {json}");
        assert_eq!(json["class"], class, "{type}");
        assert!(json["message"].as_str().unwrap().contains(message), "{type}: {json}");
        assert!(json["memory_bytes"].as_u64().unwrap() > 0, "{type}: {json}");
        assert!(outcome == "ack" || json["published"].as_array().unwrap().is_empty(), "{type}: {json}");
    }
}

#[test]
fn invoke_shows_follow_ups_with_ids_that_depend_on_the_event_alone() {
    let place = Place::new(LIMITS);
    let (first, _) = place.invoke("echo", &[]);
    let (again, _) = place.invoke("echo", &["--attempt", "2"]);
    let published = &first["published"][0];
    assert_eq!((published["stream"].as_str(), published["type"].as_str()), (Some("faults.out"), Some("echoed")));
    assert_eq!(published["data"]["a"], 1);
    assert_eq!((published["causationid"].as_str(), published["correlationid"].as_str()), (Some("1"), Some("1")));
    assert_eq!(published["id"], again["published"][0]["id"]);
    let (batch, _) = place.invoke("batch", &[]);
    let ids: std::collections::BTreeSet<&str> =
        batch["published"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn invoke_grants_what_is_named_and_nothing_else() {
    let place = Place::new(LIMITS);
    let (json, code) = place.invoke("denied", &["--publishes", "faults.out"]);
    assert_eq!(code, 11, "{json}");
    assert!(json["message"].as_str().unwrap().contains("denied: forbidden"), "{json}");
    let (json, _) = place.invoke("batch_denied", &["--publishes", "faults.out"]);
    assert_eq!((json["outcome"].as_str(), json["published"].as_array().unwrap().len()), (Some("ack"), 0));
    let (json, _) = place.invoke("abuse_attributes", &[]);
    assert!(json["message"].as_str().unwrap().contains("invalid"), "{json}");
    let (json, _) = place.invoke("files", &[]);
    assert_eq!(json["published"][0]["data"].to_string(), r#"{"env":0,"files":false,"net":false}"#, "{json}");
}

#[test]
fn logs_are_collected_and_bounded() {
    let place = Place::new(LIMITS);
    let (json, _) = place.invoke("log", &[]);
    let lines: Vec<(&str, &str)> = json["logs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["source"].as_str().unwrap(), line["message"].as_str().unwrap()))
        .collect();
    let text = r#": {"a":1}"#;
    assert!(lines.contains(&("logging", format!("hello from the guest{text}").as_str())), "{json}");
    assert!(lines.contains(&("stdout", format!("to stdout{text}").as_str())), "{json}");
    assert!(lines.contains(&("stderr", format!("to stderr{text}").as_str())), "{json}");
    let (json, code) = place.invoke("log_flood", &[]);
    let kept: usize = json["logs"].as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().len()).sum();
    assert_eq!(code, 0);
    assert!(kept <= 2048 && json["logs_dropped_bytes"].as_u64().unwrap() > 1 << 20, "kept {kept}");
}

#[test]
fn components_that_do_not_fit_are_explained() {
    let place = Place::new("");
    let whole = std::fs::read(guests::component("faults")).unwrap();
    place.write("event.json", br#"{"specversion":"1.0","id":"1","source":"/t","type":"ok"}"#);
    let cases: [(&str, &[u8], &str); 5] = [
        ("core.wasm", b"\0asm\x01\0\0\0", "a core module, not a component"),
        ("empty.wasm", b"\0asm\x0d\0\x01\0", "does not export wasmill:events/handler@0.1.0"),
        ("cut.wasm", &whole[..whole.len() / 2], "not valid"),
        ("text.wasm", b"hello", "not a WebAssembly file"),
        ("nothing.wasm", b"", "not a WebAssembly file"),
    ];
    for (name, bytes, message) in cases {
        place.write(name, bytes);
        let output = place.run(&["invoke", name, "--event", "event.json"]);
        assert_eq!(code(&output), 2, "{name}");
        assert!(all(&output).contains(message) && all(&output).contains(name), "{name}: {}", all(&output));
    }
    let output = place.run(&["invoke", "absent.wasm", "--event", "event.json"]);
    assert!(code(&output) == 2 && all(&output).contains("absent.wasm"), "{}", all(&output));
    let component = guests::component("faults");
    place.write("bad.json", br#"{"specversion":"1.0","id":"","source":"/t","type":"ok"}"#);
    let output = place.run(&["invoke", component.to_str().unwrap(), "--event", "bad.json"]);
    assert!(code(&output) == 2 && all(&output).contains("`id` is empty"), "{}", all(&output));
}

#[test]
fn check_explains_every_fault_with_its_place() {
    let component = guests::component("faults");
    let component = component.display();
    let good = Place::new(&format!("[handlers.a]\ncomponent = \"{component}\"\nstreams = [\"s\"]\n"));
    let output = good.run(&["check"]);
    assert!(code(&output) == 0 && all(&output).contains("ok: 1 handler\n"), "{}", all(&output));

    let text = format!(
        "[redis]\nurll = \"redis://localhost\"\n\n[handlers.a]\ncomponent = \"{component}\"\nstreems = [\"s\"]\n\
         streams = [\"s\"]\n[handlers.a.limits]\ndeadline = \"soon\"\n"
    );
    let output = Place::new(&text).run(&["check"]);
    assert_eq!(code(&output), 2);
    let said = all(&output);
    for expected in ["wasmill.toml:2", "`url`", "wasmill.toml:6", "`streams`", "wasmill.toml:9", "deadline"] {
        assert!(said.contains(expected), "{expected} is missing in: {said}");
    }

    let missing = Place::new(
        "[handlers.a]\ncomponent = \"absent.wasm\"\nstreams = [\"s\"]\n[handlers.b]\ncomponent = \"core.wasm\"\nstreams = [\"s\"]\n",
    );
    missing.write("core.wasm", b"\0asm\x01\0\0\0");
    let output = missing.run(&["check", "--output", "json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), json["ok"].as_bool(), json["handlers"].as_u64()), (2, Some(false), Some(2)));
    let faults: Vec<&str> = json["faults"].as_array().unwrap().iter().map(|fault| fault.as_str().unwrap()).collect();
    assert!(faults[0].contains("handlers.a.component") && faults[0].contains("absent.wasm"), "{faults:?}");
    assert!(faults[1].contains("handlers.b.component") && faults[1].contains("core module"), "{faults:?}");

    assert_eq!(wasmill(["check", "--config", "/absent/wasmill.toml"]).status.code(), Some(2));
}

/// The names and values of an entry.
type Fields = Vec<(String, Vec<u8>)>;

fn entries(server: &RedisServer, stream: &str) -> Vec<Fields> {
    let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let entries: Vec<(String, Fields)> = redis::cmd("XRANGE").arg(&[stream, "-", "+"]).query(&mut redis).unwrap();
    entries.into_iter().map(|(_, fields)| fields).collect()
}

fn value<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> &'a [u8] {
    &fields.iter().find(|(field, _)| field == name).unwrap_or_else(|| panic!("no field {name}")).1
}

#[test]
fn send_publishes_from_argument_file_and_stdin() {
    let server = RedisServer::start();
    let place = Place::new(&format!("[redis]\nurl = \"{}\"\n", server.url()));
    place.write("data.json", br#"{"from":"file"}"#);
    let argument = place.run(&["send", "s", "t", r#"{"from":"argument"}"#, "--subject", "x", "--attribute", "shop=1"]);
    let id = String::from_utf8(argument.stdout).unwrap();
    assert_eq!(code(&place.run(&["send", "s", "t", "--file", "data.json"])), 0);
    assert_eq!(code(&place.run_with_stdin(&["send", "s", "t", "--id", "mine"], r#"{"from":"stdin"}"#)), 0);
    assert_eq!(code(&place.run(&["send", "s", "t", r#"{"a":1}"#, "--msgpack"])), 0);
    let entries = entries(&server, "s");
    assert_eq!(value(&entries[0], "ce_id"), id.trim().as_bytes());
    assert_eq!((value(&entries[0], "ce_subject"), value(&entries[0], "ce_shop")), (&b"x"[..], &b"1"[..]));
    assert_eq!(value(&entries[0], "data"), br#"{"from":"argument"}"#);
    assert_eq!(value(&entries[1], "data"), br#"{"from":"file"}"#);
    assert_eq!((value(&entries[2], "data"), value(&entries[2], "ce_id")), (&br#"{"from":"stdin"}"#[..], &b"mine"[..]));
    assert_eq!(
        (value(&entries[3], "data"), value(&entries[3], "content-type")),
        (&b"\x81\xa1a\x01"[..], &b"application/msgpack"[..])
    );
}

#[test]
fn send_batch_publishes_a_line_an_event_in_order() {
    let server = RedisServer::start();
    let place = Place::new(&format!("[redis]\nurl = \"{}\"\n", server.url()));
    let lines: String = (0..2500).map(|number| format!("{{\"n\":{number}}}\n")).collect();
    let output = place.run_with_stdin(&["send", "s", "t", "--batch"], &lines);
    assert_eq!(code(&output), 0, "{}", all(&output));
    let ids: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let entries = entries(&server, "s");
    assert_eq!((ids.len(), entries.len()), (2500, 2500));
    for (number, (fields, id)) in entries.iter().zip(&ids).enumerate() {
        assert_eq!(value(fields, "data"), format!("{{\"n\":{number}}}").as_bytes());
        assert_eq!(value(fields, "ce_id"), id.as_bytes());
    }
    let output = place.run_with_stdin(&["send", "other", "t", "--batch"], "{}\nnot json\n");
    assert!(code(&output) == 2 && all(&output).contains("line 2"), "{}", all(&output));
}

#[test]
fn send_says_what_is_wrong() {
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let place = Place::new(&format!("[redis]\nurl = \"{nobody}\"\n[limits]\nevent_bytes = \"1 KiB\"\n"));
    let output = place.run(&["send", "s", "t", "{}"]);
    assert!(code(&output) == 1 && all(&output).contains(&nobody), "{}", all(&output));
    assert!(all(&output).contains("cannot be reached"), "{}", all(&output));
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let place = Place::new(&format!("[redis]\nurl = \"{}\"\n[limits]\nevent_bytes = \"1 KiB\"\n", server.url()));
    let output = place.run(&["send", "s", "t", "{}"]);
    assert!(code(&output) == 1 && all(&output).contains("redis.password_env"), "{}", all(&output));
    let server = RedisServer::start();
    let place = Place::new(&format!("[redis]\nurl = \"{}\"\n[limits]\nevent_bytes = \"1 KiB\"\n", server.url()));
    let output = place.run(&["send", "s", "t", &"x".repeat(2000)]);
    assert!(code(&output) == 2 && all(&output).contains("limits.event_bytes"), "{}", all(&output));
    assert_eq!(code(&place.run(&["send", "s", "t", "{}", "--attribute", "Bad=1"])), 2);
}

#[test]
fn demo_counts_its_own_streams() {
    let guests = guests::component("payment");
    let guests = guests.parent().unwrap().to_str().unwrap();
    let server = RedisServer::start();
    let place = Place::new("");
    let url = server.url();
    for backend in [vec![], vec!["--redis", url.as_str()]] {
        let fixed = ["demo", "--guests", guests, "--events", "300", "--output", "json"];
        let output = place.run(&[&fixed[..], &backend].concat());
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", all(&output)));
        assert_eq!(code(&output), 0, "{json}");
        assert_eq!(
            (json["events"].as_u64(), json["lost"].as_u64(), json["doubled"].as_u64()),
            (Some(300), Some(0), Some(0))
        );
        let payment = &json["handlers"]["payment"];
        assert_eq!(payment["acked"].as_u64().unwrap() + payment["dead"].as_u64().unwrap(), 300, "{json}");
        assert!(payment["retried"].as_u64().unwrap() > 0 && payment["p99_us"].as_u64() >= payment["p50_us"].as_u64());
    }
    let mut redis = redis::Client::open(url.as_str()).unwrap().get_connection().unwrap();
    let left: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut redis).unwrap();
    assert!(left.is_empty(), "the demo leaves {left:?} behind");
}

#[test]
fn imports_and_exports_that_do_not_fit_are_named() {
    let place = Place::new("");
    place.write("event.json", br#"{"specversion":"1.0","id":"1","source":"/t","type":"ok"}"#);
    let cases = [
        (r#"(component (import "wasi:nn/tensor@0.2.6" (instance)))"#, "(denied"),
        (r#"(component (import "acme:db/query@1.0.0" (instance)))"#, "acme:db/query@1.0.0 (unknown)"),
        (
            r#"(component (instance $i) (export "wasmill:events/handler@0.2.0" (instance $i)))"#,
            "exports wasmill:events/handler@0.2.0; this version of wasmill needs",
        ),
        (
            r#"(component (instance $i) (export "wasmill:events/handler@0.1.0" (instance $i)))"#,
            "does not fit what wasmill provides",
        ),
        (
            r#"(component (import "wasi:cli/environment@0.2.6" (instance (export "no-such-function" (func)))))"#,
            "does not export",
        ),
    ];
    for (text, message) in cases {
        place.write("odd.wasm", &wat::parse_str(text).unwrap());
        let output = place.run(&["invoke", "odd.wasm", "--event", "event.json"]);
        assert!(code(&output) == 2 && all(&output).contains(message), "{text}: {}", all(&output));
    }
}

#[test]
fn the_compiled_cache_is_private_and_repairs_itself() {
    use std::os::unix::fs::PermissionsExt as _;
    let component = guests::component("payment");
    let place = Place::new(&format!(
        "[worker]\ncache_dir = \"cache\"\n[handlers.a]\ncomponent = \"{}\"\nstreams = [\"s\"]\n",
        component.display()
    ));
    assert_eq!(code(&place.run(&["check"])), 0);
    let cache = place.0.path().join("cache");
    let entry = std::fs::read_dir(&cache).unwrap().next().expect("a compiled component").unwrap().path();
    let compiled = std::fs::read(&entry).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cache), mode(&entry)), (0o700, 0o600));
    // One flipped bit in the code, one in the checksum, and half of the file.
    for (at, length) in [(compiled.len() / 2, compiled.len()), (0, compiled.len()), (0, compiled.len() / 2)] {
        let mut damaged = compiled[..length].to_vec();
        damaged[at] ^= 1;
        std::fs::write(&entry, &damaged).unwrap();
        assert_eq!(code(&place.run(&["check"])), 0);
        assert_ne!(std::fs::read(&entry).unwrap(), damaged, "the entry was not written anew");
        assert_eq!(code(&place.run(&["check"])), 0, "and it can be read again");
    }
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
    let output = place.run(&["check"]);
    assert!(code(&output) == 2 && all(&output).contains("chmod 700"), "{}", all(&output));
}

#[test]
fn redis_is_reached_over_tls_and_over_a_unix_socket() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let place = Place::new("");
    let certificate = place.write("server.pem", certified.cert.pem().as_bytes());
    let key = place.write("server.key", certified.signing_key.serialize_pem().as_bytes());
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let (port, socket) = (free_port().to_string(), place.0.path().join("redis.sock"));
    let socket = socket.to_str().unwrap();
    let tls =
        ["--tls-port", &port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate];
    let more = ["--tls-auth-clients", "no", "--unixsocket", socket];
    let server = RedisServer::start_with(&[&tls[..], &more[..]].concat());
    let cases = [
        (format!("url = \"rediss://localhost:{port}\"\nca_file = \"server.pem\""), 0, ""),
        (format!("url = \"rediss://localhost:{port}\""), 1, "certificate"),
        (format!("url = \"unix://{socket}\""), 0, ""),
    ];
    for (settings, exit, message) in cases {
        place.write("wasmill.toml", format!("[redis]\n{settings}\n").as_bytes());
        let output = place.run(&["send", "s", "t", "{}"]);
        assert!(code(&output) == exit && all(&output).contains(message), "{settings}: {}", all(&output));
    }
    assert_eq!(entries(&server, "s").len(), 2);
}
