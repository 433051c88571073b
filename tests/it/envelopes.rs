//! Streams in other forms than CloudEvents, as real clients write and read them: redis-py and ioredis, with their JSON
//! and MsgPack. What each form means to the byte is in docs/envelopes.md and in the tests of `envelope`.

use serde_json::{Value, json};
use wasmill::envelope::parse_time;
use wasmill_tests::clients::Client;

use super::faults::{Mill, ms, text};
use super::invoke::{code, said};

/// A form, and the settings of streams that have it.
struct Form {
    name: &'static str,
    settings: &'static str,
}

const FLAT: &str =
    "envelope = \"flat\"\ntime_format = \"seconds\"\nnames = { type = \"event\", id = \"uuid\", time = \"at\" }";

impl Form {
    const CLOUDEVENTS: Form = Form { name: "cloudevents", settings: "" };
    const JSON: Form = Form { name: "json", settings: "envelope = \"json\"" };
    const MSGPACK: Form = Form { name: "msgpack", settings: "envelope = \"msgpack\"" };
    const NAMED: Form = Form { name: "named", settings: "envelope = \"named\"" };
    const ACTION: Form = Form { name: "action", settings: "envelope = \"action\"" };
    const ACTION_MSGPACK: Form =
        Form { name: "action-msgpack", settings: "envelope = \"action\"\nencoding = \"msgpack\"" };
    const DAPR: Form = Form { name: "dapr", settings: "envelope = \"dapr\"\ndefault_type = \"echo\"" };
    const FLAT: Form = Form { name: "flat", settings: FLAT };

    /// A mill whose handler reads and publishes in this form.
    fn mill(&self) -> Mill {
        Mill::new(&self.sections())
    }

    fn sections(&self) -> String {
        let settings = self.settings;
        format!("[streams.\"faults.in\"]\n{settings}\n[streams.\"faults.out\"]\n{settings}")
    }

    /// Lets a client write entries; what they mean.
    fn produce(&self, mill: &Mill, client: Client, options: &[&str]) -> Vec<Value> {
        client.run("produce", &[&[mill.url().as_str(), "faults.in", self.name], options].concat())
    }

    /// What a client reads of a stream.
    fn consume(&self, mill: &Mill, client: Client, stream: &str, options: &[&str]) -> Vec<Value> {
        client.run("consume", &[&[mill.url().as_str(), stream, self.name], options].concat())
    }

    /// The data without what says something about the event in this form: a follow-up has its own.
    fn bare(&self, data: &Value) -> Value {
        let mut data = data.clone();
        if let (FLAT, Value::Object(members)) = (self.settings, &mut data) {
            members.retain(|name, _| !["event", "uuid", "at"].contains(&name.as_str()));
        }
        data
    }
}

/// The past events of a stream, as `wasmill history` shows them.
fn history(mill: &Mill, stream: &str) -> Vec<Value> {
    let output = mill.run(&["history", stream, "--since", "0-1", "--output", "json"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>().unwrap()
}

/// What clients write is handled, is shown by `history` as they mean it, and what comes of it can be read by them.
fn is_read_and_written(form: &Form) {
    let mut mill = form.mill();
    let meant: Vec<Value> = Client::ALL.into_iter().flat_map(|client| form.produce(&mill, client, &[])).collect();
    assert!(meant.len() >= Client::ALL.len());
    mill.wait_settled();
    assert!(mill.entries("faults.dead").is_empty(), "{}", mill.worker.stderr_text());

    let events = history(&mill, "faults.in");
    assert_eq!(events.len(), meant.len());
    for (past, meant) in events.iter().zip(&meant) {
        assert_means(form, past, meant);
    }

    for client in Client::ALL {
        let follow_ups = form.consume(&mill, client, "faults.out", &[]);
        assert_eq!(follow_ups.len(), meant.len(), "{client:?}");
        for (past, meant) in events.iter().zip(&meant) {
            let id = &past["event"]["id"];
            let mut caused = follow_ups.iter().filter(|follow_up| follow_up["causation"] == *id);
            let follow_up = caused.next().unwrap_or_else(|| panic!("nothing came of {past:#}, but {follow_ups:#?}"));
            assert!(caused.next().is_none(), "{client:?} reads two events that came of {id}");
            assert_eq!(follow_up["type"], "echoed", "{client:?}: {follow_up:#}");
            assert_eq!(form.bare(&follow_up["data"]), form.bare(&meant["data"]), "{client:?}: {follow_up:#}");
            let written = ms(follow_up["entry"].as_str().unwrap());
            assert!(follow_up["time"].as_u64().unwrap().abs_diff(written) < 60_000, "{client:?}: {follow_up:#}");
            assert_ne!(follow_up["id"], *id, "it is an event of its own: {follow_up:#}");
        }
    }
    is_sent(form, &mill);
}

/// What `history` shows of an entry is what its client has meant.
#[track_caller]
fn assert_means(form: &Form, past: &Value, meant: &Value) {
    let event = &past["event"];
    assert_eq!(past["entry"], meant["entry"]);
    for (name, value) in meant.as_object().unwrap() {
        match (name.as_str(), value) {
            ("entry", _) => {}
            ("time", time) => {
                let shown = parse_time(event["time"].as_str().unwrap());
                assert_eq!(shown, time.as_u64(), "{}: {past:#}", form.name);
            }
            // Bytes and MsgPack are shown in base64; what they hold is told by the follow-ups.
            ("data", _) if event["data_base64"].is_string() => {}
            _ => assert_eq!(event[name], *value, "{}: {name} in {past:#}", form.name),
        }
    }
    // What does not say its id has that of its entry.
    if meant["id"].is_null() {
        assert_eq!(event["id"], past["entry"], "{}", form.name);
    }
}

/// `wasmill send` writes what the clients read.
fn is_sent(form: &Form, mill: &Mill) {
    let output = mill.run(&["send", "faults.in", "ok", "{\"sent\": \"Zoë\"}"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    for client in Client::ALL {
        let sent = form.consume(mill, client, "faults.in", &["last"]).remove(0);
        assert_eq!((&sent["type"], &form.bare(&sent["data"])), (&json!("ok"), &json!({"sent": "Zoë"})), "{client:?}");
        assert!(said(&output).contains(sent["id"].as_str().unwrap()), "{}", said(&output));
    }
}

/// What a form does not allow ends as a dead letter with the words for it and the original to the byte; so it does again
/// when it is redriven, since it is read in the form of its stream.
fn is_refused_whole(form: &Form) {
    let mut mill = form.mill();
    let broken = |client| form.produce(&mill, client, &["broken"]);
    let broken: Vec<Value> = Client::ALL.into_iter().flat_map(broken).collect();
    assert!(!broken.is_empty());
    mill.wait_settled();
    let first = assert_refused(&mut mill, &broken);
    let redriven = mill.run(&["dlq", "redrive", "faults", "--all"]);
    assert_eq!(code(&redriven), 0, "{}", said(&redriven));
    mill.wait_settled();
    let second = assert_refused(&mut mill, &broken);
    assert!(first.iter().all(|id| !second.contains(id)), "they are letters of another run: {first:?}");
}

/// There is one dead letter for each of these entries, as it must be; the ids of the letters.
fn assert_refused(mill: &mut Mill, broken: &[Value]) -> Vec<String> {
    let letters = letters(mill);
    assert_eq!(letters.len(), broken.len(), "{letters:#?}");
    for broken in broken {
        let letter = letters.iter().find(|letter| letter["entry_id"] == broken["entry"]);
        let letter = letter.unwrap_or_else(|| panic!("no dead letter of {broken}"));
        let (message, fault) = (letter["message"].as_str().unwrap(), broken["fault"].as_str().unwrap());
        assert!(message.contains(fault), "{fault}: {letter:#}");
        assert_eq!((&letter["class"], &letter["stream"]), (&json!("malformed"), &json!("faults.in")), "{letter:#}");
    }
    let kept = mill.entries("faults.dead");
    for (entry, original) in mill.entries("faults.in") {
        let letter = kept.iter().find(|letter| text(letter, "dl_entry_id") == entry).unwrap();
        assert!(letter.1.ends_with(&original), "{letter:?} does not keep {original:?}");
    }
    kept.into_iter().map(|(id, _)| id).collect()
}

fn letters(mill: &Mill) -> Vec<Value> {
    let output = mill.run(&["dlq", "ls", "faults", "--output", "json"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().clone()
}

/// Makes `read::FORM` and `refused::FORM` of every form.
macro_rules! with_every_form {
    ($($test:ident: $form:ident),* $(,)?) => {
        mod read {
            $(#[test] fn $test() { super::is_read_and_written(&super::Form::$form); })*
        }
        mod refused {
            $(#[test] fn $test() { super::is_refused_whole(&super::Form::$form); })*
        }
    };
}

with_every_form! {
    cloudevents: CLOUDEVENTS,
    json: JSON,
    msgpack: MSGPACK,
    named: NAMED,
    action: ACTION,
    action_msgpack: ACTION_MSGPACK,
    dapr: DAPR,
    flat: FLAT,
}

/// Somebody forgot the setting: nothing is lost, and once it is there, a redrive does what was to be done.
#[test]
fn dead_letters_are_redriven_in_the_form_that_their_stream_has_by_then() {
    let mut mill = Mill::new("");
    let meant = Form::JSON.produce(&mill, Client::Python, &[]);
    mill.wait_settled();
    assert_eq!(letters(&mill).len(), meant.len());
    assert!(letters(&mill).iter().all(|letter| letter["event"].is_null() && letter["class"] == "malformed"));
    mill.restart(&Form::JSON.sections());
    let letters = letters(&mill);
    for letter in &letters {
        let meant = meant.iter().find(|meant| meant["entry"] == letter["entry_id"]).unwrap();
        assert_eq!((&letter["event"]["type"], &letter["event"]["data"]), (&json!("echo"), &meant["data"]));
    }
    let redriven = mill.run(&["dlq", "redrive", "faults", "--all"]);
    assert_eq!(code(&redriven), 0, "{}", said(&redriven));
    mill.wait_settled();
    assert!(self::letters(&mill).is_empty());
    let follow_ups = Form::JSON.consume(&mill, Client::Python, "faults.out", &[]);
    assert_eq!(follow_ups.len(), meant.len());
    for letter in &letters {
        assert!(follow_ups.iter().any(|follow_up| follow_up["causation"] == letter["event"]["id"]), "{letter:#}");
    }
}
