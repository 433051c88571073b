//! Trimming: what goes, what stays, and who holds back what should go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wasmill::broker::{BrokerError, EntryId, Refusal, Trimmed};

use super::fixture::{A, B, FOREVER, Fixture, ack, ids, park, settlement, source};

/// Trims until there is nothing more to remove; the sum, and the number of calls.
async fn trim(f: &Fixture, key: &str, max_length: Option<usize>, older_than: Option<Duration>) -> (Trimmed, usize) {
    let (mut removed, mut calls) = (0, 0);
    loop {
        let trimmed = f.inspect().trim(key, max_length, older_than).await.expect("a stream is trimmed");
        calls += 1;
        removed += trimmed.removed;
        if !trimmed.more {
            return (Trimmed { removed, ..trimmed }, calls);
        }
        assert!(trimmed.removed > 0 && trimmed.held_back_by.is_none(), "{trimmed:?}");
    }
}

fn trimmed(removed: usize, length: usize, held_back_by: Option<&str>) -> Trimmed {
    Trimmed { removed, length, more: false, held_back_by: held_back_by.map(str::to_owned) }
}

pub async fn a_stream_without_groups_is_cut_to_its_length(f: &Fixture) {
    // A server keeps entries in nodes of 100: whole ones and parts of one.
    let published = f.publish(&"orders".into(), 1000).await;
    for (keep, removed) in [(1001, 0), (1000, 0), (999, 1), (500, 499), (499, 1), (299, 200), (1, 298), (0, 1)] {
        assert_eq!(trim(f, "orders", Some(keep), None).await.0, trimmed(removed, keep.min(1000), None), "{keep}");
        assert_eq!(ids(&f.all("orders").await), published[1000 - keep.min(1000)..], "the newest stay");
    }
}

pub async fn old_entries_go_and_young_ones_stay(f: &Fixture) {
    let key = "orders".into();
    f.publish(&key, 150).await;
    assert_eq!(trim(f, "orders", None, Some(FOREVER)).await.0, trimmed(0, 150, None));
    // Age is time: nothing but time makes an entry old.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = Instant::now();
    let young = f.publish(&key, 30).await;
    let age = before.elapsed() + Duration::from_millis(500);
    assert_eq!(trim(f, "orders", Some(170), Some(age)).await.0, trimmed(150, 30, None));
    assert_eq!(ids(&f.all("orders").await), young);
    // Both limits at once: the stricter one counts.
    assert_eq!(trim(f, "orders", Some(7), Some(FOREVER)).await.0, trimmed(23, 7, None));
}

pub async fn an_entry_that_is_pending_holds_back_all_that_follow(f: &Fixture) {
    let (source, entries) = f.pending("orders", 250).await;
    let all_but =
        |kept: usize| entries.iter().enumerate().filter(move |(at, _)| *at != kept).map(|(_, entry)| entry.id);
    let acks: Vec<_> = all_but(120).map(|id| settlement(&source, id, ack())).collect();
    f.settle(A, &acks).await;
    assert_eq!(trim(f, "orders", Some(200), None).await.0, trimmed(50, 200, None), "nobody holds that back");
    assert_eq!(trim(f, "orders", Some(10), None).await.0, trimmed(70, 130, Some("billing")));
    assert_eq!(f.all("orders").await[0].id, entries[120].id);
    let zero = Some(Duration::ZERO);
    assert_eq!(trim(f, "orders", None, zero).await.0, trimmed(0, 130, Some("billing")), "nor by age");
    f.settle_one(A, &source, entries[120].id, ack()).await;
    assert_eq!(trim(f, "orders", Some(10), None).await.0, trimmed(120, 10, None));
}

pub async fn a_parked_entry_holds_back_too(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    let decisions = [ack(), park(FOREVER), ack()];
    let settlements: Vec<_> =
        entries.iter().zip(decisions).map(|(entry, decision)| settlement(&source, entry.id, decision)).collect();
    f.settle(A, &settlements).await;
    assert_eq!(trim(f, "orders", Some(1), None).await.0, trimmed(1, 2, Some("billing")));
}

pub async fn a_group_that_lags_holds_back_what_it_has_not_read(f: &Fixture) {
    let (billing, entries) = f.pending("orders", 300).await;
    let acks: Vec<_> = entries.iter().map(|entry| settlement(&billing, entry.id, ack())).collect();
    f.settle(A, &acks).await;
    let shipping = source("orders", "shipping");
    f.broker().create_group(&shipping).await.unwrap();
    assert_eq!(trim(f, "orders", Some(5), None).await.0, trimmed(0, 300, Some("shipping")));
    let first = f.read(&shipping, B, 130).await;
    assert_eq!(ids(&first), ids(&entries[..130]));
    let acks: Vec<_> = first.iter().map(|entry| settlement(&shipping, entry.id, ack())).collect();
    f.settle(B, &acks).await;
    assert_eq!(trim(f, "orders", Some(5), None).await.0, trimmed(130, 170, Some("shipping")));
    assert_eq!(ids(&f.read(&shipping, B, 1000).await), ids(&entries[130..]), "nothing that it needs is gone");
}

pub async fn reading_and_trimming_at_once_lose_nothing(f: &Fixture) {
    let source = f.group("orders").await;
    let published = f.publish(&source.key, 1000).await;
    let drain = async {
        let mut read = Vec::new();
        loop {
            let portion = f.read(&source, A, 7).await;
            if portion.is_empty() {
                return read;
            }
            assert!(portion.iter().all(|entry| !entry.fields.is_empty()));
            let acks: Vec<_> = portion.iter().map(|entry| settlement(&source, entry.id, ack())).collect();
            f.settle(A, &acks).await;
            read.extend(ids(&portion));
            tokio::task::yield_now().await;
        }
    };
    let trims = async {
        let mut removed = 0;
        while removed < published.len() {
            removed += trim(f, "orders", Some(0), None).await.0.removed;
            tokio::task::yield_now().await;
        }
    };
    let (read, ()) = tokio::join!(drain, trims);
    assert_eq!(read.len(), published.len());
    assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), published.into_iter().collect());
    assert!(f.all("orders").await.is_empty());
}

pub async fn what_is_not_there_is_not_trimmed(f: &Fixture) {
    assert_eq!(trim(f, "absent", Some(1), Some(Duration::ZERO)).await, (Trimmed::default(), 1));
    f.group("empty").await;
    assert_eq!(trim(f, "empty", Some(1), Some(Duration::ZERO)).await, (Trimmed::default(), 1));
    f.publish(&"kept".into(), 3).await;
    assert_eq!(trim(f, "kept", None, None).await.0, trimmed(0, 3, None));
}

#[tokio::test]
async fn one_call_removes_a_bounded_number() {
    let f = Fixture::redis().await;
    for _ in 0..25 {
        f.publish(&"orders".into(), 1000).await;
    }
    let once = f.inspect().trim("orders", Some(50), None).await.unwrap();
    assert!(once.more && once.removed <= 10_000, "{once:?}");
    let (rest, calls) = trim(&f, "orders", Some(50), None).await;
    assert_eq!(rest, trimmed(24_950 - once.removed, 50, None));
    assert!(calls > 2, "{calls}");
}

/// Trimming is what helps a full server.
#[tokio::test]
async fn a_full_server_can_be_trimmed_and_a_key_of_another_type_is_refused() {
    let mut f = Fixture::redis().await;
    f.publish(&"orders".into(), 300).await;
    let raw = f.raw().0;
    redis::cmd("SET").arg(&["text", "x"]).query_async::<()>(raw).await.unwrap();
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query_async::<()>(raw).await.unwrap();
    assert_eq!(trim(&f, "orders", Some(10), None).await.0, trimmed(290, 10, None));
    let error = f.inspect().trim("text", Some(1), None).await.unwrap_err();
    assert!(matches!(error, BrokerError::Refused { refusal: Refusal::WrongType, .. }), "{error}");
}

/// A script counts in floating point, which ends at 2^53.
#[tokio::test]
async fn the_greatest_ids_are_compared_rightly() {
    let mut f = Fixture::redis().await;
    let id = |ms: u64, seq: u64| EntryId { ms, seq };
    let huge = u64::MAX - 1;
    let entries = [id(9, 9), id(10, 2), id(10, 10), id(huge, huge - 1), id(huge, huge), id(u64::MAX, 0)];
    for entry in entries {
        let mut command = redis::cmd("XADD");
        command.arg("orders").arg(entry.to_string()).arg("f").arg("v");
        let _: String = command.query_async(f.raw().0).await.unwrap();
    }
    let source = f.group("orders").await;
    for (at, entry) in entries.iter().enumerate() {
        let read = f.read(&source, A, 1).await;
        assert_eq!(read[0].id, *entry);
        trim(&f, "orders", Some(1), None).await;
        assert_eq!(ids(&f.all("orders").await), entries[at..], "what is pending stays");
        f.settle_one(A, &source, *entry, ack()).await;
    }
    assert_eq!(trim(&f, "orders", Some(1), None).await.0.length, 1);
}

pub async fn lengths_of_streams_are_told_together(f: &Fixture) {
    f.publish(&"orders".into(), 3).await;
    let _empty = f.group("returns").await;
    let lengths = f.inspect().lengths(&["orders", "returns", "absent"].map(Into::into)).await.unwrap();
    assert_eq!(lengths, [Some(3), Some(0), Some(0)]);
}
