//! Giving up, and trying again after all.

use std::sync::Arc;

use wasmill::broker::Settled::{Applied, Superseded};
use wasmill::broker::dead_letter::{self, StoredDeadLetter};
use wasmill::broker::keys::Namespace;
use wasmill::broker::{BrokerError, EntryId, Fields};
use wasmill::envelope;

use super::fixture::{A, B, FOREVER, Fixture, ack, bury, event, event_of, fields, park, source};

/// The only entry of the stream, as a dead letter.
async fn only_letter(f: &Fixture, key: &str) -> StoredDeadLetter {
    let mut letters = f.all(key).await;
    assert_eq!(letters.len(), 1);
    dead_letter::parse(letters.remove(0)).expect("a dead letter")
}

/// An entry with these fields that [`A`] has read and given up.
async fn give_up(f: &Fixture, fields: &Fields) -> EntryId {
    let source = f.group("orders").await;
    let entry = f.add_raw("orders", fields).await;
    assert_eq!(f.read(&source, A, 1).await[0].id, entry);
    let decision = bury("dead", &source, entry);
    assert_eq!(f.settle_one(A, &source, entry, decision.clone()).await, Applied);
    assert_eq!(f.settle_one(A, &source, entry, decision).await, Superseded);
    assert_eq!(f.pending_count(&source).await, 0);
    entry
}

pub async fn a_dead_letter_keeps_the_original_byte_for_byte(f: &Fixture) {
    let original = fields(&[
        (b"ce_id", b"\xff\x00\r\n"),
        (b"\x00", b""),
        (b"ce_id", b"again"),
        // An entry may look like a dead letter itself.
        (b"dl_original_fields", b"7"),
        (b"dl_stream", b"not this"),
    ]);
    let entry = give_up(f, &original).await;
    let letter = only_letter(f, "dead").await;
    assert_eq!(letter.original, original);
    let expected = [
        ("stream", "orders".to_owned()),
        ("entry_id", entry.to_string()),
        ("handler", "billing".to_owned()),
        ("digest", "sha256:00".to_owned()),
        ("class", "trap".to_owned()),
        ("message", "unreachable, \u{fc}".to_owned()),
        ("attempts", "3".to_owned()),
        ("first_time", entry.ms.to_string()),
        ("worker", "wasmill-test-a".to_owned()),
        ("traceparent", String::new()),
    ];
    for (name, value) in expected {
        assert_eq!(letter.get(name), value, "{name}");
    }
    // By the broker's clock, to the millisecond.
    let last_time: u64 = letter.get("last_time").parse().expect("milliseconds");
    assert!(last_time >= entry.ms && last_time <= letter.id.ms, "{last_time} {entry} {}", letter.id);
}

pub async fn a_dead_letter_of_a_trimmed_entry_keeps_the_evidence(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    f.cut("orders", 0).await;
    let decision = bury("dead", &source, entries[0].id);
    assert_eq!(f.settle_one(A, &source, entries[0].id, decision).await, Applied);
    let letter = only_letter(f, "dead").await;
    assert_eq!((letter.original.len(), letter.get("entry_id")), (0, &*entries[0].id.to_string()));
    assert_eq!(f.pending_count(&source).await, 0);
}

pub async fn a_dead_letter_keeps_thousands_of_fields(f: &Fixture) {
    let original: Fields = (0..2500).map(|n| (format!("f{n}").into_bytes(), b"v".to_vec())).collect();
    give_up(f, &original).await;
    assert_eq!(only_letter(f, "dead").await.original, original);
}

pub async fn a_redriven_event_comes_back_once_and_begins_anew(f: &Fixture) {
    let original = envelope::fields(&event("e1"));
    let entry = give_up(f, &original).await;
    let inbox = Arc::new(Namespace::default().inbox_source("billing", "billing"));
    let letter = only_letter(f, "dead").await;
    assert!(f.broker().create_group(&inbox).await.unwrap());
    assert!(f.inspect().redrive("dead", letter.id, &inbox.key, None).await.unwrap());
    assert!(!f.inspect().redrive("dead", letter.id, &inbox.key, None).await.unwrap());
    assert!(f.all("dead").await.is_empty());

    let mut entries = f.read(&inbox, B, 10).await;
    assert_eq!(entries.len(), 1);
    let delivered = entries.remove(0);
    assert_eq!(delivered.attempt, 1);
    let parsed = dead_letter::parse_inbox(delivered.fields.clone()).expect("an inbox entry");
    assert_eq!((&*parsed.stream, parsed.entry, &parsed.original), ("orders", entry, &original));
    assert_eq!(event_of(wasmill::broker::Entry { fields: parsed.original, ..delivered }).id, "e1");
    // From here on it is an entry like any other.
    assert_eq!(f.settle_one(B, &inbox, delivered.id, park(FOREVER)).await, Applied);
    assert_eq!(f.settle_one(B, &inbox, delivered.id, ack()).await, Applied);
    assert_eq!(f.pending_count(&inbox).await, 0);
}

pub async fn a_redriven_event_that_dies_again_keeps_its_original(f: &Fixture) {
    // An entry may look like a dead letter itself.
    let original = fields(&[(b"\xff", b"\n"), (b"dl_original_fields", b"9"), (b"dl_stream", b"x")]);
    let entry = give_up(f, &original).await;
    let inbox = Arc::new(Namespace::default().inbox_source("billing", "billing"));
    assert!(f.broker().create_group(&inbox).await.unwrap());
    for version in [None, Some("abc"), None] {
        let letter = only_letter(f, "dead").await;
        assert_eq!((&letter.original, letter.get("stream")), (&original, "orders"));
        assert!(f.inspect().redrive("dead", letter.id, &inbox.key, version).await.unwrap());
        let delivered = f.read(&inbox, B, 10).await.remove(0);
        let parsed = dead_letter::parse_inbox(delivered.fields).expect("an inbox entry");
        assert_eq!((parsed.entry, &parsed.original, parsed.version.as_deref()), (entry, &original, version));
        let decision = bury("dead", &source("orders", "billing"), entry);
        assert_eq!(f.settle_one(B, &inbox, delivered.id, decision).await, Applied);
    }
    assert_eq!(only_letter(f, "dead").await.original, original);
}

pub async fn a_dead_letter_without_its_original_is_not_redriven(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    f.cut("orders", 0).await;
    f.settle_one(A, &source, entries[0].id, bury("dead", &source, entries[0].id)).await;
    let letter = only_letter(f, "dead").await.id;
    let error = f.inspect().redrive("dead", letter, "inbox", None).await.expect_err("there is nothing to run");
    assert!(matches!(error, BrokerError::NotRedrivable { entry, .. } if entry == letter), "{error}");
    let text = error.to_string();
    assert!(text.contains(&letter.to_string()) && text.contains("wasmill dlq drop"), "{text}");
    // It stays, and nothing is made of it.
    assert_eq!(only_letter(f, "dead").await.id, letter);
    assert!(f.inspect().stream("inbox").await.unwrap().is_none());
}

pub async fn only_dead_letters_are_redriven(f: &Fixture) {
    let published = f.publish(&"orders".into(), 1).await[0];
    let error = f.inspect().redrive("orders", published, "inbox", None).await.expect_err("it is none");
    assert!(matches!(error, BrokerError::NotRedrivable { entry, .. } if entry == published), "{error}");
    assert!(!f.inspect().redrive("orders", published.next(), "inbox", None).await.unwrap());
    assert!(!f.inspect().redrive("absent", published, "inbox", None).await.unwrap());
    assert_eq!(f.all("orders").await.len(), 1);
    assert!(f.inspect().stream("inbox").await.unwrap().is_none());
    assert!(f.inspect().stream(&source("absent", "x").key).await.unwrap().is_none());
}
