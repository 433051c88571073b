//! Parking and coming back.

use std::time::Duration;

use wasmill::broker::Claimed;
use wasmill::broker::Settled::{Applied, Superseded};
use wasmill::broker::keys::PARKED_CONSUMER;
use wasmill_tests::eventually_async;

use super::fixture::{A, B, DEADLINE, FOREVER, Fixture, ack_with, attempts, ids, park, settlement};

pub async fn a_parked_entry_comes_back_when_it_is_due(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    assert_eq!(f.settle_one(A, &source, entries[0].id, park(Duration::from_millis(40))).await, Applied);
    assert_eq!(f.pending_under(&source, PARKED_CONSUMER).await, 1);
    let claimed = eventually_async("a parked entry to be due", DEADLINE, async || {
        let claimed = f.claim_due(&source, B, 10).await;
        (!claimed.entries.is_empty()).then_some(claimed)
    });
    let claimed = claimed.await;
    assert_eq!((ids(&claimed.entries), attempts(&claimed.entries)), (ids(&entries), vec![2]));
    assert_eq!(claimed.entries[0].fields, entries[0].fields);
    assert_eq!((claimed.trimmed, claimed.more, claimed.next_due), (0, false, None));
    assert_eq!(f.pending_under(&source, B).await, 1);
    assert_eq!(f.pending_count(&source).await, 1);
    // It is B's now.
    assert_eq!(f.settle_one(A, &source, entries[0].id, park(FOREVER)).await, Superseded);
    assert_eq!(f.settle_one(B, &source, entries[0].id, ack_with("paid", "x")).await, Applied);
}

pub async fn a_parked_entry_is_not_offered_early(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    assert_eq!(f.claim_due(&source, A, 10).await, Claimed::default());
    f.settle_one(A, &source, entries[0].id, park(FOREVER)).await;
    let claimed = f.claim_due(&source, A, 10).await;
    assert_eq!((claimed.entries, claimed.trimmed, claimed.more), (Vec::new(), 0, false));
    let next = claimed.next_due.expect("one is parked");
    assert!(next <= FOREVER && next > FOREVER - DEADLINE, "{next:?}");
    assert!(f.read(&source, A, 10).await.is_empty());
    assert!(f.claim_from(&source, B, A, 10).await.entries.is_empty());
}

pub async fn every_retry_counts(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    for attempt in 2..6 {
        assert_eq!(f.settle_one(A, &source, entries[0].id, park(Duration::ZERO)).await, Applied);
        assert_eq!(attempts(&f.claim_due(&source, A, 1).await.entries), [attempt]);
    }
}

pub async fn due_entries_come_in_order_and_in_portions(f: &Fixture) {
    let (source, entries) = f.pending("orders", 4).await;
    let pauses = [FOREVER, Duration::ZERO, Duration::ZERO, Duration::ZERO];
    let parked = entries.iter().zip(pauses).map(|(entry, pause)| settlement(&source, entry.id, park(pause)));
    assert_eq!(f.settle(A, &parked.collect::<Vec<_>>()).await, vec![Applied; 4]);

    let first = f.claim_due(&source, A, 2).await;
    assert_eq!(ids(&first.entries), ids(&entries[1..3]));
    assert!(first.more);
    assert_eq!(first.next_due, Some(Duration::ZERO));
    let second = f.claim_due(&source, A, 2).await;
    assert_eq!(ids(&second.entries), ids(&entries[3..]));
    assert!(!second.more);
    assert!(second.next_due.is_some_and(|next| next > Duration::from_secs(60)));
}

pub async fn a_parked_entry_that_was_acked_meanwhile_is_forgotten(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    f.settle_one(A, &source, entries[0].id, park(Duration::ZERO)).await;
    // The worker that had timed out is done after all.
    assert_eq!(f.settle_one(A, &source, entries[0].id, ack_with("paid", "late")).await, Applied);
    assert_eq!(f.claim_due(&source, B, 10).await, Claimed::default());
    assert_eq!(f.event_ids("paid").await, ["late"]);
    assert_eq!(f.pending_count(&source).await, 0);
}

pub async fn a_parked_entry_whose_payload_is_gone_is_settled(f: &Fixture) {
    let (source, entries) = f.pending("orders", 2).await;
    let parked = [0, 1].map(|n| settlement(&source, entries[n].id, park(Duration::ZERO)));
    f.settle(A, &parked).await;
    f.cut(&source.key, 1).await;
    let claimed = f.claim_due(&source, B, 10).await;
    assert_eq!((ids(&claimed.entries), claimed.trimmed), (ids(&entries[1..]), 1));
    assert_eq!(f.pending_count(&source).await, 1);
    assert_eq!(f.claim_due(&source, B, 10).await, Claimed::default());
}

pub async fn due_entries_of_a_deleted_stream_are_forgotten(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    f.settle_one(A, &source, entries[0].id, park(Duration::ZERO)).await;
    f.delete_stream(&source.key).await;
    assert_eq!(f.claim_due(&source, B, 10).await, Claimed::default());
}

pub async fn where_entries_are_parked_is_told_of_all_sets_together(f: &Fixture) {
    let (orders, entries) = f.pending("orders", 1).await;
    let returns = f.group("returns").await;
    let sets = [orders.due_key.clone(), returns.due_key.clone()];
    let filled = async || f.broker().filled(&sets).await.unwrap();
    assert_eq!(filled().await, [false, false]);
    f.settle_one(A, &orders, entries[0].id, park(Duration::ZERO)).await;
    assert_eq!(filled().await, [true, false]);
    assert_eq!(f.claim_due(&orders, B, 10).await.entries.len(), 1);
    assert_eq!(filled().await, [false, false]);
}
