//! A worker and a Redis that is absent, goes away, forgets everything, or says no.

use std::time::Duration;

use redis::Connection;
use wasmill_tests::redis_server::{RedisServer, free_port};
use wasmill_tests::worker::{Signal, Worker};
use wasmill_tests::{eventually, guests};

const DEADLINE: Duration = Duration::from_secs(30);

fn config(redis: &str) -> String {
    format!(
        "[redis]\n{redis}\n[admin]\nlisten = \"\"\n[worker]\nheartbeat = \"200ms\"\nheartbeat_ttl = \"1s\"\n\
         [handlers.faults]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n\
         [handlers.faults.retry]\nbase = \"10ms\"\n",
        guests::component("faults").display()
    )
}

fn url(server: &RedisServer) -> String {
    format!("url = \"{}\"", server.url())
}

fn connect(server: &RedisServer) -> Connection {
    let client = redis::Client::open(server.url()).unwrap();
    eventually("a connection", DEADLINE, || client.get_connection().ok())
}

fn add(redis: &mut Connection, id: &str, r#type: &str) {
    let mut command = redis::cmd("XADD");
    command.arg(&["faults.in", "*", "ce_id", id, "ce_source", "/test", "ce_type", r#type, "data", id]);
    command.query::<String>(redis).unwrap();
}

fn length(redis: &mut Connection, stream: &str) -> usize {
    redis::cmd("XLEN").arg(stream).query(redis).unwrap()
}

fn pending(redis: &mut Connection) -> usize {
    let summary: Vec<redis::Value> =
        redis::cmd("XPENDING").arg("faults.in").arg("faults").query(redis).unwrap_or_default();
    summary.first().map_or(usize::MAX, |count| redis::from_redis_value_ref(count).unwrap())
}

fn stop(mut worker: Worker) {
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(DEADLINE).success(), "{}", worker.stderr_text());
}

#[test]
fn a_worker_waits_for_a_redis_that_is_not_there_and_says_so() {
    let mut server = RedisServer::start();
    let config = config(&url(&server));
    server.stop();
    let worker = Worker::spawn(&config);
    worker.wait_to_say("waiting for Redis");
    server.restart();
    let mut redis = connect(&server);
    add(&mut redis, "1", "echo");
    eventually("the event to be handled", DEADLINE, || (length(&mut redis, "faults.out") == 1).then_some(()));
    stop(worker);
}

#[test]
fn a_worker_that_waits_for_redis_can_be_stopped() {
    let worker = Worker::spawn(&config(&format!("url = \"redis://127.0.0.1:{}\"", free_port())));
    worker.wait_to_say("waiting for Redis");
    stop(worker);
}

#[test]
fn nothing_is_lost_when_redis_goes_away_in_the_middle() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::start_with(&durable);
    let mut redis = connect(&server);
    for number in 0..500 {
        add(&mut redis, &number.to_string(), "echo");
    }
    let worker = Worker::spawn(&config(&url(&server)));
    eventually("the first follow-ups", DEADLINE, || (length(&mut redis, "faults.out") > 10).then_some(()));
    server.kill();
    server.restart_with(&durable);
    let mut redis = connect(&server);
    for number in 500..600 {
        add(&mut redis, &number.to_string(), "echo");
    }
    eventually("all follow-ups", DEADLINE, || (length(&mut redis, "faults.out") >= 600).then_some(()));
    eventually("nothing to be pending", DEADLINE, || (pending(&mut redis) == 0).then_some(()));
    assert_eq!(length(&mut redis, "faults.out"), 600, "and nothing came out twice");
    stop(worker);
}

#[test]
fn a_frozen_server_is_waited_for() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let config = config(&format!("{}\nresponse_timeout = \"1s\"", url(&server)));
    let worker = Worker::spawn(&config);
    worker.wait_to_say("ready");
    server.pause();
    worker.wait_to_say("no heartbeat");
    server.resume();
    for number in 0..100 {
        add(&mut redis, &number.to_string(), "echo");
    }
    eventually("all follow-ups", DEADLINE, || (length(&mut redis, "faults.out") >= 100).then_some(()));
    eventually("nothing to be pending", DEADLINE, || (pending(&mut redis) == 0).then_some(()));
    assert_eq!(length(&mut redis, "faults.out"), 100);
    stop(worker);
}

#[test]
fn a_flushed_server_is_set_up_again_with_an_alarm() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let worker = Worker::spawn(&config(&url(&server)));
    worker.wait_to_say("ready");
    redis::cmd("FLUSHALL").query::<()>(&mut redis).unwrap();
    add(&mut redis, "1", "echo");
    eventually("the event to be handled", DEADLINE, || (length(&mut redis, "faults.out") == 1).then_some(()));
    worker.wait_to_say("group_lost");
    stop(worker);
}

#[test]
fn what_a_full_server_refuses_is_written_when_there_is_room() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let first = Worker::spawn(&config(&url(&server)));
    first.wait_to_say("ready");
    stop(first);
    add(&mut redis, "1", "echo");
    add(&mut redis, "2", "ok");
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query::<()>(&mut redis).unwrap();
    let worker = Worker::spawn(&config(&url(&server)));
    worker.wait_to_say("settle_refused");
    // What writes nothing goes on, and the worker keeps its heartbeat.
    eventually("the other event to be settled", DEADLINE, || (pending(&mut redis) == 1).then_some(()));
    assert_eq!(length(&mut redis, "faults.out"), 0);
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "0"]).query::<()>(&mut redis).unwrap();
    eventually("the follow-up", DEADLINE, || (length(&mut redis, "faults.out") == 1).then_some(()));
    eventually("nothing to be pending", DEADLINE, || (pending(&mut redis) == 0).then_some(()));
    stop(worker);
}

#[test]
fn a_wrong_password_and_a_missing_permission_are_told_apart() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let [mut without, mut wrong] =
        [url(&server), format!("{}\npassword_env = \"WASMILL_TEST_PASSWORD\"", url(&server))].map(|redis| {
            Worker::spawn_with(&config(&redis), |command| {
                command.env("WASMILL_TEST_PASSWORD", "wrong");
            })
        });
    for worker in [&mut without, &mut wrong] {
        assert_eq!(worker.wait_exit(DEADLINE).code(), Some(1));
        assert!(worker.stderr_text().contains("not authenticated"), "{}", worker.stderr_text());
        assert!(worker.stderr_text().contains("redis.password_env"), "{}", worker.stderr_text());
    }
    let client = redis::Client::open(format!("redis://:right@127.0.0.1:{}/", server.port())).unwrap();
    let mut redis = client.get_connection().unwrap();
    let user = ["SETUSER", "limited", "on", ">secret", "~*", "+@all", "-xgroup"];
    redis::cmd("ACL").arg(&user).query::<()>(&mut redis).unwrap();
    let settings = format!("{}\nusername = \"limited\"\npassword_env = \"WASMILL_TEST_PASSWORD\"", url(&server));
    let mut worker = Worker::spawn_with(&config(&settings), |command| {
        command.env("WASMILL_TEST_PASSWORD", "secret");
    });
    assert_eq!(worker.wait_exit(DEADLINE).code(), Some(1));
    let said = worker.stderr_text();
    assert!(said.contains("no permission") && said.contains("xgroup") && said.contains("ACL SETUSER"), "{said}");
    assert!(!said.contains("not authenticated"), "{said}");
}

#[test]
fn a_server_that_evicts_is_refused() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let mut worker = Worker::spawn(&config(&url(&server)));
    assert_eq!(worker.wait_exit(DEADLINE).code(), Some(1));
    let said = worker.stderr_text();
    assert!(said.contains("maxmemory-policy is allkeys-lru") && said.contains("noeviction"), "{said}");
}

/// How often the threads that run handlers have gone to sleep.
fn sleeps(worker: &Worker) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", worker.pid())).unwrap();
    let shards = tasks
        .map(|task| task.unwrap().path())
        .filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("shard-")));
    let count = |task: std::path::PathBuf| -> u64 {
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse().unwrap()
    };
    shards.map(count).sum()
}

/// A thread that can do nothing sleeps, though a parked event of the handler is due.
#[test]
fn a_handler_that_stands_still_costs_nothing() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let config = format!("{}[handlers.faults.limits]\nconcurrency = 1\n", config(&url(&server)));
    let first = Worker::spawn(&config);
    first.wait_to_say("ready");
    stop(first);
    // Parked and, beside it, refused.
    add(&mut redis, "1", "retry");
    add(&mut redis, "2", "echo");
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query::<()>(&mut redis).unwrap();
    let worker = Worker::spawn(&config);
    worker.wait_to_say("settle_refused");
    let due =
        || -> u64 { redis::cmd("ZCARD").arg("wasmill:due:faults:faults.in").query(&mut connect(&server)).unwrap() };
    eventually("one to be parked", DEADLINE, || (due() == 1).then_some(()));
    std::thread::sleep(Duration::from_millis(100));
    let before = sleeps(&worker);
    std::thread::sleep(Duration::from_secs(1));
    let during = sleeps(&worker) - before;
    assert!(during < 200, "{during} times a second");
    assert_eq!(due(), 1, "it is due all the time");
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "0"]).query::<()>(&mut redis).unwrap();
    eventually("both follow-ups", DEADLINE, || (length(&mut redis, "faults.out") == 2).then_some(()));
    stop(worker);
}

/// A stream that is none (any more) is no reason to leave the others alone.
#[test]
fn one_bad_stream_does_not_stop_the_take_over_of_others() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    redis::cmd("XGROUP").arg(&["CREATE", "faults.in", "faults", "0", "MKSTREAM"]).query::<()>(&mut redis).unwrap();
    add(&mut redis, "1", "echo");
    // Another worker has it, and seems to live.
    let mut command = redis::cmd("XREADGROUP");
    command.arg(&["GROUP", "faults", "wasmill-other.0", "STREAMS", "faults.in", ">"]);
    let _: redis::Value = command.query(&mut redis).unwrap();
    redis::cmd("SET").arg(&["wasmill:worker:wasmill-other", "1"]).query::<()>(&mut redis).unwrap();
    let config = config(&url(&server)).replace("[\"faults.in\"]", "[\"a.bad\", \"faults.in\"]");
    let worker = Worker::spawn(&config);
    worker.wait_to_say("ready");
    redis::cmd("DEL").arg("a.bad").query::<()>(&mut redis).unwrap();
    redis::cmd("SET").arg(&["a.bad", "a string"]).query::<()>(&mut redis).unwrap();
    worker.wait_to_say("cannot look for dead workers");
    assert_eq!(length(&mut redis, "faults.out"), 0, "the other one lives");
    redis::cmd("DEL").arg("wasmill:worker:wasmill-other").query::<()>(&mut redis).unwrap();
    eventually("its event to be handled", DEADLINE, || (length(&mut redis, "faults.out") == 1).then_some(()));
    stop(worker);
}

/// The example in ARCHITECTURE.md, word for word, is enough for a worker.
#[test]
fn the_documented_permissions_are_enough() {
    let server = RedisServer::start();
    let text = std::fs::read_to_string(wasmill_tests::workspace().join("ARCHITECTURE.md")).unwrap();
    let start = text.find("ACL SETUSER wasmill").expect("the example is there");
    let example = &text[start..start + text[start..].find("\n\n").unwrap()];
    let example = example.replace(">PASSWORD", ">secret").replace("~orders ~payments ~payment.dead", "~faults.*");
    let mut redis = connect(&server);
    let words: Vec<&str> = example.split_whitespace().collect();
    redis::cmd(words[0]).arg(&words[1..]).query::<()>(&mut redis).unwrap();
    let settings = format!("{}\nusername = \"wasmill\"\npassword_env = \"WASMILL_TEST_PASSWORD\"", url(&server));
    let intake = text.lines().find(|line| line.contains("ACL SETUSER wasmill +get")).expect("that of an intake, too");
    let words: Vec<&str> = intake.split_whitespace().collect();
    redis::cmd(words[0]).arg(&words[1..]).query::<()>(&mut redis).unwrap();
    let retention = "[streams.\"faults.in\"]\nmax_length = 1";
    let intake = "[intake.prices]\nchannel = \"prices.*\"\nstream = \"faults.prices\"";
    let more = format!("{}\n{retention}\n{intake}\n", config(&settings));
    let worker = Worker::spawn_with(&more, |command| {
        command.env("WASMILL_TEST_PASSWORD", "secret").env("WASMILL_WORKER__RETENTION_INTERVAL", "50ms");
    });
    worker.wait_to_say("ready");
    for r#type in ["echo", "retry", "reject", "ok"] {
        add(&mut redis, r#type, r#type);
    }
    eventually("two follow-ups", DEADLINE, || (length(&mut redis, "faults.out") == 2).then_some(()));
    eventually("a dead letter", DEADLINE, || (length(&mut redis, "faults.dead") == 1).then_some(()));
    eventually("nothing to be pending", DEADLINE, || (pending(&mut redis) == 0).then_some(()));
    worker.wait_to_say("listening");
    redis::cmd("PUBLISH").arg(&["prices.eur", "1"]).query::<()>(&mut redis).unwrap();
    eventually("a message to be taken in", DEADLINE, || (length(&mut redis, "faults.prices") == 1).then_some(()));
    eventually("the stream to be trimmed", DEADLINE, || (length(&mut redis, "faults.in") == 1).then_some(()));
    assert!(!worker.stderr_text().contains("NOPERM"), "{}", worker.stderr_text());
    stop(worker);
    // One permission less, and the worker says which one it misses.
    redis::cmd("ACL").arg(&["SETUSER", "wasmill", "-xgroup"]).query::<()>(&mut redis).unwrap();
    let mut worker = Worker::spawn_with(&config(&settings), |command| {
        command.env("WASMILL_TEST_PASSWORD", "secret");
    });
    assert_eq!(worker.wait_exit(DEADLINE).code(), Some(1));
    assert!(worker.stderr_text().contains("xgroup"), "{}", worker.stderr_text());
}

#[test]
fn a_poison_event_that_kills_workers_becomes_a_dead_letter_and_takes_nobody_along() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    // One at a time, so that the second event waits behind the first one.
    let config = format!(
        "{}max_attempts = 3\n[handlers.faults.limits]\nconcurrency = 1\ndeadline = \"5m\"\n",
        config(&url(&server)).replace("[worker]\n", "[worker]\nthreads = 1\n")
    );
    let mut command = redis::cmd("XADD");
    command.arg(&["faults.in", "*", "ce_id", "poison", "ce_source", "/test", "ce_type", "sleep", "data", "300000"]);
    let poison: String = command.query(&mut redis).unwrap();
    add(&mut redis, "innocent", "echo");
    // Whoever has it dies of it.
    for life in 1..=3_u64 {
        let mut worker = Worker::spawn(&config);
        eventually(&format!("worker {life} to run it"), DEADLINE, || {
            let mut command = redis::cmd("XPENDING");
            command.arg(&["faults.in", "faults", "IDLE", "100", &poison, &poison, "1"]);
            let found: Vec<(String, String, u64, u64)> = command.query(&mut redis).unwrap_or_default();
            found.first().is_some_and(|found| found.3 == life).then_some(())
        });
        worker.kill();
    }
    let worker = Worker::spawn(&config);
    eventually("the dead letter", DEADLINE, || (length(&mut redis, "faults.dead") == 1).then_some(()));
    eventually("the innocent event", DEADLINE, || (length(&mut redis, "faults.out") == 1).then_some(()));
    eventually("nothing to be pending", DEADLINE, || (pending(&mut redis) == 0).then_some(()));
    let mut command = redis::cmd("XRANGE");
    let letters: Vec<(String, Vec<String>)> = command.arg(&["faults.dead", "-", "+"]).query(&mut redis).unwrap();
    assert_eq!(letters.len(), 1);
    let fields = &letters[0].1;
    let value = |name: &str| &fields[fields.iter().position(|field| field == name).unwrap() + 1];
    assert_eq!((value("dl_class").as_str(), value("dl_attempts").as_str()), ("worker_lost", "3"));
    assert_eq!(value("ce_id"), "poison");
    stop(worker);
}

#[test]
fn a_consumer_with_a_name_that_is_no_text_holds_up_nobody() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    // An entry that a dead worker left, beside a consumer of another program.
    redis::cmd("XGROUP").arg(&["CREATE", "faults.in", "faults", "0", "MKSTREAM"]).query::<()>(&mut redis).unwrap();
    add(&mut redis, "left", "echo");
    let read = ["GROUP", "faults", "wasmill-dead-1.0", "COUNT", "1", "STREAMS", "faults.in", ">"];
    redis::cmd("XREADGROUP").arg(&read).query::<redis::Value>(&mut redis).unwrap();
    let mut odd = redis::cmd("XGROUP");
    odd.arg(&["CREATECONSUMER", "faults.in", "faults"]).arg(b"py\xff").query::<()>(&mut redis).unwrap();
    let worker = Worker::spawn(&config(&url(&server)));
    eventually("the entry to be taken over", DEADLINE, || (length(&mut redis, "faults.out") == 1).then_some(()));
    stop(worker);
}
