//! `wasmill invoke` at its edges: limits and grants of a configured handler, what is measured, and input that is no
//! event or no component. What every fault comes to is in `cli.rs`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use wasmill_tests::guests;
use wasmill_tests::worker::binary;

/// A directory with a configuration, in which verbs are run.
pub(super) struct Place(TempDir);

impl Place {
    pub(super) fn new(config: &str) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.write("wasmill.toml", config.as_bytes());
        place
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(super) fn run_with_stdin(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut command = self.command(arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let (mut input, bytes) = (child.stdin.take().unwrap(), stdin.to_vec());
        // Beside the reading, as neither pipe holds everything; a program that stops reading closes its end.
        let writer = std::thread::spawn(move || drop(input.write_all(&bytes)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// The JSON that `invoke` prints for an event of this id, type and text, and the exit code.
    fn invoke(&self, id: &str, r#type: &str, data: &str, arguments: &[&str]) -> (Value, i32) {
        let event = json!({
            "specversion": "1.0", "id": id, "source": "/t", "type": r#type, "datacontenttype": "text/plain",
            "data": data,
        });
        self.write("event.json", event.to_string().as_bytes());
        let component = guests::component("faults");
        let fixed = ["invoke", component.to_str().unwrap(), "--event", "event.json", "--output", "json"];
        let output = self.run(&[&fixed, arguments].concat());
        let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{type}: {}", said(&output)));
        (json, code(&output))
    }
}

/// Everything that a program printed.
pub(super) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(super) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn number(json: &Value, name: &str) -> u64 {
    json[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {json}"))
}

/// A handler with limits of its own, which differ from the general ones.
fn configured(deadline: &str) -> Place {
    Place::new(&format!(
        "[limits]\ndeadline = \"1s\"\n[handlers.small]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\n\
         publishes = [\"faults.out\"]\n[handlers.small.limits]\ndeadline = \"{deadline}\"\nmemory = \"4 MiB\"\n\
         publishes = 5\nevent_bytes = \"16 MiB\"\nlog_bytes = \"100 B\"\n",
        guests::component("faults").display()
    ))
}

const HANDLER: [&str; 2] = ["--handler", "small"];

#[test]
fn the_limits_of_a_configured_handler_hold() {
    let place = configured("20s");
    let (json, code) = place.invoke("1", "hog", "", &HANDLER);
    assert_eq!((json["class"].as_str(), code), (Some("out_of_memory"), 12), "{json}");
    let peak = number(&json, "memory_bytes");
    assert!(peak > 1 << 20 && peak <= 4 << 20, "{json}");
    let (json, code) = place.invoke("1", "flood", "", &HANDLER);
    assert_eq!((json["message"].as_str(), code), (Some("too-many after 5"), 11), "{json}");
    // A handler that does not care has published what it was allowed to.
    let (json, code) = place.invoke("1", "flood_ignore", "", &HANDLER);
    assert_eq!((code, json["published"].as_array().unwrap().len()), (0, 5), "{json}");
    let narrow = Place::new("[limits]\npublish_bytes = \"512 B\"\n");
    let (json, code) = narrow.invoke("1", "flood", "", &[]);
    let message = text(&json, "message");
    let count: usize = message.strip_prefix("too-large after ").unwrap_or_else(|| panic!("{json}")).parse().unwrap();
    assert!(code == 11 && (2..=8).contains(&count), "a follow-up has about 100 bytes of text: {json}");
    let (json, code) = place.invoke("1", "log_flood", "", &HANDLER);
    let kept: usize = json["logs"].as_array().unwrap().iter().map(|line| text(line, "message").len()).sum();
    assert_eq!(code, 0, "{json}");
    assert!(kept <= 100 && number(&json, "logs_dropped_bytes") >= (3 << 20) - 1024 * 3 - 100, "{kept}: {json}");
}

fn text<'a>(json: &'a Value, name: &str) -> &'a str {
    json[name].as_str().unwrap_or_else(|| panic!("no text {name} in {json}"))
}

#[test]
fn an_oversized_draft_is_refused_by_the_host_before_it_runs_out_of_patience() {
    let place = Place::new("[limits]\nevent_bytes = \"16 MiB\"\npublish_bytes = \"1 MiB\"\n");
    // What may be copied allows for 16 MiB, so the draft of 8 MiB arrives, and is named.
    let (json, code) = place.invoke("1", "oversized", "", &[]);
    assert_eq!((json["outcome"].as_str(), code), (Some("reject"), 11), "{json}");
    assert!(text(&json, "message").contains("too-large"), "{json}");
    assert_eq!(json["published"], json!([]));
}

#[test]
fn the_grants_of_a_configured_handler_hold_and_the_command_line_may_name_others() {
    let place = configured("20s");
    for (r#type, arguments, outcome) in [
        ("denied", &HANDLER[..], "reject"),
        ("denied", &["--handler", "small", "--publishes", "forbidden"], "reject"),
        ("batch", &HANDLER, "ack"),
        ("echo", &["--handler", "small", "--publishes", "elsewhere"], "no ack"),
    ] {
        let (json, _) = place.invoke("1", r#type, "", arguments);
        let published = json["published"].as_array().unwrap();
        match outcome {
            "ack" => assert_eq!((text(&json, "outcome"), published.is_empty()), ("ack", false), "{json}"),
            _ => assert!(published.is_empty() && json["outcome"] != "ack", "{type} {arguments:?}: {json}"),
        }
    }
    let (json, _) = place.invoke("1", "denied", "", &HANDLER);
    assert!(text(&json, "message").contains("denied: forbidden"), "{json}");
}

#[test]
fn wall_cpu_and_memory_are_what_they_say() {
    let place = configured("200ms");
    let (spin, code) = place.invoke("1", "spin", "", &HANDLER);
    let (wall, cpu) = (number(&spin, "wall_us"), number(&spin, "cpu_us"));
    assert_eq!((code, text(&spin, "outcome")), (13, "timeout"));
    assert!((200_000..5_000_000).contains(&wall), "stopped after 200 ms: {spin}");
    assert!(cpu > 10_000 && cpu <= wall * 2, "spinning uses the CPU: {spin}");
    // Waiting does not, and it is stopped at the same time.
    let (sleep, code) = place.invoke("1", "sleep", "60000", &HANDLER);
    let (wall, cpu) = (number(&sleep, "wall_us"), number(&sleep, "cpu_us"));
    assert_eq!((code, text(&sleep, "outcome")), (13, "timeout"), "{sleep}");
    assert!((200_000..5_000_000).contains(&wall) && cpu < wall / 2, "{sleep}");
    let (nap, code) = place.invoke("1", "sleep", "50", &HANDLER);
    assert!(code == 0 && number(&nap, "wall_us") >= 50_000, "{nap}");
    let [ok, grown] = ["ok", "grow"].map(|r#type| number(&place.invoke("1", r#type, "", &[]).0, "memory_bytes"));
    assert!(ok > 0 && grown >= ok + (1 << 20), "{ok} and {grown}");
}

#[test]
fn a_follow_up_carries_data_attributes_and_an_id_of_its_cause() {
    let place = Place::new("");
    let [first, again, other] = ["a", "a", "b"].map(|id| place.invoke(id, "echo", "héllo\n", &[]).0);
    let [first, again, other] = [&first, &again, &other].map(|json| &json["published"][0]);
    assert_eq!((text(first, "stream"), text(first, "type")), ("faults.out", "echoed"));
    assert_eq!((text(first, "data"), text(first, "datacontenttype")), ("héllo\n", "text/plain"));
    assert_eq!((text(first, "attempt"), text(first, "source")), ("1", "/wasmill/default/faults"));
    assert_eq!((text(first, "causationid"), text(other, "causationid")), ("a", "b"));
    assert_eq!(text(first, "id"), text(again, "id"));
    assert_ne!(text(first, "id"), text(other, "id"));
    // Another handler is another cause, even with the same component and event.
    let place = configured("20s");
    let (json, _) = place.invoke("a", "echo", "", &HANDLER);
    assert_ne!(text(&json["published"][0], "id"), text(first, "id"));
}

#[test]
fn a_handler_is_told_the_attempt() {
    let place = Place::new("");
    let [first, third] = ["1", "3"].map(|attempt| place.invoke("1", "retry", "", &["--attempt", attempt]));
    assert_eq!((first.1, text(&first.0, "outcome"), first.0["published"].as_array().unwrap().len()), (10, "retry", 0));
    assert_eq!((third.1, text(&third.0["published"][0], "type")), (0, "retried"));
    let (json, code) = place.invoke("1", "retry_after", "", &[]);
    assert_eq!((code, text(&json, "message")), (10, "not before 200 ms"), "{json}");
    let component = guests::component("faults");
    let output = place.run(&["invoke", component.to_str().unwrap(), "--event", "event.json", "--attempt", "0"]);
    assert_eq!(code_and_word(&output, "--attempt"), (2, true), "{}", said(&output));
}

fn code_and_word(output: &Output, word: &str) -> (i32, bool) {
    (code(output), said(output).contains(word))
}

#[test]
fn randomness_is_granted_and_host_attributes_are_not_for_guests() {
    let place = Place::new("");
    assert_eq!(place.invoke("1", "random", "", &[]).1, 0);
    let (json, code) = place.invoke("1", "abuse_attributes", "", &[]);
    let message = text(&json, "message");
    assert_eq!(code, 11);
    for name in ["ce_id was refused", "; id was refused"] {
        assert!(message.contains(name), "{json}");
    }
    assert_eq!(json["published"], json!([]));
}

#[test]
fn text_is_for_people_and_the_event_may_come_from_stdin() {
    let place = Place::new("");
    let component = guests::component("faults");
    let arguments = ["invoke", component.to_str().unwrap(), "--event", "-"];
    let event = |r#type: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"/t","type":"{type}"}}"#);
    let output = place.run_with_stdin(&arguments, event("batch").as_bytes());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), printed.lines().next()), (Some(0), Some("ack")), "{printed}");
    assert_eq!(printed.lines().filter(|line| line.starts_with("published to faults.out: {")).count(), 3, "{printed}");
    let output = place.run_with_stdin(&arguments, event("panic").as_bytes());
    assert!(code(&output) == 12 && said(&output).starts_with("trap: "), "{}", said(&output));
    let output = place.run_with_stdin(&arguments, event("log").as_bytes());
    for line in ["logging info: hello from the guest", "stdout info: to stdout", "stderr warn: to stderr"] {
        assert!(said(&output).lines().any(|printed| printed == line), "{line}: {}", said(&output));
    }
}

#[test]
fn what_is_no_event_is_refused_with_the_attribute_at_fault() {
    let place = Place::new("");
    let component = guests::component("faults");
    let good = json!({"specversion": "1.0", "id": "1", "source": "/t", "type": "ok"});
    let with = |name: &str, value: Value| {
        let mut event = good.clone();
        event[name] = value;
        event.to_string()
    };
    let without = |name: &str| {
        let mut event = good.clone();
        event.as_object_mut().unwrap().remove(name);
        event.to_string()
    };
    let cases = [
        (good.to_string(), ""),
        (without("id"), "id"),
        (without("source"), "source"),
        (without("type"), "type"),
        (without("specversion"), "specversion"),
        (with("type", json!("")), "`type` is empty"),
        (with("specversion", json!("0.3")), "`specversion`"),
        (with("time", json!("yesterday")), "`time`"),
        (with("data_base64", json!("not base64!")), "`data_base64`"),
        (with("extension", json!({"a": 1})), "`extension`"),
        (with("id", json!(7)), "invalid type"),
        ("[]".into(), "not a CloudEvent"),
        ("{".into(), "not a CloudEvent"),
        (String::new(), "not a CloudEvent"),
    ];
    for (event, message) in cases {
        let output = place.run_with_stdin(&["invoke", component.to_str().unwrap(), "--event", "-"], event.as_bytes());
        let expected = if message.is_empty() { 0 } else { 2 };
        assert_eq!((code(&output), said(&output).contains(message)), (expected, true), "{event}: {}", said(&output));
    }
    let output = place.run(&["invoke", component.to_str().unwrap(), "--event", "absent.json"]);
    assert_eq!(code_and_word(&output, "absent.json"), (2, true), "{}", said(&output));
    let output = place.run(&["invoke", component.to_str().unwrap(), "--event", ".", "--handler", "nobody"]);
    assert_eq!(code_and_word(&output, "nobody"), (2, true), "{}", said(&output));
}

#[test]
fn an_event_over_the_limit_is_not_run() {
    let place = Place::new("[limits]\nevent_bytes = \"1 KiB\"\n");
    let component = guests::component("faults");
    let event = json!({"specversion": "1.0", "id": "1", "source": "/t", "type": "ok", "data": "x".repeat(2048)});
    place.write("large.json", event.to_string().as_bytes());
    let output = place.run(&["invoke", component.to_str().unwrap(), "--event", "large.json"]);
    assert_eq!(code_and_word(&output, "limits.event_bytes"), (2, true), "{}", said(&output));
}

#[test]
fn a_component_cut_anywhere_is_refused() {
    let place = Place::new("");
    let whole = std::fs::read(guests::component("faults")).unwrap();
    place.write("event.json", br#"{"specversion":"1.0","id":"1","source":"/t","type":"ok"}"#);
    for length in [4, 7, 8, 9, 100, whole.len() / 4, whole.len() - 1] {
        place.write("cut.wasm", &whole[..length]);
        let output = place.run(&["invoke", "cut.wasm", "--event", "event.json"]);
        assert_eq!(code_and_word(&output, "cut.wasm: "), (2, true), "{length} bytes: {}", said(&output));
        assert!(output.stdout.is_empty() && !said(&output).contains("panicked"), "{}", said(&output));
    }
    let output = place.run(&["invoke", ".", "--event", "event.json"]);
    assert_eq!(code_and_word(&output, "cannot be read"), (2, true), "{}", said(&output));
}
