//! Schemas through the binary: who is checked, what is said, and what becomes of what does not fit.

use serde_json::{Value, json};
use wasmill_tests::guests;
use wasmill_tests::redis_server::RedisServer;

use super::faults::{Mill, text};
use super::invoke::{Place, code, said};

/// A place with a schema folder.
fn place(config: &str, schemas: &[(&str, Value)]) -> Place {
    let place = Place::new(&format!("{config}\n[schemas]\ndirectory = \"schemas\"\n"));
    std::fs::create_dir(place.path().join("schemas")).unwrap();
    write(&place, schemas);
    place
}

fn write(place: &Place, schemas: &[(&str, Value)]) {
    for (path, schema) in schemas {
        let path = format!("schemas/{path}.json");
        std::fs::create_dir_all(place.path().join(&path).parent().unwrap()).unwrap();
        place.write(&path, schema.to_string().as_bytes());
    }
}

fn order() -> Value {
    json!({"title": "An order", "required": ["order_id"], "properties": {"items": {"items": {"required": ["sku"]}}}})
}

fn shop(config: &str) -> Place {
    place(config, &[("order_placed/1", json!(true)), ("order_placed/2", order()), ("order_placed/10", json!({}))])
}

fn said_json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)))
}

#[test]
fn schemas_are_listed_and_shown() {
    let shop = shop("");
    let output = shop.run(&["schema", "ls"]);
    assert!(code(&output) == 0 && said(&output).contains("1, 2, 10"), "{}", said(&output));
    let json = said_json(&shop.run(&["schema", "ls", "--output", "json"]));
    let version = |version: &str, title: Value| json!({"version": version, "title": title});
    let versions = [version("1", Value::Null), version("2", json!("An order")), version("10", Value::Null)];
    assert_eq!(json, json!([{"type": "order_placed", "versions": versions}]));

    let json: Value = said_json(&shop.run(&["schema", "show", "order_placed", "2"]));
    assert_eq!(json, order());
    let json = said_json(&shop.run(&["schema", "show", "order_placed", "--output", "json"]));
    assert_eq!(json, json!({"type": "order_placed", "version": "10", "title": null, "schema": {}}));
    for (arguments, words) in [(&["order"][..], "order_placed"), (&["order_placed", "3"], "1, 2, 10")] {
        let output = shop.run(&[&["schema", "show"], arguments].concat());
        assert!(code(&output) == 2 && said(&output).contains(words), "{}", said(&output));
    }
    let nothing = Place::new("");
    let output = nothing.run(&["schema", "ls"]);
    assert!(code(&output) == 2 && said(&output).contains("[schemas]"), "{}", said(&output));
}

#[test]
fn data_is_checked_by_the_version_that_is_asked_for() {
    let shop = shop("");
    shop.write("order.json", br#"{"items": [{"sku": "a"}, {}]}"#);
    let output = shop.run(&["schema", "check", "order_placed", "order.json"]);
    assert_eq!((code(&output), said(&output).trim()), (0, "ok: order_placed 10"));
    let output = shop.run(&["schema", "check", "order_placed", "order.json", "--version", "2"]);
    let mut lines: Vec<String> = said(&output).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(
        (code(&output), &lines[..]),
        (1, &["/items/1/sku: is missing".into(), "/order_id: is missing".into()][..])
    );
    let output = shop.run_with_stdin(&["schema", "check", "order_placed", "--version", "2", "--output", "json"], b"{");
    let json = said_json(&output);
    assert!(code(&output) == 1 && json["faults"][0].as_str().unwrap().contains("not JSON"), "{json}");
    assert_eq!((&json["ok"], &json["type"], &json["version"]), (&json!(false), &json!("order_placed"), &json!("2")));
    let msgpack = ["schema", "check", "order_placed", "--version", "2", "--content-type", "application/msgpack"];
    let output = shop.run_with_stdin(&msgpack, b"\x81\xa8order_id\x01");
    assert_eq!(code(&output), 0, "{}", said(&output));
    for arguments in [&["order_placed", "absent.json"][..], &["nothing"], &["order_placed", "--version", "7"]] {
        assert_eq!(code(&shop.run(&[&["schema", "check"], arguments].concat())), 2, "{arguments:?}");
    }
}

#[test]
fn every_faulty_file_is_named_by_both_checks() {
    let shop = shop("");
    let output = shop.run(&["schema", "check"]);
    assert_eq!((code(&output), said(&output).trim()), (0, "ok: 3 schemas of 1 types"));
    write(&shop, &[("a/1", json!({"type": "strin"})), ("b/1", json!({"$ref": "https://example.com/x"}))]);
    write(&shop, &[("loose", json!(true))]);
    for verb in [&["schema", "check"][..], &["check"]] {
        let output = shop.run(verb);
        assert_eq!(code(&output), if verb.len() == 2 { 1 } else { 2 }, "{}", said(&output));
        for words in ["schemas/a/1.json: /type: ", "schemas/b/1.json: ", "loose.json: lies beside the types"] {
            assert!(said(&output).contains(words), "{words}: {}", said(&output));
        }
    }
    // Nothing runs or is sent while the rules are unknown.
    assert_eq!(code(&shop.run(&["send", "s", "order_placed", "{}"])), 2);
    assert_eq!(code(&shop.run(&["schema", "ls"])), 2);
}

#[test]
fn what_is_sent_is_checked_and_carries_its_version() {
    let server = RedisServer::start();
    let shop = shop(&format!("[redis]\nurl = \"{}\"", server.url()));
    let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let mut entries =
        || -> Vec<super::faults::Entry> { redis::cmd("XRANGE").arg(&["orders", "-", "+"]).query(&mut redis).unwrap() };
    let send = ["send", "orders", "order_placed"];
    let output = shop.run(&[&send[..], &["{}", "--schema-version", "2"]].concat());
    assert_eq!(code(&output), 2);
    assert!(said(&output).contains("no order_placed of version 2: /order_id: is missing"), "{}", said(&output));
    let output = shop.run(&[&send[..], &["{}", "--schema-version", "3"]].concat());
    assert!(code(&output) == 2 && said(&output).contains("there are: 1, 2, 10"), "{}", said(&output));
    let arguments = [&send[..], &["--batch", "--msgpack", "--schema-version", "2"]].concat();
    let output = shop.run_with_stdin(&arguments, b"{\"order_id\": 1}\n{}\n");
    assert!(code(&output) == 2 && said(&output).contains("line 2: the data is no order_placed"), "{}", said(&output));
    let arguments = [&send[..], &["--batch", "--schema-version", "2"]].concat();
    let output = shop.run_with_stdin(&arguments, format!("{}{{}}\n", "{\"order_id\": 1}\n".repeat(600)).as_bytes());
    assert!(code(&output) == 2 && said(&output).contains("line 601: the data is no order_placed"), "{}", said(&output));
    assert!(entries().is_empty(), "nothing of that was published");

    assert_eq!(code(&shop.run(&[&send[..], &["{}"]].concat())), 0);
    assert_eq!(code(&shop.run(&["send", "orders", "other", "not json"])), 0, "it has no schema");
    let written = entries();
    assert_eq!(text(&written[0], "ce_dataschema"), "10");
    assert!(!written[1].1.iter().any(|(name, _)| name == b"ce_dataschema"));
    shop.write(
        "strict.toml",
        format!("{}unknown = 'refuse'", std::fs::read_to_string(shop.path().join("wasmill.toml")).unwrap()).as_bytes(),
    );
    let output = shop.run(&["--config", "strict.toml", "send", "orders", "other", "{}"]);
    assert!(code(&output) == 2 && said(&output).contains("schemas.unknown"), "{}", said(&output));
}

/// A schema folder that a worker's configuration can name.
fn folder(schemas: &[(&str, Value)], more: &str) -> (Place, String) {
    let place = place("", schemas);
    let settings = format!("[schemas]\ndirectory = {:?}\n{more}", place.path().join("schemas"));
    (place, settings)
}

#[test]
fn a_follow_up_that_breaks_its_schema_is_not_published() {
    let schemas = [("echoed/1", json!({"required": ["n"]})), ("two/1", json!(false))];
    let (_folder, settings) = folder(&schemas, "");
    let mut mill = Mill::new(&settings);
    mill.add("bad", "echo", br#"{"m": 1}"#);
    // One of its three drafts does not fit: none is published.
    mill.add("batch", "batch", b"");
    let letters = mill.wait_for("faults.dead", 2);
    for (id, words) in
        [("bad", "echoed of version 1: /n: is missing"), ("batch", "two of version 1: the schema allows nothing")]
    {
        let letter = letters.iter().find(|letter| text(letter, "ce_id") == id).unwrap();
        assert_eq!(text(letter, "dl_class"), "rejected");
        assert!(text(letter, "dl_message").contains(words), "{}", text(letter, "dl_message"));
    }
    mill.add("good", "echo", br#"{"n": 1}"#);
    let out = mill.wait_for("faults.out", 1);
    mill.wait_settled();
    assert_eq!(mill.entries("faults.out").len(), 1);
    assert_eq!((text(&out[0], "ce_causationid"), text(&out[0], "ce_dataschema")), ("good", "1"));
}

#[test]
fn on_reading_what_does_not_fit_becomes_a_dead_letter_at_once() {
    let schemas = [("echo/1", json!({"required": ["n"]})), ("echo/2", json!({"required": ["m"]}))];
    let (_folder, settings) = folder(&schemas, "on_read = true\n");
    let mut mill = Mill::new(&settings);
    let add = |mill: &mut Mill, id: &str, version: &str, data: &str| {
        mill.add_raw(
            "faults.in",
            &[
                (b"ce_id", id.as_bytes()),
                (b"ce_source", b"/t"),
                (b"ce_type", b"echo"),
                (b"ce_dataschema", version.as_bytes()),
                (b"data", data.as_bytes()),
            ],
        )
    };
    add(&mut mill, "old", "1", r#"{"n": 1}"#);
    add(&mut mill, "wrong", "1", r#"{"m": 1}"#);
    add(&mut mill, "unknown", "3", r#"{"m": 1}"#);
    mill.add("newest", "echo", br#"{"m": 1}"#);
    let letters = mill.wait_for("faults.dead", 2);
    mill.wait_for("faults.out", 2);
    mill.wait_settled();
    let told: Vec<(&str, &str, &str)> = letters
        .iter()
        .map(|letter| (text(letter, "ce_id"), text(letter, "dl_class"), text(letter, "dl_attempts")))
        .collect();
    assert_eq!(told.len(), 2);
    assert!(told.contains(&("wrong", "schema", "1")) && told.contains(&("unknown", "schema", "1")), "{told:?}");
    let ids: Vec<String> =
        mill.entries("faults.out").iter().map(|entry| text(entry, "ce_causationid").to_owned()).collect();
    assert!(ids.len() == 2 && ids.contains(&"old".into()) && ids.contains(&"newest".into()), "{ids:?}");

    // Once the schema has been mended, the event can be sent back.
    write(&_folder, &[("echo/1", json!({}))]);
    mill.restart(&settings);
    let wrong = letters.iter().find(|letter| text(letter, "ce_id") == "wrong").unwrap();
    assert_eq!(code(&mill.run(&["dlq", "redrive", "faults", &wrong.0])), 0);
    let out = mill.wait_for("faults.out", 3);
    assert_eq!(text(&out[2], "ce_causationid"), "wrong");
}

#[test]
fn the_version_reaches_the_handler() {
    let mut mill = Mill::new("");
    let fields: [(&[u8], &[u8]); 4] =
        [(b"ce_id", b"1"), (b"ce_source", b"/t"), (b"ce_type", b"version"), (b"ce_dataschema", b"1.2")];
    mill.add_raw("faults.in", &fields);
    assert_eq!(text(&mill.wait_for("faults.out", 1)[0], "data"), r#"{"version":"1.2"}"#);
    mill.add("2", "version", b"");
    assert_eq!(text(&mill.wait_for("faults.out", 2)[1], "data"), r#"{"version":null}"#);
}

#[test]
fn invoke_checks_what_goes_in_and_what_comes_out() {
    let schemas = [("echo/1", json!({"required": ["n"]})), ("echoed/1", json!({"required": ["m"]}))];
    let place = place("", &schemas);
    let component = guests::component("faults");
    let event = |data: &str| {
        let event = format!(r#"{{"specversion":"1.0","id":"1","source":"/t","type":"echo","data":{data}}}"#);
        place.write("event.json", event.as_bytes());
        place.run(&["invoke", component.to_str().unwrap(), "--event", "event.json"])
    };
    let output = event(r#"{"n": 1}"#);
    assert!(code(&output) == 11 && said(&output).contains("echoed of version 1: /m: is missing"), "{}", said(&output));
    assert_eq!(code(&event(r#"{"m": 1}"#)), 0, "reading is not checked");
    place.write("wasmill.toml", b"[schemas]\ndirectory = 'schemas'\non_read = true\n");
    let output = event(r#"{"m": 1}"#);
    assert!(code(&output) == 2 && said(&output).contains("echo of version 1: /n: is missing"), "{}", said(&output));
}
