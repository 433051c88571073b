//! `wasmill check` at its edges: where faults are looked for, and which of them are told. More is in `cli.rs`.

use serde_json::{Value, json};
use wasmill_tests::guests;

use super::invoke::{Place, code, said};

/// A handler of this name with this component, whose line in the file is the second of the section.
fn handler(name: &str, component: &str) -> String {
    format!("[handlers.{name}]\ncomponent = \"{component}\"\nstreams = [\"s\"]\n")
}

fn faults_component() -> String {
    guests::component("faults").to_str().unwrap().to_owned()
}

/// What `check --output json` prints, and the exit code.
fn check(place: &Place) -> (Value, i32) {
    let output = place.run(&["check", "--output", "json"]);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    (json, code(&output))
}

fn told(json: &Value) -> Vec<&str> {
    json["faults"].as_array().unwrap().iter().map(|fault| fault.as_str().unwrap()).collect()
}

#[test]
fn what_is_right_is_told_in_few_words() {
    let component = faults_component();
    let place = Place::new(&[handler("a", &component), handler("b", &component)].concat());
    assert_eq!(check(&place), (json!({"ok": true, "handlers": 2, "envelopes": {}, "faults": []}), 0));
    let output = place.run(&["check"]);
    assert_eq!((code(&output), String::from_utf8_lossy(&output.stdout).trim()), (0, "ok: 2 handlers"));
}

#[test]
fn streams_with_an_envelope_of_their_own_are_told() {
    let streams = "[streams.\"shop orders\"]\nenvelope = \"json\"\n[streams.dapr]\nenvelope = \"dapr\"\n\
                   [streams.usual]\nenvelope = \"cloudevents\"\n[streams.short]\nmax_length = 5\n";
    let place = Place::new(&[&handler("a", &faults_component()), streams].concat());
    let (json, code) = check(&place);
    assert_eq!((code, &json["envelopes"]), (0, &json!({"dapr": "dapr", "shop orders": "json"})));
    let output = place.run(&["check"]);
    let expected = "stream dapr: envelope dapr\nstream shop orders: envelope json\nok: 1 handlers\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    // A fault elsewhere takes nothing away from it.
    let place = Place::new(&[&handler("a", "absent.wasm"), streams].concat());
    let (json, code) = check(&place);
    assert_eq!((code, json["envelopes"].as_object().unwrap().len()), (2, 2), "{json:#}");
}

#[test]
fn without_a_configuration_there_is_nothing_to_check() {
    let place = Place::new("");
    std::fs::remove_file(place.path().join("wasmill.toml")).unwrap();
    let output = place.run(&["check"]);
    assert!(code(&output) == 2 && said(&output).contains("--config"), "{}", said(&output));
    let output = place.run(&["check", "--config", "absent.toml"]);
    assert!(code(&output) == 2 && said(&output).contains("absent.toml"), "{}", said(&output));
    // The other usual place.
    std::fs::create_dir(place.path().join("config")).unwrap();
    place.write("config/wasmill.toml", handler("a", &faults_component()).as_bytes());
    assert_eq!(check(&place).1, 0);
}

#[test]
fn every_fault_of_the_file_is_told_at_once_in_its_order() {
    let component = faults_component();
    let place = Place::new(&format!(
        "[limits]\nmemry = \"8 MiB\"\ndeadline = \"soon\"\n\n{}publishs = [\"x\"]\nisolation = \"reused\"\n\
         [handlers.a.retry]\nmax_attempts = 0\n[admin]\nlisten = \"0.0.0.0:80\"\n",
        handler("a", &component)
    ));
    let (json, code) = check(&place);
    let expected = [
        ("wasmill.toml:2:", "limits.memry", "did you mean `memory`?"),
        ("wasmill.toml:3:", "limits.deadline", "soon"),
        ("wasmill.toml:8:", "handlers.a.publishs", "did you mean `publishes`?"),
        ("wasmill.toml:9:", "handlers.a.isolation", "did you mean `reuse`?"),
        ("wasmill.toml:11:", "handlers.a.retry.max_attempts", "at least 1"),
        ("wasmill.toml:13:", "admin.listen", "other machines"),
    ];
    assert_eq!((code, json["ok"].as_bool(), told(&json).len()), (2, Some(false), expected.len()), "{json:#}");
    for (fault, (place, field, words)) in told(&json).into_iter().zip(expected) {
        assert!(fault.contains(place) && fault.contains(field) && fault.contains(words), "{place} {field}: {fault}");
    }
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    let (json, exit) = check(&Place::new("[limits]\nmemory = \"8 MiB\"\ndeadline = = 1\n"));
    assert!(exit == 2 && told(&json)[0].contains("wasmill.toml:3:"), "{json}");
    // Bytes that are no text at all.
    let place = Place::new("");
    place.write("wasmill.toml", b"[limits]\nmemory = \"\xff\"\n");
    let output = place.run(&["check"]);
    assert!(code(&output) == 2 && said(&output).contains("wasmill.toml"), "{}", said(&output));
}

#[test]
fn faults_in_the_environment_name_the_variable_and_not_the_file() {
    let place = Place::new(&handler("a", &faults_component()));
    for (name, value, words) in [
        ("WASMILL_LIMITS__DEADLINE", "soon", "WASMILL_LIMITS__DEADLINE"),
        ("WASMILL_LIMITS__DEADLIN", "1s", "WASMILL_LIMITS__DEADLINE"),
        ("WASMILL_HANDLERS__B__COMPONENT", "b.wasm", "WASMILL_HANDLERS__B__COMPONENT"),
    ] {
        let output = place.command(&["check"]).env(name, value).output().unwrap();
        assert_eq!(code(&output), 2, "{name}: {}", said(&output));
        assert!(said(&output).contains(name) && said(&output).contains(words), "{name}: {}", said(&output));
    }
    let output = place.command(&["check"]).env("WASMILL_LIMITS__DEADLINE", "2s").output().unwrap();
    assert_eq!(code(&output), 0, "{}", said(&output));
}

#[test]
fn every_component_that_does_not_fit_is_told_with_file_and_field() {
    let whole = std::fs::read(guests::component("faults")).unwrap();
    let odd = [
        ("absent", None, "the file cannot be read"),
        ("core", Some(b"\0asm\x01\0\0\0".to_vec()), "a core module, not a component"),
        ("cut", Some(whole[..whole.len() / 2].to_vec()), "not valid"),
        ("empty", Some(b"\0asm\x0d\0\x01\0".to_vec()), "does not export wasmill:events/handler@0.1.0"),
        (
            "imports",
            Some(wat::parse_str(r#"(component (import "wasi:nn/tensor@0.2.6" (instance)))"#).unwrap()),
            "wasi:nn/tensor@0.2.6 (denied",
        ),
        ("text", Some(b"#!/bin/sh\n".to_vec()), "not a WebAssembly file"),
    ];
    let mut config = handler("fits", &faults_component());
    let place = Place::new("");
    for (name, bytes, _) in &odd {
        config += &handler(name, &format!("{name}.wasm"));
        if let Some(bytes) = bytes {
            place.write(&format!("{name}.wasm"), bytes);
        }
    }
    place.write("wasmill.toml", config.as_bytes());
    let (json, code) = check(&place);
    assert_eq!((code, json["handlers"].as_u64(), told(&json).len()), (2, Some(7), odd.len()), "{json:#}");
    for (name, _, words) in &odd {
        let field = format!("handlers.{name}.component");
        let fault = told(&json).into_iter().find(|fault| fault.contains(&field));
        let fault = fault.unwrap_or_else(|| panic!("nothing about {field} in {json:#}"));
        assert!(fault.contains(words) && fault.contains(&format!("{name}.wasm")), "{fault}");
        assert!(fault.contains("wasmill.toml"), "{fault}");
    }
}

/// As the faults of the file itself are.
#[test]
fn components_that_do_not_fit_are_told_with_their_line() {
    let place = Place::new(&[handler("fits", &faults_component()), handler("absent", "absent.wasm")].concat());
    let (json, code) = check(&place);
    let fault = told(&json)[0];
    assert!(code == 2 && fault.contains("wasmill.toml:5:") && fault.contains("handlers.absent.component"), "{fault}");
}

#[test]
fn what_run_would_refuse_check_refuses() {
    let component = faults_component();
    let cases = [
        ("[redis]\nurl = \"http://localhost\"\n".to_owned(), "redis.url"),
        ("[redis]\npassword_file = \"absent\"\n".to_owned(), "absent"),
        ("[redis]\npassword_env = \"WASMILL_TEST_NOT_SET\"\n".to_owned(), "WASMILL_TEST_NOT_SET"),
        ("[worker]\nheartbeat = \"5s\"\nheartbeat_ttl = \"6s\"\n".to_owned(), "worker.heartbeat_ttl"),
        (handler("B", &component), "handlers.B"),
        (format!("{}dead_letter = \"s\"\n", handler("a", &component)), "handlers.a.dead_letter"),
        (format!("{}publishes = [\"wasmill:x\"]\n", handler("a", &component)), "handlers.a.publishes[0]"),
        ("[log]\nlevel = \"inof\"\n".to_owned(), "did you mean `info`?"),
    ];
    for (config, words) in cases {
        let output = Place::new(&config).run(&["check"]);
        assert!(code(&output) == 2 && said(&output).contains(words), "{config}: {}", said(&output));
        assert!(said(&output).contains("1 faults"), "{config}: {}", said(&output));
    }
}
