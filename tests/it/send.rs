//! `wasmill send` at its edges: what it prints, what it refuses and when, and what Redis does not let it do. The usual
//! ways are in `cli.rs`.

use redis::Connection;
use serde_json::Value;
use wasmill_tests::redis_server::{RedisServer, free_port};

use super::faults::{Entry, bytes, text};
use super::invoke::{Place, code, said};

pub(super) fn place(server: &RedisServer, more: &str) -> Place {
    Place::new(&format!("[redis]\nurl = \"{}\"\n{more}", server.url()))
}

pub(super) fn connect(server: &RedisServer) -> Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

fn entries(server: &RedisServer, stream: &str) -> Vec<Entry> {
    redis::cmd("XRANGE").arg(&[stream, "-", "+"]).query(&mut connect(server)).unwrap()
}

fn lines(count: usize) -> String {
    (0..count).map(|number| format!("{{\"n\": {number}}}\n")).collect()
}

#[test]
fn everything_that_is_said_about_an_event_is_written() {
    let server = RedisServer::start();
    let place = place(&server, "");
    let said_of_it = "--id mine --source /shop --subject o-1 --key customer-7 --schema-version 2 \
                      --content-type application/xml --attribute region=eu --attribute tier=gold --output json";
    let arguments: Vec<&str> = said_of_it.split_whitespace().collect();
    let output = place.run(&[&["send", "s", "order_placed", "<order/>"], &arguments[..]].concat());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let written = entries(&server, "s");
    assert_eq!(written.len(), 1);
    assert_eq!(json, serde_json::json!({"stream": "s", "ids": ["mine"], "entries": [written[0].0]}));
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", "mine"),
        ("ce_source", "/shop"),
        ("ce_type", "order_placed"),
        ("ce_subject", "o-1"),
        ("ce_partitionkey", "customer-7"),
        ("ce_dataschema", "2"),
        ("ce_region", "eu"),
        ("ce_tier", "gold"),
        ("content-type", "application/xml"),
        ("data", "<order/>"),
    ] {
        assert_eq!(text(&written[0], name), value, "{name}");
    }
    assert!(text(&written[0], "ce_time").ends_with('Z'));
}

#[test]
fn bytes_and_nothing_at_all_are_data_too() {
    let server = RedisServer::start();
    let place = place(&server, "");
    let all: Vec<u8> = (0..=255).collect();
    place.write("binary", &all);
    assert_eq!(code(&place.run(&["send", "s", "t", "--file", "binary"])), 0);
    assert_eq!(code(&place.run_with_stdin(&["send", "s", "t"], &all)), 0);
    assert_eq!(code(&place.run_with_stdin(&["send", "s", "t"], b"")), 0);
    let data: Vec<Vec<u8>> = entries(&server, "s").iter().map(|entry| bytes(entry, "data").to_vec()).collect();
    assert_eq!(data, [all.clone(), all, Vec::new()]);
    let ids: std::collections::BTreeSet<String> =
        entries(&server, "s").iter().map(|entry| text(entry, "ce_id").to_owned()).collect();
    assert_eq!(ids.len(), 3);
    let output = place.run(&["send", "s", "t", "not json", "--msgpack"]);
    assert!(code(&output) == 2 && said(&output).contains("not JSON"), "{}", said(&output));
    let output = place.run(&["send", "s", "t", "--file", "absent"]);
    assert!(code(&output) == 2 && said(&output).contains("absent"), "{}", said(&output));
    for arguments in [&["", "t"], &["s", ""]] {
        assert_eq!(code(&place.run(&[&["send"], &arguments[..], &["{}"]].concat())), 2, "{arguments:?}");
    }
    assert_eq!(entries(&server, "s").len(), 3, "what is refused is not published");
}

#[test]
fn a_batch_prints_ids_and_entries_in_order_and_may_be_msgpack() {
    let server = RedisServer::start();
    let place = place(&server, "");
    // Blank lines are no events, and the last line may lack its end.
    let input = format!("\n{}\n  \n{{\"last\": true}}", lines(2500));
    let arguments = ["send", "s", "t", "--batch", "--msgpack", "--output", "json"];
    let output = place.run_with_stdin(&arguments, input.as_bytes());
    assert_eq!(code(&output), 0, "{}", said(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let printed = |name: &str| -> Vec<String> {
        json[name].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    let written = entries(&server, "s");
    assert_eq!(written.len(), 2501);
    assert_eq!(printed("entries"), written.iter().map(|entry| entry.0.clone()).collect::<Vec<_>>());
    assert_eq!(printed("ids"), written.iter().map(|entry| text(entry, "ce_id").to_owned()).collect::<Vec<_>>());
    assert_eq!(bytes(&written[7], "data"), b"\x81\xa1n\x07");
    assert_eq!(bytes(&written[2500], "data"), b"\x81\xa4last\xc3");
    assert!(written.iter().all(|entry| text(entry, "content-type") == "application/msgpack"));
}

#[test]
fn an_empty_batch_is_no_fault() {
    let server = RedisServer::start();
    let output = place(&server, "").run_with_stdin(&["send", "s", "t", "--batch"], b"\n\n");
    assert_eq!((code(&output), said(&output).as_str()), (0, ""));
    assert_eq!(entries(&server, "s").len(), 0);
}

/// The whole input is checked before anything is written.
#[test]
fn a_bad_line_publishes_nothing() {
    for (good, bad, words) in
        [(1, "{", "line 2"), (5200, "{]", "line 5201"), (99_998, "x", "line 99999"), (3, "\"\u{1}\"", "line 4")]
    {
        let server = RedisServer::start();
        let input = format!("{}{bad}\n{}", lines(good), lines(10));
        let output = place(&server, "").run_with_stdin(&["send", "s", "t", "--batch"], input.as_bytes());
        assert!(code(&output) == 2 && said(&output).contains(words), "{words}: {}", said(&output));
        assert!(said(&output).contains("nothing was published"), "{}", said(&output));
        assert_eq!((entries(&server, "s").len(), output.stdout.len()), (0, 0), "{words}");
    }
}

#[test]
fn a_stream_that_looks_like_a_slip_is_told_and_published_to() {
    let server = RedisServer::start();
    let named = place(&server, "[streams.orders]\nmax_length = 1000\n[streams.payments]\nmax_length = 1000\n");
    for (place, stream, warning) in [
        (&named, "orders", ""),
        (&named, "ordres", "warning: the configuration does not name the stream `ordres`; did you mean `orders`?\n"),
        (&named, "zzz", "warning: the configuration does not name the stream `zzz`\n"),
        (&place(&server, ""), "anything", ""),
    ] {
        let output = place.run(&["send", stream, "t", "{}"]);
        assert_eq!((code(&output), String::from_utf8_lossy(&output.stderr)), (0, warning.into()), "{stream}");
        assert_eq!(entries(&server, stream).len(), 1, "{stream}");
    }
}

/// What the stream can hold is checked with all the rest.
#[test]
fn a_line_that_the_envelope_cannot_hold_publishes_nothing() {
    let server = RedisServer::start();
    let place = place(&server, "[streams.s]\nenvelope = \"flat\"\n");
    let input = format!("{}[1]\n", lines(1500));
    let output = place.run_with_stdin(&["send", "s", "t", "--batch"], input.as_bytes());
    assert!(code(&output) == 2 && said(&output).contains("line 1501"), "{}", said(&output));
    assert!(said(&output).contains("nothing was published"), "{}", said(&output));
    assert_eq!(entries(&server, "s").len(), 0);
}

/// An input without an end is not read to its end.
#[test]
fn no_more_is_read_than_an_event_may_have() {
    let server = RedisServer::start();
    let place = place(&server, "[limits]\nevent_bytes = \"1 KiB\"\n");
    let output = place.run(&["send", "s", "t", "--file", "/dev/zero"]);
    assert!(code(&output) == 2 && said(&output).contains("limits.event_bytes is 1024"), "{}", said(&output));
    let mut zeros = place.command(&["send", "s", "t"]);
    let output = zeros.stdin(std::fs::File::open("/dev/zero").unwrap()).output().unwrap();
    assert!(code(&output) == 2 && said(&output).contains("limits.event_bytes is 1024"), "{}", said(&output));
    // What is not asked for may have any length; blanks alone are as bad as anything else.
    let input = format!("{{}}\n{}\n{{}}\n{}1\n", "x".repeat(1 << 20), " ".repeat(1 << 20));
    let send = |arguments: &[&str]| {
        place.run_with_stdin(&[&["send", "s", "t", "--batch"], arguments].concat(), input.as_bytes())
    };
    for (arguments, words) in [(&[][..], "line 2: the data"), (&["--lines", "3-"], "line 4: the data")] {
        let output = send(arguments);
        assert!(code(&output) == 2 && said(&output).contains(words), "{words}: {}", said(&output));
    }
    let output = send(&["--lines", "1,3"]);
    assert_eq!((code(&output), entries(&server, "s").len()), (0, 2), "{}", said(&output));
}

/// Whoever has a bad line in an input that is published while it is read has to know which events are published
/// already: those whose ids were printed, and no other. An input beyond 64 MiB is one of them.
#[test]
fn a_bad_line_ends_an_unchecked_batch_and_the_ids_tell_what_was_published() {
    let huge = format!("\"{}\"\n", "x".repeat(900_000)).repeat(76);
    assert!(huge.len() > 64 << 20);
    for (before, good, more) in [("", 1800, &["--unchecked"][..]), (&huge, 76 + 1000, &[])] {
        let server = RedisServer::start();
        let input = format!("{before}{}x\n{}", lines(good - before.lines().count()), lines(10));
        let arguments = [&["send", "s", "t", "--batch"], more].concat();
        let output = place(&server, "").run_with_stdin(&arguments, input.as_bytes());
        let words = format!("line {}", good + 1);
        assert!(code(&output) == 2 && said(&output).contains(&words), "{words}: {}", said(&output));
        let printed: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        let mut redis = connect(&server);
        let written: usize = redis::cmd("XLEN").arg("s").query(&mut redis).unwrap();
        assert!(written >= 76 && written <= good, "{written} of {good}");
        assert_eq!(printed.len(), written, "{words}: printed ids, published events");
    }
}

#[test]
fn only_the_lines_that_are_asked_for_are_published() {
    let server = RedisServer::start();
    let place = place(&server, "");
    // What is not asked for is not looked at.
    let input = format!("not json\n{}", lines(2000));
    let arguments = ["send", "s", "t", "--batch", "--lines", "3-4,10,1995-"];
    let output = place.run_with_stdin(&arguments, input.as_bytes());
    assert_eq!(code(&output), 0, "{}", said(&output));
    let numbers = |stream: &str| -> Vec<u64> {
        let data = |entry: &Entry| serde_json::from_slice::<Value>(bytes(entry, "data")).unwrap();
        entries(&server, stream).iter().map(|entry| data(entry)["n"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers("s"), [1, 2, 8, 1993, 1994, 1995, 1996, 1997, 1998, 1999]);
    for wrong in ["0-3", "4-3", "x", ""] {
        let output = place.run_with_stdin(&["send", "s", "t", "--batch", "--lines", wrong], b"{}\n");
        assert_eq!(code(&output), 2, "{wrong}: {}", said(&output));
    }
}

/// Memory runs out in the middle; what the message says is enough to go on without losing or doubling an event.
#[test]
fn a_batch_that_was_refused_in_the_middle_goes_on_where_it_ended() {
    let server = RedisServer::start();
    let place = place(&server, "");
    let limit = |bytes: &str| {
        redis::cmd("CONFIG").arg(&["SET", "maxmemory", bytes]).query::<()>(&mut connect(&server)).unwrap();
    };
    limit("6mb");
    let input = lines(100_000);
    let output = place.run_with_stdin(&["send", "s", "t", "--batch"], input.as_bytes());
    let printed = said(&output);
    assert!(code(&output) == 1 && printed.contains("maxmemory") && !printed.contains("may be published"), "{printed}");
    let published = entries(&server, "s").len();
    assert!(published > 0 && published < 100_000, "{published}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), published);
    let rest = printed.rsplit_once("--lines ").expect("the message says how to go on").1.trim();
    limit("0");
    let output = place.run_with_stdin(&["send", "s", "t", "--batch", "--lines", rest], input.as_bytes());
    assert_eq!(code(&output), 0, "{}", said(&output));
    let mut numbers: Vec<u64> = entries(&server, "s")
        .iter()
        .map(|entry| serde_json::from_slice::<Value>(bytes(entry, "data")).unwrap()["n"].as_u64().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100_000).collect::<Vec<_>>());
}

#[test]
fn the_limit_on_events_holds_and_names_the_line() {
    let server = RedisServer::start();
    let place = place(&server, "[limits]\nevent_bytes = \"1 KiB\"\n");
    let long = format!("\"{}\"", "x".repeat(1100));
    let output = place.run_with_stdin(&["send", "s", "t", "--batch"], format!("{{}}\n{long}\n").as_bytes());
    assert!(code(&output) == 2 && said(&output).contains("line 2"), "{}", said(&output));
    assert!(said(&output).contains("limits.event_bytes is 1024"), "{}", said(&output));
    // All texts count, as they do when the event is handled: id 1, source 13, type 1, media type 16.
    let room = 1024 - 1 - "/wasmill/send".len() - 1 - "application/json".len();
    for (length, exit) in [(room, 0), (room + 1, 2)] {
        let output = place.run(&["send", "s", "t", &"x".repeat(length), "--id", "1"]);
        assert_eq!(code(&output), exit, "{length}: {}", said(&output));
    }
    assert_eq!(entries(&server, "s").len(), 1);
}

#[test]
fn what_redis_refuses_is_told_with_a_remedy() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let place = place(&server, "password_env = \"WASMILL_TEST_PASSWORD\"\n");
    let with_password =
        |password: &str| place.command(&["send", "s", "t", "{}"]).env("WASMILL_TEST_PASSWORD", password).output();
    let output = with_password("wrong").unwrap();
    assert!(code(&output) == 1 && said(&output).contains("redis.password_env"), "{}", said(&output));
    assert!(!said(&output).contains("wrong\""), "no password is shown: {}", said(&output));
    let output = with_password("right").unwrap();
    assert_eq!(code(&output), 0, "{}", said(&output));

    let server = RedisServer::start();
    let place = super::send::place(&server, "");
    let mut redis = connect(&server);
    redis::cmd("SET").arg(&["s", "not a stream"]).query::<()>(&mut redis).unwrap();
    let output = place.run(&["send", "s", "t", "{}"]);
    assert!(code(&output) == 1 && said(&output).contains("WRONGTYPE"), "{}", said(&output));
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query::<()>(&mut redis).unwrap();
    let output = place.run(&["send", "other", "t", "{}"]);
    assert!(code(&output) == 1 && said(&output).contains("maxmemory"), "{}", said(&output));
}

#[test]
fn nobody_listening_is_told_at_once_and_with_the_address() {
    let port = free_port();
    let url = format!("redis://user:secret@127.0.0.1:{port}");
    let place = Place::new(&format!("[redis]\nurl = \"{url}\"\n"));
    let output = place.run(&["send", "s", "t", "{}"]);
    let printed = said(&output);
    assert!(code(&output) == 1 && printed.contains("cannot be reached"), "{printed}");
    assert!(printed.contains(&format!("127.0.0.1:{port}")) && !printed.contains("secret"), "{printed}");
}

/// Without the right to run transactions a batch goes another way, and is still all or none.
#[test]
fn a_batch_needs_no_more_rights_than_the_documented_ones_and_is_whole_or_not_at_all() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let port = server.port();
    let usual = "on >pw resetkeys ~wasmill:* ~allowed resetchannels -@all +ping +info +time +type +exists +evalsha \
                 +script|load +client +xadd +xinfo";
    for (user, more) in [("slow", ""), ("half", " +multi"), ("otherhalf", " +exec"), ("fast", " +multi +exec")] {
        let rules: Vec<&str> = usual.split(' ').chain(more.split(' ').filter(|rule| !rule.is_empty())).collect();
        redis::cmd("ACL").arg("SETUSER").arg(user).arg(&rules).query::<()>(&mut redis).unwrap();
        let place = Place::new(&format!("[redis]\nurl = \"redis://{user}:pw@127.0.0.1:{port}\"\n"));
        let send = |stream: &str| place.run_with_stdin(&["send", stream, "t", "--batch"], lines(1200).as_bytes());
        redis::cmd("DEL").arg(&["allowed", "forbidden"]).query::<()>(&mut redis).unwrap();
        let output = send("allowed");
        assert_eq!(code(&output), 0, "{user}: {}", said(&output));
        assert_eq!(entries(&server, "allowed").len(), 1200, "{user}");
        let output = send("forbidden");
        assert!(code(&output) == 1 && said(&output).contains("no permission"), "{user}: {}", said(&output));
        assert!(said(&output).contains("--lines 1-"), "{user}: {}", said(&output));
        assert_eq!(entries(&server, "forbidden").len(), 0, "{user}");
        redis::cmd("SET").arg(&["allowed", "no stream"]).query::<()>(&mut redis).unwrap();
        let output = send("allowed");
        assert!(code(&output) == 1 && said(&output).contains("WRONGTYPE"), "{user}: {}", said(&output));
        assert!(output.stdout.is_empty() && said(&output).contains("--lines 1-"), "{user}: {}", said(&output));
    }
}
