use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::settings::{Encoding, Names};
use super::super::tests::any_event;
use super::*;

const ENTRY: EntryId = EntryId { ms: 1_700_000_000_000, seq: 7 };

fn settings(preset: Preset) -> EnvelopeSettings {
    EnvelopeSettings { preset, ..EnvelopeSettings::default() }
}

fn envelope(settings: &EnvelopeSettings) -> Envelope {
    Envelope::new("orders", settings).expect("it is not CloudEvents")
}

fn of(preset: Preset) -> Envelope {
    envelope(&settings(preset))
}

fn entry(pairs: &[(&str, &[u8])]) -> Fields {
    pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
}

/// The presets that carry everything, in every form that they have.
fn whole() -> Vec<Envelope> {
    let mut all = Vec::new();
    for preset in [Preset::Json, Preset::MsgPack, Preset::Named, Preset::Action] {
        for time_format in [TimeFormat::Rfc3339, TimeFormat::Milliseconds, TimeFormat::Seconds] {
            for encoding in [Encoding::Json, Encoding::MsgPack] {
                all.push(envelope(&EnvelopeSettings { time_format, encoding, ..settings(preset) }));
            }
        }
    }
    all
}

/// Data with the media type that it has.
fn any_data() -> impl Strategy<Value = (String, Vec<u8>)> {
    let json = prop_oneof![Just(json!(null)), any::<i64>().prop_map(Value::from), ".{0,8}".prop_map(Value::from)];
    let json = json.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{1,6}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    });
    // `null` is no data.
    let json = json.prop_filter("it says something", |json| !json.is_null());
    prop_oneof![
        json.prop_map(|json| ("application/json".to_owned(), json.to_string().into_bytes())),
        ".{1,20}".prop_map(|text| ("text/plain".to_owned(), text.into_bytes())),
        proptest::collection::vec(any::<u8>(), 1..20).prop_map(|bytes| ("application/octet-stream".to_owned(), bytes)),
    ]
}

proptest! {
    #[test]
    fn every_event_survives_the_forms_that_carry_everything(event in any_event(), (content_type, data) in any_data()) {
        let event = Event { content_type, data, time: event.time.max(1), ..event };
        for envelope in whole() {
            let mut back = envelope.decode(envelope.fields(&event), ENTRY).expect("it was written by us");
            back.attributes.sort();
            // MsgPack in place of JSON means the same.
            if value::is_msgpack(&back.content_type) && event.content_type == "application/json" {
                let meaning = value::read_msgpack(&back.data).and_then(|data| value::to_json(&data));
                prop_assert_eq!(meaning, serde_json::from_slice::<Value>(&event.data).ok());
                back.data.clone_from(&event.data);
                back.content_type.clone_from(&event.content_type);
            }
            let meaning = |data: &[u8]| serde_json::from_slice::<Value>(data).ok();
            if event.content_type == "application/json" && meaning(&back.data) == meaning(&event.data) {
                back.data.clone_from(&event.data);
            }
            prop_assert_eq!(&back, &event, "{:?}", envelope.settings);
        }
    }

    #[test]
    fn dapr_carries_every_event(event in any_event(), (content_type, data) in any_data()) {
        let event = Event { content_type, data, ..event };
        let back = of(Preset::Dapr).decode(of(Preset::Dapr).fields(&event), ENTRY).expect("it was written by us");
        let time = if event.time == 0 { ENTRY.ms } else { event.time };
        prop_assert_eq!(back, Event { time, ..event });
    }

    #[test]
    fn no_entry_makes_decoding_panic(
        fields in proptest::collection::vec(
            ("(ce_)?(id|source|type|time|data|name|body|action|stream|metadata|x)", any::<Vec<u8>>()), 0..6,
        ),
    ) {
        let fields: Fields = fields.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
        for envelope in whole().into_iter().chain([of(Preset::Dapr), of(Preset::Flat)]) {
            let _ = envelope.decode(fields.clone(), ENTRY);
        }
    }

    #[test]
    fn flat_entries_are_written_as_they_were_read(
        members in proptest::collection::btree_map("[a-z]{1,8}", ".{0,12}", 1..6),
    ) {
        let members: Vec<(String, String)> = members.into_iter().collect();
        let fields: Fields = members.iter().map(|(name, text)| (name.clone().into_bytes(), text.clone().into_bytes())).collect();
        let envelope = of(Preset::Flat);
        let event = envelope.decode(fields.clone(), ENTRY).expect("it was written by us");
        prop_assert_eq!(envelope.check(&event), Ok(()));
        let written = envelope.fields(&event);
        for field in &fields {
            prop_assert!(written.contains(field), "{:?} is missing in {:?}", field, written);
        }
        prop_assert_eq!(envelope.decode(written, ENTRY), Ok(event));
    }
}

#[test]
fn a_json_document_is_read_with_everything_in_it() {
    let document = br#"{"event_id": "e1", "event_type": "order_placed", "timestamp": 1700000000.5, "source": "shop",
        "version": 2, "correlation_id": "c1", "tags": ["a"], "data": {"n":  12345678901234567890123}}"#;
    let event = of(Preset::Json).decode(entry(&[("data", document), ("note", b"x")]), ENTRY).expect("a document");
    assert_eq!((event.id.as_str(), event.r#type.as_str(), event.source.as_str()), ("e1", "order_placed", "shop"));
    assert_eq!((event.time, event.schema_version.as_deref()), (1_700_000_000_500, Some("2")));
    assert_eq!((event.attribute("correlationid"), event.attribute("tags")), (Some("c1"), Some("[\"a\"]")));
    // To the byte: such a number fits into no number type.
    assert_eq!(event.data, br#"{"n":  12345678901234567890123}"#);
    assert_eq!(event.content_type, "application/json");
}

#[test]
fn flat_entries_have_a_limit_on_their_fields() {
    let envelope = of(Preset::Flat);
    let event = |members: usize| {
        let members: serde_json::Map<String, Value> = (0..members).map(|n| (format!("m{n}"), json!("v"))).collect();
        Event {
            id: "1".into(),
            source: "/s".into(),
            r#type: "t".into(),
            data: json!(members).to_string().into(),
            ..Event::default()
        }
    };
    let others = envelope.fields(&event(0)).len();
    assert_eq!(envelope.check(&event(MAX_FIELDS - others)), Ok(()));
    assert_eq!(envelope.check(&event(MAX_FIELDS - others + 1)), Err(EncodeError::TooManyFields(MAX_FIELDS + 1)));
}

#[test]
fn members_with_names_of_cloudevents_do_not_hide_what_these_mean() {
    let document = br#"{"event_id": "e1", "id": "row 7", "subject": "s", "Type": "x", "data_base64x": "y", "a_b": 1}"#;
    let event = of(Preset::Json).decode(entry(&[("data", document)]), ENTRY).expect("a document");
    assert_eq!((event.id.as_str(), event.r#type.as_str(), event.subject.as_deref()), ("e1", "orders", Some("s")));
    let names: Vec<&str> = event.attributes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ab", "database64x"]);
}

#[test]
fn what_an_event_does_not_say_is_the_same_at_each_attempt() {
    let fields = entry(&[("data", b"{\"data\": 1}")]);
    let event = of(Preset::Json).decode(fields.clone(), ENTRY).expect("a document");
    assert_eq!((event.id.as_str(), event.source.as_str()), ("1700000000000-7", "/orders"));
    assert_eq!((event.r#type.as_str(), event.time), ("orders", ENTRY.ms));
    assert_eq!(of(Preset::Json).decode(fields.clone(), ENTRY), Ok(event));
    let configured = EnvelopeSettings {
        default_type: Some("order".into()),
        default_source: Some("shop".into()),
        ..settings(Preset::Json)
    };
    let event = envelope(&configured).decode(fields, ENTRY).expect("a document");
    assert_eq!((event.r#type.as_str(), event.source.as_str()), ("order", "shop"));
}

#[test]
fn names_can_be_changed() {
    let names = Names {
        id: Some("uuid".into()),
        r#type: Some("kind".into()),
        subject: Some("about".into()),
        data: Some("payload".into()),
        ..Names::default()
    };
    let field = Some("event".to_owned());
    let envelope = envelope(&EnvelopeSettings { field, names, ..settings(Preset::Json) });
    let document = br#"{"uuid":"1","kind":"t","about":"s","payload":[1]}"#;
    let event = envelope.decode(entry(&[("event", document)]), ENTRY).expect("a document");
    assert_eq!((event.id.as_str(), event.r#type.as_str(), event.subject.as_deref()), ("1", "t", Some("s")));
    assert_eq!(event.data, b"[1]");
    let written = envelope.fields(&event);
    let document: Value = serde_json::from_slice(&written[0].1).expect("JSON");
    assert_eq!(written[0].0, b"event");
    assert_eq!((&document["uuid"], &document["about"], &document["payload"]), (&json!("1"), &json!("s"), &json!([1])));
}

#[test]
fn msgpack_that_json_cannot_say_stays_msgpack() {
    let data = rmpv::Value::Map(vec![("photo".into(), rmpv::Value::Binary(vec![0xff, 0]))]);
    let document = rmpv::Value::Map(vec![("event_id".into(), "1".into()), ("data".into(), data.clone())]);
    let fields = entry(&[("data", &value::write_msgpack(&document))]);
    let event = of(Preset::MsgPack).decode(fields, ENTRY).expect("a document");
    assert_eq!(event.content_type, "application/msgpack");
    assert_eq!(value::read_msgpack(&event.data), Some(data));
    let back = of(Preset::MsgPack).decode(of(Preset::MsgPack).fields(&event), ENTRY).expect("a document");
    assert_eq!(back, event);
}

/// Python's `json` writes halves of characters, and numbers may be of any size.
#[test]
fn json_that_is_no_value_survives_in_msgpack() {
    for data in [&br#"{"half": "\ud800"}"#[..], b"[1e999]"] {
        let event = of(Preset::Json).decode(entry(&[("data", &[b"{\"data\":", data, b"}"].concat())]), ENTRY);
        let event = event.expect("a document");
        assert_eq!(event.data, data);
        for preset in [Preset::Json, Preset::MsgPack, Preset::Named, Preset::Dapr] {
            let back = of(preset).decode(of(preset).fields(&event), ENTRY);
            assert_eq!(back.as_ref(), Ok(&event), "{preset:?}");
        }
    }
}

#[test]
fn named_and_action_have_their_fields() {
    let event = of(Preset::Named).decode(entry(&[("name", b"placed"), ("body", b"{\"a\":1}")]), ENTRY).expect("named");
    assert_eq!((event.r#type.as_str(), &event.data[..]), ("placed", &b"{\"a\":1}"[..]));
    let fields = entry(&[("stream", b"orders"), ("action", b"create"), ("data", b"{}")]);
    let event = of(Preset::Action).decode(fields, ENTRY).expect("action");
    assert_eq!((event.r#type.as_str(), event.content_type.as_str()), ("create", "application/json"));
    let written = of(Preset::Action).fields(&event);
    let first: Vec<&[u8]> = written.iter().map(|(name, _)| name.as_slice()).collect();
    assert_eq!(first[0], b"stream");
    assert!(first.contains(&b"action".as_slice()) && first.contains(&b"data".as_slice()));
    let msgpack = EnvelopeSettings { encoding: Encoding::MsgPack, ..settings(Preset::Action) };
    let event = Event { content_type: "application/json".into(), data: b"{\"a\":1}".to_vec(), ..event };
    let written = envelope(&msgpack).fields(&event);
    assert_eq!(written.last(), Some(&(b"data".to_vec(), vec![0x81, 0xa1, b'a', 1])));
}

#[test]
fn dapr_is_read_wrapped_and_raw() {
    let wrapped = br#"{"specversion":"1.0","id":"1","source":"app","type":"com.dapr.event.sent","topic":"orders",
        "pubsubname":"pubsub","datacontenttype":"application/json","data":{"a":1}}"#;
    let fields = entry(&[("data", wrapped), ("metadata", br#"{"partitionKey":"k","ttlInSeconds":"5"}"#)]);
    let event = of(Preset::Dapr).decode(fields, ENTRY).expect("wrapped");
    assert_eq!((event.id.as_str(), event.partition_key.as_deref()), ("1", Some("k")));
    assert_eq!((event.attribute("topic"), event.attribute("ttlinseconds")), (Some("orders"), Some("5")));
    let event = of(Preset::Dapr).decode(entry(&[("data", b"\xff")]), ENTRY).expect("raw");
    assert_eq!((event.content_type.as_str(), event.r#type.as_str()), ("application/octet-stream", "orders"));
}

#[test]
fn a_flat_event_is_what_it_is_whatever_stands_in_its_data() {
    let [id, r#type, time] = ["uuid", "event", "at"].map(|name| Some(name.to_owned()));
    let names = Names { id, r#type, time, ..Names::default() };
    let time_format = TimeFormat::Seconds;
    let envelope = envelope(&EnvelopeSettings { names, time_format, ..settings(Preset::Flat) });
    let fields = entry(&[("event", b"placed"), ("uuid", b"1"), ("at", b"1700000000.50"), ("total", b"5")]);
    let event = envelope.decode(fields.clone(), ENTRY).expect("flat");
    assert_eq!((event.r#type.as_str(), event.id.as_str(), event.time), ("placed", "1", 1_700_000_000_500));
    let mut written = envelope.fields(&event);
    written.retain(|(name, _)| !name.starts_with(b"ce_"));
    written.sort();
    let mut fields = fields;
    fields.sort();
    assert_eq!(written, fields, "to the byte, the time as well");
    // A handler passes the data on in an event of its own.
    let follow_up = Event { id: "2".into(), r#type: "paid".into(), time: 1_800_000_000_000, ..event };
    let back = envelope.decode(envelope.fields(&follow_up), ENTRY).expect("it was written by us");
    assert_eq!((back.r#type.as_str(), back.id.as_str(), back.time), ("paid", "2", 1_800_000_000_000));
    let data: Value = serde_json::from_slice(&back.data).expect("JSON");
    assert_eq!(data, json!({"event": "paid", "uuid": "2", "at": "1800000000", "total": "5"}));
}

#[test]
fn a_timestamp_of_msgpack_itself_is_a_time() {
    let time = rmpv::Value::Ext(-1, 1_700_000_000_u32.to_be_bytes().to_vec());
    let document = rmpv::Value::Map(vec![("timestamp".into(), time.clone()), ("data".into(), 1.into())]);
    let event = of(Preset::MsgPack).decode(entry(&[("data", &value::write_msgpack(&document))]), ENTRY);
    assert_eq!(event.expect("a document").time, 1_700_000_000_000);
    // Elsewhere it is nothing that an attribute could hold.
    let document = rmpv::Value::Map(vec![("event_id".into(), time)]);
    let error = of(Preset::MsgPack).decode(entry(&[("data", &value::write_msgpack(&document))]), ENTRY);
    assert!(error.expect_err("no id").to_string().contains("at `/event_id`"));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let json = |document: &[u8]| of(Preset::Json).decode(entry(&[("data", document)]), ENTRY).expect_err("a fault");
    assert!(json(b"{").to_string().starts_with("field `data`: is not a JSON object"), "{}", json(b"{"));
    for (document, place) in [
        (&b"{\"event_id\": []}"[..], "field `data`, at `/event_id`: must be text"),
        (b"{\"timestamp\": \"soon\"}", "field `data`, at `/timestamp`: must be a time"),
        (b"{\"attributes\": {\"a\": []}}", "field `data`, at `/attributes/a`: must be"),
        (b"{\"data_base64\": \"!\"}", "field `data`, at `/data_base64`: is not base64"),
    ] {
        assert!(json(document).to_string().starts_with(place), "{}", json(document));
    }
    let missing = of(Preset::Json).decode(entry(&[("other", b"")]), ENTRY);
    assert_eq!(missing, Err(DecodeError::NoField("data".into())));
    let twice = entry(&[("name", b"a"), ("name", b"b"), ("body", b"1")]);
    assert_eq!(of(Preset::Named).decode(twice, ENTRY), Err(DecodeError::Duplicate("name".into())));
    let body = of(Preset::Named).decode(entry(&[("name", b"a"), ("body", b"{")]), ENTRY).expect_err("no JSON");
    assert!(body.to_string().starts_with("field `body`: is not JSON"), "{body}");
    assert_eq!(of(Preset::Named).decode(entry(&[("body", b"1")]), ENTRY), Err(DecodeError::NoField("name".into())));
    let garbage = of(Preset::MsgPack).decode(entry(&[("data", &[0xc1])]), ENTRY).expect_err("no MsgPack");
    assert!(garbage.to_string().contains("is not a MsgPack map"), "{garbage}");
    assert_eq!(of(Preset::Flat).decode(entry(&[("a", b"\xff")]), ENTRY), Err(DecodeError::NotUtf8("a".into())));
    let bad_name = vec![(b"good".to_vec(), Vec::new()), (b"bad\xff".to_vec(), Vec::new())];
    assert_eq!(of(Preset::Flat).decode(bad_name, ENTRY), Err(DecodeError::NotUtf8("bad\u{fffd}".into())));
    let event = |data: &[u8]| Event { data: data.to_vec(), ..Event::default() };
    assert_eq!(of(Preset::Flat).check(&event(b"[1]")), Err(EncodeError::NotAnObject));
    let reserved = EncodeError::ReservedMember("ce_id".into());
    assert_eq!(of(Preset::Flat).check(&event(b"{\"ce_id\": 1}")), Err(reserved));
}

#[test]
fn data_cannot_choose_what_a_flat_event_is() {
    let [id, r#type, source] = ["uuid", "event", "from"].map(|name| Some(name.to_owned()));
    let names = Names { id, r#type, source, ..Names::default() };
    let envelope = envelope(&EnvelopeSettings { names, ..settings(Preset::Flat) });
    let data = br#"{"uuid": "forged", "event": "forged", "from": "/forged", "total": 5}"#.to_vec();
    let event = Event { id: "1".into(), source: "/s".into(), r#type: "t".into(), data, ..Event::default() };
    let back = envelope.decode(envelope.fields(&event), ENTRY).expect("it was written by us");
    assert_eq!((back.id.as_str(), back.source.as_str(), back.r#type.as_str()), ("1", "/s", "t"));
    assert!(!String::from_utf8_lossy(&back.data).contains("forged"));
}
