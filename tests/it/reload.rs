//! Another configuration is taken over by a worker that works: each kind of change under load, faults that change nothing,
//! and reloads that meet rollouts, signals and the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::worker::Signal;
use wasmill_tests::{eventually, guests, on_every_way};

use crate::reload;

const DEADLINE: Duration = Duration::from_secs(60);

on_every_way!(reload::{
    each_kind_of_change_loses_and_doubles_nothing,
    what_has_not_changed_is_not_touched,
    handlers_come_and_go,
    a_fault_changes_nothing_and_is_told,
});

/// The section of a handler that reads `faults.in`.
fn section(name: &str, component: &str, settings: &str) -> String {
    format!(
        "[handlers.{name}]\ncomponent = \"{component}\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n{settings}\n"
    )
}

fn faults() -> String {
    guests::component("faults").display().to_string()
}

/// Copies the component, as another version with a name of its own, over what is there.
fn write_component(mill: &Mill, file: &str, version: u8) -> String {
    let bytes = std::fs::read(guests::component("faults")).unwrap();
    let path = mill.dir().join(file);
    // As tools do: what is there is never half a file.
    let new = mill.dir().join("new");
    std::fs::write(&new, [&bytes[..], &[0, 2, 1, version]].concat()).unwrap();
    std::fs::rename(new, &path).unwrap();
    path.display().to_string()
}

/// Asks for a reload; what has changed.
#[track_caller]
fn reload(mill: &Mill, sections: &str) -> Value {
    mill.reconfigure(sections);
    let answer = mill.http("POST", "/v1/reload", &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// How often each event has come out of each handler.
fn came_out(mill: &Mill) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for event in mill.events("faults.out") {
        let [source, cause] = ["source", "causationid"].map(|name| event[name].as_str().unwrap().to_owned());
        *counts.entry((source.rsplit('/').next().unwrap().to_owned(), cause)).or_default() += 1;
    }
    counts
}

/// Publishes events all the time while `work` is done; how many.
fn under_load(mill: &Mill, work: impl FnOnce()) -> usize {
    let (is_done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                let id = count.fetch_add(1, Ordering::Relaxed).to_string();
                mill.publish("faults.in", &id, "echo", "x");
            }
        });
        // Also when it fails: the scope waits for the thread.
        let end = Ender(&is_done);
        work();
        drop(end);
    });
    count.into_inner()
}

struct Ender<'a>(&'a AtomicBool);

impl Drop for Ender<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn each_kind_of_change_loses_and_doubles_nothing(way: Way) {
    let mill = Mill::start(way, "");
    let component = write_component(&mill, "faults.wasm", b'1');
    let with = |settings: &str| section("faults", &component, settings);
    reload(&mill, &with(""));
    let total = under_load(&mill, || {
        for settings in [
            "limits = { concurrency = 1 }",
            "limits = { concurrency = 100 }",
            "limits = { concurrency = 100, deadline = \"20s\", event_bytes = \"2 MiB\" }",
            "types = [\"e*\"]",
            "retry = { max_attempts = 9 }",
            "dead_letter = \"elsewhere\"",
            "take_over_idle = \"7m\"",
            "dedup = \"1h\"",
            "isolation = \"reuse\"",
            "isolation = \"reuse\"\nreuse = { max_events = 5 }",
            "deterministic = true",
            "grants = [\"logging\", \"clocks\", \"random\", \"config\"]\nconfig = { color = \"blue\" }",
        ] {
            let report = reload(&mill, &with(settings));
            assert_eq!(report["changed"], json!(["handlers.faults"]), "{settings}: {report}");
        }
        // What lasts longer than its handler.
        let report = reload(&mill, &format!("[streams.\"faults.in\"]\nmax_length = 100000\n{}", with("")));
        assert_eq!(report["changed"], json!(["handlers.faults", "streams.faults.in"]));
        write_component(&mill, "faults.wasm", b'2');
        assert_eq!(reload(&mill, &with(""))["changed"], json!(["handlers.faults", "streams.faults.in"]));
        // Another stream, and no longer the first: what was read of it is finished, the rest waits.
        let elsewhere = with("").replace("\"faults.in\"", "\"more.in\"");
        assert_eq!(reload(&mill, &elsewhere)["changed"], json!(["handlers.faults"]));
        mill.publish("more.in", "more", "echo", "x");
        eventually("the other stream to be read", DEADLINE, || {
            came_out(&mill).contains_key(&("faults".to_owned(), "more".to_owned())).then_some(())
        });
        assert_eq!(reload(&mill, &with(""))["changed"], json!(["handlers.faults"]));
    });
    mill.wait_settled("faults");
    let counts = came_out(&mill);
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(counts.len(), total + 1, "some are lost");
    assert!(total > 20, "{total} events are no load");
}

pub fn what_has_not_changed_is_not_touched(way: Way) {
    let memory = |settings: &str| {
        section("faults", &faults(), &format!("isolation = \"reuse\"\nlimits = {{ concurrency = 1 }}\n{settings}"))
    };
    let other = |settings: &str| section("other", &faults(), &format!("types = [\"none\"]\n{settings}"));
    let mill = Mill::start_with(way, &(memory("") + &other("")), None);
    let seen = |count: usize| -> Vec<String> {
        let events = mill.wait_for("faults.out", count);
        events.iter().map(|event| event["data"].to_string()).collect()
    };
    let mut total = 0;
    let mut remember = || {
        mill.publish("faults.in", &total.to_string(), "remember", "");
        total += 1;
        seen(total).pop().unwrap()
    };
    assert_eq!((remember(), remember()), ("1".to_owned(), "2".to_owned()));
    let report = reload(&mill, &(memory("") + &other("")));
    assert_eq!(report, json!({"changed": [], "added": [], "removed": [], "unchanged": 2, "needs_restart": []}));
    let report = reload(&mill, &(memory("") + &other("limits = { memory = \"9 MiB\" }")));
    assert_eq!((&report["changed"], &report["unchanged"]), (&json!(["handlers.other"]), &json!(1)));
    assert_eq!(remember(), "3");
    reload(&mill, &memory(""));
    assert_eq!(remember(), "4", "a handler beside it has gone");
    let report = reload(&mill, &format!("{}[log]\nlevel = \"debug\"\n", memory("")));
    assert_eq!(report["changed"], json!(["log.level"]));
    assert_eq!(remember(), "5");
    // How events come to the code is no matter of its instances.
    assert_eq!(reload(&mill, &memory("types = [\"rem*\"]"))["changed"], json!(["handlers.faults", "log.level"]));
    assert_eq!(remember(), "6");
    // What the code may do is.
    reload(&mill, &memory("deterministic = true\ntypes = [\"rem*\"]"));
    assert_eq!(remember(), "1");
}

pub fn handlers_come_and_go(way: Way) {
    let mill = Mill::start(way, "");
    let first = section("faults", &faults(), "");
    let both = first.clone() + &section("second", &faults(), "");
    let total = under_load(&mill, || {
        let report = reload(&mill, &both);
        assert_eq!((&report["added"], &report["changed"]), (&json!(["handlers.second"]), &json!(["handlers.faults"])));
        let by = |handler: &str| came_out(&mill).keys().filter(|(by, _)| by == handler).count();
        eventually("the second handler", DEADLINE, || (by("second") > 0).then_some(()));
        // The whole history is there for a new handler, as at a start.
        let report = reload(&mill, &section("second", &faults(), ""));
        assert_eq!((&report["removed"], &report["unchanged"]), (&json!(["handlers.faults"]), &json!(1)));
        eventually("the first to leave", DEADLINE, || {
            let stats = mill.http("GET", "/v1/stats", &[], b"").json();
            stats["handlers"]["faults"].is_null().then_some(())
        });
        assert!(!mill.http("GET", "/metrics", &[], b"").body.contains("handler=\"faults\""));
        assert_eq!(reload(&mill, &both)["added"], json!(["handlers.faults"]));
    });
    ["faults", "second"].iter().for_each(|handler| mill.wait_settled(handler));
    let counts = came_out(&mill);
    assert!(counts.values().all(|&count| count == 1), "{counts:?}");
    assert_eq!(counts.len(), 2 * total, "some are lost");
    // A handler that has gone leaves no empty consumer behind.
    reload(&mill, &first);
    if let Some(server) = &mill.server {
        let mut redis = ::redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        eventually("the consumers to go", DEADLINE, || {
            let arguments = ["CONSUMERS", "faults.in", "second"];
            let consumers: Vec<::redis::Value> = ::redis::cmd("XINFO").arg(&arguments).query(&mut redis).unwrap();
            // Retries, if there were any, are parked under a name that stays.
            consumers.is_empty().then_some(())
        });
    }
}

pub fn a_fault_changes_nothing_and_is_told(way: Way) {
    let mill = Mill::start(way, "");
    let broken = mill.dir().join("broken.wasm");
    std::fs::write(&broken, b"\0asm\x0d\0\x01\0 and nothing of use").unwrap();
    let good = section("faults", &faults(), "");
    for (sections, words) in [
        ("handlers = ".to_owned(), "wasmill.toml"),
        (section("faults", &faults(), "strems = []"), "did you mean `streams`?"),
        (section("faults", "/nowhere/x.wasm", ""), "/nowhere/x.wasm"),
        (good.clone() + &section("second", &broken.display().to_string(), ""), "handlers.second.component"),
        (
            section(
                "faults",
                &faults(),
                "grants = [\"config\"]\nconfig = { key = { env = \"WASMILL_TEST_NOT_SET\" } }",
            ),
            "WASMILL_TEST_NOT_SET",
        ),
        (good.clone() + "[log]\nlevel = \"a=b=c\"\n", "log.level"),
        (String::new(), "neither handlers nor intakes"),
    ] {
        // Each of them comes with a change that is good.
        mill.reconfigure(&(sections + "[streams.x]\nmax_length = 1\n"));
        let answer = mill.http("POST", "/v1/reload", &[], b"");
        assert_eq!((answer.status, answer.json()["type"].as_str()), (422, Some("urn:wasmill:problem:not-reloaded")));
        assert!(answer.body.contains(words), "{words}: {answer:?}");
        assert!(mill.worker.stderr_text().contains("reload_failed"));
    }
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
    assert!(!mill.http("GET", "/v1/streams", &[], b"").body.contains("\"x\""), "a part was taken over");
    let url = mill.admin_url();
    let told = mill.failure(1, &["reload", "--admin", &url]);
    assert!(told.contains("neither handlers nor intakes"), "{told}");
    assert_eq!(reload(&mill, &good)["removed"], json!([]));
    let report = mill.json(&["reload", "--admin", &url]);
    assert_eq!(report["unchanged"], 1);
    assert!(mill.text(&["reload", "--admin", &url]).contains("1 handler untouched"));
}

/// Settings of the process are named each time, and have no effect.
#[test]
fn what_needs_a_restart_is_named() {
    let mill = Mill::start(Way::Embedded, "");
    let sections = section("faults", &faults(), "") + "[compile]\nmemory = \"3 GiB\"\n[log]\nformat = \"json\"\n";
    for changed in [json!(["handlers.faults"]), json!([])] {
        let report = reload(&mill, &sections);
        assert_eq!(report["needs_restart"], json!(["compile.memory", "log.format"]));
        assert_eq!(report["changed"], changed);
    }
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
}

#[test]
fn a_storm_of_signals_ends_with_the_last_configuration() {
    let mill = Mill::start(Way::Redis, "");
    let total = under_load(&mill, || {
        for round in 0..30 {
            mill.reconfigure(&section("faults", &faults(), &format!("limits = {{ concurrency = {} }}", round % 7 + 1)));
            (0..10).for_each(|_| mill.worker.signal(Signal::HUP));
        }
        mill.reconfigure(&(section("faults", &faults(), "") + &section("last", &faults(), "types = [\"none\"]")));
        mill.worker.signal(Signal::HUP);
        eventually("the last configuration", DEADLINE, || {
            mill.worker.stderr_text().contains("added=\"handlers.last\"").then_some(())
        });
    });
    mill.wait_settled("faults");
    let counts = came_out(&mill);
    assert!(counts.values().all(|&count| count == 1) && counts.len() == total, "{total} in, {} out", counts.len());
}

#[test]
fn a_worker_that_drains_reloads_no_more() {
    let mut mill = Mill::start(Way::Redis, "limits = { deadline = \"20s\" }");
    mill.publish("faults.in", "slow", "sleep", "2000");
    eventually("it to run", DEADLINE, || {
        let stats = mill.http("GET", "/v1/stats", &[], b"").json();
        (stats["handlers"]["faults"]["pending"] == 1).then_some(())
    });
    mill.worker.signal(Signal::TERM);
    eventually("it to drain", DEADLINE, || mill.worker.stderr_text().contains("draining").then_some(()));
    mill.reconfigure(&section("other", &faults(), ""));
    mill.worker.signal(Signal::HUP);
    let answer = mill.http("POST", "/v1/reload", &[], b"");
    assert!(answer.status >= 400 && answer.body.contains("shutting down"), "{answer:?}");
    assert!(mill.worker.wait_exit(DEADLINE).success(), "{}", mill.worker.stderr_text());
}

/// The component is that of the deployment, what it may do is that of the configuration; whatever comes first.
#[test]
fn a_deployed_version_stays_and_gets_the_new_limits() {
    let mill = Mill::start(Way::Redis, "");
    let component = write_component(&mill, "faults.wasm", b'0');
    let with = |limits: &str| section("faults", &component, &format!("limits = {{ {limits} }}"));
    reload(&mill, &with("event_bytes = \"64 KiB\""));
    let versions = [b'1', b'2'].map(|name| write_component(&mill, &format!("v{}.wasm", char::from(name)), name));
    let total = under_load(&mill, || {
        let mut deployed = String::new();
        for round in 0..6 {
            let file = &versions[round % 2];
            assert!(mill.run(&["deploy", "faults", file, "--no-wait"]).status.success());
            // Some of these come before the switch, some after it.
            for step in 0..4 {
                reload(&mill, &with(&format!("event_bytes = \"{} KiB\"", 64 + round * 10 + step)));
            }
            write_component(&mill, "faults.wasm", b'a' + round as u8);
            assert_eq!(reload(&mill, &with("event_bytes = \"64 KiB\""))["changed"], json!(["handlers.faults"]));
            let serving = eventually("the deployment to end", DEADLINE, || {
                let report = mill.json(&["versions", "faults"]);
                let is_settled = report["rollout"].is_null() && report["workers"][0]["serves"] == report["current"];
                is_settled.then(|| report["current"].as_str().unwrap().to_owned())
            });
            assert_ne!(serving, deployed, "the round before");
            deployed = serving;
        }
    });
    mill.wait_settled("faults");
    let counts = came_out(&mill);
    assert!(counts.values().all(|&count| count == 1) && counts.len() == total, "{total} in, {} out", counts.len());
    // The version before was prepared under other limits, and gets those that hold.
    reload(&mill, &with("event_bytes = \"8 B\""));
    for (number, command) in [&["versions", "faults"][..], &["rollback", "faults"]].into_iter().enumerate() {
        mill.json(command);
        mill.publish("faults.in", &format!("large{number}"), "echo", "more than it may be");
        mill.wait_for("faults.dead", number + 1);
    }
}

/// A handler that comes begins with the version that was deployed while it was not there, and is paused if it was.
#[test]
fn a_handler_that_comes_back_is_what_it_was_meant_to_be() {
    let mill = Mill::start(Way::Redis, "");
    let file = write_component(&mill, "v1.wasm", b'1');
    let current = mill.json(&["deploy", "faults", &file])["current"].clone();
    mill.json(&["pause", "faults"]);
    let other = section("other", &faults(), "types = [\"none\"]");
    assert_eq!(reload(&mill, &other)["removed"], json!(["handlers.faults"]));
    for id in 0..5 {
        mill.publish("faults.in", &id.to_string(), "echo", "");
    }
    reload(&mill, &(other + &section("faults", &faults(), "")));
    eventually("the version that was deployed", DEADLINE, || {
        (mill.json(&["versions", "faults"])["workers"][0]["serves"] == current).then_some(())
    });
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(mill.events("faults.out").len(), 0, "it was paused");
    mill.json(&["resume", "faults"]);
    let out = mill.wait_for("faults.out", 5);
    let digest = json!(format!("sha256:{}", current.as_str().unwrap()));
    assert!(out.iter().all(|event| event["attempt"] == "1" && event["handlerdigest"] == digest), "{out:#?}");
}

#[test]
fn files_that_change_are_taken_over_without_being_asked() {
    let mill = Mill::start_as(Way::Redis, &["--watch"], "");
    let component = write_component(&mill, "faults.wasm", b'1');
    let says = |words: &str| {
        let what = format!("`{words}`");
        eventually(&what, DEADLINE, || mill.worker.stderr_text().contains(words).then_some(()));
    };
    let sections = section("faults", &component, "") + &section("second", &faults(), "types = [\"none\"]");
    mill.reconfigure(&sections);
    says("added=\"handlers.second\"");
    let reloads = || mill.worker.stderr_text().matches("changed=\"handlers.faults\"").count();
    let before = reloads();
    write_component(&mill, "faults.wasm", b'2');
    eventually("the component to be taken over", DEADLINE, || (reloads() > before).then_some(()));
    std::fs::write(mill.dir().join("faults.wasm"), b"nonsense").unwrap();
    says("not a WebAssembly file");
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
}

#[test]
fn an_intake_comes_and_others_go_on_listening() {
    let mill = Mill::start(Way::Redis, "");
    let intake = |name: &str| format!("[intake.{name}]\nchannel = \"{name}\"\nstream = \"heard\"\n");
    let handler = section("faults", &faults(), "");
    let (one, two) = (intake("one"), intake("two"));
    assert_eq!(reload(&mill, &(handler.clone() + &one))["added"], json!(["intake.one"]));
    let listening = |count: usize| {
        let what = format!("{count} intakes to listen");
        let text = || mill.worker.stderr_text().matches(" listening").count();
        eventually(&what, DEADLINE, || (text() == count).then_some(()));
    };
    listening(1);
    let mut redis = ::redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
    let mut say = |channel: &str, text: &str| {
        ::redis::cmd("PUBLISH").arg(&[channel, text]).query::<i64>(&mut redis).unwrap();
    };
    say("one", "1");
    assert_eq!(reload(&mill, &(handler.clone() + &one + &two))["added"], json!(["intake.two"]));
    listening(2);
    say("one", "2");
    say("two", "3");
    mill.wait_for("heard", 3);
    assert_eq!(reload(&mill, &(handler + &one))["removed"], json!(["intake.two"]));
    say("two", "nobody hears it");
    say("one", "4");
    let heard = mill.wait_for("heard", 4);
    let types: Vec<&str> = heard.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types.iter().filter(|kind| **kind == "one").count(), 3, "{types:?}");
    listening(2);
}

/// Requests are judged by the schemas and streams of the configuration that holds.
#[test]
fn operators_work_by_the_new_configuration() {
    let mill = Mill::start(Way::Embedded, "");
    let folder = mill.dir().join("schemas/order_placed");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("1.json"), r#"{"type": "object", "required": ["total"]}"#).unwrap();
    let good = section("faults", &faults(), "");
    let with_schemas = format!("{good}[schemas]\ndirectory = \"{}\"\n", mill.dir().join("schemas").display());
    let publish = |data: &str| {
        let event = json!({"specversion": "1.0", "id": "1", "source": "/t", "type": "order_placed",
            "datacontenttype": "application/json", "data": serde_json::from_str::<Value>(data).unwrap()});
        let head = ["content-type: application/cloudevents+json"];
        mill.http("POST", "/v1/streams/faults.in/events", &head, event.to_string().as_bytes()).status
    };
    reload(&mill, &good);
    assert_eq!(publish("{}"), 201);
    assert_eq!(reload(&mill, &with_schemas)["changed"], json!(["handlers.faults", "schemas"]));
    assert_eq!((publish("{}"), publish(r#"{"total": 1}"#)), (422, 201));
    // Nothing in the configuration itself is other than before.
    std::fs::write(folder.join("1.json"), r#"{"type": "object"}"#).unwrap();
    assert_eq!(reload(&mill, &with_schemas)["changed"], json!(["handlers.faults", "schemas"]));
    assert_eq!(publish("{}"), 201);
    assert_eq!(reload(&mill, &with_schemas)["unchanged"], 1);
    std::fs::write(folder.join("2.json"), "{").unwrap();
    let answer = mill.http("POST", "/v1/reload", &[], b"");
    assert!(answer.status == 422 && answer.body.contains("order_placed/2.json"), "{answer:?}");
}

/// A hundred handlers cost no thread and no connection, and one more costs the others nothing.
#[test]
fn handlers_cost_neither_threads_nor_connections() {
    let mill = Mill::start(Way::Redis, "");
    let one = |number: usize| section(&format!("h{number}"), &faults(), "types = [\"none\"]");
    let many: String = section("faults", &faults(), "") + &(0..100).map(one).collect::<String>();
    let mut redis = ::redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
    let mut used = || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", mill.worker.pid())).unwrap().count();
        let clients: String = ::redis::cmd("CLIENT").arg("LIST").query(&mut redis).unwrap();
        (threads, clients.lines().count())
    };
    mill.publish("faults.in", "0", "echo", "");
    mill.wait_for("faults.out", 1);
    let before = used();
    assert_eq!(reload(&mill, &many)["added"].as_array().unwrap().len(), 100);
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 2);
    mill.wait_settled("h99");
    let report = reload(&mill, &(many.clone() + &one(100)));
    assert_eq!((&report["added"], &report["unchanged"]), (&json!(["handlers.h100"]), &json!(101)));
    mill.wait_settled("h100");
    eventually("nothing more to be used", DEADLINE, || {
        let (threads, connections) = used();
        (threads <= before.0 && connections <= before.1).then_some(())
    });
}
