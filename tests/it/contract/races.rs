//! Several at the same time, and several handlers on one stream.

use std::collections::BTreeSet;
use std::time::Duration;

use wasmill::broker::Settled::{Applied, Superseded};
use wasmill::broker::keys::Namespace;
use wasmill::broker::{BrokerError, EntryId};

use super::fixture::{A, B, Fixture, ack_with, bury, ids, park, publication, settlement, source};

/// How many races there are.
const MANY: usize = 8;

pub async fn two_readers_at_once_never_get_the_same_entry(f: &Fixture) {
    let source = f.group("orders").await;
    let published = f.publish(&source.key, 200).await;
    let drain = async |consumer: &'static str| {
        let mut read = Vec::new();
        loop {
            let portion = f.read(&source, consumer, 3).await;
            if portion.is_empty() {
                return read;
            }
            read.extend(ids(&portion));
            tokio::task::yield_now().await;
        }
    };
    let (by_a, by_b) = tokio::join!(drain(A), drain(B));
    assert!(by_a.is_sorted() && by_b.is_sorted());
    assert_eq!(by_a.len() + by_b.len(), published.len());
    let all: BTreeSet<EntryId> = by_a.into_iter().chain(by_b).collect();
    assert_eq!(all, published.into_iter().collect());
}

pub async fn of_many_who_settle_at_once_one_is_applied(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    let settle = async |n: usize| {
        let consumer = if n.is_multiple_of(2) { A } else { B };
        f.settle_one(consumer, &source, entries[0].id, ack_with("paid", &n.to_string())).await
    };
    let (a, b, c, d) = tokio::join!(settle(0), settle(1), settle(2), settle(3));
    let results = [a, b, c, d];
    assert_eq!(results.iter().filter(|&result| *result == Applied).count(), 1, "{results:?}");
    assert_eq!(results.iter().filter(|&result| *result == Superseded).count(), 3, "{results:?}");
    let winner = results.iter().position(|result| *result == Applied).unwrap();
    assert_eq!(f.event_ids("paid").await, [winner.to_string()]);
}

pub async fn of_many_who_redrive_at_once_one_moves_it(f: &Fixture) {
    let (source, entries) = f.pending("orders", MANY).await;
    let inbox = Namespace::default().inbox_source("billing", "billing");
    // A race of its own for each letter.
    for (round, entry) in entries.iter().enumerate() {
        f.settle_one(A, &source, entry.id, bury("dead", &source, entry.id)).await;
        let letter = f.all("dead").await[0].id;
        let redrive = async || usize::from(f.inspect().redrive("dead", letter, &inbox.key, None).await.unwrap());
        let (a, b, c, d) = tokio::join!(redrive(), redrive(), redrive(), redrive());
        assert_eq!((a + b + c + d, f.all(&inbox.key).await.len(), f.all("dead").await.len()), (1, round + 1, 0));
    }
}

pub async fn one_call_settles_for_several_handlers(f: &Fixture) {
    let (billing, entries) = f.pending("orders", 2).await;
    let shipping = source("orders", "shipping");
    assert!(f.broker().create_group(&shipping).await.unwrap());
    assert_eq!(ids(&f.read(&shipping, A, 2).await), ids(&entries));
    let settlements = [
        settlement(&shipping, entries[0].id, ack_with("shipped", "s0")),
        settlement(&billing, entries[0].id, ack_with("paid", "b0")),
        settlement(&shipping, entries[1].id, bury("shipping.dead", &shipping, entries[1].id)),
    ];
    assert_eq!(f.settle(A, &settlements).await, [Applied, Applied, Applied]);
    assert_eq!((f.event_ids("shipped").await, f.event_ids("paid").await), (vec!["s0".into()], vec!["b0".into()]));
    assert_eq!(f.all("shipping.dead").await.len(), 1);
    // What one handler has settled is still the other one's.
    assert_eq!((f.pending_count(&billing).await, f.pending_count(&shipping).await), (1, 0));
}

/// A worker that looks for what it lost under its own name stops when `more` is false, and nobody else looks there
/// while it lives.
pub async fn trimmed_entries_do_not_hide_what_comes_after_them(f: &Fixture) {
    let (source, entries) = f.pending("orders", 6).await;
    f.cut(&source.key, 2).await;
    let (mut taken, mut trimmed) = (Vec::new(), 0);
    // Each call takes something, so this ends.
    for _ in &entries {
        let claimed = f.claim_from(&source, B, A, 2).await;
        taken.extend(ids(&claimed.entries));
        trimmed += claimed.trimmed;
        if !claimed.more {
            break;
        }
    }
    assert_eq!((trimmed, taken), (4, ids(&entries[4..])), "`more` was false too early");
}

/// `Broker::publish` promises all or none.
#[tokio::test]
async fn a_stream_without_free_ids_lets_nothing_be_published() {
    let mut f = Fixture::redis().await;
    let mut command = redis::cmd("XADD");
    command.arg("used up").arg(EntryId::MAX.to_string()).arg("f").arg("v");
    let _: String = command.query_async(f.raw().0).await.unwrap();
    let both = ["orders", "used up"].map(|key| publication(&key.into(), "x"));
    let error = f.broker().publish(&both).await.expect_err("there is no greater id");
    assert!(!matches!(error, BrokerError::Unreachable { .. }), "{error}");
    assert_eq!(f.event_ids("orders").await, Vec::<String>::new(), "nothing is published");
}

/// Every script, not only the one that settles.
#[tokio::test]
async fn every_forgotten_script_is_loaded_again() {
    let mut f = Fixture::redis().await;
    let (source, entries) = f.pending("orders", 3).await;
    let mut flush = redis::cmd("SCRIPT");
    flush.arg("FLUSH");
    let id = |n: usize| entries[n].id;
    let inbox = Namespace::default().inbox_source("billing", "billing");
    for step in 0..6 {
        flush.query_async::<()>(f.raw().0).await.unwrap();
        match step {
            0 => assert_eq!(f.settle_one(A, &source, id(0), park(Duration::ZERO)).await, Applied),
            1 => assert_eq!(ids(&f.claim_due(&source, B, 1).await.entries), [id(0)]),
            2 => assert_eq!(ids(&f.claim_from(&source, B, A, 1).await.entries), [id(1)]),
            3 => assert_eq!(f.settle_one(B, &source, id(0), bury("dead", &source, id(0))).await, Applied),
            4 => {
                let letter = f.all("dead").await[0].id;
                assert!(f.inspect().redrive("dead", letter, &inbox.key, None).await.unwrap());
            }
            _ => assert!(!f.broker().remove_consumer(&source, A).await.unwrap()),
        }
    }
    flush.query_async::<()>(f.raw().0).await.unwrap();
    assert_eq!(f.publish(&source.key, 1).await.len(), 1);
}
