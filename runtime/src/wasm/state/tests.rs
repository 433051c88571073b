//! Tests of the state of a delivery.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::*;

/// A state that counts how often it is asked.
#[derive(Default)]
struct Counting {
    values: BTreeMap<String, Vec<u8>>,
    asked: AtomicUsize,
    exceeded: Option<u64>,
}

#[async_trait]
impl Reader for Counting {
    async fn values(&self, keys: &[String], most: u64) -> Result<Option<Vec<Option<Vec<u8>>>>, ReadError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Reader::values(&self.values, keys, most).await
    }

    async fn has(&self, key: &str) -> Result<bool, ReadError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.values.has(key).await
    }

    async fn keys(&self, most: usize) -> Result<Option<Vec<String>>, ReadError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Reader::keys(&self.values, most).await
    }

    fn exceeded_quota(&self) -> Option<u64> {
        self.exceeded
    }
}

fn with(pairs: impl IntoIterator<Item = (String, Vec<u8>)>, limit: u64) -> (StateScope, Arc<Counting>) {
    let reader = Arc::new(Counting { values: pairs.into_iter().collect(), ..Counting::default() });
    (StateScope::new(reader.clone(), limit), reader)
}

fn two(limit: u64) -> (StateScope, Arc<Counting>) {
    with([("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())), limit)
}

async fn get(state: &mut StateScope, key: &str) -> Option<Vec<u8>> {
    assert!(state.load(&[key.to_owned()]).await.is_ok(), "{key} can be read");
    state.value(key)
}

fn set(state: &mut StateScope, key: &str, bytes: usize) -> bool {
    state.write(key, Some(vec![b'x'; bytes])).is_ok()
}

#[track_caller]
fn refused<T>(result: Result<T, Trouble>, part: &str) {
    match result {
        Err(Trouble::Refused(Error::Other(text))) => assert!(text.contains(part), "{text}"),
        _ => panic!("it is not refused because of {part}"),
    }
}

#[tokio::test]
async fn each_key_is_read_once_and_what_was_seen_is_told() {
    let (mut state, reader) = two(1000);
    let keys = ["a", "none", "a"].map(str::to_owned);
    assert!(state.load(&keys).await.is_ok());
    assert_eq!((state.value("a"), state.value("none")), (Some(b"1".to_vec()), None));
    assert_eq!(get(&mut state, "a").await, Some(b"1".to_vec()));
    assert_eq!((state.has("a").await.ok(), state.has("none").await.ok()), (Some(true), Some(false)));
    assert_eq!(reader.asked.load(Ordering::Relaxed), 1);
    assert_eq!(state.has("b").await.ok(), Some(true));
    assert_eq!(state.has("b").await.ok(), Some(true));
    assert_eq!(reader.asked.load(Ordering::Relaxed), 2);
    assert_eq!(get(&mut state, "b").await, Some(b"2".to_vec()));
    let seen = |value: &[u8]| Seen::of(Some(value));
    let expected = [("a", seen(b"1")), ("none", Seen::Absent), ("b", Seen::Present), ("b", seen(b"2"))];
    let (changes, failed) = state.finish();
    assert_eq!(changes.seen, expected.map(|(key, seen)| (key.to_owned(), seen)));
    assert!(changes.writes.is_empty() && changes.listed.is_none() && failed.is_none());
}

#[tokio::test]
async fn a_key_that_is_named_often_is_not_copied_beyond_the_limit() {
    let (mut state, _) = with([("k".to_owned(), vec![b'x'; 400])], 1000);
    let keys = |count: usize| vec!["k".to_owned(); count];
    assert!(state.load(&keys(3)).await.is_ok());
    assert_eq!(state.values(keys(2)).ok().map(|values| values.len()), Some(2));
    refused(state.values(keys(3)), "limits.state_bytes");
}

#[tokio::test]
async fn own_writes_are_seen_and_ask_nobody() {
    let (mut state, reader) = two(1000);
    assert!(set(&mut state, "a", 3) && set(&mut state, "new", 0) && state.write("b", None).is_ok());
    assert_eq!(get(&mut state, "a").await, Some(b"xxx".to_vec()));
    assert_eq!((state.has("new").await.ok(), state.has("b").await.ok()), (Some(true), Some(false)));
    assert!(state.write("a", None).is_ok());
    assert_eq!(get(&mut state, "a").await, None);
    assert_eq!(reader.asked.load(Ordering::Relaxed), 0);
    let (changes, _) = state.finish();
    assert!(!changes.has_seen());
    assert_eq!(changes.writes, [("a", None), ("b", None), ("new", Some(vec![]))].map(|(k, v)| (k.into(), v)).into());
}

#[tokio::test]
async fn keys_are_listed_in_pages_with_what_was_written() {
    let (mut state, reader) = with((0..150).map(|n| (format!("k{n:03}"), vec![])), 10_000);
    assert!(state.write("k000", None).is_ok() && set(&mut state, "k0005", 1) && set(&mut state, "k149", 1));
    let first = state.list(None).await.ok().expect("they are listed");
    assert_eq!((first.keys.len(), first.keys[0].as_str(), first.keys[5].as_str()), (PAGE, "k0005", "k005"));
    // What comes between two pages does not move the second one.
    assert!(set(&mut state, "a", 0));
    let second = state.list(first.cursor.as_deref()).await.ok().expect("they are listed");
    assert_eq!((second.keys.len(), second.keys[49].as_str(), second.cursor), (50, "k149", None));
    assert_eq!(state.list(Some("zzz")).await.ok().map(|page| page.keys.len()), Some(0));
    // What is known from the list is asked for no more, but for values.
    assert_eq!((state.has("k001").await.ok(), state.has("none").await.ok()), (Some(true), Some(false)));
    assert_eq!((get(&mut state, "other").await, reader.asked.load(Ordering::Relaxed)), (None, 1));
    assert_eq!((get(&mut state, "k001").await, reader.asked.load(Ordering::Relaxed)), (Some(vec![]), 2));
    let (changes, _) = state.finish();
    assert_eq!((changes.listed.map(|keys| keys.len()), changes.seen.len()), (Some(150), 1));
}

#[tokio::test]
async fn only_so_many_keys_can_be_listed() {
    let (mut state, _) = with((0..MAX_LISTED).map(|n| (n.to_string(), vec![])), 10_000);
    assert!(state.list(None).await.is_ok());
    let (mut state, _) = with((0..=MAX_LISTED).map(|n| (n.to_string(), vec![])), 10_000);
    refused(state.list(None).await, "1000 keys at most");
    let (mut state, _) = two(1);
    refused(state.list(None).await, "limits.state_bytes");
}

#[tokio::test]
async fn bytes_are_bounded_at_the_edge_in_both_directions() {
    let (mut state, _) = two(10);
    // One byte of key and one of value are read, and again one and seven written.
    assert_eq!(get(&mut state, "a").await, Some(b"1".to_vec()));
    refused(state.write("k", Some(vec![0; 8])), "limits.state_bytes");
    assert!(set(&mut state, "k", 7) && set(&mut state, "k", 7));
    refused(state.load(&["b".to_owned()]).await, "limits.state_bytes");
    // What is not written any more is not held any more.
    assert!(set(&mut state, "k", 5));
    assert_eq!(get(&mut state, "b").await, Some(b"2".to_vec()));
    refused(state.write("k", Some(vec![0; 6])), "limits.state_bytes");
    let (changes, _) = state.finish();
    assert_eq!(changes.writes["k"].as_ref().map(Vec::len), Some(5), "what was refused changed nothing");

    let (mut state, _) = with([("a".to_owned(), vec![0; 99])], 100);
    assert_eq!(get(&mut state, "a").await.map(|value| value.len()), Some(99));
    let (mut state, _) = with([("a".to_owned(), vec![0; 100])], 100);
    refused(state.load(&["a".to_owned()]).await, "100 bytes");
}

#[tokio::test]
async fn over_the_quota_nothing_can_be_made_larger_than_what_was_read() {
    let values = [("a".to_owned(), b"123".to_vec()), ("b".to_owned(), b"123".to_vec())].into();
    let reader = Counting { values, exceeded: Some(7), ..Counting::default() };
    let mut state = StateScope::new(Arc::new(reader), 1000);
    let quota = "quotas.state_bytes: the state may have 7 bytes";
    // Of a value that was not read nobody knows whether it is larger.
    refused(state.write("a", Some(vec![])), quota);
    assert_eq!(state.has("b").await.ok(), Some(true));
    refused(state.write("b", Some(vec![])), quota);
    assert!(state.write("b", None).is_ok());
    assert!(get(&mut state, "a").await.is_some() && get(&mut state, "none").await.is_none());
    refused(state.write("none", Some(vec![])), quota);
    refused(state.write("a", Some(vec![0; 4])), quota);
    assert!(set(&mut state, "a", 3) && set(&mut state, "a", 0) && set(&mut state, "a", 3));
    let (changes, _) = state.finish();
    assert_eq!(changes.writes.keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn the_bytes_that_the_settle_has_to_do_with_are_told() {
    let (mut state, _) = with([("key".to_owned(), vec![0; 100]), ("k2".to_owned(), vec![0; 10])], 1000);
    assert!(get(&mut state, "key").await.is_some() && set(&mut state, "new", 5));
    assert!(state.list(None).await.is_ok());
    let (changes, _) = state.finish();
    // The key and its value, the list, and what is written.
    assert_eq!((changes.seen_bytes, changes.bytes()), (103 + 5, 103 + 5 + 8));
}

/// A state that never answers.
struct Silent;

#[async_trait]
impl Reader for Silent {
    async fn values(&self, _: &[String], _: u64) -> Result<Option<Vec<Option<Vec<u8>>>>, ReadError> {
        std::future::pending().await
    }

    async fn has(&self, _: &str) -> Result<bool, ReadError> {
        std::future::pending().await
    }

    async fn keys(&self, _: usize) -> Result<Option<Vec<String>>, ReadError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_delivery_that_waited_for_most_of_its_time_could_not_read() {
    let wait = Duration::from_millis(50);
    let mut state = StateScope::new(Arc::new(Silent), 1000);
    assert!(tokio::time::timeout(wait, state.load(&["a".to_owned()])).await.is_err());
    assert!(state.finish().1.is_some_and(|error| error.to_string().contains("no answer within")));
    // One that has used up its time itself has to answer for it.
    let mut state = StateScope::new(Arc::new(Silent), 1000);
    state.started -= Duration::from_secs(60);
    assert!(tokio::time::timeout(wait, state.has("a")).await.is_err());
    assert_eq!(state.finish().1, None);
}

#[tokio::test]
async fn keys_are_counted_and_checked() {
    let (mut state, reader) = two(100_000);
    for n in 0..MAX_KEYS {
        assert!(set(&mut state, &n.to_string(), 0));
    }
    assert!(set(&mut state, "0", 1), "it is one of them");
    refused(state.write("one more", None), "256 keys");
    refused(state.has("one more").await, "256 keys");
    refused(state.load(&["one more".to_owned()]).await, "256 keys");
    let (mut state, _) = two(100_000);
    refused(state.load(&[String::new()]).await, "1 to 512 bytes");
    refused(state.write(&"k".repeat(513), None), "1 to 512 bytes");
    refused(state.has("a\n").await, "control character");
    assert_eq!(reader.asked.load(Ordering::Relaxed), 0);
}
