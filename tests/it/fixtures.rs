//! `wasmill test`: event fixtures, what is expected of them, and how differences are shown.

use serde_json::{Value, json};
use wasmill_tests::guests;

use crate::invoke::{Place, code, said};

/// A project with a handler `faults`, further sections, and these events.
fn project(sections: &str, events: &[(&str, &str, &str)]) -> Place {
    let place = Place::new(&format!(
        "[limits]\ndeadline = \"300ms\"\nmemory = \"8 MiB\"\nevent_bytes = \"64 KiB\"\n\
         [handlers.faults]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n{sections}",
        guests::component("faults").display()
    ));
    std::fs::create_dir(place.path().join("events")).unwrap();
    for (name, r#type, data) in events {
        write_event(&place, name, r#type, data);
    }
    place
}

fn write_event(place: &Place, name: &str, r#type: &str, data: &str) {
    let event = json!({
        "specversion": "1.0", "id": name, "source": "/t", "type": r#type, "datacontenttype": "text/plain", "data": data,
    });
    place.write(&format!("events/{name}.json"), event.to_string().as_bytes());
}

fn expected(place: &Place, name: &str) -> Value {
    let text = std::fs::read(place.path().join(format!("events/{name}.expected.json"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn json_of(place: &Place, arguments: &[&str]) -> (Value, i32) {
    let output = place.run(&[&["test", "--output", "json"], arguments].concat());
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    (json, code(&output))
}

#[test]
fn what_is_written_holds_until_the_handler_does_another_thing() {
    let events =
        [("one", "echo", "text"), ("again", "retry_after", ""), ("no", "reject", ""), ("late", "later", "2000")];
    let place = project("", &events);
    let output = place.run(&["test"]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    for word in ["FAILED one", "one.expected.json is missing", "wasmill test --update", "4 fixtures: 4 FAILED"] {
        assert!(said(&output).contains(word), "{word}: {}", said(&output));
    }
    let output = place.run(&["test", "--update"]);
    assert_eq!((code(&output), said(&output).matches("written ").count()), (0, 4), "{}", said(&output));
    let attributes = json!({"attempt": "1", "replay": "false"});
    let echoed = json!({
        "stream": "faults.out", "type": "echoed", "datacontenttype": "text/plain", "attributes": attributes, "data": "text",
    });
    assert_eq!(expected(&place, "one"), json!({"outcome": "ack", "published": [echoed]}));
    assert_eq!(expected(&place, "again"), json!({"outcome": "retry", "message": "not before 200 ms", "after_ms": 200}));
    assert_eq!(expected(&place, "no"), json!({"outcome": "reject", "message": "rejected as asked"}));
    let late = json!({"stream": "faults.out", "type": "late", "delay_ms": 2000, "data": 2000});
    assert_eq!(expected(&place, "late"), json!({"outcome": "ack", "published": [late]}));
    let before = std::fs::read(place.path().join("events/one.expected.json")).unwrap();
    // Nothing that the host derives is compared: another run is another time.
    let output = place.run(&["test"]);
    assert_eq!((code(&output), said(&output).contains("4 fixtures: ok")), (0, true), "{}", said(&output));
    assert!(!said(&output).contains('\u{1b}'), "colours are for terminals: {}", said(&output));

    write_event(&place, "one", "echo", "other");
    let output = place.run(&["test"]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    for line in ["ok no", "FAILED one", r#"    -       "data": "text""#, r#"    +       "data": "other""#] {
        assert!(said(&output).contains(line), "{line}: {}", said(&output));
    }
    let (json, code) = json_of(&place, &[]);
    assert_eq!((code, &json["ok"], &json["failed"]), (1, &json!(false), &json!(1)), "{json}");
    let one = json["fixtures"].as_array().unwrap().iter().find(|fixture| fixture["name"] == "one").unwrap();
    assert_eq!(one["actual"]["published"][0]["data"], "other", "{one}");
    assert_eq!(one["expected"]["published"][0]["data"], "text", "{one}");
    // The same text comes out for the same result, to the byte.
    write_event(&place, "one", "echo", "text");
    std::fs::remove_file(place.path().join("events/one.expected.json")).unwrap();
    assert!(place.run(&["test", "--update"]).status.success());
    assert_eq!(std::fs::read(place.path().join("events/one.expected.json")).unwrap(), before);
}

#[test]
fn grants_limits_and_faults_are_those_of_a_worker() {
    let events = [("denied", "denied", ""), ("spin", "spin", ""), ("trap", "panic", ""), ("hog", "hog", "")];
    let place = project("", &events);
    let output = place.run(&["test", "--update"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(expected(&place, "spin"), json!({"outcome": "timeout", "class": "timeout"}));
    assert_eq!(expected(&place, "trap"), json!({"outcome": "trap", "class": "trap"}));
    assert_eq!(expected(&place, "hog"), json!({"outcome": "trap", "class": "out_of_memory"}));
    assert_eq!(expected(&place, "denied")["outcome"], "reject");
    assert!(place.run(&["test"]).status.success());
    write_event(&place, "large", "ok", &"x".repeat(65 << 10));
    let output = place.run(&["test"]);
    assert_eq!((code(&output), said(&output).contains("limits.event_bytes is 65536")), (1, true), "{}", said(&output));
}

#[test]
fn logs_are_shown_of_failures_and_on_demand() {
    let place = project("", &[("log", "log", "")]);
    let hello = "logging info: hello from the guest";
    let shows = |arguments: &[&str]| said(&place.run(arguments)).contains(hello);
    assert!(shows(&["test"]), "what fails shows its logs");
    assert!(!shows(&["test", "--update"]) && !shows(&["test"]));
    assert!(shows(&["test", "-v"]));
}

#[test]
fn the_folder_chooses_where_several_handlers_want_an_event() {
    let other = format!(
        "[handlers.other]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\ntypes = [\"ok\"]\n",
        guests::component("faults").display()
    );
    let place = project(&other, &[("both", "ok", ""), ("first", "log", "")]);
    let output = place.run(&["test", "--update"]);
    assert_eq!((code(&output), said(&output).contains("(faults, other)")), (1, true), "{}", said(&output));
    std::fs::create_dir(place.path().join("events/other")).unwrap();
    std::fs::rename(place.path().join("events/both.json"), place.path().join("events/other/both.json")).unwrap();
    assert!(place.run(&["test", "--update"]).status.success());
    let (json, _) = json_of(&place, &[]);
    let pairs: Vec<(&str, &str)> = json["fixtures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fixture| (fixture["name"].as_str().unwrap(), fixture["handler"].as_str().unwrap()))
        .collect();
    assert_eq!(pairs, [("first", "faults"), ("other/both", "other")]);
    // Only what is named is run.
    let (json, _) = json_of(&place, &["other"]);
    assert_eq!(json["fixtures"].as_array().unwrap().len(), 1, "{json}");
}

#[test]
fn what_cannot_be_tested_is_said() {
    let place = project("", &[("one", "ok", "")]);
    place.write("events/one.expected.json", br#"{"outcome": "ack", "publishd": []}"#);
    let fails = |arguments: &[&str], expected_code: i32, word: &str| {
        let output = place.run(arguments);
        assert_eq!((code(&output), said(&output).contains(word)), (expected_code, true), "{word}: {}", said(&output));
    };
    fails(&["test"], 1, "one.expected.json: unknown field `publishd`");
    place.write("events/broken.json", b"{");
    fails(&["test"], 1, "broken.json: not a CloudEvent in JSON");
    fails(&["test", "nobody"], 2, "no handler `nobody` is configured; there are: faults");
    fails(&["test", "--events", "absent"], 2, "absent cannot be read");
    fails(&["test", "--events", "."], 2, "there are no events");
    place.write("wasmill.toml", b"[handlers.a]\ncomponent = \"none.wasm\"\nstreams = [\"s\"]\n");
    fails(&["test"], 2, "handlers.a.component: none.wasm");
    place.write("wasmill.toml", b"");
    fails(&["test"], 2, "no handlers are configured");
    place.write(
        "wasmill.toml",
        b"[handlers.a]\ncomponent = \"none.wasm\"\nstreams = [\"s\"]\n[handlers.a.build]\nlang = \"rust\"\n",
    );
    fails(&["test"], 1, "a: ");
    fails(&["test", "--no-build"], 2, "none.wasm");
}
