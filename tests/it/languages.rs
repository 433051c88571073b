//! One contract for the handler `enrich` of guest-examples/, in whatever language it is written.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmill::outcome::{Due, FaultClass, Publication, Verdict};
use wasmill::wasm::{Execution, Handler, Isolation, LogLevel, LogSource};
use wasmill_tests::eventually;
use wasmill_tests::languages::{Language, PATIENCE, Subject, compiled_cache, reuse, run};
use wasmill_tests::redis_server::RedisServer;
use wasmill_tests::worker::Worker;

/// Limits under which time and memory are not what is tested.
const LIMITS: &str = "memory = \"256 MiB\"\ndeadline = \"60s\"\nevent_bytes = \"4 MiB\"\npublish_bytes = \"8 MiB\"";
/// The memory that an instance may have where that is what is tested. The default does for all but Python.
const MEMORY: usize = 96 << 20;
/// The events that one instance serves.
const MANY: u32 = 2_000;

wasmill_tests::for_every_language! {
    an_order_is_enriched_with_all_its_fields,
    what_it_did_is_logged,
    what_is_no_order_is_rejected,
    an_empty_payload_is_rejected,
    a_binary_payload_is_rejected,
    odd_input_never_ends_an_instance,
    a_passing_fault_is_tried_again,
    a_refused_publication_is_a_reject,
    a_large_payload_goes_through,
    text_of_any_script_goes_through,
    a_trap_ends_the_instance_and_nothing_else,
    a_spinning_handler_is_stopped,
    memory_ends_at_the_limit,
    one_instance_serves_many_events_within_its_memory,
}

fn lenient(subject: &Subject) -> Handler {
    subject.handler(LIMITS, &["orders.enriched"], Isolation::Fresh)
}

/// One attempt at an order, in an instance of its own.
fn once(handler: &Handler, data: impl Into<Vec<u8>>) -> Execution {
    run(handler, None, "order_placed", data, 1).0
}

fn order(id: &str) -> Value {
    json!({
        "order_id": id,
        "customer": "c-1",
        "items": [
            {"sku": "mug", "quantity": 2, "price": 950},
            {"sku": "teapot", "quantity": 1, "price": 2400, "colour": "blue"},
            {"sku": "leaflet", "quantity": 3, "price": 0},
        ],
        "total": 4300,
    })
}

/// The one follow-up of an order that was enriched.
#[track_caller]
fn published(execution: &Execution) -> &Publication {
    assert_eq!(execution.verdict, Verdict::Ack, "{:?}", execution.logs);
    let [publication] = &execution.publishes[..] else { panic!("not one: {:?}", execution.publishes) };
    publication
}

#[track_caller]
fn data(publication: &Publication) -> Value {
    serde_json::from_slice(&publication.event.data).unwrap()
}

/// The order with the field that the handler adds.
fn enriched(mut order: Value, count: u64) -> Value {
    order["item_count"] = count.into();
    order
}

#[track_caller]
fn assert_rejected(execution: &Execution, what: &str) {
    match &execution.verdict {
        Verdict::Reject { message } => assert!(message.starts_with("malformed order: "), "{what}: {message}"),
        other => panic!("{what}: {other:?} {:?}", execution.logs),
    }
    assert!(execution.publishes.is_empty(), "{what}");
}

fn an_order_is_enriched_with_all_its_fields(subject: &Subject) {
    let mut order = order("o-1");
    order["note"] = "gift".into();
    order["address"] = json!({"street": "x", "lines": [1, -2.5, true, null, [], {}], "": "empty name"});
    // Formatted, so that no reader can count on there being no spaces.
    let execution = once(&lenient(subject), serde_json::to_vec_pretty(&order).unwrap());
    let publication = published(&execution);
    assert_eq!(&*publication.key, "orders.enriched");
    let event = &publication.event;
    assert_eq!((event.r#type.as_str(), event.subject.as_deref()), ("order_enriched", Some("o-1")));
    assert_eq!((event.content_type.as_str(), event.partition_key.as_deref()), ("application/json", Some("c-1")));
    assert_eq!(event.schema_version, None);
    assert!(event.attributes.contains(&("causationid".to_owned(), "e-1".to_owned())), "{event:?}");
    assert_eq!(data(publication), enriched(order, 6));
}

fn what_it_did_is_logged(subject: &Subject) {
    let execution = once(&lenient(subject), order("o-1").to_string());
    let [line] = &execution.logs[..] else { panic!("not one: {:?}", execution.logs) };
    assert_eq!((line.source, line.level), (LogSource::Logging, LogLevel::Info));
    assert_eq!((line.context.as_str(), line.message.as_str()), ("enrich", "enriched order o-1"));
}

/// The order `o-1` with something else at a place in it; nothing at all without a value.
fn broken(pointer: &str, value: Option<Value>) -> String {
    let mut order = order("o-1");
    match value {
        Some(value) => *order.pointer_mut(pointer).unwrap() = value,
        None => {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            order.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        }
    }
    order.to_string()
}

fn what_is_no_order_is_rejected(subject: &Subject) {
    let handler = lenient(subject);
    let whole = order("o-1").to_string();
    let mut inputs: Vec<String> =
        ["null", "1", "\"order\"", "[]", "{}", "[{}]", "true", "order", "{", "{]", "NaN", "Infinity"]
            .map(str::to_owned)
            .to_vec();
    inputs.push(whole[..whole.len() - 1].to_owned());
    inputs.push(format!("{whole}x"));
    inputs.push(format!("{whole}{whole}"));
    inputs.push(whole.replace("4300", "NaN"));
    inputs.push(whole.replace("950", "1e999"));
    inputs.push(whole.replace("950", &"9".repeat(5000)));
    inputs.push(whole.replace("\"c-1\"", "'c-1'"));
    inputs.push(whole.replace("\"c-1\"", "\"a\tb\n\""));
    for field in ["/order_id", "/customer", "/items", "/total", "/items/0/sku", "/items/1/quantity", "/items/2/price"] {
        inputs.push(broken(field, None));
        inputs.push(broken(field, Some(Value::Null)));
        inputs.push(broken(field, Some(json!({"not": "that"}))));
        inputs.push(broken(field, Some(json!(true))));
    }
    let others = [
        ("/order_id", json!("")),
        ("/order_id", json!(1)),
        ("/items", json!([])),
        ("/items", json!([1])),
        ("/items/0", json!([])),
        ("/items/0/sku", json!(7)),
        ("/items/0/quantity", json!(0)),
        ("/items/0/quantity", json!(-2)),
        ("/items/0/quantity", json!(1.5)),
        ("/items/0/quantity", json!("2")),
        ("/items/0/price", json!(-950)),
        ("/items/0/price", json!(0.5)),
        ("/items/0/price", json!(1e30)),
        ("/items/0/price", json!(u64::MAX)),
        ("/items/0/price", json!(1u64 << 62)),
        ("/total", json!(4301)),
        ("/total", json!(-4300)),
        ("/total", json!("4300")),
        ("/total", json!(4300.5)),
    ];
    inputs.extend(others.map(|(pointer, value)| broken(pointer, Some(value))));
    for input in inputs {
        let shown: String = input.chars().take(300).collect();
        assert_rejected(&once(&handler, input), &shown);
    }
}

fn an_empty_payload_is_rejected(subject: &Subject) {
    assert_rejected(&once(&lenient(subject), ""), "nothing");
    assert_rejected(&once(&lenient(subject), " \n"), "blanks");
}

fn a_binary_payload_is_rejected(subject: &Subject) {
    let handler = lenient(subject);
    let all: Vec<u8> = (0..=255).collect();
    assert_rejected(&once(&handler, all), "all bytes");
    assert_rejected(&once(&handler, vec![0; 1000]), "zeros");
    let whole = order("o-1").to_string();
    for bad in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"] {
        let at = whole.find("c-1").unwrap();
        let input = [&whole.as_bytes()[..at], bad, &whole.as_bytes()[at..]].concat();
        assert_rejected(&once(&handler, input), &format!("{bad:x?} in a text"));
    }
    let whole = whole.into_bytes();
    assert_rejected(&once(&handler, [&whole[..], b"\0"].concat()), "a zero at the end");
}

/// Input that readers of JSON judge differently: whatever they say, the handler says it by its return value.
fn odd_input_never_ends_an_instance(subject: &Subject) {
    let handler = lenient(subject);
    let whole = order("o-1").to_string();
    let with = |field: &str| format!("{{{field},{}", &whole[1..]);
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let mut inputs = vec![
        format!("\u{feff}{whole}"),
        whole.replace("o-1", "\\ud800"),
        whole.replace("o-1", "\\udc00\\ud800"),
        whole.replace("c-1", "\\ud800"),
        whole.replace("o-1", "\\u0000"),
        whole.replace("o-1", &"o".repeat(10_000)),
        whole.replace("950", "950.0"),
        whole.replace("4300", "43e2"),
        with("\"order_id\":\"first\""),
        with("\"__proto__\":{\"a\":1}"),
        with(&format!("\"huge\":{}", "9".repeat(1000))),
        with("\"huge\":-1e999"),
        with("\"item_count\":\"mine\""),
    ];
    for depth in [100, 400, 1_000, 5_000, 9_990, 100_000] {
        inputs.push(nested(depth));
        inputs.push(with(&format!("\"deep\":{}", nested(depth))));
        inputs.push("[".repeat(depth));
        inputs.push("{\"a\":".repeat(depth));
        inputs.push(with(&format!("\"deep\":{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))));
    }
    for input in inputs {
        let shown: String = input.chars().take(300).collect();
        let execution = once(&handler, input);
        let fine = matches!(execution.verdict, Verdict::Ack | Verdict::Reject { .. });
        assert!(fine, "{shown}: {:?} {:?}", execution.verdict, execution.logs);
    }
}

fn a_passing_fault_is_tried_again(subject: &Subject) {
    let handler = lenient(subject);
    let mut order = order("o-1");
    order["flaky"] = true.into();
    let execution = once(&handler, order.to_string());
    let Verdict::Retry { message, after } = &execution.verdict else { panic!("{execution:?}") };
    assert_eq!((message.as_str(), *after), ("the price list is busy", None));
    assert!(execution.publishes.is_empty() && execution.logs.is_empty(), "{execution:?}");
    let (execution, _) = run(&handler, None, "order_placed", order.to_string(), 2);
    assert_eq!(data(published(&execution)), enriched(order.clone(), 6));
    order["flaky"] = false.into();
    assert_eq!(once(&handler, order.to_string()).verdict, Verdict::Ack);
}

fn a_refused_publication_is_a_reject(subject: &Subject) {
    let denied = subject.handler(LIMITS, &["other"], Isolation::Fresh);
    let too_small = LIMITS.replace("publish_bytes = \"8 MiB\"", "publish_bytes = \"100 B\"");
    let too_large = subject.handler(&too_small, &["orders.enriched"], Isolation::Fresh);
    for handler in [denied, too_large] {
        let execution = once(&handler, order("o-1").to_string());
        let Verdict::Reject { message } = &execution.verdict else { panic!("{execution:?}") };
        assert!(message.starts_with("cannot publish: "), "{message}");
    }
}

fn a_large_payload_goes_through(subject: &Subject) {
    let handler = lenient(subject);
    for size in [64 << 10, 1 << 20, 2 << 20] {
        let mut order = order("o-1");
        order["note"] = "".into();
        let filler = size - order.to_string().len();
        order["note"] = "x".repeat(filler).into();
        let text = order.to_string();
        assert_eq!(text.len(), size);
        let execution = once(&handler, text);
        assert!(data(published(&execution)) == enriched(order, 6), "of {size} bytes");
    }
}

fn text_of_any_script_goes_through(subject: &Subject) {
    let handler = lenient(subject);
    let id = "bestellung-ä-注文-طلب-😀";
    let mut order = order(id);
    order["note"] =
        "e\u{301} \u{2028} \u{1f468}\u{200d}\u{1f469} \u{10ffff} \u{7f} \" \\ / \u{8}\u{c}\n\r\t\u{1}".into();
    order["größe"] = "名前".into();
    order["customer"] = "Łukasz Ørsted".into();
    let plain = order.to_string();
    let escaped: String = plain.chars().fold(String::new(), |text, c| match c.is_ascii() {
        true => text + &c.to_string(),
        false => c.encode_utf16(&mut [0; 2]).iter().fold(text, |text, unit| format!("{text}\\u{unit:04x}")),
    });
    for input in [plain, escaped] {
        let execution = once(&handler, input.clone());
        let publication = published(&execution);
        assert_eq!(publication.event.subject.as_deref(), Some(id), "{input}");
        assert_eq!(data(publication), enriched(order.clone(), 6), "{input}");
        assert_eq!(execution.logs[0].message, format!("enriched order {id}"), "{input}");
    }
}

fn a_trap_ends_the_instance_and_nothing_else(subject: &Subject) {
    let handler = subject.handler(LIMITS, &["orders.enriched"], reuse(MANY, MEMORY));
    let (execution, warm) = run(&handler, None, "order_placed", order("o-1").to_string(), 1);
    published(&execution);
    assert!(warm.is_some());
    let (execution, warm) = run(&handler, warm, "drill", "trap", 1);
    let Verdict::Fault { class, .. } = &execution.verdict else { panic!("{execution:?}") };
    assert_eq!(*class, FaultClass::Trap, "{execution:?}");
    assert!(warm.is_none() && execution.publishes.is_empty());
    // `abort` has nothing to say; all others say what was wrong.
    let is_mute = matches!(subject.language, Language::C | Language::Cpp);
    let says = execution.logs.iter().any(|line| line.message.contains("a drill"));
    assert!(is_mute || says, "{execution:?}");
    published(&once(&handler, order("o-2").to_string()));
}

fn a_spinning_handler_is_stopped(subject: &Subject) {
    let limits = "memory = \"256 MiB\"\ndeadline = \"1s\"";
    let handler = subject.handler(limits, &["orders.enriched"], Isolation::Fresh);
    let start = Instant::now();
    let (execution, warm) = run(&handler, None, "drill", "spin", 1);
    let Verdict::Fault { class, .. } = &execution.verdict else { panic!("{execution:?}") };
    assert_eq!(*class, FaultClass::Timeout, "{execution:?}");
    assert!(warm.is_none());
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
}

fn memory_ends_at_the_limit(subject: &Subject) {
    let limits = format!("memory = \"{MEMORY} B\"\ndeadline = \"60s\"");
    let handler = subject.handler(&limits, &["orders.enriched"], Isolation::Fresh);
    let (execution, warm) = run(&handler, None, "drill", "hog", 1);
    let Verdict::Fault { class, .. } = &execution.verdict else { panic!("{execution:?}") };
    assert_eq!(*class, FaultClass::OutOfMemory, "{execution:?}");
    assert!(warm.is_none());
    assert!(execution.peak_memory > MEMORY / 2 && execution.peak_memory <= MEMORY, "{}", execution.peak_memory);
}

fn one_instance_serves_many_events_within_its_memory(subject: &Subject) {
    let limits = format!("memory = \"{MEMORY} B\"\ndeadline = \"60s\"");
    let handler = subject.handler(&limits, &["orders.enriched"], reuse(MANY + 1, MEMORY));
    let mut warm = None;
    let mut took = Duration::ZERO;
    for number in 0..MANY {
        let id = format!("o-{number}");
        let mut order = order(&id);
        order["note"] = "x".repeat(number as usize % 1500).into();
        let (execution, kept) = run(&handler, warm, "order_placed", order.to_string(), 1);
        assert_eq!(published(&execution).event.subject.as_deref(), Some(id.as_str()));
        assert!(execution.peak_memory <= MEMORY, "{} after {number}", execution.peak_memory);
        assert!(kept.is_some(), "the instance was given up after {number} events");
        took += execution.wall;
        if [0, 1, 9, 99, 999].contains(&number) || number + 1 == MANY {
            let memory = execution.peak_memory >> 10;
            println!("{}: event {number}: {memory} KiB, {:?}", subject.language.name(), execution.wall);
        }
        warm = kept;
    }
    println!("{}: {MANY} events in {took:?}", subject.language.name());
}

/// The package `wasmill` of the Go example, where it goes beyond the example.
mod go_package {
    use super::*;

    /// Runs the event of each type on one instance, which has been told to use the package.
    fn exercise(types: &[&str], check: impl Fn(&str, &Execution)) {
        let Some(subject) = Subject::new(Language::Go) else { return };
        let limits =
            format!("{LIMITS}\npublishes = 100").replace("publish_bytes = \"8 MiB\"", "publish_bytes = \"1 MiB\"");
        let handler = subject.handler(&limits, &["orders.enriched"], reuse(MANY, 256 << 20));
        let (_, mut warm) = run(&handler, None, "drill", "package", 1);
        for r#type in types {
            assert!(warm.is_some(), "{type}");
            let (execution, kept) = run(&handler, warm, r#type, "data", 2);
            check(r#type, &execution);
            warm = kept;
        }
    }

    #[test]
    fn a_handler_sees_all_fields() {
        exercise(&["fields"], |_, execution| {
            let [line] = &execution.logs[..] else { panic!("{execution:?}") };
            assert_eq!(line.level, LogLevel::Critical);
            assert_eq!(
                line.message,
                "{ID:e-1 Source:/shop Type:fields Time:2025-01-01 12:00:00 +0000 UTC Subject: SchemaVersion: \
                 PartitionKey:c-1 ContentType:application/json Attributes:[{Name:tone Value:loud}] \
                 Data:[100 97 116 97]} {Tenant:default Handler:enrich Stream:orders EntryID:1-0 Attempt:2 \
                 MaxAttempts:3 Deadline:1m0s Replay:false} loud"
            );
        });
    }

    #[test]
    fn drafts_carry_all_fields_and_batches_are_kept_whole() {
        exercise(&["batch", "batch"], |_, execution| {
            assert_eq!(execution.verdict, Verdict::Ack);
            let [full, plain] = &execution.publishes[..] else { panic!("{execution:?}") };
            let fields = (&full.event.subject, &full.event.schema_version, &full.event.partition_key);
            assert_eq!(fields, (&Some("s".into()), &Some("2".into()), &Some("p".into())));
            assert!(full.event.attributes.starts_with(&[("a".into(), "1".into()), ("b".into(), "ü".into())]));
            assert_eq!(full.when, Due::After(Duration::from_millis(1500)));
            assert_eq!((&plain.event.subject, plain.when), (&None, Due::Now));
            assert_eq!((&*plain.event.content_type, &plain.event.data[..]), ("text/plain", &b"x"[..]));
            let ids = format!("[{} {}]", full.event.id, plain.event.id);
            assert_eq!((execution.logs[0].level, &execution.logs[0].message), (LogLevel::Debug, &ids));
        });
    }

    #[test]
    fn errors_decide_what_becomes_of_an_event() {
        let types = ["later", "plain", "wrapped", "denied", "too_large", "too_many", "bad_text", "empty_batch"];
        exercise(&types, |r#type, execution| {
            let retry = |message: &str, after| Verdict::Retry { message: message.into(), after };
            let reject = |message: &str| Verdict::Reject { message: message.into() };
            let expected = match r#type {
                "later" => retry("later \u{fffd}", Some(Duration::from_millis(1500))),
                "plain" => retry("plain", None),
                "wrapped" => reject("outer: inner"),
                "denied" => reject("true the stream forbidden is not granted"),
                "too_large" => reject("true more than 1048576 bytes"),
                "too_many" => reject("more than 100 events"),
                "bad_text" => reject("true not UTF-8: \"\\xff\""),
                _ => reject("0 ids"),
            };
            assert_eq!(execution.verdict, expected, "{type}");
            if r#type == "bad_text" {
                assert_eq!(execution.logs[0].message, "\u{fffd}");
            }
        });
    }

    #[test]
    fn goroutines_work_while_an_event_is_handled() {
        exercise(&["goroutines", "goroutines"], |_, execution| {
            let subjects: Vec<_> = execution.publishes.iter().filter_map(|one| one.event.subject.as_deref()).collect();
            assert_eq!(subjects, ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"], "{execution:?}");
        });
    }

    #[test]
    fn what_does_not_fit_into_the_arena_is_a_clear_fault() {
        const ARENA: usize = 3 << 20;
        let Some(subject) = Subject::new(Language::Go) else { return };
        let handler = subject.handler(LIMITS, &["orders.enriched"], Isolation::Fresh);
        assert_rejected(&once(&handler, vec![b' '; ARENA - 1024]), "below the edge");
        let execution = once(&handler, vec![b' '; ARENA]);
        let Verdict::Fault { class, message } = &execution.verdict else { panic!("{execution:?}") };
        assert_eq!(*class, FaultClass::Trap);
        assert!(message.contains("realloc return: beyond end of memory"), "{message}");
    }
}

/// All languages at once, in one worker, on the same stream.
#[test]
fn all_languages_read_the_same_stream() {
    const ORDERS: usize = 50;
    let built: Vec<Language> = Language::ALL.into_iter().filter(|language| language.component().is_some()).collect();
    let server = RedisServer::start();
    let mut config = format!(
        "[redis]\nurl = \"{}\"\n[admin]\nlisten = \"\"\n[worker]\nthreads = 2\ncache_dir = \"{}\"\n\
         [limits]\nmemory = \"256 MiB\"\ndeadline = \"60s\"\n[retry]\nbase = \"10ms\"\ncap = \"50ms\"\n",
        server.url(),
        compiled_cache().display(),
    );
    for language in &built {
        let name = language.name();
        let component = wasmill_tests::workspace().join(format!("target/guests/enrich-{name}.wasm"));
        config += &format!(
            "[handlers.enrich-{name}]\ncomponent = \"{}\"\nstreams = [\"orders\"]\npublishes = [\"orders.enriched\"]\n",
            component.display()
        );
    }
    let worker = Worker::spawn(&config);
    let client = redis::Client::open(server.url()).unwrap();
    let mut redis = client.get_connection().unwrap();
    for number in 0..ORDERS {
        let mut order = order(&format!("o-{number}"));
        order["flaky"] = (number % 10 == 0).into();
        let mut add = redis::cmd("XADD");
        add.arg("orders").arg("*").arg("ce_id").arg(number).arg("ce_source").arg("/shop");
        add.arg("ce_type").arg("order_placed").arg("data").arg(order.to_string());
        add.exec(&mut redis).unwrap();
    }
    let count =
        |redis: &mut redis::Connection, stream: &str| -> usize { redis::cmd("XLEN").arg(stream).query(redis).unwrap() };
    let expected = ORDERS * built.len();
    eventually(&format!("{expected} enriched orders"), 2 * PATIENCE, || {
        assert!(!worker.stderr_text().contains("error:"), "{}", worker.stderr_text());
        (count(&mut redis, "orders.enriched") >= expected).then_some(())
    });
    let entries: Vec<(String, std::collections::HashMap<String, String>)> =
        redis::cmd("XRANGE").arg(&["orders.enriched", "-", "+"]).query(&mut redis).unwrap();
    for language in built {
        let source = format!("/wasmill/default/enrich-{}", language.name());
        let own = entries.iter().filter(|(_, fields)| fields["ce_source"] == source);
        let mut subjects: Vec<&str> = own.map(|(_, fields)| fields["ce_subject"].as_str()).collect();
        subjects.sort_unstable();
        subjects.dedup();
        assert_eq!(subjects.len(), ORDERS, "{source}");
        assert_eq!(count(&mut redis, &format!("enrich-{}.dead", language.name())), 0);
    }
    assert_eq!(entries.len(), expected);
}
