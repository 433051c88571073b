//! Publishing, reading, waiting, looking.

use std::time::{Duration, Instant};

use wasmill::broker::{BrokerError, Cursor, EntryId};
use wasmill::envelope;
use wasmill::event::Event;
use wasmill::outcome::Publication;
use wasmill_tests::eventually_async;

use super::fixture::{A, B, DEADLINE, FOREVER, Fixture, ack, event, event_of, fields, ids, publication, source};

pub async fn ids_ascend_and_fields_stay_in_order(f: &Fixture) {
    let source = f.group("orders").await;
    let mut published = f.publish(&source.key, 3).await;
    let odd = fields(&[(b"z", b"\x00\xff"), (b"a", b""), (b"z", b"again")]);
    published.push(f.add_raw(&source.key, &odd).await);
    assert!(published.is_sorted_by(|a, b| a < b), "{published:?}");

    let entries = f.read(&source, A, 100).await;
    assert_eq!(ids(&entries), published);
    assert!(entries.iter().all(|entry| entry.attempt == 1));
    for (n, entry) in entries[..3].iter().enumerate() {
        assert_eq!(entry.fields, envelope::fields(&event(&format!("orders-{n}"))));
    }
    assert_eq!(entries[3].fields, odd);
    assert!(f.read(&source, A, 100).await.is_empty());
}

pub async fn an_entry_goes_to_one_consumer_of_a_group(f: &Fixture) {
    let source = f.group("orders").await;
    let published = f.publish(&source.key, 50).await;
    let (mut seen, mut turn) = (Vec::new(), [A, B].into_iter().cycle());
    loop {
        let portion = f.read(&source, turn.next().unwrap(), 7).await;
        if portion.is_empty() {
            break;
        }
        assert!(portion.len() <= 7);
        seen.extend(ids(&portion));
    }
    assert_eq!(seen, published);
    assert_eq!(f.pending_under(&source, A).await + f.pending_under(&source, B).await, 50);
}

pub async fn every_group_sees_every_entry(f: &Fixture) {
    let billing = f.group("orders").await;
    let shipping = source("orders", "shipping");
    assert!(f.broker().create_group(&shipping).await.unwrap());
    let published = f.publish(&billing.key, 5).await;
    assert_eq!(ids(&f.read(&billing, A, 10).await), published);
    assert_eq!(ids(&f.read(&shipping, A, 10).await), published);
    f.settle_one(A, &billing, published[0], ack()).await;
    assert_eq!((f.pending_count(&billing).await, f.pending_count(&shipping).await), (4, 5));
}

pub async fn a_group_is_created_once_and_begins_at_the_beginning(f: &Fixture) {
    let source = source("orders", "billing");
    let published = f.publish(&source.key, 2).await;
    assert!(f.broker().create_group(&source).await.unwrap());
    assert!(!f.broker().create_group(&source).await.unwrap());
    assert_eq!(ids(&f.read(&source, A, 10).await), published);
}

pub async fn groups_are_created_together_and_say_which_are_new(f: &Fixture) {
    let known = f.group("orders").await;
    let others = ["returns", "payments"].map(|stream| source(stream, "billing"));
    let sources = [others[0].clone(), known, others[1].clone()];
    assert_eq!(f.broker().create_groups(&sources).await.unwrap(), [true, false, true]);
    for source in &sources {
        let published = f.publish(&source.key, 1).await;
        assert_eq!(ids(&f.read(source, A, 10).await), published);
    }
    assert_eq!(f.broker().create_groups(&[]).await.unwrap(), Vec::<bool>::new());
}

pub async fn reading_without_a_group_says_so_and_it_can_be_made_again(f: &Fixture) {
    let source = source("orders", "billing");
    let no_group = async || {
        let is_no_group = |error: BrokerError| matches!(error, BrokerError::NoGroup { .. });
        assert!(f.broker().read(&source, A, 1).await.is_err_and(is_no_group));
        assert!(f.broker().claim_from(&source, A, B, None, 1).await.is_err_and(is_no_group));
        assert!(f.broker().consumers(&source).await.is_err_and(is_no_group));
    };
    no_group().await;
    f.publish(&source.key, 1).await;
    no_group().await;
    assert!(f.broker().create_group(&source).await.unwrap());
    assert_eq!(f.read(&source, A, 1).await.len(), 1);

    f.delete_stream(&source.key).await;
    no_group().await;
    assert!(f.inspect().stream(&source.key).await.unwrap().is_none());
    assert!(f.broker().create_group(&source).await.unwrap());
    assert_eq!(f.pending_count(&source).await, 0);
    let published = f.publish(&source.key, 1).await;
    assert_eq!(ids(&f.read(&source, A, 10).await), published);
}

pub async fn a_thousand_events_in_one_call(f: &Fixture) {
    let source = f.group("orders").await;
    let published = f.publish(&source.key, 1000).await;
    assert_eq!(published.len(), 1000);
    assert!(published.is_sorted_by(|a, b| a < b));
    assert_eq!(ids(&f.read(&source, A, 1000).await), published);
}

pub async fn a_payload_of_a_mebibyte(f: &Fixture) {
    let source = f.group("orders").await;
    let data: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let large = Event { data, ..event("large") };
    f.broker().publish(&[Publication::now(source.key.clone(), large.clone())]).await.unwrap();
    let entry = f.read(&source, A, 1).await.remove(0);
    assert_eq!(event_of(entry), large);
}

pub async fn empty_calls_do_nothing(f: &Fixture) {
    assert_eq!(f.broker().publish(&[]).await.unwrap(), []);
    assert_eq!(f.broker().settle(A, &[]).await.unwrap(), []);
    assert_eq!(f.broker().alive(&[]).await.unwrap(), Vec::<bool>::new());
    assert_eq!(f.inspect().delete("orders", &[]).await.unwrap(), 0);
    f.inspect().remove_streams(&[]).await.unwrap();
    assert!(f.inspect().stream("orders").await.unwrap().is_none());
}

pub async fn entries_can_be_looked_at_and_deleted(f: &Fixture) {
    let source = f.group("orders").await;
    let published = f.publish(&source.key, 5).await;
    f.read(&source, A, 2).await;

    let info = f.inspect().stream("orders").await.unwrap().expect("a stream");
    assert_eq!((info.length, info.last), (5, published[4]));
    let group = &info.groups[0];
    assert_eq!((info.groups.len(), &*group.name, group.pending, group.lag), (1, "billing", 2, Some(3)));

    let middle = f.inspect().range("orders", published[1], published[3], 2).await.unwrap();
    assert_eq!(ids(&middle), published[1..3]);
    assert!(middle.iter().all(|entry| entry.attempt == 0));
    assert_eq!(f.inspect().range("absent", EntryId::MIN, EntryId::MAX, 2).await.unwrap(), []);

    assert_eq!(f.inspect().delete("orders", &published[1..3]).await.unwrap(), 2);
    assert_eq!(f.inspect().delete("orders", &published[1..3]).await.unwrap(), 0);
    assert_eq!(ids(&f.all("orders").await), [published[0], published[3], published[4]]);
    assert_eq!(f.inspect().delete("absent", &published).await.unwrap(), 0);
}

fn cursor(key: &str, after: EntryId) -> Cursor {
    Cursor { key: key.into(), after }
}

pub async fn waiting_ends_with_a_new_entry(f: &Fixture) {
    let known = f.publish(&"orders".into(), 2).await[1];
    // What is there already is no reason to wait.
    let there = f.broker().wait(&[cursor("orders", EntryId::MIN), cursor("returns", EntryId::MIN)], FOREVER).await;
    assert_eq!(there.unwrap(), [cursor("orders", known)]);

    let cursors = [cursor("orders", known), cursor("returns", EntryId::MIN)];
    let publish = async {
        // A single event, so that it is the newest one whenever the wait looks.
        f.broker().publish(&[publication(&"returns".into(), "r")]).await.unwrap()[0]
    };
    let both = async { tokio::join!(f.broker().wait(&cursors, FOREVER), publish) };
    let (woken, newest) = tokio::time::timeout(DEADLINE, both).await.expect("the wait ends");
    assert_eq!(woken.unwrap(), [cursor("returns", newest.unwrap())]);
}

pub async fn waiting_ends_when_interrupted(f: &Fixture) {
    // Nothing is going on.
    f.broker().interrupt_wait().await.unwrap();
    let cursors = [cursor("orders", EntryId::MIN)];
    let mut wait = std::pin::pin!(f.broker().wait(&cursors, FOREVER));
    // An interruption counts only once the wait has begun, which cannot be seen from here.
    let woken = eventually_async("an interrupted wait to end", DEADLINE, async || {
        let woken = tokio::time::timeout(Duration::from_millis(20), &mut wait).await;
        f.broker().interrupt_wait().await.unwrap();
        woken.ok()
    });
    assert_eq!(woken.await.unwrap(), []);
}

pub async fn waiting_ends_when_the_time_is_over(f: &Fixture) {
    let started = Instant::now();
    let timeout = Duration::from_millis(60);
    let woken = f.broker().wait(&[cursor("orders", EntryId::MIN)], timeout).await.unwrap();
    assert_eq!(woken, []);
    assert!(started.elapsed() >= timeout, "{:?}", started.elapsed());
}
