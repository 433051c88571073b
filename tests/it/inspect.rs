//! `wasmill inspect`: what it says of components that fit, that do not, and that are none.

use serde_json::{Value, json};
use wasmill_tests::guests;

use super::invoke::{Place, code, said};

/// What `inspect` says as JSON, and its exit code.
#[track_caller]
fn inspect(place: &Place, arguments: &[&str]) -> (Value, i32) {
    let output = place.run(&[&["inspect", "--output", "json"], arguments].concat());
    let found = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    (found, code(&output))
}

/// What it says of an import.
#[track_caller]
fn import<'a>(found: &'a Value, name: &str) -> &'a Value {
    let imports = found["imports"].as_array().unwrap();
    let import = imports.iter().find(|import| import["name"].as_str().unwrap().starts_with(name));
    import.unwrap_or_else(|| panic!("no import {name} in {found:#}"))
}

fn faults() -> String {
    guests::component("faults").display().to_string()
}

/// A component that imports these interfaces and is nothing else.
fn importing(place: &Place, names: &[&str]) {
    let imports: String = names.iter().map(|name| format!("(import \"{name}\" (instance))")).collect();
    place.write("imports.wasm", &wat::parse_str(format!("(component {imports})")).unwrap());
}

#[test]
fn a_component_that_fits_is_told_with_all_that_is_known_of_it() {
    let place = Place::new("[limits]\nmemory = \"32 MiB\"\n");
    let (found, code) = inspect(&place, &[&faults()]);
    assert_eq!((code, &found["fits"], &found["problem"]), (0, &json!(true), &Value::Null), "{found:#}");
    let bytes = std::fs::read(guests::component("faults")).unwrap();
    assert_eq!(found["bytes"], json!(bytes.len()));
    assert_eq!(found["digest"].as_str().map(str::len), Some("sha256:".len() + 64));
    assert_eq!((&found["language"], &found["exports"]), (&json!("Rust"), &json!(["wasmill:events/handler@0.1.0"])));
    assert_eq!(import(&found, "wasmill:events/publisher@0.1.0")["access"], "provided");
    let logging = import(&found, "wasi:logging/");
    assert_eq!((&logging["access"], &logging["grant"]), (&json!("granted"), &json!("logging")));
    let [cold, cached] = ["cold_us", "cached_us"].map(|name| found["loading"][name].as_u64().unwrap());
    assert!(cached > 0 && cold > 5 * cached, "compiling takes most of the time: {found:#}");
    let memory = found["memory_bytes"].as_u64().unwrap();
    assert!((1 << 16..32 << 20).contains(&memory), "{found:#}");
    let median = |kind: &str| found["cost"][kind]["median_us"].as_f64().unwrap();
    assert!(median("fresh") > median("reused") && median("reused") > 0.0, "{found:#}");
    assert!(found["cost"]["fresh"]["deliveries"].as_u64().unwrap() > 1, "{found:#}");
    assert_eq!((&found["limits"]["memory"], &found["limits"]["isolation"]), (&json!(32 << 20), &json!("fresh")));
}

#[test]
fn the_event_to_measure_with_may_be_given() {
    let place = Place::new("");
    let event = |r#type: &str| json!({"specversion": "1.0", "id": "1", "source": "/t", "type": r#type}).to_string();
    place.write("ok.json", event("echo").as_bytes());
    let (found, code) = inspect(&place, &[&faults(), "--event", "ok.json"]);
    let cost = &found["cost"];
    assert_eq!((code, &cost["event"], &cost["outcome"]), (0, &json!("ok.json"), &json!("ack")), "{found:#}");
    // An instance is gone after a trap.
    place.write("panic.json", event("panic").as_bytes());
    let (found, code) = inspect(&place, &[&faults(), "--event", "panic.json"]);
    assert_eq!(
        (code, &found["cost"]["outcome"], &found["cost"]["reused"]),
        (0, &json!("trap"), &Value::Null),
        "{found:#}"
    );
    // Without one, what is used instead is said.
    let output = place.run(&["inspect", &faults()]);
    assert!(said(&output).contains("deliveries of a small event without data"), "{}", said(&output));
    let output = place.run(&["inspect", &faults(), "--event", "absent.json"]);
    assert!(code_is(&output, 2) && said(&output).contains("absent.json"), "{}", said(&output));
}

fn code_is(output: &std::process::Output, expected: i32) -> bool {
    code(output) == expected
}

#[test]
fn grants_and_limits_are_those_of_the_handler_that_is_named() {
    let section = |name: &str, grants: &str| {
        format!(
            "[handlers.{name}]\ncomponent = \"{}\"\nstreams = [\"s\"]\ngrants = {grants}\nisolation = \"reuse\"\n\
             [handlers.{name}.limits]\nmemory = \"16 MiB\"\n",
            faults()
        )
    };
    let place = Place::new(&[section("all", "[\"logging\", \"clocks\", \"random\"]"), section("none", "[]")].concat());
    let (found, code) = inspect(&place, &["--handler", "all"]);
    assert_eq!((code, &found["component"]), (0, &json!(faults())), "{found:#}");
    assert_eq!((&found["limits"]["memory"], &found["limits"]["isolation"]), (&json!(16 << 20), &json!("reuse")));
    let (found, code) = inspect(&place, &["--handler", "none"]);
    let logging = import(&found, "wasi:logging/");
    assert_eq!((code, &found["fits"], &logging["access"]), (2, &json!(false), &json!("denied")), "{found:#}");
    assert_eq!(logging["remedy"], "add \"logging\" to handlers.NAME.grants");
    assert!(found["problem"].as_str().unwrap().contains("wasi:logging/"), "{found:#}");
    // What it costs can be shown all the same.
    assert!(found["cost"]["fresh"]["median_us"].as_f64().unwrap() > 0.0, "{found:#}");
    let output = place.run(&["inspect", "--handler", "nobody"]);
    assert!(code_is(&output, 2) && said(&output).contains("there are: all, none"), "{}", said(&output));
}

#[test]
fn every_import_is_told_with_what_becomes_of_it() {
    let place = Place::new("");
    importing(
        &place,
        &[
            "wasmill:events/types@0.1.0",
            "wasmill:events/extras@0.2.0",
            "wasi:clocks/wall-clock@0.2.0",
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:nn/tensor@0.2.0",
            "acme:billing/ledger@2.0.0",
        ],
    );
    let (found, code) = inspect(&place, &["imports.wasm"]);
    assert_eq!((code, &found["fits"], &found["cost"]), (2, &json!(false), &Value::Null), "{found:#}");
    for (name, access) in [
        ("wasmill:events/types", "provided"),
        ("wasmill:events/extras", "other version"),
        ("wasi:clocks/", "granted"),
        ("wasi:http/", "denied"),
        ("wasi:nn/", "never"),
        ("acme:billing/", "unknown"),
    ] {
        assert_eq!(import(&found, name)["access"], access, "{name}: {found:#}");
    }
    let output = place.run(&["inspect", "imports.wasm"]);
    for words in ["DENIED: add \"http\" to handlers.NAME.grants", "REFUSED ", "acme:billing/ledger@2.0.0"] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
}

#[test]
fn what_cannot_be_loaded_is_told_with_the_reason_and_what_can_be_seen() {
    let place = Place::new("");
    let whole = std::fs::read(guests::component("faults")).unwrap();
    place.write("core.wasm", &wat::parse_str("(module (func (export \"run\")))").unwrap());
    place.write("cut.wasm", &whole[..whole.len() - 1]);
    place.write("text.wasm", b"#!/bin/sh\n");
    place.write("large.wasm", &vec![0; (64 << 20) + 1]);
    for (name, reason) in [
        ("core.wasm", "a core module, not a component"),
        ("cut.wasm", "not valid"),
        ("text.wasm", "not a WebAssembly file"),
        ("large.wasm", "67108864 are allowed"),
    ] {
        let (found, code) = inspect(&place, &[name]);
        assert_eq!((code, &found["fits"], &found["loading"]), (2, &json!(false), &Value::Null), "{found:#}");
        assert!(found["problem"].as_str().unwrap().contains(reason), "{found:#}");
        assert!(found["bytes"].as_u64().unwrap() > 0 && found["limits"]["memory"].is_u64(), "{found:#}");
        let output = place.run(&["inspect", name]);
        assert!(code_is(&output, 2) && said(&output).contains(reason), "{}", said(&output));
    }
    // All but its end is there.
    let (found, _) = inspect(&place, &["cut.wasm"]);
    assert_eq!(import(&found, "wasmill:events/publisher")["access"], "provided");
    let output = place.run(&["inspect", "absent.wasm"]);
    assert!(code_is(&output, 2) && said(&output).contains("absent.wasm: the file cannot be read"), "{}", said(&output));
    let output = place.run(&["inspect"]);
    assert!(code_is(&output, 2) && said(&output).contains("COMPONENT"), "{}", said(&output));
}
