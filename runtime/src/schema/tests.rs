use proptest::prelude::*;
use serde_json::json;

use super::*;

fn file(r#type: &str, version: &str, schema: Value) -> SchemaFile {
    SchemaFile { r#type: r#type.into(), version: version.into(), text: schema.to_string() }
}

fn build(files: Vec<SchemaFile>) -> Schemas {
    Schemas::build(files, UnknownTypes::Allow).expect("the schemas are right")
}

fn order() -> Value {
    json!({
        "title": "An order",
        "type": "object",
        "required": ["order_id", "items"],
        "properties": {
            "order_id": {"type": "string", "minLength": 1},
            "total": {"type": ["number", "null"], "minimum": 0},
            "placed": {"type": "string", "format": "date-time"},
            "channel": {"enum": ["web", "shop"]},
            "items": {"type": "array", "items": {"$ref": "../item/1.json"}},
        },
        "additionalProperties": false,
    })
}

fn item() -> Value {
    json!({"type": "object", "required": ["sku"], "properties": {"sku": {"type": "string", "pattern": "^[a-z]+$"}}})
}

fn shop() -> Schemas {
    build(vec![file("order", "1", json!({"type": "object"})), file("order", "2", order()), file("item", "1", item())])
}

fn event(data: &Value) -> Event {
    Event { r#type: "order".into(), data: data.to_string().into_bytes(), ..Event::default() }
}

fn problems(schemas: &Schemas, event: &Event) -> Vec<String> {
    match schemas.check(event) {
        Ok(()) => Vec::new(),
        Err(SchemaViolation::Data { faults, .. }) => faults.iter().map(ToString::to_string).collect(),
        Err(other) => vec![other.to_string()],
    }
}

#[test]
fn faults_name_the_path_what_was_expected_and_what_was_found() {
    let shop = shop();
    assert_eq!(shop.check(&event(&json!({"order_id": "o", "items": [{"sku": "mug"}]}))), Ok(()));
    for (data, wanted) in [
        (json!({"items": []}), "/order_id: is missing"),
        (json!({"order_id": 7, "items": []}), "/order_id: expected string, found 7"),
        (json!({"order_id": "o", "items": [{"sku": "a"}, {}]}), "/items/1/sku: is missing"),
        (json!({"order_id": "o", "items": [{"sku": [1]}]}), "/items/0/sku: expected string, found a list of 1"),
        (json!({"order_id": "o", "items": {}}), "/items: expected array, found an object with 0 keys"),
        (json!({"order_id": "o", "items": [], "total": "5"}), "/total: expected null or number, found the text \"5\""),
        (
            json!({"order_id": "o", "items": [], "total": -1}),
            "/total: the value is less than the minimum of 0; found -1",
        ),
        (
            json!({"order_id": "o", "items": [], "placed": "soon"}),
            "/placed: expected a date-time, found the text \"soon\"",
        ),
        (
            json!({"order_id": "o", "items": [], "channel": "x"}),
            "/channel: expected one of [\"web\",\"shop\"], found the text \"x\"",
        ),
        (json!({"order_id": "o", "items": [], "coupon": 1}), "has keys that the schema does not know: \"coupon\""),
        (
            json!({"order_id": "o", "items": [{"sku": "A1"}]}),
            "/items/0/sku: expected a text that matches ^[a-z]+$, found the text \"A1\"",
        ),
        (json!([]), "expected object, found a list of 0"),
    ] {
        assert_eq!(problems(&shop, &event(&data)), [wanted], "{data}");
    }
    let error = shop.check(&event(&json!({"items": []}))).unwrap_err().to_string();
    assert_eq!(error, "the data is no order of version 2: /order_id: is missing");
}

#[test]
fn paths_are_json_pointers() {
    let schemas = build(vec![file("order", "1", json!({"required": ["a/b~c"]}))]);
    assert_eq!(problems(&schemas, &event(&json!({}))), ["/a~1b~0c: is missing"]);
}

#[test]
fn a_few_faults_are_told_and_that_there_are_more() {
    let schemas = build(vec![file("order", "1", json!({"items": {"type": "string"}}))]);
    for (count, told, rest) in [(MAX_FAULTS, MAX_FAULTS, false), (MAX_FAULTS + 1, MAX_FAULTS, true)] {
        let Err(SchemaViolation::Data { faults, more, .. }) = schemas.check(&event(&json!(vec![0; count]))) else {
            panic!("numbers are no texts")
        };
        assert_eq!((faults.len(), more), (told, rest));
    }
    // One byte for each digit, comma and bracket.
    let at_edge = vec![0; (MAX_BYTES_IN_DETAIL - 1) / 2];
    for (items, told) in [(at_edge.clone(), MAX_FAULTS), ([&at_edge[..], &[0]].concat(), 1)] {
        assert_eq!(problems(&schemas, &event(&json!(items))).len(), told);
    }
}

#[test]
fn messages_are_short_however_large_the_data_is() {
    let schemas = build(vec![file("order", "1", json!({"properties": {"a": {"const": 1}}, "maxProperties": 2}))]);
    let long = "ä".repeat(100_000);
    let error = schemas.check(&event(&json!({"a": long}))).unwrap_err().to_string();
    assert!(error.len() < 500, "{error}");
    let many: serde_json::Map<String, Value> = (0..50).map(|n| (format!("{n}{}", "x".repeat(500)), json!(1))).collect();
    let closed = build(vec![file("order", "1", json!({"properties": {"a": true}, "additionalProperties": false}))]);
    let error = closed.check(&event(&many.into())).unwrap_err().to_string();
    assert!(error.len() < 1000 && error.ends_with("and 45 more"), "{error}");
}

#[test]
fn versions_are_found_and_written_down() {
    let only = |name: &str| json!({"required": [name]});
    let schemas = build(["10", "2", "1"].map(|version| file("order", version, only(&format!("v{version}")))).to_vec());
    let mut newest = event(&json!({"v10": 1}));
    assert_eq!(schemas.check(&newest), Ok(()));
    assert_eq!(newest.schema_version, None, "checking changes nothing");
    assert_eq!(schemas.admit(&mut newest), Ok(()));
    assert_eq!(newest.schema_version.as_deref(), Some("10"));

    let mut old = Event { schema_version: Some("2".into()), ..event(&json!({"v2": 1})) };
    assert_eq!(schemas.admit(&mut old), Ok(()));
    assert_eq!(old.schema_version.as_deref(), Some("2"));

    let unknown = Event { schema_version: Some("3".into()), ..event(&json!({})) };
    let error = schemas.check(&unknown).unwrap_err().to_string();
    assert_eq!(error, "\"order\" has no schema of version \"3\"; there are: 1, 2, 10");
}

#[test]
fn types_without_schemas_pass_unless_that_is_refused() {
    let mut other = Event { r#type: "other".into(), ..event(&json!(1)) };
    assert_eq!(shop().admit(&mut other), Ok(()));
    assert_eq!(other.schema_version, None);
    assert_eq!(Schemas::default().check(&other), Ok(()));
    let strict = Schemas::build(vec![file("order", "1", json!(true))], UnknownTypes::Refuse).expect("a schema");
    assert!(matches!(strict.check(&other), Err(SchemaViolation::UnknownType { .. })));
    assert_eq!(strict.check(&event(&json!(1))), Ok(()));
}

#[test]
fn msgpack_is_checked_and_other_media_types_are_refused() {
    let shop = shop();
    let data = rmp_serde::to_vec_named(&json!({"order_id": "o", "items": [{}]})).expect("JSON fits");
    let event = Event { content_type: "application/msgpack".into(), data, ..event(&json!(1)) };
    assert_eq!(problems(&shop, &event), ["/items/0/sku: is missing"]);
    let xml = Event { content_type: "application/xml".into(), data: b"<a/>".to_vec(), ..event };
    assert!(problems(&shop, &xml)[0].contains("application/xml"));
}

#[track_caller]
fn assert_refused(schema: Value, words: &str) {
    let faults = Schemas::build(vec![file("order", "1", schema.clone())], UnknownTypes::Allow).unwrap_err();
    let text = faults[0].to_string();
    assert!(faults.len() == 1 && text.starts_with("order/1.json: ") && text.contains(words), "{schema}: {faults:?}");
}

#[test]
fn what_is_no_schema_is_refused_with_the_reason() {
    assert_refused(json!({"type": "strin"}), "/type");
    assert_refused(json!({"$schema": "http://json-schema.org/draft-07/schema#"}), "2020-12");
    assert_refused(json!({"$ref": "#/$defs/absent"}), "absent");
    // Nothing outside of the folder is read, wherever it is.
    for outside in ["https://example.com/a.json", "file:///etc/passwd", "../absent/1.json", "../../../etc/passwd"] {
        assert_refused(json!({"$ref": outside}), "nothing outside of it is read");
    }
    // Look-around and back-references can take exponential time.
    for pattern in ["(?=a)b", "(a)\\1"] {
        assert_refused(json!({"pattern": pattern}), "no look-around");
    }
    assert_refused(json!({"pattern": "(((a{1000}){1000}){1000})"}), "");
    let text = |text: &str| SchemaFile { r#type: "order".into(), version: "1".into(), text: text.into() };
    let fault = |text| Schemas::build(vec![text], UnknownTypes::Allow).unwrap_err()[0].problem.clone();
    assert!(fault(text("{")).starts_with("not JSON: "));
    let padded = |length: usize| text(&format!("true{}", " ".repeat(length - 4)));
    assert!(fault(padded(MAX_SCHEMA_BYTES + 1)).contains("the limit is"));
    assert!(Schemas::build(vec![padded(MAX_SCHEMA_BYTES)], UnknownTypes::Allow).is_ok());
}

#[test]
fn every_faulty_file_is_told() {
    let files = vec![file("a", "1", json!(1)), file("b", "1", json!({})), file("c", "2", json!({"type": 1}))];
    let faults = Schemas::build(files, UnknownTypes::Allow).unwrap_err();
    let places: Vec<(&str, &str)> = faults.iter().map(|f| (f.r#type.as_str(), f.version.as_str())).collect();
    assert_eq!(places, [("a", "1"), ("c", "2")]);
}

#[test]
fn files_refer_to_each_other_by_place_and_by_id() {
    let by_id = json!({"$id": "https://example.com/name", "type": "string"});
    let schemas = build(vec![
        file("order", "1", json!({"properties": {"n": {"$ref": "https://example.com/name"}, "o": {"$ref": "1.json"}}})),
        file("com.example/na me", "1", by_id),
        file("other", "1", json!({"$ref": "../com.example%2Fna%20me/1.json"})),
    ]);
    assert_eq!(problems(&schemas, &event(&json!({"n": 1}))), ["/n: expected string, found 1"]);
    assert_eq!(problems(&schemas, &event(&json!({"o": {"o": {"n": 1}}}))), ["/o/o/n: expected string, found 1"]);
    let other = Event { r#type: "other".into(), ..event(&json!(1)) };
    assert_eq!(problems(&schemas, &other), ["expected string, found 1"]);
}

#[test]
fn patterns_take_linear_time() {
    let schemas = build(vec![file("order", "1", json!({"pattern": "^(a+)+$"}))]);
    // A backtracking engine needs 2^10,000 steps.
    assert_eq!(problems(&schemas, &event(&json!(format!("{}b", "a".repeat(10_000))))).len(), 1);
}

proptest! {
    #[test]
    fn no_data_makes_a_check_panic(data in any::<Vec<u8>>(), content_type in "(|application/msgpack|[a-z/+]{0,9})") {
        let _ = shop().check(&Event { r#type: "order".into(), content_type, data, ..Event::default() });
    }

    #[test]
    fn what_is_admitted_passes_again_and_names_its_version(
        id in ".{0,4}", total in proptest::option::of(-5i32..5), skus in proptest::collection::vec("[a-zA]{1,3}", 0..3),
    ) {
        let items: Vec<Value> = skus.iter().map(|sku| json!({"sku": sku})).collect();
        let fits = !id.is_empty() && total.is_none_or(|total| total >= 0) && !skus.iter().any(|sku| sku.contains('A'));
        let mut event = event(&json!({"order_id": id, "total": total, "items": items}));
        prop_assert_eq!(shop().admit(&mut event).is_ok(), fits);
        prop_assert_eq!(event.schema_version.is_some(), fits);
        prop_assert_eq!(shop().check(&event).is_ok(), fits);
    }
}
