//! The state of handlers: written with the ack, if what was seen of it is still so.

use std::sync::Arc;
use std::time::Duration;

use wasmill::broker::Settled::{self, Applied, Duplicate, OverQuota, Refused, Stale, Superseded};
use wasmill::broker::Source;
use wasmill::broker::keys::Namespace;
use wasmill::outcome::{Decision, Mark};
use wasmill::state::{Changes, Home, MAX_LISTED, Seen, StateChange};

use super::fixture::{A, B, FOREVER, Fixture, ack_with, bury, park, publication, settlement};
use super::redis_only::{is_refused_as_wrong_type, say};

fn home() -> Home {
    Namespace::default().state("billing", None)
}

fn hash() -> Arc<str> {
    home().hash
}

/// An ack that publishes the event `id` into `paid` and changes the state.
fn changing(id: &str, changes: Changes) -> Decision {
    changing_in(&home(), id, changes)
}

fn changing_in(home: &Home, id: &str, changes: Changes) -> Decision {
    let state = Some(Box::new(StateChange { home: Arc::new(home.clone()), changes }));
    Decision::Ack { publishes: vec![publication(&"paid".into(), id)], mark: None, state }
}

/// The bytes of keys and values of each handler's state.
async fn sizes(f: &Fixture) -> Vec<(String, u64)> {
    f.state().state_sizes(&home().sizes).await.expect("they are known").into_iter().collect()
}

/// Sets a value from outside; whether it was there.
async fn put(f: &Fixture, key: &str, value: Option<&[u8]>) -> bool {
    f.state().state_write(&home(), key, value).await.expect("an answer").expect("there is no quota")
}

fn set(key: &str, value: &[u8]) -> Changes {
    Changes { writes: [(key.to_owned(), Some(value.to_vec()))].into(), ..Changes::default() }
}

/// Sets the key, having seen this of it.
fn set_after(seen: Option<&[u8]>, key: &str, value: &[u8]) -> Changes {
    Changes { seen: vec![(key.to_owned(), Seen::of(seen))], ..set(key, value) }
}

async fn value(f: &Fixture, key: &str) -> Option<Vec<u8>> {
    let values = f.state().state_values(&hash(), &[key.to_owned()], u64::MAX >> 12).await.expect("it is read");
    values.expect("it is not too large").remove(0)
}

async fn keys(f: &Fixture) -> Vec<String> {
    let mut keys = f.state().state_keys(&hash(), 10_000).await.expect("they are listed").expect("not too many");
    keys.sort();
    keys
}

/// Settles a new event of the stream with these changes.
async fn settle_next(f: &Fixture, source: &Arc<Source>, changes: Changes) -> Settled {
    f.publish(&source.key, 1).await;
    let entry = f.read(source, A, 1).await.remove(0).id;
    f.settle_one(A, source, entry, changing("x", changes)).await
}

pub async fn what_was_written_is_read_byte_for_byte(f: &Fixture) {
    let (source, entries) = f.pending("orders", 2).await;
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let writes = [("a", &b""[..]), ("b\u{fc}/{x}*", &binary), ("c", b"\r\n\0")];
    let writes = writes.map(|(key, value)| (key.to_owned(), Some(value.to_vec())));
    let changes = Changes { writes: writes.clone().into(), ..Changes::default() };
    assert_eq!(value(f, "a").await, None);
    assert_eq!(f.settle_one(A, &source, entries[0].id, changing("one", changes)).await, Applied);
    let asked = writes.clone().map(|(key, _)| key);
    let read = f.state().state_values(&hash(), &asked, 1 << 20).await.expect("it is read").expect("it is small");
    assert_eq!(read, writes.map(|(_, value)| value));
    assert_eq!(keys(f).await, asked);
    assert_eq!(f.event_ids("paid").await, ["one"]);

    let delete = ["a", "c", "never there"].map(|key| (key.to_owned(), None)).into();
    let changes = Changes { writes: delete, ..Changes::default() };
    assert_eq!(f.settle_one(A, &source, entries[1].id, changing("two", changes)).await, Applied);
    assert_eq!(keys(f).await, [asked[1].clone()]);
    assert_eq!(f.pending_count(&source).await, 0);
}

pub async fn of_two_who_saw_the_same_one_writes(f: &Fixture) {
    let (source, entries) = f.pending("orders", 2).await;
    let write = |id, value: &'static [u8]| changing(id, set_after(None, "n", value));
    assert_eq!(f.settle_one(A, &source, entries[0].id, write("first", b"1")).await, Applied);
    assert_eq!(f.settle_one(A, &source, entries[1].id, write("second", b"2")).await, Stale);
    assert_eq!(value(f, "n").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(f.event_ids("paid").await, ["first"]);
    // Its entry is where it was, and is settled once the handler has seen what is there.
    assert_eq!(f.pending_under(&source, A).await, 1);
    let again = changing("second", set_after(Some(b"1"), "n", b"2"));
    assert_eq!(f.settle_one(A, &source, entries[1].id, again).await, Applied);
    assert_eq!(value(f, "n").await.as_deref(), Some(&b"2"[..]));
    assert_eq!(f.event_ids("paid").await, ["first", "second"]);
}

pub async fn whatever_was_seen_is_checked(f: &Fixture) {
    let source = f.group("orders").await;
    let both = Changes { writes: ["a", "b"].map(|key| (key.to_owned(), Some(b"1".to_vec()))).into(), ..set("a", b"1") };
    assert_eq!(settle_next(f, &source, both).await, Applied);
    let seen = |key: &str, seen| Changes { seen: vec![(key.to_owned(), seen)], ..set("c", b"x") };
    let listed =
        |keys: &[&str]| Changes { listed: Some(keys.iter().map(|&key| key.to_owned()).collect()), ..set("c", b"x") };
    let stale = [
        seen("a", Seen::Absent),
        seen("a", Seen::of(Some(b"2"))),
        seen("z", Seen::Present),
        seen("z", Seen::of(Some(b""))),
        listed(&[]),
        listed(&["a"]),
        listed(&["a", "z"]),
        listed(&["a", "b", "z"]),
        // What contradicts itself was not seen at one time.
        Changes { seen: vec![("a".into(), Seen::Present), ("a".into(), Seen::Absent)], ..Changes::default() },
        Changes { listed: Some(vec!["a".into(), "b".into()]), ..seen("b", Seen::Absent) },
    ];
    for changes in stale {
        assert_eq!(settle_next(f, &source, changes.clone()).await, Stale, "{changes:?}");
    }
    assert_eq!((value(f, "c").await, f.event_ids("paid").await.len()), (None, 1));
    let current = [
        seen("a", Seen::Present),
        seen("a", Seen::of(Some(b"1"))),
        seen("z", Seen::Absent),
        listed(&["b", "c", "a"]),
        // Nothing is written, and all the same it is checked.
        Changes { writes: Default::default(), ..seen("b", Seen::Present) },
    ];
    for changes in current {
        assert_eq!(settle_next(f, &source, changes.clone()).await, Applied, "{changes:?}");
    }
    assert_eq!(keys(f).await, ["a", "b", "c"]);
    let nothing_there = Changes { listed: Some(Vec::new()), ..Changes::default() };
    for key in ["a", "b", "c"] {
        put(f, key, None).await;
    }
    assert_eq!(settle_next(f, &source, nothing_there).await, Applied);
}

pub async fn what_was_not_seen_is_not_checked(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    for (entry, new) in entries.iter().zip(["1", "2", "3"]) {
        let blind = changing(new, set("last", new.as_bytes()));
        assert_eq!(f.settle_one(A, &source, entry.id, blind).await, Applied);
    }
    assert_eq!(value(f, "last").await.as_deref(), Some(&b"3"[..]));
}

pub async fn the_writes_of_one_settlement_are_seen_by_the_next_of_the_same_call(f: &Fixture) {
    let (source, entries) = f.pending("orders", 4).await;
    let changes = [
        set_after(None, "n", b"1"),
        set_after(None, "n", b"lost"),
        set_after(Some(b"1"), "n", b"2"),
        set_after(None, "other", b"1"),
    ];
    let settlements: Vec<_> = (entries.iter().zip(changes).enumerate())
        .map(|(n, (entry, changes))| settlement(&source, entry.id, changing(&n.to_string(), changes)))
        .collect();
    assert_eq!(f.settle(A, &settlements).await, [Applied, Stale, Applied, Applied]);
    assert_eq!(f.event_ids("paid").await, ["0", "2", "3"]);
    assert_eq!(value(f, "n").await.as_deref(), Some(&b"2"[..]));
}

pub async fn what_is_no_longer_pending_is_superseded_not_stale(f: &Fixture) {
    let (source, entries) = f.pending("orders", 2).await;
    let decision = changing("one", set_after(None, "n", b"1"));
    assert_eq!(f.settle_one(A, &source, entries[0].id, decision.clone()).await, Applied);
    // The answer was lost: what it saw has changed by its own write.
    assert_eq!(f.settle_one(A, &source, entries[0].id, decision).await, Superseded);
    // Another worker has settled the event meanwhile.
    assert_eq!(f.settle_one(B, &source, entries[1].id, ack_with("paid", "two")).await, Applied);
    for changes in [set("n", b"zombie"), set_after(Some(b"1"), "n", b"zombie"), set_after(None, "n", b"zombie")] {
        assert_eq!(f.settle_one(A, &source, entries[1].id, changing("zombie", changes)).await, Superseded);
    }
    assert_eq!(value(f, "n").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(f.event_ids("paid").await, ["one", "two"]);
}

pub async fn an_event_that_is_marked_is_a_duplicate_not_stale(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    let marked = |changes| {
        let mark = Mark { key: "wasmill:seen:billing:1".into(), ttl: FOREVER, overrides: false };
        let Decision::Ack { publishes, state, .. } = changing("x", changes) else { unreachable!("it is an ack") };
        Decision::Ack { publishes, mark: Some(mark), state }
    };
    put(f, "n", Some(b"0")).await;
    // No mark is left by what is run again.
    assert_eq!(f.settle_one(A, &source, entries[0].id, marked(set_after(None, "n", b"1"))).await, Stale);
    assert_eq!(f.settle_one(A, &source, entries[0].id, marked(set_after(Some(b"0"), "n", b"1"))).await, Applied);
    assert_eq!(f.settle_one(A, &source, entries[1].id, marked(set_after(Some(b"1"), "n", b"2"))).await, Duplicate);
    assert_eq!(f.settle_one(A, &source, entries[2].id, marked(set_after(Some(b"0"), "n", b"2"))).await, Duplicate);
    assert_eq!(value(f, "n").await.as_deref(), Some(&b"1"[..]));
    assert_eq!((f.pending_count(&source).await, f.event_ids("paid").await.len()), (0, 1));
}

pub async fn only_acks_write(f: &Fixture) {
    let (source, entries) = f.pending("orders", 3).await;
    let settlements = [
        settlement(&source, entries[0].id, park(Duration::ZERO)),
        settlement(&source, entries[1].id, changing("one", set("n", b"1"))),
        settlement(&source, entries[2].id, bury("dead", &source, entries[2].id)),
    ];
    assert_eq!(f.settle(A, &settlements).await, [Applied, Applied, Applied]);
    assert_eq!(keys(f).await, ["n"]);
}

pub async fn a_read_is_bounded_at_its_edge(f: &Fixture) {
    for (key, value) in [("a", vec![b'x'; 60]), ("b", vec![b'y'; 40])] {
        assert!(!put(f, key, Some(&value)).await);
    }
    let asked = ["a", "none", "b"].map(str::to_owned);
    let read = async |most| f.state().state_values(&hash(), &asked, most).await.expect("an answer");
    let values = read(100).await.expect("it is small enough");
    assert_eq!(values.iter().map(|value| value.as_ref().map(Vec::len)).collect::<Vec<_>>(), [Some(60), None, Some(40)]);
    assert_eq!(read(99).await, None);
    assert_eq!(f.state().state_keys(&hash(), 2).await.expect("an answer").map(|keys| keys.len()), Some(2));
    assert_eq!(f.state().state_keys(&hash(), 1).await.expect("an answer"), None);
    assert_eq!(f.state().state_keys("wasmill:state:other", 0).await.expect("an answer"), Some(Vec::new()));
}

pub async fn operators_write_and_delete(f: &Fixture) {
    let state = f.state();
    assert!(!state.state_has(&hash(), "k").await.expect("an answer"));
    assert!(!put(f, "k", Some(b"")).await);
    assert!(put(f, "k", Some(b"\xff")).await);
    assert!(state.state_has(&hash(), "k").await.expect("an answer"));
    assert_eq!(value(f, "k").await.as_deref(), Some(&b"\xff"[..]));
    assert!(put(f, "k", None).await);
    assert!(!put(f, "k", None).await);
    assert!(keys(f).await.is_empty());
    for key in ["a", "b"] {
        put(f, key, Some(b"v")).await;
    }
    assert_eq!(state.state_clear(&home()).await.expect("it is cleared"), 2);
    assert_eq!(state.state_clear(&home()).await.expect("an answer"), 0);
    assert_eq!((keys(f).await, sizes(f).await), (vec![], vec![]));
}

pub async fn only_who_has_the_entry_is_told_to_run_it_again(f: &Fixture) {
    let (source, entries) = f.pending("orders", 2).await;
    put(f, "n", Some(b"0")).await;
    let outdated = changing("zombie", set_after(None, "n", b"1"));
    assert_eq!(f.settle_one(B, &source, entries[0].id, outdated.clone()).await, Superseded);
    // It waits for another attempt: nobody has it.
    assert_eq!(f.settle_one(A, &source, entries[1].id, park(FOREVER)).await, Applied);
    assert_eq!(f.settle_one(A, &source, entries[1].id, outdated).await, Superseded);
    assert_eq!((f.pending_count(&source).await, value(f, "n").await.as_deref()), (2, Some(&b"0"[..])));
}

pub async fn bytes_are_counted_with_what_they_count(f: &Fixture) {
    let source = f.group("orders").await;
    let billing = |bytes| vec![("billing".to_owned(), bytes)];
    // The key and the value; the same with a value of no bytes.
    for (value, bytes) in [(&b"123"[..], 6), (b"", 3), (b"1234567", 10), (b"1234567", 10)] {
        assert_eq!(settle_next(f, &source, set("key", value)).await, Applied);
        assert_eq!(sizes(f).await, billing(bytes));
    }
    let writes = [("key", None), ("never there", None), ("\u{fc}", Some(vec![0; 5]))];
    let changes = Changes { writes: writes.map(|(key, value)| (key.to_owned(), value)).into(), ..Changes::default() };
    assert_eq!(settle_next(f, &source, changes).await, Applied);
    assert_eq!(sizes(f).await, billing(7));
    // What is not written is not counted.
    assert_eq!(settle_next(f, &source, set_after(Some(b"x"), "key", b"1")).await, Stale);
    assert_eq!(sizes(f).await, billing(7));
    put(f, "key", Some(b"1")).await;
    assert_eq!(sizes(f).await, billing(11));
    put(f, "key", None).await;
    put(f, "\u{fc}", None).await;
    assert_eq!(sizes(f).await, billing(0));
}

pub async fn a_quota_bounds_the_states_of_a_tenant_together_at_its_edge(f: &Fixture) {
    let (source, entries) = f.pending("orders", 8).await;
    let tenant = |handler: &str| Namespace::default().state(handler, Some(100));
    let (billing, other) = (tenant("billing"), tenant("other"));
    let value = |bytes: usize| vec![b'x'; bytes];
    let settle = async |at: usize, home: &Home, changes| {
        f.settle_one(A, &source, entries[at].id, changing_in(home, &at.to_string(), changes)).await
    };
    assert_eq!(settle(0, &billing, set("a", &value(49))).await, Applied);
    assert_eq!(settle(1, &other, set("a", &value(50))).await, OverQuota);
    assert_eq!(settle(1, &other, set("a", &value(49))).await, Applied);
    // Nothing of it is written, and its entry is where it was.
    let changes = Changes { writes: [("a".into(), None), ("b".into(), Some(value(50)))].into(), ..Changes::default() };
    assert_eq!(settle(2, &billing, changes).await, OverQuota);
    assert_eq!((sizes(f).await[0].1, f.pending_count(&source).await, f.event_ids("paid").await.len()), (50, 6, 2));
    // What has changed comes first: the handler may want something else then.
    assert_eq!(settle(2, &billing, set_after(None, "a", &value(90))).await, Stale);
    // As much as before, and less, is always possible, also when the quota is smaller now.
    let smaller = Home { quota: Some(10), ..billing.clone() };
    assert_eq!(settle(2, &smaller, set("a", &value(49))).await, Applied);
    assert_eq!(settle(3, &smaller, set("a", &value(48))).await, Applied);
    assert_eq!(settle(4, &smaller, set("a", &value(49))).await, OverQuota);
    let exchange = Changes { writes: [("a".into(), None), ("b".into(), Some(value(48)))].into(), ..Changes::default() };
    assert_eq!(settle(4, &smaller, exchange).await, Applied);
    // A worker that does not have the entry is told nothing.
    let too_much = changing_in(&billing, "zombie", set("a", &value(100)));
    assert_eq!(f.settle_one(B, &source, entries[5].id, too_much).await, Superseded);
    // Operators are refused as well, and can make room.
    let state = f.state();
    assert_eq!(state.state_write(&billing, "c", Some(b"1")).await.expect("an answer"), None);
    assert_eq!(state.state_clear(&other).await.expect("it is cleared"), 1);
    assert_eq!(state.state_write(&billing, "c", Some(&value(50))).await.expect("an answer"), Some(false));
    assert_eq!(sizes(f).await, [("billing".to_owned(), 100)]);
}

/// What somebody has done to the keys past wasmill is mended as far as it can be.
#[tokio::test]
async fn a_state_that_was_deleted_has_no_bytes_and_a_size_that_is_no_number_none_either() {
    let mut f = Fixture::redis().await;
    let source = f.group("orders").await;
    assert_eq!(settle_next(&f, &source, set("key", &[0; 100])).await, Applied);
    say(f.raw().0, &["DEL", &hash()]).await;
    assert_eq!(settle_next(&f, &source, set("key", b"1")).await, Applied);
    assert_eq!(sizes(&f).await, [("billing".to_owned(), 4)]);
    say(f.raw().0, &["HSET", &home().sizes, "billing", "many"]).await;
    assert_eq!(settle_next(&f, &source, set("key", b"12")).await, Applied);
    assert_eq!(sizes(&f).await, [("billing".to_owned(), 1)]);
    say(f.raw().0, &["DEL", &home().sizes]).await;
    say(f.raw().0, &["SET", &home().sizes, "a string"]).await;
    let settled = settle_next(&f, &source, set("key", b"123")).await;
    assert!(is_refused_as_wrong_type(&settled), "{settled:?}");
    let error = f.state().state_write(&home(), "key", Some(b"1")).await.expect_err("it is a string");
    assert!(error.to_string().contains("wrong type"), "{error}");
    assert_eq!(value(&f, "key").await.as_deref(), Some(&b"12"[..]));
}

#[tokio::test]
async fn a_key_of_another_type_refuses_what_is_about_the_state_alone() {
    let mut f = Fixture::redis().await;
    say(f.raw().0, &["SET", &hash(), "a string"]).await;
    let (source, entries) = f.pending("orders", 4).await;
    let id = |n: usize| entries[n].id;
    let settlements = [
        settlement(&source, id(0), changing("one", set("n", b"1"))),
        settlement(&source, id(1), changing("two", set_after(None, "n", b"1"))),
        settlement(&source, id(2), changing("three", Changes { listed: Some(Vec::new()), ..Changes::default() })),
        settlement(&source, id(3), ack_with("paid", "four")),
    ];
    let settled = f.settle(A, &settlements).await;
    assert!(settled[..3].iter().all(is_refused_as_wrong_type), "{settled:?}");
    assert_eq!((&settled[3], f.event_ids("paid").await), (&Applied, vec!["four".to_owned()]));
    let error = f.state().state_values(&hash(), &["n".to_owned()], 100).await.expect_err("it is a string");
    assert!(error.to_string().contains("wrong type"), "{error}");
    say(f.raw().0, &["DEL", &hash()]).await;
    assert_eq!(f.settle(A, &settlements[..3]).await, [Applied, Stale, Stale]);
}

#[tokio::test]
async fn state_that_the_user_may_not_touch_is_refused_before_anything_is_written() {
    for rule in ["-hset", "-hdel", "-hget", "-hexists", "-hlen", "-hstrlen", "-hvals"] {
        let mut f = Fixture::redis().await;
        let (source, entries) = f.pending("orders", 2).await;
        f.settle_one(A, &source, entries[0].id, changing("first", set("n", b"1"))).await;
        say(f.raw().0, &["ACL", "SETUSER", "default", rule]).await;
        let decision = changing("second", set_after(Some(b"1"), "n", b"2"));
        let settled = f.settle_one(A, &source, entries[1].id, decision.clone()).await;
        assert!(matches!(&settled, Refused(why) if why.contains("NOPERM")), "{rule}: {settled:?}");
        assert_eq!((f.event_ids("paid").await.len(), f.pending_count(&source).await), (1, 1), "{rule}");
        say(f.raw().0, &["ACL", "SETUSER", "default", &rule.replace('-', "+")]).await;
        assert_eq!(f.settle_one(A, &source, entries[1].id, decision).await, Applied, "{rule}");
    }
}

#[tokio::test]
async fn a_full_server_refuses_state_whole_and_lets_it_be_read() {
    let mut f = Fixture::redis().await;
    let (source, entries) = f.pending("orders", 2).await;
    f.settle_one(A, &source, entries[0].id, changing("first", set("n", b"1"))).await;
    assert_eq!(value(&f, "n").await.as_deref(), Some(&b"1"[..]));
    say(f.raw().0, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let decision = changing("second", set_after(Some(b"1"), "n", b"2"));
    let settled = f.settle_one(A, &source, entries[1].id, decision.clone()).await;
    assert!(matches!(&settled, Refused(why) if why.contains("maxmemory")), "{settled:?}");
    assert_eq!(value(&f, "n").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(f.pending_count(&source).await, 1);
    say(f.raw().0, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(f.settle_one(A, &source, entries[1].id, decision).await, Applied);
    assert_eq!(value(&f, "n").await.as_deref(), Some(&b"2"[..]));
}

/// The most that one delivery can bring.
#[tokio::test]
async fn as_much_as_the_limits_allow_is_checked_and_written_in_one_call() {
    let f = Fixture::redis().await;
    let (source, entries) = f.pending("orders", 3).await;
    let names = |count: usize| (0..count).map(|n| format!("{n:0>512}")).collect::<Vec<_>>();
    let all = Changes {
        writes: names(MAX_LISTED).into_iter().map(|key| (key, Some(vec![b'x'; 100]))).collect(),
        ..Changes::default()
    };
    assert_eq!(f.settle_one(A, &source, entries[0].id, changing("one", all)).await, Applied);
    let changes = Changes {
        listed: Some(names(MAX_LISTED)),
        seen: names(256).into_iter().map(|key| (key, Seen::of(Some(&[b'x'; 100])))).collect(),
        writes: names(256).into_iter().map(|key| (key, Some(vec![b'y'; 64 << 10]))).collect(),
        ..Changes::default()
    };
    assert_eq!(f.settle_one(A, &source, entries[1].id, changing("two", changes.clone())).await, Applied);
    assert_eq!(f.settle_one(A, &source, entries[2].id, changing("two", changes)).await, Stale);
}
