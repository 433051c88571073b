//! Intake through workers: every message becomes one event, however many listen and whoever dies.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use redis::Connection;
use wasmill::broker::Inspect as _;
use wasmill::broker::memory::MemoryBroker;
use wasmill::broker::pubsub::{Heard, PubSub as _};
use wasmill::broker::{EntryId, keys::Namespace};
use wasmill::config::Config;
use wasmill::pipeline::{Backend, serve};
use wasmill::readiness::Readiness;
use wasmill::{app, envelope};
use wasmill_tests::redis_server::RedisServer;
use wasmill_tests::worker::{Signal, Worker};
use wasmill_tests::{eventually, eventually_async};

use super::faults::{Entry, bytes, text};
use super::invoke::{Place, code, said};

const DEADLINE: Duration = Duration::from_secs(30);

fn config(server: &RedisServer) -> String {
    format!(
        "[redis]\nurl = \"{}\"\n[admin]\nlisten = \"\"\n[worker]\nthreads = 1\n\
         [intake.prices]\nchannel = \"price.*\"\nstream = \"prices\"\n",
        server.url()
    )
}

fn connect(server: &RedisServer) -> Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

/// A worker that listens.
fn start(server: &RedisServer) -> Worker {
    let worker = Worker::spawn(&config(server));
    eventually("a worker to listen", DEADLINE, || worker.stderr_text().contains("listening").then_some(()));
    worker
}

fn is_holder(worker: &Worker) -> bool {
    worker.stderr_text().contains("this worker writes what is heard")
}

fn say(redis: &mut Connection, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let channel = format!("price.{}", n % 7);
        redis::cmd("PUBLISH").arg(channel).arg(n.to_string()).query::<()>(redis).unwrap();
    }
}

fn entries(redis: &mut Connection) -> Vec<Entry> {
    redis::cmd("XRANGE").arg(&["prices", "-", "+"]).query(redis).unwrap()
}

/// Waits until the last message is there, and returns all, in order.
fn wait_for(redis: &mut Connection, last: usize) -> Vec<usize> {
    let wanted = last.to_string();
    eventually(&format!("message {last}"), DEADLINE, || {
        let written = entries(redis);
        let done = written.last().is_some_and(|entry| text(entry, "data") == wanted);
        done.then(|| written.iter().map(|entry| text(entry, "data").parse().unwrap()).collect())
    })
}

#[test]
fn a_message_becomes_an_event_byte_for_byte() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let mut worker = start(&server);
    let all: Vec<u8> = (0..=255).collect();
    redis::cmd("PUBLISH").arg("price.eur").arg(&all).query::<()>(&mut redis).unwrap();
    redis::cmd("PUBLISH").arg(b"price.\xff").arg(b"").query::<()>(&mut redis).unwrap();
    redis::cmd("PUBLISH").arg("other").arg("x").query::<()>(&mut redis).unwrap();
    let written = eventually("two events", DEADLINE, || Some(entries(&mut redis)).filter(|all| all.len() == 2));
    assert_eq!(bytes(&written[0], "data"), all);
    assert_eq!((bytes(&written[1], "data"), text(&written[1], "ce_channel")), (&b""[..], "price.\\xff"));
    for (name, value) in [
        ("ce_type", "prices"),
        ("ce_source", "/wasmill/intake/prices"),
        ("ce_channel", "price.eur"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(text(&written[0], name), value);
    }
    assert_ne!(text(&written[0], "ce_id"), text(&written[1], "ce_id"));
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(DEADLINE).success(), "{}", worker.stderr_text());
}

#[test]
fn two_workers_make_one_event_of_each_message() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let workers = [start(&server), start(&server)];
    eventually("one to write", DEADLINE, || workers.iter().any(is_holder).then_some(()));
    say(&mut redis, 0..1000);
    assert_eq!(wait_for(&mut redis, 999), (0..1000).collect::<Vec<_>>());
    let ids: BTreeSet<String> = entries(&mut redis).iter().map(|entry| text(entry, "ce_id").to_owned()).collect();
    assert_eq!(ids.len(), 1000);
    assert_eq!(workers.iter().filter(|worker| is_holder(worker)).count(), 1);
}

#[test]
fn a_killed_holder_is_followed_without_losing_or_doubling() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let first = start(&server);
    eventually("the first to write", DEADLINE, || is_holder(&first).then_some(()));
    let second = start(&server);
    // The same payload again and again: what was written is not recognised by what is in it.
    let ticks = |redis: &mut Connection, count: usize| {
        for _ in 0..count {
            redis::cmd("PUBLISH").arg("price.tick").arg("tick").query::<()>(redis).unwrap();
        }
    };
    ticks(&mut redis, 500);
    first.signal(Signal::KILL);
    ticks(&mut redis, 500);
    redis::cmd("PUBLISH").arg("price.end").arg("0").query::<()>(&mut redis).unwrap();
    eventually("the end", DEADLINE, || {
        entries(&mut redis).last().is_some_and(|entry| text(entry, "data") == "0").then_some(())
    });
    assert_eq!(entries(&mut redis).len(), 1001);
    assert!(is_holder(&second));
}

#[test]
fn a_holder_that_stops_or_stands_still_is_followed_too() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let mut first = start(&server);
    eventually("the first to write", DEADLINE, || is_holder(&first).then_some(()));
    let second = start(&server);
    say(&mut redis, 0..100);
    first.signal(Signal::STOP);
    say(&mut redis, 100..200);
    assert_eq!(wait_for(&mut redis, 199), (0..200).collect::<Vec<_>>());
    assert!(is_holder(&second));
    // It wakes up with everything still to write, as far as it knows.
    first.signal(Signal::CONT);
    eventually("the first to notice", DEADLINE, || first.stderr_text().contains("another worker writes").then_some(()));
    say(&mut redis, 200..300);
    assert_eq!(wait_for(&mut redis, 299), (0..300).collect::<Vec<_>>());
    let mut second = second;
    second.signal(Signal::TERM);
    assert!(second.wait_exit(DEADLINE).success());
    say(&mut redis, 300..400);
    assert_eq!(wait_for(&mut redis, 399), (0..400).collect::<Vec<_>>());
    first.signal(Signal::TERM);
    assert!(first.wait_exit(DEADLINE).success());
}

/// A broken connection has missed something: the worker says so, and goes on.
#[test]
fn a_broken_connection_is_told_and_made_again() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let worker = start(&server);
    say(&mut redis, 0..10);
    wait_for(&mut redis, 9);
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query::<i64>(&mut redis).unwrap();
    let again = |worker: &Worker| worker.stderr_text().matches("listening").count() == 2;
    eventually("the worker to listen again", DEADLINE, || again(&worker).then_some(()));
    assert!(worker.stderr_text().contains("intake_interrupted"));
    say(&mut redis, 10..20);
    assert_eq!(wait_for(&mut redis, 19), (0..20).collect::<Vec<_>>());
}

/// A server that stands still for longer than a mark may take makes nobody deaf.
#[test]
fn a_frozen_server_interrupts_nothing() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let worker = start(&server);
    say(&mut redis, 0..10);
    wait_for(&mut redis, 9);
    server.pause();
    std::thread::sleep(Duration::from_secs(7));
    server.resume();
    say(&mut redis, 10..20);
    assert_eq!(wait_for(&mut redis, 19), (0..20).collect::<Vec<_>>());
    assert!(!worker.stderr_text().contains("intake_interrupted"), "{}", worker.stderr_text());
}

#[test]
fn what_cannot_be_written_is_held_until_it_can() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let worker = start(&server);
    eventually("the worker to write", DEADLINE, || is_holder(&worker).then_some(()));
    redis::cmd("SET").arg(&["prices", "not a stream"]).query::<()>(&mut redis).unwrap();
    say(&mut redis, 0..100);
    eventually("the fault to be told", DEADLINE, || worker.stderr_text().contains("held back").then_some(()));
    // A break of the connection loses what is said meanwhile, not what was heard before.
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query::<i64>(&mut redis).unwrap();
    let again = || (worker.stderr_text().matches("listening").count() == 2).then_some(());
    eventually("the worker to listen again", DEADLINE, again);
    say(&mut redis, 100..200);
    redis::cmd("DEL").arg("prices").query::<()>(&mut redis).unwrap();
    assert_eq!(wait_for(&mut redis, 199), (0..200).collect::<Vec<_>>());
    assert!(worker.stderr_text().matches("held back").count() <= 2, "said once for each connection");
}

/// The same on the broker in this process; the worker that writes vanishes without saying anything.
#[tokio::test]
async fn without_redis_it_is_the_same() {
    let broker = MemoryBroker::new();
    let config = Config::parse(None, "[intake.ticks]\nchannel = \"t*\"\nstream = \"ticks\"\n", []).unwrap();
    let namespace = Namespace::default();
    let mut ear = broker.listen("nothing", &namespace.intake("ticks")).await.unwrap();
    let start = || {
        let (worker, backend) = (app::worker(&config), Backend::Memory(broker.clone()));
        let (roster, orders) = app::roster(&config, Vec::new());
        let stats = roster.now().intakes[0].stats.clone();
        let serving = tokio::task::spawn_local(async move {
            serve(worker, backend, orders, &Readiness::default(), std::future::pending()).await
        });
        (serving, stats)
    };
    let data = async || -> Vec<String> {
        let all = broker.range("ticks", EntryId::MIN, EntryId::MAX, 10_000).await.unwrap();
        let events = all.into_iter().map(|entry| envelope::decode(entry.fields, 0).unwrap());
        events.map(|event| String::from_utf8(event.data).unwrap()).collect()
    };
    let say = async |numbers: std::ops::Range<usize>| {
        for n in numbers {
            broker.publish_message("tick", n.to_string().as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let wait_for = async |count: usize| {
        let what = format!("{count} events");
        eventually_async(&what, DEADLINE, async || (data().await.len() >= count).then_some(())).await;
        assert_eq!(data().await, (0..count).map(|n| n.to_string()).collect::<Vec<_>>());
    };
    let scenario = async {
        let workers = [start(), start()];
        // What is said after their marks is heard by both.
        for _ in &workers {
            assert!(matches!(ear.next().await, Some(Heard::Mark(_))));
        }
        say(0..10).await;
        wait_for(10).await;
        say(10..500).await;
        let holder = workers.iter().find(|(_, stats)| stats.holder.load(Ordering::Relaxed) == 1);
        holder.expect("one of them has written").0.abort();
        say(500..1000).await;
        wait_for(1000).await;
        let written: Vec<u64> = workers.iter().map(|(_, stats)| stats.written.get()).collect();
        assert!(written.iter().all(|&count| count > 0) && written.iter().sum::<u64>() == 1000, "{written:?}");
    };
    tokio::task::LocalSet::new().run_until(scenario).await;
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (settings, words) in [
        ("[intake.a]\nstream = \"s\"", "intake.a.channel: is missing"),
        ("[intake.a]\nchannel = \"c\"", "intake.a.stream: is missing"),
        ("[intake.A]\nchannel = \"c\"\nstream = \"s\"", "cannot be the name of an intake"),
        ("[intake.a]\nchannel = \"wasmill:x\"\nstream = \"s\"", "wasmill's own"),
        ("[intake.a]\nchannel = \"c\"\nstream = \"wasmill:x\"", "wasmill's own"),
        ("[intake.a]\nchannel = \"c\"\nstream = \"s\"\ntype = \"\"", "intake.a.type: is empty"),
        ("[intake.a]\nchanel = \"c\"\nstream = \"s\"", "did you mean `channel`?"),
    ] {
        let output = Place::new(settings).run(&["check"]);
        assert!(code(&output) == 2 && said(&output).contains(words), "{settings}: {}", said(&output));
    }
}
