//! Taking over from workers that died, and from those that only seemed to.

use std::time::Duration;

use wasmill::broker::Claimed;
use wasmill::broker::Settled::{Applied, Superseded};
use wasmill_tests::eventually_async;

use super::fixture::{A, B, DEADLINE, FOREVER, Fixture, ack, ack_with, attempts, bury, ids, park};

pub async fn a_takeover_counts_and_goes_oldest_first(f: &Fixture) {
    let (source, entries) = f.pending("orders", 5).await;
    let first = f.claim_from(&source, B, A, 3).await;
    assert_eq!((ids(&first.entries), attempts(&first.entries)), (ids(&entries[..3]), vec![2, 2, 2]));
    assert_eq!(first.entries[0].fields, entries[0].fields);
    assert_eq!((first.more, first.trimmed, first.next_due), (true, 0, None));
    let rest = f.claim_from(&source, B, A, 3).await;
    assert_eq!((ids(&rest.entries), rest.more), (ids(&entries[3..]), false));
    assert_eq!((f.pending_under(&source, A).await, f.pending_under(&source, B).await), (0, 5));
    let none = f.claim_from(&source, B, A, 3).await;
    assert_eq!((none.entries.len(), none.more), (0, false));
}

/// The answer that handed it out was lost: nobody has run it.
pub async fn what_one_takes_from_oneself_counts_no_attempt(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    for _ in 0..4 {
        let claimed = f.claim_from(&source, A, A, 2).await;
        assert_eq!((ids(&claimed.entries), attempts(&claimed.entries)), (ids(&entries[..2]), vec![1, 1]));
        assert!(claimed.more);
    }
    assert_eq!(f.claim_from(&source, B, A, 9).await.entries.len(), 3);
    // What was handed out twice, one of them in vain, cannot have killed two workers.
    let claimed = f.claim_from(&source, B, B, 9).await;
    assert_eq!((ids(&claimed.entries), attempts(&claimed.entries)), (ids(&entries), vec![2, 2, 2]));
    f.claim_from(&source, A, B, 1).await;
    let claimed = f.claim_from(&source, A, A, 9).await;
    assert_eq!((ids(&claimed.entries), attempts(&claimed.entries)), (ids(&entries[..1]), vec![3]));
}

/// Nobody tells whether their consumer lives.
pub async fn entries_of_another_program_are_taken_when_they_have_been_idle(f: &Fixture) {
    const THEIRS: &str = "python-1";
    let source = f.group("orders").await;
    f.publish(&source.key, 3).await;
    let old = f.read(&source, THEIRS, 2).await;
    let take = async |min_idle: Duration, limit: usize| {
        f.broker().claim_from(&source, A, THEIRS, Some(min_idle), limit).await.expect("an answer")
    };
    assert_eq!(take(FOREVER, 10).await, Claimed::default());
    // How often it was handed out there does not count here.
    for _ in 0..4 {
        for (from, to) in [(THEIRS, "python-2"), ("python-2", THEIRS)] {
            while f.claim_from(&source, to, from, 10).await.more {}
        }
    }
    let idle = Duration::from_millis(300);
    assert_eq!(take(idle, 10).await.entries.len(), 0, "they have just been handed out");
    tokio::time::sleep(idle).await;
    let fresh = f.read(&source, THEIRS, 1).await;
    let first = take(idle, 1).await;
    assert_eq!((ids(&first.entries), attempts(&first.entries), first.more), (ids(&old[..1]), vec![1], true));
    let second = take(idle, 10).await;
    assert_eq!((ids(&second.entries), attempts(&second.entries), second.more), (ids(&old[1..]), vec![1], false));
    assert_eq!((f.pending_under(&source, THEIRS).await, f.pending_under(&source, A).await), (1, 2));
    // Whose payload is gone is settled as everywhere.
    f.cut(&source.key, 0).await;
    tokio::time::sleep(idle).await;
    let trimmed = take(idle, 10).await;
    assert_eq!((trimmed.entries.len(), trimmed.trimmed), (0, 1), "{fresh:?}");
    assert_eq!(f.pending_under(&source, THEIRS).await, 0);
}

pub async fn a_suspect_is_taken_alone(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    assert_eq!(f.claim_from(&source, B, A, 10).await.entries.len(), 3);
    // All have been handed out twice by now: each may be what killed the two.
    for (n, entry) in entries.iter().enumerate() {
        let claimed = f.claim_from(&source, A, B, 10).await;
        assert_eq!((ids(&claimed.entries), attempts(&claimed.entries)), (vec![entry.id], vec![3]));
        assert_eq!(claimed.more, n < 2);
    }
}

pub async fn a_suspect_stops_what_comes_before_it(f: &Fixture) {
    let (source, entries) = f.pending("orders", 4).await;
    // Only the third has been handed out twice.
    f.settle_one(A, &source, entries[2].id, park(Duration::ZERO)).await;
    assert_eq!(attempts(&f.claim_due(&source, A, 1).await.entries), [2]);
    let expected = [(&entries[..2], true), (&entries[2..3], true), (&entries[3..], false)];
    for (taken, more) in expected {
        let claimed = f.claim_from(&source, B, A, 10).await;
        assert_eq!((ids(&claimed.entries), claimed.more), (ids(taken), more));
    }
}

pub async fn a_zombie_may_neither_park_nor_give_up(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    let entry = entries[0].id;
    f.claim_from(&source, B, A, 1).await;
    assert_eq!(f.settle_one(A, &source, entry, park(Duration::ZERO)).await, Superseded);
    assert_eq!(f.settle_one(A, &source, entry, bury("dead", &source, entry)).await, Superseded);
    assert!(f.inspect().stream("dead").await.unwrap().is_none());
    assert!(f.claim_due(&source, A, 1).await.entries.is_empty());
    assert_eq!(f.pending_under(&source, B).await, 1);
    assert_eq!(f.settle_one(B, &source, entry, bury("dead", &source, entry)).await, Applied);
}

pub async fn whoever_acks_first_wins(f: &Fixture) {
    let (source, entries) = f.pending("orders", 2).await;
    f.claim_from(&source, B, A, 2).await;
    // The zombie was first.
    assert_eq!(f.settle_one(A, &source, entries[0].id, ack_with("paid", "by A")).await, Applied);
    assert_eq!(f.settle_one(B, &source, entries[0].id, ack_with("paid", "by B")).await, Superseded);
    assert_eq!(f.settle_one(B, &source, entries[0].id, park(FOREVER)).await, Superseded);
    assert_eq!(f.settle_one(B, &source, entries[0].id, bury("dead", &source, entries[0].id)).await, Superseded);
    // The zombie was late.
    assert_eq!(f.settle_one(B, &source, entries[1].id, ack_with("paid", "by B")).await, Applied);
    assert_eq!(f.settle_one(A, &source, entries[1].id, ack_with("paid", "by A")).await, Superseded);
    assert_eq!(f.event_ids("paid").await, ["by A", "by B"]);
    assert!(f.inspect().stream("dead").await.unwrap().is_none());
    assert_eq!(f.pending_count(&source).await, 0);
}

pub async fn entries_whose_payload_is_gone_are_settled(f: &Fixture) {
    let (source, entries) = f.pending("orders", 4).await;
    f.cut(&source.key, 2).await;
    let claimed = f.claim_from(&source, B, A, 10).await;
    assert_eq!((ids(&claimed.entries), claimed.trimmed, claimed.more), (ids(&entries[2..]), 2, false));
    assert_eq!(f.pending_count(&source).await, 2);
}

pub async fn a_worker_lives_as_long_as_its_heartbeat(f: &Fixture) {
    let workers = ["one", "two", "three"].map(str::to_owned);
    let alive = async || f.broker().alive(&workers).await.unwrap();
    assert_eq!(alive().await, [false, false, false]);
    f.broker().heartbeat("one", "{}", FOREVER).await.unwrap();
    f.broker().heartbeat("three", "{}", FOREVER).await.unwrap();
    assert_eq!(alive().await, [true, false, true]);
    let living = async || f.broker().living().await.unwrap().into_iter().collect::<Vec<_>>();
    assert_eq!(living().await, ["one", "three"]);
    f.broker().resign("one").await.unwrap();
    f.broker().resign("two").await.unwrap();
    assert_eq!(alive().await, [false, false, true]);
    // A shorter one replaces a longer one, and ends of itself.
    f.broker().heartbeat("three", "{}", Duration::from_millis(30)).await.unwrap();
    eventually_async("a heartbeat to end", DEADLINE, async || (!alive().await[2]).then_some(())).await;
    assert!(living().await.is_empty());
}

pub async fn a_worker_with_nothing_new_to_say_keeps_what_it_has_said(f: &Fixture) {
    let short = Duration::from_millis(30);
    assert!(!f.broker().stay_alive("one", FOREVER).await.unwrap(), "it has said nothing yet");
    assert!(f.broker().living().await.unwrap().is_empty());
    f.broker().heartbeat("one", "{\"a\":1}", FOREVER).await.unwrap();
    assert!(f.broker().stay_alive("one", FOREVER).await.unwrap());
    assert_eq!(f.inspect().workers().await.unwrap(), [("one".to_owned(), "{\"a\":1}".to_owned())]);
    // It is as good as any heartbeat: it ends, and what was said ends with it.
    assert!(f.broker().stay_alive("one", short).await.unwrap());
    let is_gone = async || f.broker().living().await.unwrap().is_empty().then_some(());
    eventually_async("a heartbeat to end", DEADLINE, is_gone).await;
    assert!(!f.broker().stay_alive("one", FOREVER).await.unwrap());
}

pub async fn consumers_are_removed_only_when_nothing_is_pending(f: &Fixture) {
    let (source, entries) = f.pending("orders", 1).await;
    // Whether reading nothing makes a consumer depends on the version of Redis.
    f.publish(&source.key, 1).await;
    let of_b = f.read(&source, B, 1).await;
    f.settle_one(B, &source, of_b[0].id, ack()).await;
    let names = async || {
        let consumers = f.broker().consumers(&source).await.unwrap();
        assert!(consumers.iter().all(|info| info.idle < DEADLINE));
        let mut names: Vec<String> = consumers.into_iter().map(|info| info.name).collect();
        names.sort();
        names
    };
    assert_eq!(names().await, [A, B]);
    assert!(!f.broker().remove_consumer(&source, A).await.unwrap());
    assert!(f.broker().remove_consumer(&source, B).await.unwrap());
    assert!(f.broker().remove_consumer(&source, B).await.unwrap());
    assert_eq!(names().await, [A]);
    f.settle_one(A, &source, entries[0].id, ack()).await;
    assert!(f.broker().remove_consumer(&source, A).await.unwrap());
    assert!(names().await.is_empty());
}

pub async fn a_handler_is_paused_until_it_goes_on(f: &Fixture) {
    let paused = async || {
        let mut paused = f.broker().paused().await.unwrap();
        paused.sort();
        paused
    };
    let set = async |handler: &str, paused: bool| f.inspect().set_paused(handler, paused).await.unwrap();
    assert!(paused().await.is_empty());
    assert!(!set("billing", false).await, "nothing has changed");
    assert!(set("billing", true).await);
    assert!(set("a b\u{fc}", true).await);
    assert!(!set("billing", true).await, "nothing has changed");
    assert_eq!(paused().await, ["a b\u{fc}", "billing"]);
    assert!(set("billing", false).await);
    assert_eq!(paused().await, ["a b\u{fc}"]);
}
