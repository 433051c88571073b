//! `wasmill dev`: what it shows, and that saving, sending, typing and ending do what they should.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use wasmill_tests::guests;
use wasmill_tests::program::Program;
use wasmill_tests::redis_server::RedisServer;
use wasmill_tests::worker::{Signal, binary};

use crate::invoke::{code, said};

/// How long ending may take.
const END: Duration = Duration::from_secs(20);
const HANDLER: &str = "[retry]\nmax_attempts = 2\nbase = \"10ms\"\ncap = \"20ms\"\n[limits]\nmemory = \"8 MiB\"\n\
    [handlers.faults]\ncomponent = \"faults.wasm\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n";

/// A project whose handler is not built here.
struct Project(TempDir);

impl Project {
    fn new() -> Project {
        let project = Project::without_component();
        project.write_component(&[]);
        project
    }

    fn without_component() -> Project {
        let project = Project(tempfile::tempdir().unwrap());
        project.write("wasmill.toml", HANDLER);
        std::fs::create_dir(project.path().join("events")).unwrap();
        project
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file as editors do: beside, and then in place.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        let beside = path.with_file_name(".beside");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(&beside, &path).unwrap();
    }

    /// Writes the component with something at its end; nothing is the component as it is.
    fn write_component(&self, end: &[u8]) {
        let bytes = std::fs::read(guests::component("faults")).unwrap();
        self.write("faults.wasm", [&bytes, end].concat());
    }

    fn write_event(&self, name: &str, r#type: &str) {
        let event = json!({"specversion": "1.0", "id": name, "source": "/t", "type": r#type, "data": {"from": name}});
        self.write(&format!("events/{name}.json"), event.to_string());
    }

    /// Starts, and waits until the handlers are ready.
    fn start(&self, arguments: &[&str]) -> Program {
        let mut dev = self.spawn(arguments);
        dev.wait_for("the start", |document| document["kind"] == "started");
        dev
    }

    fn spawn(&self, arguments: &[&str]) -> Program {
        Program::spawn(self.path(), &[&["dev", "--output", "json"], arguments].concat())
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.path()).env_remove("WASMILL_ADMIN_URL").stdin(Stdio::null());
        command.output().unwrap()
    }
}

/// Waits for what became of an event of this type.
#[track_caller]
fn event(dev: &mut Program, r#type: &str) -> Value {
    let what = format!("an event of the type {type}");
    dev.wait_for(&what, |document| document["kind"] == "event" && document["event"]["type"] == r#type)
}

#[track_caller]
fn build(dev: &mut Program, ok: bool) -> Value {
    dev.wait_for(&format!("a build: {ok}"), |document| document["kind"] == "build" && document["ok"] == ok)
}

#[track_caller]
fn end(mut dev: Program) {
    dev.signal(Signal::INT);
    let status = dev.wait_exit(END);
    assert_eq!(status.code(), Some(0), "{}", dev.text());
    assert_eq!(dev.documents().last().unwrap()["kind"], "stopped", "{}", dev.text());
    assert!(!dev.text().contains("panicked"), "{}", dev.text());
}

#[test]
fn an_event_is_shown_with_all_that_came_of_it() {
    let project = Project::new();
    let mut dev = project.start(&[]);
    dev.say(r#"echo {"a": 1}"#);
    let echo = event(&mut dev, "echo");
    let published = &echo["published"][0];
    assert_eq!((&echo["outcome"], &echo["stream"], &echo["attempt"]), (&json!("ack"), &json!("faults.in"), &json!(1)));
    assert_eq!((&published["stream"], &published["data"]), (&json!("faults.out"), &json!({"a": 1})), "{echo}");
    assert!(echo["wall_us"].as_u64().unwrap() > 0 && echo["memory_bytes"].as_u64().unwrap() > 0, "{echo}");
    dev.say("log 1");
    assert_eq!(event(&mut dev, "log")["logs"][0]["message"], "hello from the guest: 1");
    dev.say("reject 1");
    let reject = event(&mut dev, "reject");
    assert_eq!((&reject["outcome"], &reject["class"]), (&json!("dead-letter"), &json!("rejected")), "{reject}");
    dev.say("retry_always 1");
    let [first, last] = [event(&mut dev, "retry_always"), event(&mut dev, "retry_always")];
    assert_eq!((&first["outcome"], &first["attempt"]), (&json!("retry"), &json!(1)), "{first}");
    assert!(first["pause_ms"].is_u64() && first["message"] == "failed on attempt 1 as asked", "{first}");
    assert_eq!((&last["outcome"], &last["class"]), (&json!("dead-letter"), &json!("exhausted")), "{last}");
    project.write("wasmill.toml", format!("{HANDLER}dedup = \"1m\"\n"));
    dev.wait_for("another start", |document| document["kind"] == "started");
    project.write_event("same", "ok");
    assert_eq!(event(&mut dev, "ok")["outcome"], "ack");
    dev.say("same");
    dev.wait_for("the duplicate", |document| document["outcome"] == "duplicate");
    for (line, problem) in [("nothing", "no event `nothing`"), ("echo {", "not JSON"), ("{}", "type TYPE {...}")] {
        dev.say(line);
        let document = dev.wait_for("the problem", |document| document["kind"] == "problem");
        assert!(document["message"].as_str().unwrap().contains(problem), "{line}: {document}");
    }
    end(dev);
}

#[test]
fn text_is_for_people_and_has_no_colours_in_a_file() {
    let project = Project::new();
    let mut dev = Program::spawn(project.path(), &["dev"]);
    let wait = |dev: &Program, text: &str| {
        let dead = || assert!(!dev.text().contains("panicked"), "{}", dev.text());
        wasmill_tests::eventually(text, END, || {
            dead();
            dev.text().contains(text).then_some(())
        });
    };
    wait(&dev, "serving faults reads faults.in (in this process)");
    wait(&dev, "wasmill send STREAM TYPE DATA");
    dev.say("echo {\"a\": 1}");
    wait(&dev, "echo -> faults: ack");
    wait(&dev, "    -> faults.out echoed {\"a\":1}");
    dev.say("log 1");
    wait(&dev, "    logging info: hello from the guest: 1");
    dev.say("retry_always 1");
    wait(&dev, "retry_always -> faults: retry");
    wait(&dev, "attempt 2: dead letter (exhausted)");
    assert!(!dev.text().contains('\u{1b}'), "{}", dev.text());
    dev.signal(Signal::INT);
    assert_eq!(dev.wait_exit(END).code(), Some(0));
}

#[test]
fn a_new_component_takes_over_and_a_broken_one_does_not() {
    let project = Project::new();
    let mut dev = project.start(&[]);
    dev.say("ok 1");
    let first = event(&mut dev, "ok")["digest"].clone();
    project.write_component(&[0, 2, 1, 7]);
    let built = build(&mut dev, true);
    assert_ne!(built["digest"], first, "{built}");
    assert_eq!(built["result"], "it serves from now on", "{built}");
    dev.say("ok 2");
    assert_eq!(event(&mut dev, "ok")["digest"], built["digest"]);

    project.write("faults.wasm", "nothing");
    let broken = build(&mut dev, false);
    assert!(broken["problem"].as_str().unwrap().contains("not a WebAssembly file"), "{broken}");
    assert_eq!(broken["result"], "what served before goes on", "{broken}");
    dev.say("ok 3");
    assert_eq!(event(&mut dev, "ok")["digest"], built["digest"]);
    project.write_component(&[]);
    assert_eq!(build(&mut dev, true)["digest"], first);
    end(dev);
}

#[test]
fn send_finds_what_runs_in_the_same_folder() {
    let project = Project::new();
    let mut dev = project.start(&[]);
    let output = project.run(&["send", "faults.in", "echo", "{\"b\": 2}"]);
    assert!(output.status.success(), "{}", said(&output));
    let echo = event(&mut dev, "echo");
    assert_eq!(echo["event"]["id"], String::from_utf8(output.stdout).unwrap().trim());
    let output = project.run(&["history", "faults.out", "--output", "json"]);
    assert!(output.status.success() && said(&output).contains("\"b\""), "{}", said(&output));
    // Redis is not there: what goes to it fails.
    project.write("elsewhere.toml", "[redis]\nurl = \"redis://127.0.0.1:1/\"\n");
    let elsewhere = ["send", "faults.in", "ok", "1", "--config", "elsewhere.toml", "--admin", "none"];
    assert_eq!(code(&project.run(&elsewhere)), 1);
    let another = project.run(&["dev"]);
    assert_eq!((code(&another), said(&another).contains("is running in this folder already http://127")), (2, true));
    end(dev);
    assert!(!project.path().join(".wasmill-dev").exists());

    // One that was killed is not found.
    let mut dev = project.start(&[]);
    dev.kill();
    let output = project.run(&["send", "faults.in", "ok", "1", "--config", "elsewhere.toml"]);
    assert_eq!((code(&output), said(&output).contains("127.0.0.1:1/")), (1, true), "{}", said(&output));
    end(project.start(&[]));
}

#[test]
fn events_in_files_are_sent_when_they_are_saved_or_named() {
    let project = Project::new();
    project.write_event("old", "ok");
    let mut dev = project.start(&[]);
    project.write_event("one", "echo");
    assert_eq!(event(&mut dev, "echo")["published"][0]["data"], json!({"from": "one"}));
    project.write("events/one.expected.json", "{\"outcome\": \"ack\"}");
    project.write_event("two", "reject");
    event(&mut dev, "reject");
    dev.say("old");
    assert_eq!(event(&mut dev, "ok")["event"]["id"], "old");
    project.write_event("one", "batch");
    event(&mut dev, "batch");
    project.write("events/bad.json", "{");
    let problem = dev.wait_for("the problem", |document| document["kind"] == "problem");
    assert!(problem["message"].as_str().unwrap().contains("bad.json: not a CloudEvent in JSON"), "{problem}");
    let sent = dev.documents().iter().filter(|document| document["kind"] == "sent").count();
    assert_eq!(sent, 4, "what is expected of an event is none: {}", dev.text());
    end(dev);
    project
        .write("events/bad.json", "{\"specversion\": \"1.0\", \"id\": \"b\", \"source\": \"/t\", \"type\": \"log\"}");
    let mut dev = project.start(&["--send-events"]);
    let mut ids: Vec<String> = (0..4)
        .map(|_| dev.wait_for("an event", |document| document["kind"] == "event")["event"]["id"].to_string())
        .collect();
    ids.sort();
    assert_eq!(ids, ["\"b\"", "\"old\"", "\"one\"", "\"two\""]);
    end(dev);
}

#[test]
fn another_configuration_is_followed_and_a_slip_in_it_is_not() {
    let project = Project::new();
    let mut dev = project.start(&[]);
    project.write("wasmill.toml", format!("{HANDLER}typos = [\"ok\"]\n"));
    let problem = dev.wait_for("the problem", |document| document["kind"] == "problem");
    let message = problem["message"].as_str().unwrap();
    assert!(message.contains("typos") && message.contains("what served before goes on"), "{problem}");
    dev.say("ok 1");
    assert_eq!(event(&mut dev, "ok")["outcome"], "ack");

    // What is at work when the configuration changes ends as it began, once.
    dev.say("sleep 700");
    project.write("wasmill.toml", format!("{HANDLER}types = [\"log\", \"sleep\"]\n"));
    let slept = event(&mut dev, "sleep");
    assert_eq!((&slept["outcome"], &slept["attempt"]), (&json!("ack"), &json!(1)), "{slept}");
    dev.wait_for("another start", |document| document["kind"] == "started");
    let output = project.run(&["send", "faults.in", "ok", "2"]);
    assert!(output.status.success(), "it is found at the same place: {}", said(&output));
    assert_eq!(event(&mut dev, "ok")["outcome"], "skipped");
    dev.say("log 3");
    assert_eq!(event(&mut dev, "log")["outcome"], "ack");
    let slept = dev.documents().iter().filter(|document| document["event"]["type"] == "sleep").count();
    assert_eq!(slept, 1, "{}", dev.text());
    end(dev);
}

#[test]
fn what_cannot_be_built_at_first_is_waited_for() {
    let project = Project::without_component();
    let mut dev = project.spawn(&[]);
    let broken = build(&mut dev, false);
    assert_eq!(broken["result"], "waiting for the next save", "{broken}");
    project.write_component(&[]);
    dev.wait_for("the start", |document| document["kind"] == "started");
    dev.say("ok 1");
    event(&mut dev, "ok");
    end(dev);

    let project = Project::new();
    project.write("wasmill.toml", "[handlers.faults");
    let mut dev = project.spawn(&[]);
    dev.wait_for("the problem", |document| document["kind"] == "problem");
    project.write("wasmill.toml", HANDLER);
    dev.wait_for("the start", |document| document["kind"] == "started");
    end(dev);

    let nothing = tempfile::tempdir().unwrap();
    let output = Command::new(binary()).arg("dev").current_dir(nothing.path()).output().unwrap();
    assert_eq!((code(&output), said(&output).contains("there is no wasmill.toml")), (2, true), "{}", said(&output));
}

#[test]
fn what_is_at_work_at_the_end_is_finished() {
    let project = Project::new();
    let mut dev = project.start(&[]);
    let output = project.run(&["send", "faults.in", "sleep", "1500"]);
    assert!(output.status.success(), "{}", said(&output));
    wasmill_tests::eventually("the event to be handed out", END, || {
        let output = project.run(&["pending", "faults", "--output", "json"]);
        let pending: Value = serde_json::from_slice(&output.stdout).ok()?;
        (pending["total"] == 1).then_some(())
    });
    dev.signal(Signal::INT);
    assert_eq!(dev.wait_exit(END).code(), Some(0), "{}", dev.text());
    assert_eq!(event(&mut dev, "sleep")["outcome"], "ack");
}

#[test]
fn it_works_on_a_redis_as_well() {
    let server = RedisServer::start();
    let project = Project::new();
    let mut dev = project.start(&["--redis", &server.url()]);
    dev.say("echo {\"c\": 3}");
    assert_eq!(event(&mut dev, "echo")["outcome"], "ack");
    let output = project.run(&["send", "faults.in", "ok", "1", "--admin", "none"]);
    // The configuration names no Redis that is there.
    assert_ne!(output.status.code(), Some(2), "{}", said(&output));
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    wasmill_tests::eventually("the follow-up in Redis", END, || {
        let length: usize = redis::cmd("XLEN").arg("faults.out").query(&mut connection).unwrap();
        (length == 1).then_some(())
    });
    end(dev);
}

/// A project in Rust, built by cargo, without the network.
#[test]
fn sources_are_built_on_every_save_and_an_error_leaves_the_old_version_running() {
    let project = tempfile::tempdir().unwrap();
    let example = wasmill_tests::workspace().join("guest-examples/rust/enrich");
    copy(&example, project.path());
    let mut dev = Program::spawn(project.path(), &["dev", "--output", "json"]);
    dev.wait_for("the start", |document| document["kind"] == "started");
    dev.say("order");
    let order = event(&mut dev, "order_placed");
    assert_eq!((&order["outcome"], &order["published"][0]["stream"]), (&json!("ack"), &json!("orders.enriched")));
    let source = project.path().join("src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, format!("{text}\nfn broken( {{")).unwrap();
    let broken = build(&mut dev, false);
    assert!(broken["problem"].as_str().unwrap().contains("error"), "{broken}");
    dev.say("order");
    assert_eq!(event(&mut dev, "order_placed")["digest"], order["digest"]);
    std::fs::write(&source, text.replace("enriched order", "ENRICHED ORDER")).unwrap();
    let built = build(&mut dev, true);
    assert_eq!(built["result"], "it serves from now on", "{built}");
    dev.say("order");
    let order = event(&mut dev, "order_placed");
    assert!(order["logs"][0]["message"].as_str().unwrap().starts_with("ENRICHED ORDER"), "{order}");
    let builds = dev.documents().iter().filter(|document| document["kind"] == "build").count();
    assert_eq!(builds, 3, "what a build writes is no reason for another: {}", dev.text());
    end(dev);
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_dir() && !["target", "build", "wit"].iter().any(|made| name == *made) {
            std::fs::create_dir(to.join(name)).unwrap();
            copy(&path, &to.join(name));
        } else if path.is_file() {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}
