//! What only a server can do to us.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use wasmill::broker::Settled::{self, Applied, Refused};
use wasmill::broker::keys::Namespace;
use wasmill::broker::pubsub::Position;
use wasmill::broker::redis::{RedisBroker, RedisSettings};
use wasmill::broker::watcher::Changed;
use wasmill::broker::{Broker as _, BrokerError, Cursor, EntryId, Refusal};
use wasmill::envelope::Envelope;
use wasmill::envelope::settings::{EnvelopeSettings, Preset};
use wasmill::event::Event;
use wasmill::outcome::{Decision, Due, Publication};
use wasmill_tests::eventually_async;
use wasmill_tests::redis_server::RedisServer;

use super::fixture::{
    A, B, DEADLINE, FOREVER, Fixture, ack, ack_with, bury, event, ids, park, publication, settlement,
};

pub async fn say(raw: &mut MultiplexedConnection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(word);
    });
    command.query_async::<redis::Value>(raw).await.unwrap_or_else(|error| panic!("{words:?}: {error}"));
}

pub fn is_refused_as_wrong_type(settled: &Settled) -> bool {
    matches!(settled, Refused(why) if why.starts_with("WRONGTYPE"))
}

#[tokio::test]
async fn a_target_of_another_type_refuses_that_settlement_alone() {
    let mut f = Fixture::redis().await;
    say(f.raw().0, &["SET", "wrong", "a string"]).await;
    let (source, entries) = f.pending("orders", 4).await;
    let id = |n: usize| entries[n].id;
    // The good target comes first: it must stay untouched too.
    let mixed = ["paid", "wrong"].map(|key| publication(&key.into(), "mixed")).to_vec();
    let settlements = [
        settlement(&source, id(0), ack_with("paid", "before")),
        settlement(&source, id(1), Decision::ack(mixed)),
        settlement(&source, id(2), bury("wrong", &source, id(2))),
        settlement(&source, id(3), ack_with("paid", "after")),
    ];
    let settled = f.settle(A, &settlements).await;
    assert_eq!((&settled[0], &settled[3]), (&Applied, &Applied));
    assert!(settled[1..3].iter().all(is_refused_as_wrong_type), "{settled:?}");
    assert_eq!(f.event_ids("paid").await, ["before", "after"]);
    // The refused ones are still A's, and can be settled when the key is out of the way.
    assert_eq!(f.pending_under(&source, A).await, 2);
    say(f.raw().0, &["DEL", "wrong"]).await;
    assert_eq!(f.settle(A, &settlements[1..3]).await, [Applied, Applied]);
    assert_eq!(f.event_ids("paid").await, ["before", "after", "mixed"]);
}

#[tokio::test]
async fn a_source_of_another_type_harms_no_other_settlement() {
    let mut f = Fixture::redis().await;
    let (orders, order_entries) = f.pending("orders", 2).await;
    let (returns, return_entries) = f.pending("returns", 2).await;
    say(f.raw().0, &["SET", "returns", "a string"]).await;
    let settlements = [
        settlement(&returns, return_entries[0].id, ack_with("paid", "lost")),
        settlement(&orders, order_entries[0].id, ack_with("paid", "kept")),
        settlement(&returns, return_entries[1].id, bury("dead", &returns, return_entries[1].id)),
        settlement(&orders, order_entries[1].id, park(FOREVER)),
    ];
    let settled = f.settle(A, &settlements).await;
    assert_eq!((&settled[1], &settled[3]), (&Applied, &Applied));
    assert!(settled[0] != Applied && settled[2] != Applied, "{settled:?}");
    assert_eq!(f.event_ids("paid").await, ["kept"]);
}

#[tokio::test]
async fn a_full_server_refuses_effects_and_lets_draining_go_on() {
    let mut f = Fixture::redis().await;
    let (source, entries) = f.pending("orders", 3).await;
    let id = |n: usize| entries[n].id;
    // Loads the scripts while there is room.
    f.settle(A, &[settlement(&source, id(2).next(), ack_with("paid", "x"))]).await;
    say(f.raw().0, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let effects = [settlement(&source, id(0), ack_with("paid", "x"))];
    let is_full = |error: &BrokerError| matches!(error, BrokerError::Refused { refusal: Refusal::OutOfMemory, .. });
    let settled = f.settle(A, &effects).await;
    assert!(matches!(&settled[..], [Settled::Refused(why)] if why.contains("maxmemory")), "{settled:?}");
    let error = f.broker().publish(&[publication(&source.key, "x")]).await.expect_err("there is no room");
    assert!(is_full(&error), "{error}");
    let draining = [settlement(&source, id(1), ack()), settlement(&source, id(2), park(std::time::Duration::ZERO))];
    assert_eq!(f.settle(A, &draining).await, [Applied, Applied]);
    assert_eq!(ids(&f.claim_due(&source, B, 1).await.entries), [id(2)]);
    assert_eq!(ids(&f.claim_from(&source, A, B, 1).await.entries), [id(2)]);

    say(f.raw().0, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(f.settle(A, &effects).await, [Applied]);
    assert_eq!(f.event_ids("paid").await, ["x"]);
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let mut f = Fixture::redis().await;
    let (source, entries) = f.pending("orders", 2).await;
    assert_eq!(f.settle_one(A, &source, entries[0].id, ack_with("paid", "one")).await, Applied);
    say(f.raw().0, &["SCRIPT", "FLUSH"]).await;
    assert_eq!(f.settle_one(A, &source, entries[1].id, ack_with("paid", "two")).await, Applied);
    assert_eq!(f.event_ids("paid").await, ["one", "two"]);
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let mut f = Fixture::redis().await;
    let (source, entries) = f.pending("orders", 1).await;
    f.raw().1.stop();
    let error = f.broker().read(&source, A, 1).await.expect_err("there is no server");
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error}");
    let settlements = [settlement(&source, entries[0].id, ack_with("paid", "x"))];
    assert!(f.broker().settle(A, &settlements).await.is_err());

    // It comes back empty, as after FLUSHALL.
    f.raw().1.restart();
    let error = eventually_async("the broker to connect again", DEADLINE, async || {
        f.broker().read(&source, A, 1).await.err().filter(|error| !matches!(error, BrokerError::Unreachable { .. }))
    });
    let error = error.await;
    assert!(matches!(error, BrokerError::NoGroup { .. }), "{error}");
    assert!(f.broker().create_group(&source).await.unwrap());
    assert_eq!(f.settle(A, &settlements).await, [Settled::Superseded]);
}

/// Somebody who may write to the stream can bring that about.
#[tokio::test]
async fn a_stream_whose_ids_have_run_out_refuses_whole_settlements_and_no_others() {
    let mut f = Fixture::redis().await;
    let last = "18446744073709551615-18446744073709551615";
    say(f.raw().0, &["XADD", "full", last, "a", "b"]).await;
    // Not even the newest entry tells of it.
    say(f.raw().0, &["XDEL", "full", last]).await;
    say(f.raw().0, &["XADD", "nearly", "18446744073709551614-0", "a", "b"]).await;
    let (source, entries) = f.pending("orders", 5).await;
    let id = |n: usize| entries[n].id;
    let both = |key: &str, id: &str| ["paid", key].map(|key| publication(&key.into(), id)).to_vec();
    let settlements = [
        settlement(&source, id(0), Decision::ack(both("full", "lost"))),
        settlement(&source, id(1), ack_with("paid", "kept")),
        settlement(&source, id(2), bury("full", &source, id(2))),
        settlement(&source, id(3), Decision::ack(both("nearly", "near"))),
        settlement(&source, id(4), bury("dead", &source, id(4))),
    ];
    let settled = f.settle(A, &settlements).await;
    let is_refused = |at: usize, key: &str| matches!(&settled[at], Refused(why) if why.contains(key));
    assert!(is_refused(0, "full") && is_refused(2, "full"), "{settled:?}");
    assert_eq!((&settled[1], &settled[3], &settled[4]), (&Applied, &Applied, &Applied));
    // Nothing of the refused ones was written, and they can be settled in another way.
    assert_eq!(f.event_ids("paid").await, ["kept", "near"]);
    assert_eq!(f.all("nearly").await.len(), 2);
    assert_eq!(f.pending_under(&source, A).await, 2);
    let error = f.broker().publish(&both("full", "lost")).await.expect_err("there are no more ids");
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(f.event_ids("paid").await, ["kept", "near"]);
}

/// A worker's user has fewer commands than an operator's. What may not be removed from one place is not put into another.
#[tokio::test]
async fn what_moves_is_in_one_place_whatever_the_user_may_not_do() {
    let mut f = Fixture::redis().await;
    let delayed = |id: &str| Publication { when: Due::After(Duration::ZERO), ..publication(&"late".into(), id) };
    f.broker().publish(&[delayed("one")]).await.expect("it waits");
    say(f.raw().0, &["ACL", "SETUSER", "default", "-zscore"]).await;
    let moved = eventually_async("the delayed event", DEADLINE, async || {
        let moved = f.broker().move_delayed(&Namespace::default(), 10).await.expect("an answer").moved;
        (moved > 0).then_some(moved)
    });
    assert_eq!((moved.await, f.event_ids("late").await), (1, vec!["one".to_owned()]));
    f.broker().publish(&[delayed("two")]).await.expect("it waits");
    say(f.raw().0, &["ACL", "SETUSER", "default", "-zrem"]).await;
    let refused = eventually_async("a refusal", DEADLINE, async || {
        match f.broker().move_delayed(&Namespace::default(), 10).await {
            Ok(moved) => (!moved.refused.is_empty()).then_some(()),
            Err(_) => Some(()),
        }
    });
    refused.await;
    assert_eq!(f.event_ids("late").await, ["one"]);

    let (source, entries) = f.pending("orders", 1).await;
    f.settle_one(A, &source, entries[0].id, bury("dead", &source, entries[0].id)).await;
    let letter = f.all("dead").await[0].id;
    say(f.raw().0, &["ACL", "SETUSER", "default", "-xdel"]).await;
    let error = f.inspect().redrive("dead", letter, "inbox", None).await.expect_err("it cannot be removed");
    assert!(matches!(error, BrokerError::Refused { refusal: Refusal::NoPermission, .. }), "{error}");
    assert!(f.all("inbox").await.is_empty());
}

/// What is to be acked there cannot be pending any more.
#[tokio::test]
async fn an_ack_on_a_key_of_another_type_harms_no_other_settlement() {
    let mut f = Fixture::redis().await;
    let (orders, order_entries) = f.pending("orders", 2).await;
    let (returns, return_entries) = f.pending("returns", 1).await;
    say(f.raw().0, &["SET", "returns", "a string"]).await;
    let settlements = [
        settlement(&returns, return_entries[0].id, ack()),
        settlement(&orders, order_entries[0].id, ack()),
        settlement(&orders, order_entries[1].id, ack_with("paid", "kept")),
    ];
    let settled = f.settle(A, &settlements).await;
    assert_eq!(settled[1..], [Applied, Applied]);
    assert_eq!(f.event_ids("paid").await, ["kept"]);
    assert_eq!(f.pending_count(&orders).await, 0);
}

/// Every way of writing must see it, since the connection has to be made anew: the name may lead to another server.
#[tokio::test]
async fn a_primary_that_became_a_replica_is_told_apart() {
    let mut f = Fixture::redis().await;
    let (source, entries) = f.pending("orders", 3).await;
    say(f.raw().0, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let read_only = |error: BrokerError| matches!(error, BrokerError::Refused { refusal: Refusal::ReadOnly, .. });
    for decision in [ack(), ack_with("paid", "x"), park(FOREVER)] {
        let settlements = [settlement(&source, entries[0].id, decision)];
        let error = f.broker().settle(A, &settlements).await.expect_err("a replica takes no writes");
        assert!(read_only(error), "{settlements:?}");
    }
    assert!(f.broker().publish(&[publication(&source.key, "x")]).await.is_err_and(read_only));
    say(f.raw().0, &["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(f.settle_one(A, &source, entries[0].id, ack_with("paid", "x")).await, Applied);
}

/// A due time that cannot be written leaves the entry where it is, and harms no other.
#[tokio::test]
async fn a_due_set_of_another_type_refuses_parking_alone() {
    let mut f = Fixture::redis().await;
    let (orders, order_entries) = f.pending("orders", 2).await;
    let (returns, return_entries) = f.pending("returns", 1).await;
    say(f.raw().0, &["SET", &returns.due_key, "a string"]).await;
    let settlements = [
        settlement(&orders, order_entries[0].id, park(FOREVER)),
        settlement(&returns, return_entries[0].id, park(FOREVER)),
        settlement(&orders, order_entries[1].id, park(FOREVER)),
    ];
    let settled = f.settle(A, &settlements).await;
    assert_eq!((&settled[0], &settled[2]), (&Applied, &Applied));
    let names_key = |why: &str| why.starts_with("WRONGTYPE") && why.contains(&*returns.due_key);
    assert!(matches!(&settled[1], Refused(why) if names_key(why)), "{settled:?}");
    assert_eq!((f.pending_under(&orders, A).await, f.pending_under(&returns, A).await), (0, 1));
    // What is due there cannot be looked at either, and says so.
    let error = f.broker().claim_due(&returns, A, 1).await.expect_err("it is no sorted set");
    assert!(matches!(error, BrokerError::Refused { refusal: Refusal::WrongType, .. }), "{error}");
    say(f.raw().0, &["DEL", &returns.due_key]).await;
    assert_eq!(f.settle(A, &settlements[1..2]).await, [Applied]);
    assert_eq!(f.pending_under(&returns, A).await, 0);
}

/// Whatever is taken away while the worker runs, only what needs it is refused, and can be written afterwards.
#[tokio::test]
async fn a_permission_that_is_revoked_refuses_only_what_needs_it() {
    for (rule, refused) in [
        ("-xack", &[0, 1, 3, 4, 5][..]),
        ("-xadd", &[1, 3, 5]),
        ("-zadd", &[2]),
        ("-xclaim", &[2]),
        ("-xpending", &[1, 2, 3, 5]),
        ("-evalsha", &[1, 2, 3, 5]),
    ] {
        let mut f = Fixture::redis().await;
        let (orders, entries) = f.pending("orders", 5).await;
        let (returns, return_entries) = f.pending("returns", 2).await;
        let id = |n: usize| entries[n].id;
        let settlements = [
            settlement(&orders, id(0), ack()),
            settlement(&orders, id(1), ack_with("paid", "x")),
            settlement(&orders, id(2), park(FOREVER)),
            settlement(&orders, id(3), bury("dead", &orders, id(3))),
            settlement(&returns, return_entries[0].id, ack()),
            settlement(&returns, return_entries[1].id, ack_with("refunded", "y")),
        ];
        // Loads the scripts while that is allowed.
        f.settle_one(A, &orders, id(4), park(FOREVER)).await;
        f.settle_one(A, &orders, id(4), ack_with("paid", "first")).await;
        say(f.raw().0, &["ACL", "SETUSER", "default", rule]).await;
        let settled = f.settle(A, &settlements).await;
        for (at, one) in settled.iter().enumerate() {
            let names_reason =
                |why: &str| ["no permission", "can't run this command"].iter().any(|text| why.contains(text));
            let is_refused = matches!(one, Refused(why) if names_reason(why));
            assert_eq!(is_refused, refused.contains(&at), "{rule}, {at}: {settled:?}");
        }
        say(f.raw().0, &["ACL", "SETUSER", "default", &rule.replace('-', "+")]).await;
        let rest: Vec<_> = refused.iter().map(|&at| settlements[at].clone()).collect();
        assert_eq!(f.settle(A, &rest).await, vec![Applied; rest.len()], "{rule}");
        // Two in the one stream, and the parked entry alone is left.
        assert_eq!((f.event_ids("paid").await.len(), f.all("dead").await.len()), (2, 1), "{rule}");
        assert_eq!((f.pending_count(&orders).await, f.pending_count(&returns).await), (1, 0), "{rule}");
    }
}

/// The keys of one handler may be what is refused: the others go on.
#[tokio::test]
async fn keys_that_are_taken_away_hold_up_their_handler_alone() {
    let mut f = Fixture::redis().await;
    let (orders, entries) = f.pending("orders", 2).await;
    let shipping = std::sync::Arc::new(wasmill::broker::keys::Namespace::default().source("parcels", "shipping"));
    f.broker().create_group(&shipping).await.unwrap();
    f.publish(&shipping.key, 2).await;
    let parcels = f.read(&shipping, A, 2).await;
    say(f.raw().0, &["ACL", "SETUSER", "default", "resetkeys", "~orders", "~wasmill:due:billing:*", "~paid"]).await;
    let settlements = [
        settlement(&shipping, parcels[0].id, park(FOREVER)),
        settlement(&orders, entries[0].id, park(FOREVER)),
        settlement(&shipping, parcels[1].id, ack_with("paid", "s")),
        settlement(&orders, entries[1].id, ack_with("paid", "o")),
    ];
    let settled = f.settle(A, &settlements).await;
    assert!(matches!(&settled[..], [Refused(_), Applied, Refused(_), Applied]), "{settled:?}");
    say(f.raw().0, &["ACL", "SETUSER", "default", "allkeys"]).await;
    assert_eq!(f.event_ids("paid").await, ["o"]);
    assert_eq!(f.settle(A, &settlements[..1]).await, [Applied]);
}

/// A script cannot hand so many values to XADD: it says so before it has written anything.
#[tokio::test]
async fn an_event_with_too_many_fields_is_refused_before_anything_is_written() {
    let f = Fixture::redis().await;
    let settings = EnvelopeSettings { preset: Preset::Flat, ..EnvelopeSettings::default() };
    let envelope = Arc::new(Envelope::new("wide", &settings).expect("it is not CloudEvents"));
    let members = |count: usize| (0..count).map(|n| format!("\"m{n}\":{n}")).collect::<Vec<_>>().join(",");
    let wide = |count: usize| {
        let event = Event { data: format!("{{{}}}", members(count)).into_bytes(), ..event("wide") };
        Publication::now("wide".into(), event).with_envelope(Some(&envelope))
    };
    let (source, entries) = f.pending("orders", 2).await;
    let settled = f
        .settle(
            A,
            &[
                settlement(&source, entries[0].id, Decision::ack(vec![publication(&"paid".into(), "x"), wide(5000)])),
                settlement(&source, entries[1].id, Decision::ack(vec![publication(&"paid".into(), "y"), wide(990)])),
            ],
        )
        .await;
    assert!(matches!(&settled[..], [Refused(why), Applied] if why.contains("for wide has more fields")), "{settled:?}");
    assert_eq!((f.event_ids("paid").await, f.all("wide").await.len()), (vec!["y".to_owned()], 1));
    assert_eq!(f.pending_under(&source, A).await, 1, "it can be settled in another way");
    let error = f.broker().publish(&[publication(&"paid".into(), "z"), wide(5000)]).await.expect_err("too wide");
    assert!(error.to_string().contains("for wide has more fields"), "{error}");
    assert!(f.pubsub().lease("intake", A, FOREVER).await.expect("a lease").held);
    let position: Position = "m-1".parse().expect("a position");
    let taken_in = f.pubsub().take_in("intake", A, FOREVER, &position, &[wide(990), wide(5000)]).await;
    assert!(taken_in.expect_err("too wide").to_string().contains("for wide has more fields"));
    assert_eq!(f.pubsub().lease("intake", A, FOREVER).await.expect("a lease").position, None);
    assert_eq!((f.event_ids("paid").await.len(), f.all("wide").await.len()), (1, 1));
}

#[tokio::test]
async fn a_watcher_is_told_once_of_streams_that_change_and_not_of_being_read() {
    let mut f = Fixture::redis().await;
    let (source, entries) = f.pending("orders", 2).await;
    let mut watcher = f.broker().watcher().await.unwrap().expect("the server has it");
    let cursor = |key: &str, after| Cursor { key: key.into(), after };
    let newer = watcher.watch(&[cursor("orders", EntryId::MIN), cursor("absent", EntryId::MIN)]).await.unwrap();
    assert_eq!(newer, [cursor("orders", entries[1].id)], "what is there already");

    // Reading and settling is no news.
    assert_eq!(watcher.watch(&[cursor("orders", entries[1].id)]).await.unwrap(), []);
    f.read(&source, B, 10).await;
    f.settle_one(A, &source, entries[0].id, ack()).await;
    f.publish(&"absent".into(), 2).await;
    assert_eq!(watcher.changed().await.unwrap(), Changed::Streams(vec!["absent".into()]));
    f.publish(&"absent".into(), 1).await;
    f.publish(&"orders".into(), 1).await;
    assert_eq!(watcher.changed().await.unwrap(), Changed::Streams(vec!["orders".into()]));

    assert_eq!(watcher.watch(&[cursor("orders", EntryId::MAX)]).await.unwrap(), []);
    f.delete_stream("orders").await;
    assert_eq!(watcher.changed().await.unwrap(), Changed::Streams(vec!["orders".into()]));
    watcher.check().await.unwrap();
    say(f.raw().0, &["FLUSHALL"]).await;
    assert_eq!(watcher.changed().await.unwrap(), Changed::All);
}

#[tokio::test]
async fn a_watcher_whose_connection_breaks_says_so() {
    let mut f = Fixture::redis().await;
    let mut watcher = f.broker().watcher().await.unwrap().expect("the server has it");
    say(f.raw().0, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    assert!(matches!(watcher.changed().await, Err(BrokerError::Unreachable { .. })));
    assert!(watcher.check().await.is_err());
}

#[tokio::test]
async fn one_stream_that_may_not_be_looked_at_is_named_and_others_are_watched() {
    let mut f = Fixture::redis().await;
    say(f.raw().0, &["SET", "wrong", "a string"]).await;
    let mut watcher = f.broker().watcher().await.unwrap().expect("the server has it");
    let cursors = ["wrong", "orders"].map(|key| Cursor { key: key.into(), after: EntryId::MIN });
    // Whoever reads it is told what is wrong.
    assert_eq!(watcher.watch(&cursors).await.unwrap(), cursors[..1]);
    f.publish(&"orders".into(), 1).await;
    assert_eq!(watcher.changed().await.unwrap(), Changed::Streams(vec!["orders".into()]));
}

#[tokio::test]
async fn a_user_who_may_not_be_told_of_changes_or_look_at_them_gets_no_watcher() {
    let mut f = Fixture::redis().await;
    for (user, without) in [("deaf", "-client|tracking"), ("blind", "-xrevrange"), ("plain", "-del")] {
        say(f.raw().0, &["ACL", "SETUSER", user, "on", ">secret", "~*", "+@all", without]).await;
        let port = f.raw().1.port();
        let settings = RedisSettings::new(&format!("redis://{user}:secret@127.0.0.1:{port}")).unwrap();
        let broker = RedisBroker::connect(settings).await.unwrap();
        assert_eq!(broker.watcher().await.unwrap().is_some(), user == "plain", "{user}");
    }
}

#[tokio::test]
async fn what_is_no_stream_has_no_length_and_harms_no_other() {
    let mut f = Fixture::redis().await;
    say(f.raw().0, &["SET", "wrong", "a string"]).await;
    f.publish(&"orders".into(), 2).await;
    let lengths = f.inspect().lengths(&["wrong", "orders"].map(Into::into)).await.unwrap();
    assert_eq!(lengths, [None, Some(2)]);
}

#[tokio::test]
async fn a_server_that_cannot_tell_of_changes_has_no_watcher() {
    let server = RedisServer::start_with(&["--rename-command", "HELLO", ""]);
    let broker = RedisBroker::connect(RedisSettings::new(&server.url()).unwrap()).await.unwrap();
    assert!(broker.watcher().await.unwrap().is_none());
}
