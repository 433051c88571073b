//! Acks and their effects.

use wasmill::broker::Settled::{Applied, Superseded};
use wasmill::outcome::{Decision, Settlement};

use super::fixture::{A, B, FOREVER, Fixture, ack, ack_with, bury, ids, park, publication, settlement, source};

pub async fn follow_ups_are_written_once(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    let publishes = ["one", "two"].map(|id| publication(&"paid".into(), id)).to_vec();
    let decision = Decision::ack(publishes);
    assert_eq!(f.settle_one(A, &source, entries[0].id, decision.clone()).await, Applied);
    // The reply was lost, so the worker asks again.
    assert_eq!(f.settle_one(A, &source, entries[0].id, decision).await, Superseded);
    assert_eq!(f.event_ids("paid").await, ["one", "two"]);
    assert_eq!(f.pending_count(&source).await, 0);
}

pub async fn acks_alone_empty_the_pending_list(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    let settlements: Vec<Settlement> = ids(&entries).into_iter().map(|id| settlement(&source, id, ack())).collect();
    assert_eq!(f.settle(A, &settlements).await, [Applied, Applied, Applied]);
    assert_eq!(f.pending_count(&source).await, 0);
    // Asking again does no harm. Nothing but the ack is written, so the answer may be either.
    f.settle(A, &settlements).await;
    assert_eq!(f.all("orders").await.len(), 3);
}

pub async fn one_call_settles_over_several_streams(f: &Fixture) {
    let (orders, order_entries) = f.pending("orders", 2).await;
    let (returns, return_entries) = f.pending("returns", 2).await;
    let settlements = [
        settlement(&returns, return_entries[0].id, ack_with("paid", "r0")),
        settlement(&orders, order_entries[0].id, ack_with("paid", "o0")),
        settlement(&orders, order_entries[1].id, ack()),
        settlement(&returns, return_entries[1].id, ack_with("stock", "r1")),
    ];
    assert_eq!(f.settle(A, &settlements).await, [Applied, Applied, Applied, Applied]);
    assert_eq!(f.event_ids("paid").await, ["r0", "o0"]);
    assert_eq!(f.event_ids("stock").await, ["r1"]);
    assert_eq!((f.pending_count(&orders).await, f.pending_count(&returns).await), (0, 0));
}

pub async fn answers_stand_in_the_order_of_the_settlements(f: &Fixture) {
    let (source, entries) = f.pending("orders", 6).await;
    let id = |n: usize| entries[n].id;
    assert_eq!(f.settle_one(A, &source, id(1), ack()).await, Applied);
    assert_eq!(f.claim_from(&source, B, A, 1).await.entries[0].id, id(0));
    let settlements = [
        settlement(&source, id(0), park(FOREVER)),
        settlement(&source, id(1), ack_with("paid", "late")),
        settlement(&source, id(2), park(FOREVER)),
        settlement(&source, id(3), ack()),
        settlement(&source, id(4), bury("orders.dead", &source, id(4))),
        settlement(&source, id(0), bury("orders.dead", &source, id(0))),
        settlement(&source, id(5), ack_with("paid", "in time")),
    ];
    let expected = [Superseded, Superseded, Applied, Applied, Applied, Superseded, Applied];
    assert_eq!(f.settle(A, &settlements).await, expected);
    assert_eq!(f.event_ids("paid").await, ["in time"]);
    assert_eq!(f.all("orders.dead").await.len(), 1);
    // The one that B took, and the parked one.
    assert_eq!(f.pending_count(&source).await, 2);
}

pub async fn what_is_not_pending_is_superseded(f: &Fixture) {
    let (pending, entries) = f.pending("orders", 1).await;
    let entry = entries[0].id;
    let unread = f.publish(&pending.key, 1).await[0];
    let targets = [(source("absent", "billing"), entry), (source("orders", "absent"), entry), (pending, unread)];
    for (source, entry) in targets {
        let decisions = [ack_with("paid", "x"), park(FOREVER), bury("dead", &source, entry)];
        for decision in decisions {
            assert_eq!(f.settle_one(A, &source, entry, decision.clone()).await, Superseded, "{decision:?}");
        }
    }
    for key in ["paid", "dead", "absent"] {
        assert!(f.inspect().stream(key).await.unwrap().is_none(), "{key}");
    }
}

pub async fn two_hundred_settlements_in_one_call(f: &Fixture) {
    let (source, entries) = f.pending("orders", 200).await;
    let names: Vec<String> = (0..200).map(|n| format!("follow-up {n}")).collect();
    let both = entries.iter().zip(&names);
    let settlements: Vec<_> = both.map(|(entry, name)| settlement(&source, entry.id, ack_with("paid", name))).collect();
    assert_eq!(f.settle(A, &settlements).await, vec![Applied; 200]);
    assert_eq!(f.event_ids("paid").await, names);
    assert_eq!(f.pending_count(&source).await, 0);
}

pub async fn the_same_entry_twice_in_one_call_is_settled_once(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    let twice = ["first", "second"].map(|id| settlement(&source, entries[0].id, ack_with("paid", id)));
    assert_eq!(f.settle(A, &twice).await, [Applied, Superseded]);
    assert_eq!(f.event_ids("paid").await, ["first"]);
}
