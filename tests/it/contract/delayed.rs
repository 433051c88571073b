//! Events that wait for their time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use wasmill::broker::Settled::{Applied, Refused, Superseded};
use wasmill::broker::keys::Namespace;
use wasmill::broker::{BrokerError, DelayedMoved, Refusal, keys};
use wasmill::envelope;
use wasmill::outcome::{Decision, Due, Publication};
use wasmill_tests::eventually_async;

use super::fixture::{A, DEADLINE, FOREVER, Fixture, ack_with, event, settlement};

/// More than any of these tests has.
const ALL: usize = 1000;

fn delayed(key: &str, id: &str, when: Due) -> Publication {
    Publication { key: key.into(), event: event(id), when, envelope: None, waits_in: None }
}

async fn publish(f: &Fixture, publications: &[Publication]) {
    let entries = f.broker().publish(publications).await.expect("they are accepted");
    assert_eq!(entries, vec![None; publications.len()]);
}

async fn move_delayed(f: &Fixture, limit: usize) -> DelayedMoved {
    f.broker().move_delayed(&Namespace::default(), limit).await.expect("an answer")
}

/// Moves until that many have been moved.
async fn move_all(f: &Fixture, count: usize) {
    let mut moved = 0;
    eventually_async(&format!("{count} delayed events"), DEADLINE, async || {
        moved += move_delayed(f, ALL).await.moved;
        (moved == count).then_some(())
    })
    .await;
}

pub async fn a_delayed_event_waits_for_its_time(f: &Fixture) {
    assert_eq!(move_delayed(f, ALL).await, DelayedMoved::default());
    publish(f, &[delayed("orders", "late", Due::After(FOREVER))]).await;
    let none = move_delayed(f, ALL).await;
    assert_eq!((none.moved, none.refused.len()), (0, 0));
    assert!(none.next_due.is_some_and(|next| next <= FOREVER && next > FOREVER - DEADLINE), "{none:?}");
    assert!(f.inspect().stream("orders").await.unwrap().is_none(), "nothing is made before");

    let (start, pause) = (Instant::now(), Duration::from_millis(60));
    publish(f, &[delayed("orders", "soon", Due::After(pause))]).await;
    move_all(f, 1).await;
    // The clock of a broker has whole milliseconds: the first and the last one may be parts of one.
    assert!(start.elapsed() >= pause - Duration::from_millis(1));
    // It is what it would have been at once.
    let entries = f.all("orders").await;
    assert_eq!((entries.len(), &entries[0].fields), (1, &envelope::fields(&event("soon"))));
}

pub async fn delayed_events_come_in_order_and_in_portions(f: &Fixture) {
    let at = |id: &str, ms| delayed("orders", id, Due::At(ms));
    publish(f, &[at("c", 3), at("a", 1), delayed("orders", "z", Due::After(FOREVER)), at("b", 2)]).await;
    let first = move_delayed(f, 2).await;
    assert_eq!((first.moved, first.next_due), (2, Some(Duration::ZERO)));
    assert_eq!(f.event_ids("orders").await, ["a", "b"]);
    let second = move_delayed(f, 2).await;
    assert_eq!(second.moved, 1);
    assert!(second.next_due.is_some_and(|next| next > Duration::from_secs(60)), "{second:?}");
    assert_eq!(f.event_ids("orders").await, ["a", "b", "c"]);
    assert_eq!(move_delayed(f, 2).await.moved, 0);
}

pub async fn the_same_delayed_event_is_there_once(f: &Fixture) {
    let one = delayed("orders", "one", Due::At(1));
    publish(f, &[one.clone(), one.clone()]).await;
    // The first time holds.
    publish(f, &[Publication { when: Due::After(FOREVER), ..one.clone() }]).await;
    // Elsewhere it is another one.
    publish(f, &[Publication { key: "returns".into(), ..one.clone() }]).await;
    move_all(f, 2).await;
    assert_eq!((f.event_ids("orders").await, f.event_ids("returns").await), (vec!["one".into()], vec!["one".into()]));
    // It does not wait any more: it can be asked for again.
    publish(f, &[one]).await;
    move_all(f, 1).await;
    assert_eq!(f.event_ids("orders").await.len(), 2);
}

pub async fn delayed_follow_ups_are_written_with_their_ack(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    let now = Publication::now("paid".into(), event("now"));
    let decision = Decision::ack(vec![delayed("paid", "late", Due::At(1)), now]);
    assert_eq!(f.settle_one(A, &source, entries[0].id, decision.clone()).await, Applied);
    assert_eq!(f.event_ids("paid").await, ["now"]);
    move_all(f, 1).await;
    assert_eq!(f.event_ids("paid").await, ["now", "late"]);
    // The reply was lost, so the worker asks again.
    assert_eq!(f.settle_one(A, &source, entries[0].id, decision).await, Superseded);
    assert_eq!(move_delayed(f, ALL).await, DelayedMoved::default());
    assert_eq!(f.pending_count(&source).await, 0);
}

pub async fn of_many_who_move_at_once_each_event_is_moved_by_one(f: &Fixture) {
    let ids: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
    let events: Vec<_> = (1..).zip(&ids).map(|(ms, id)| delayed("orders", id, Due::At(ms))).collect();
    publish(f, &events).await;
    let mover = async || {
        let mut moved = 0;
        loop {
            let step = move_delayed(f, 7).await;
            moved += step.moved;
            if step.next_due.is_none() {
                return moved;
            }
        }
    };
    let (a, b, c, d) = tokio::join!(mover(), mover(), mover(), mover());
    let mut moved = f.event_ids("orders").await;
    assert_eq!((a + b + c + d, moved.len()), (ids.len(), ids.len()));
    moved.sort();
    assert_eq!(moved, ids);
}

/// The set of a tenant leads to that tenant's streams alone, whoever has written into it.
pub async fn each_tenant_has_a_set_of_its_own(f: &Fixture) {
    let (tenant, other) = (Namespace::new("acme", "acme:"), Namespace::new("other", "other:"));
    let of_tenant =
        |key: &str, id: &str| Publication { waits_in: Some(tenant.delayed()), ..delayed(key, id, Due::At(1)) };
    publish(
        f,
        &[of_tenant("acme:orders", "a"), of_tenant("other:orders", "b"), of_tenant("acme:wasmill:inbox:x", "c")],
    )
    .await;
    assert_eq!(move_delayed(f, ALL).await, DelayedMoved::default());
    let of_other = f.broker().move_delayed(&other, ALL).await.expect("an answer");
    assert_eq!(of_other, DelayedMoved::default());
    let moved = f.broker().move_delayed(&tenant, ALL).await.expect("an answer");
    assert_eq!((moved.moved, moved.refused.len()), (1, 2), "{moved:?}");
    assert!(moved.refused.iter().all(|why| why.contains("acme:wasmill:delayed")), "{moved:?}");
    assert_eq!(f.event_ids("acme:orders").await, ["a"]);
    for key in ["other:orders", "acme:wasmill:inbox:x"] {
        assert!(f.inspect().stream(key).await.unwrap().is_none(), "{key}");
    }
}

async fn say(raw: &mut MultiplexedConnection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async::<redis::Value>(raw).await.unwrap_or_else(|error| panic!("{words:?}: {error}"));
}

/// What its stream refuses goes on waiting, and does not hold up what stands behind it.
#[tokio::test]
async fn a_stream_that_refuses_holds_up_no_other() {
    let mut f = Fixture::redis().await;
    say(f.raw().0, &["SET", "wrong", "a string"]).await;
    say(f.raw().0, &["ZADD", keys::DELAYED, "0", "not ours"]).await;
    let events = [("wrong", "a", 1), ("orders", "b", 2), ("hidden", "c", 3), ("orders", "d", 4)];
    let events = events.map(|(key, id, ms)| delayed(key, id, Due::At(ms)));
    publish(&f, &events).await;
    say(f.raw().0, &["ACL", "SETUSER", "default", "resetkeys", "~wasmill:*", "~orders", "~wrong"]).await;
    let step = move_delayed(&f, ALL).await;
    assert_eq!((step.moved, f.event_ids("orders").await), (2, vec!["b".to_owned(), "d".to_owned()]));
    assert_eq!(step.refused.len(), 3, "{step:?}");
    for (part, reason) in [("wrong", "WRONGTYPE"), ("hidden", "permission"), (keys::DELAYED, "not written by wasmill")]
    {
        let told = step.refused.iter().any(|why| why.contains(part) && why.contains(reason));
        assert!(told, "{part}: {step:?}");
    }
    // They are not tried again at once, and are there when the reason is gone.
    let again = move_delayed(&f, ALL).await;
    assert_eq!((again.moved, again.refused.len()), (0, 0), "{again:?}");
    say(f.raw().0, &["DEL", "wrong"]).await;
    say(f.raw().0, &["ACL", "SETUSER", "default", "allkeys"]).await;
    move_all(&f, 2).await;
    assert_eq!((f.event_ids("wrong").await, f.event_ids("hidden").await), (vec!["a".into()], vec!["c".into()]));
}

/// A set that is none is noticed before the ack, and refuses what needs it alone.
#[tokio::test]
async fn a_set_of_another_type_refuses_delayed_events_alone() {
    let mut f = Fixture::redis().await;
    say(f.raw().0, &["SET", keys::DELAYED, "a string"]).await;
    let (source, entries) = f.pending("orders", 2).await;
    let late = Decision::ack(vec![delayed("paid", "late", Due::At(1))]);
    let settlements =
        [settlement(&source, entries[0].id, late), settlement(&source, entries[1].id, ack_with("paid", "now"))];
    let settled = f.settle(A, &settlements).await;
    assert!(matches!(&settled[..], [Refused(why), Applied] if why.contains("not a sorted set")), "{settled:?}");
    let key: Arc<str> = "paid".into();
    let both = [Publication::now(key.clone(), event("x")), delayed("paid", "y", Due::At(1))];
    let error = f.broker().publish(&both).await.expect_err("all or none");
    assert!(matches!(error, BrokerError::Refused { refusal: Refusal::WrongType, .. }), "{error}");
    assert_eq!(f.event_ids("paid").await, ["now"]);
    say(f.raw().0, &["DEL", keys::DELAYED]).await;
    assert_eq!(f.settle(A, &settlements[..1]).await, [Applied]);
    move_all(&f, 1).await;
    assert_eq!(f.event_ids("paid").await, ["now", "late"]);
}

/// A full server moves nothing, and loses nothing.
#[tokio::test]
async fn a_full_server_lets_delayed_events_wait() {
    let mut f = Fixture::redis().await;
    publish(&f, &[delayed("orders", "a", Due::At(1))]).await;
    move_all(&f, 1).await;
    publish(&f, &[delayed("orders", "b", Due::At(1))]).await;
    say(f.raw().0, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = f.broker().move_delayed(&Namespace::default(), ALL).await.expect_err("there is no room");
    assert!(matches!(error, BrokerError::Refused { refusal: Refusal::OutOfMemory, .. }), "{error}");
    say(f.raw().0, &["CONFIG", "SET", "maxmemory", "0"]).await;
    move_all(&f, 1).await;
    assert_eq!(f.event_ids("orders").await, ["a", "b"]);
}

pub async fn where_events_wait_is_told_without_moving_them(f: &Fixture) {
    let sets = [Namespace::default().delayed()];
    assert_eq!(f.broker().filled(&sets).await.unwrap(), [false]);
    publish(f, &[delayed("orders", "soon", Due::After(Duration::ZERO))]).await;
    assert_eq!(f.broker().filled(&sets).await.unwrap(), [true]);
    move_all(f, 1).await;
    assert_eq!(f.broker().filled(&sets).await.unwrap(), [false]);
}
