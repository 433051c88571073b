//! Listening, leases, and writing down what was heard.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use wasmill::broker::keys::{self, Namespace};
use wasmill::broker::pubsub::{Heard, Lease, Position};
use wasmill::broker::{BrokerError, Refusal};
use wasmill_tests::eventually_async;

use super::fixture::{A, B, DEADLINE, FOREVER, Fixture, ids, publication};

async fn listen(f: &Fixture, channel: &str) -> BoxStream<'static, Heard> {
    f.pubsub().listen(channel, &intake()).await.expect("somebody listens")
}

fn intake() -> std::sync::Arc<str> {
    Namespace::default().intake("prices")
}

async fn say(f: &Fixture, channel: &str, payload: &[u8]) -> u64 {
    f.pubsub().publish_message(channel, payload).await.expect("a message is published")
}

async fn hear(stream: &mut BoxStream<'static, Heard>, count: usize) -> Vec<Heard> {
    let heard = stream.take(count).collect();
    tokio::time::timeout(DEADLINE, heard).await.expect("so many are heard in time")
}

fn message(channel: &[u8], payload: &[u8]) -> Heard {
    Heard::Message { channel: channel.to_vec(), payload: payload.to_vec() }
}

fn position(mark: &str, offset: u64) -> Position {
    Position { mark: mark.into(), offset }
}

pub async fn everybody_hears_the_same_in_the_same_order(f: &Fixture) {
    let mut listeners = [listen(f, "*").await, listen(f, "*").await];
    let marks = keys::intake_marks(&intake());
    let all_bytes: Vec<u8> = (0..=255).collect();
    let mut wanted = Vec::new();
    for n in 0..50 {
        let channel = format!("channel {}", n % 3);
        assert_eq!(say(f, &channel, &[&all_bytes[..], &[n]].concat()).await, 2);
        wanted.push(message(channel.as_bytes(), &[&all_bytes[..], &[n]].concat()));
        if n % 10 == 0 {
            say(f, &marks, format!("mark {n}").as_bytes()).await;
            wanted.push(Heard::Mark(format!("mark {n}")));
            // Other channels of wasmill's own are nobody's messages, whatever the pattern.
            say(f, "wasmill:other", b"x").await;
        }
    }
    for listener in &mut listeners {
        assert_eq!(hear(listener, wanted.len()).await, wanted);
    }
    let [first, second] = listeners;
    drop(first);
    eventually_async("one to be gone", DEADLINE, async || (say(f, "channel", b"").await == 1).then_some(())).await;
    drop(second);
}

pub async fn a_channel_is_not_a_pattern_and_a_pattern_is_not_a_channel(f: &Fixture) {
    let (mut exact, mut pattern) = (listen(f, "a.b").await, listen(f, "a.[bc]*").await);
    for channel in ["a.b", "axb", "a.c", "a.[bc]*", "a.bb", "b", "a.b"] {
        say(f, channel, channel.as_bytes()).await;
    }
    let all = |channels: &[&str]| -> Vec<Heard> {
        channels.iter().map(|channel| message(channel.as_bytes(), channel.as_bytes())).collect()
    };
    assert_eq!(hear(&mut exact, 2).await, all(&["a.b", "a.b"]));
    assert_eq!(hear(&mut pattern, 4).await, all(&["a.b", "a.c", "a.bb", "a.b"]));
}

pub async fn a_lease_belongs_to_one_until_it_ends(f: &Fixture) {
    let intake = intake();
    let lease = async |owner, ttl| f.pubsub().lease(&intake, owner, ttl).await.unwrap().held;
    assert!(lease(A, FOREVER).await && !lease(B, FOREVER).await && lease(A, FOREVER).await);
    assert!(f.pubsub().lease(&Namespace::default().intake("other"), B, FOREVER).await.unwrap().held);
    f.pubsub().release(&intake, B).await.unwrap();
    assert!(!lease(B, FOREVER).await, "only its owner gives it back");
    f.pubsub().release(&intake, A).await.unwrap();
    assert!(lease(B, Duration::from_millis(50)).await);
    eventually_async("the lease to end", DEADLINE, async || lease(A, FOREVER).await.then_some(())).await;
    assert!(!lease(B, FOREVER).await);
}

pub async fn only_the_holder_takes_in(f: &Fixture) {
    let intake = intake();
    let take_in = async |owner, offset, id| {
        let events = [publication(&"prices".into(), id)];
        f.pubsub().take_in(&intake, owner, FOREVER, &position("m", offset), &events).await.unwrap()
    };
    assert!(!take_in(A, 1, "without a lease").await);
    let lease = async |owner, ttl| f.pubsub().lease(&intake, owner, ttl).await.unwrap();
    assert_eq!(lease(A, FOREVER).await, Lease { held: true, position: None });
    assert!(take_in(A, 1, "first").await);
    assert!(!take_in(B, 2, "with another's lease").await);
    assert_eq!(lease(B, FOREVER).await, Lease { held: false, position: Some(position("m", 1)) });
    f.pubsub().release(&intake, A).await.unwrap();
    assert!(!take_in(A, 2, "too late").await);
    assert_eq!(lease(B, FOREVER).await, Lease { held: true, position: Some(position("m", 1)) });
    assert!(take_in(B, 2, "second").await && !take_in(A, 3, "the former holder").await);
    assert_eq!(lease(B, FOREVER).await.position, Some(position("m", 2)));
    assert_eq!(f.event_ids("prices").await, ["first", "second"]);
}

pub async fn what_was_taken_in_can_be_read(f: &Fixture) {
    let (intake, source) = (intake(), f.group("prices").await);
    assert!(f.pubsub().lease(&intake, A, FOREVER).await.unwrap().held);
    let events: Vec<_> = (0..1000).map(|n| publication(&source.key, &n.to_string())).collect();
    assert!(f.pubsub().take_in(&intake, A, FOREVER, &position("m", 1000), &events).await.unwrap());
    let read = f.read(&source, B, 2000).await;
    assert_eq!(read.len(), 1000);
    assert_eq!(ids(&read), ids(&f.all("prices").await));
    assert_eq!(f.event_ids("prices").await, (0..1000).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// Neither events nor position: the holder tries again with the same ones.
#[tokio::test]
async fn what_cannot_be_written_moves_no_position() {
    let mut f = Fixture::redis().await;
    let intake = intake();
    let events = |key: &str| ["good", key].map(|key| publication(&key.into(), "x"));
    assert!(f.pubsub().lease(&intake, A, FOREVER).await.unwrap().held);
    let raw = f.raw().0;
    redis::cmd("SET").arg(&["text", "x"]).query_async::<()>(raw).await.unwrap();
    let error = f.pubsub().take_in(&intake, A, FOREVER, &position("m", 1), &events("text")[1..]).await.unwrap_err();
    assert!(matches!(error, BrokerError::Refused { refusal: Refusal::WrongType, .. }), "{error}");
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query_async::<()>(f.raw().0).await.unwrap();
    let error = f.pubsub().take_in(&intake, A, FOREVER, &position("m", 1), &events("good")[..1]).await.unwrap_err();
    assert!(matches!(error, BrokerError::Refused { refusal: Refusal::OutOfMemory, .. }), "{error}");
    // The lease can be kept meanwhile.
    assert_eq!(f.pubsub().lease(&intake, A, FOREVER).await.unwrap(), Lease { held: true, position: None });
    assert!(f.all("good").await.is_empty());
}

#[tokio::test]
async fn listening_ends_with_the_connection() {
    let mut f = Fixture::redis().await;
    let mut listener = listen(&f, "a").await;
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query_async::<i64>(f.raw().0).await.unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, listener.next()).await.expect("it ends"), None);
}
