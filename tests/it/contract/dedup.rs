//! Events that were handled before.

use std::sync::Arc;
use std::time::Duration;

use wasmill::broker::Settled::{Applied, Duplicate, Refused, Superseded};
use wasmill::outcome::{Decision, Mark};
use wasmill_tests::eventually_async;

use super::fixture::{A, B, DEADLINE, FOREVER, Fixture, ack, bury, ids, park, publication, settlement};

const KEY: &str = "wasmill:seen:billing:0123456789abcdef0123456789abcdef";

fn mark(ttl: Duration) -> Mark {
    Mark { key: KEY.into(), ttl, overrides: false }
}

/// An ack that publishes one event with this id and leaves the mark.
fn marked(id: &str, mark: Mark) -> Decision {
    Decision::Ack { publishes: vec![publication(&"paid".into(), id)], mark: Some(mark), state: None }
}

async fn is_seen(f: &Fixture) -> bool {
    let marks: [Arc<str>; 2] = [KEY.into(), "wasmill:seen:billing:other".into()];
    let seen = f.broker().seen(&marks).await.expect("an answer");
    assert!(!seen[1]);
    seen[0]
}

pub async fn an_event_that_is_marked_has_no_effects(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    assert!(!is_seen(f).await);
    assert!(f.broker().seen(&[]).await.unwrap().is_empty());
    assert_eq!(f.settle_one(A, &source, entries[0].id, marked("one", mark(FOREVER))).await, Applied);
    assert!(is_seen(f).await);
    // Whoever has it: what counts is the mark.
    assert_eq!(f.settle_one(B, &source, entries[1].id, marked("two", mark(FOREVER))).await, Duplicate);
    let bare = Decision::Ack { publishes: Vec::new(), mark: Some(mark(FOREVER)), state: None };
    assert_eq!(f.settle_one(A, &source, entries[2].id, bare).await, Duplicate);
    assert_eq!(f.event_ids("paid").await, ["one"]);
    assert_eq!(f.pending_count(&source).await, 0);
}

pub async fn a_mark_is_left_once_in_one_call(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    let other = Mark { key: "wasmill:seen:billing:2".into(), ..mark(FOREVER) };
    let settlements = [
        settlement(&source, entries[0].id, marked("one", mark(FOREVER))),
        settlement(&source, entries[1].id, marked("again", mark(FOREVER))),
        settlement(&source, entries[2].id, marked("other", other)),
    ];
    assert_eq!(f.settle(A, &settlements).await, [Applied, Duplicate, Applied]);
    assert_eq!(f.event_ids("paid").await, ["one", "other"]);
}

pub async fn a_mark_is_forgotten_after_its_time(f: &Fixture) {
    let (source, entries) = f.pending("orders", 2).await;
    f.settle_one(A, &source, entries[0].id, marked("one", mark(Duration::from_millis(40)))).await;
    eventually_async("the mark to be forgotten", DEADLINE, async || (!is_seen(f).await).then_some(())).await;
    assert_eq!(f.settle_one(A, &source, entries[1].id, marked("two", mark(FOREVER))).await, Applied);
    assert_eq!(f.event_ids("paid").await, ["one", "two"]);
}

pub async fn only_acks_leave_marks(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    let id = |n: usize| entries[n].id;
    f.settle_one(A, &source, id(0), park(FOREVER)).await;
    f.settle_one(A, &source, id(1), bury("dead", &source, id(1))).await;
    f.settle_one(A, &source, id(2), ack()).await;
    // What is not pending any more leaves none either.
    assert_eq!(f.settle_one(A, &source, id(2), marked("late", mark(FOREVER))).await, Superseded);
    assert!(!is_seen(f).await);
    assert!(f.inspect().stream("paid").await.unwrap().is_none());
}

pub async fn an_ack_that_was_sent_again_is_no_duplicate(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    let decision = marked("one", mark(FOREVER));
    assert_eq!(f.settle_one(A, &source, entries[0].id, decision.clone()).await, Applied);
    assert_eq!(f.settle_one(A, &source, entries[0].id, decision).await, Superseded);
    assert_eq!(f.event_ids("paid").await, ["one"]);
}

pub async fn what_somebody_asked_for_again_is_handled_again(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    f.settle_one(A, &source, entries[0].id, marked("one", mark(FOREVER))).await;
    let asked = Mark { overrides: true, ..mark(FOREVER) };
    assert_eq!(f.settle_one(A, &source, entries[1].id, marked("two", asked)).await, Applied);
    assert_eq!(f.settle_one(A, &source, entries[2].id, marked("three", mark(FOREVER))).await, Duplicate);
    assert_eq!(f.event_ids("paid").await, ["one", "two"]);
}

/// A mark that cannot be left refuses the ack; a duplicate needs no permission for effects.
#[tokio::test]
async fn a_mark_that_cannot_be_left_refuses_the_ack() {
    let mut f = Fixture::redis().await;
    let (source, entries) = f.pending("orders", 3).await;
    let acl = |rule: &str| redis::cmd("ACL").arg(&["SETUSER", "default", rule]).to_owned();
    let settle = |n: usize, id: &str| [settlement(&source, ids(&entries)[n], marked(id, mark(FOREVER)))];
    acl("-set").query_async::<()>(f.raw().0).await.unwrap();
    let settled = f.settle(A, &settle(0, "one")).await;
    assert!(matches!(&settled[..], [Refused(why)] if why.contains("no permission")), "{settled:?}");
    assert!(f.event_ids("paid").await.is_empty());
    acl("+set").query_async::<()>(f.raw().0).await.unwrap();
    assert_eq!(f.settle(A, &settle(0, "one")).await, [Applied]);
    acl("-xadd").query_async::<()>(f.raw().0).await.unwrap();
    assert_eq!(f.settle(A, &settle(1, "two")).await, [Duplicate]);
    assert_eq!(f.pending_count(&source).await, 1);
}
