//! Several tenants on one worker: each sees its own alone, whichever way it is asked for; they come, change and go while the
//! others work; what one of them has wrong stays its own matter.

use std::time::Duration;

use ::redis::Commands as _;
use serde_json::{Value, json};
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::{eventually, guests, on_every_way};

use crate::tenants;

const DEADLINE: Duration = Duration::from_secs(30);

on_every_way!(tenants::{
    tenants_see_their_own_alone,
    handlers_of_the_same_name_are_two,
    streams_are_shared_by_name,
    dead_letters_and_delayed_events_stay_with_their_tenant,
    versions_are_those_of_a_tenant,
    a_tenant_is_shown_with_its_usage,
});

fn handler(section: &str, settings: &str) -> String {
    format!("[{section}]\ncomponent = \"{}\"\n{settings}\n", guests::component("faults").display())
}

/// The tenants acme and beta, each with a handler `faults` on streams of the same names.
fn two() -> String {
    let own = "streams = [\"faults.in\"]\npublishes = [\"faults.out\"]";
    format!(
        "[retry]\nmax_attempts = 2\nbase = \"10ms\"\ncap = \"50ms\"\n{}{}",
        handler("tenants.acme.handlers.faults", own),
        handler("tenants.beta.handlers.faults", own),
    )
}

fn send(mill: &Mill, tenant: &str, stream: &str, id: &str, r#type: &str) {
    mill.text(&["send", stream, r#type, "x", "--tenant", tenant, "--id", id]);
}

/// The events of a stream of a tenant.
fn events(mill: &Mill, tenant: &str, stream: &str) -> Vec<Value> {
    let path = format!("/v1/tenants/{tenant}/streams/{stream}/events?count=1000");
    let answer = mill.http("GET", &path, &[], b"");
    if answer.status == 404 {
        return Vec::new();
    }
    let page = answer.json();
    page["events"].as_array().unwrap_or_else(|| panic!("{answer:?}")).iter().map(|item| item["event"].clone()).collect()
}

#[track_caller]
fn wait_for(mill: &Mill, tenant: &str, stream: &str, count: usize) -> Vec<Value> {
    let what = format!("{count} events in {stream} of {tenant}");
    eventually(&what, DEADLINE, || Some(events(mill, tenant, stream)).filter(|events| events.len() >= count))
}

fn causes(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["causationid"].as_str().unwrap()).collect()
}

pub fn tenants_see_their_own_alone(way: Way) {
    let mill = Mill::start_with(way, &two(), None);
    send(&mill, "acme", "faults.in", "a1", "echo");
    send(&mill, "beta", "faults.in", "b1", "echo");
    let [acme, beta] = ["acme", "beta"].map(|tenant| wait_for(&mill, tenant, "faults.out", 1));
    assert_eq!((causes(&acme), causes(&beta)), (vec!["a1"], vec!["b1"]));
    assert_eq!(acme[0]["source"], "/wasmill/acme/faults");
    let names = |tenant: &str| {
        let streams = mill.json(&["streams", "--all", "--tenant", tenant]);
        streams
            .as_array()
            .unwrap()
            .iter()
            .map(|stream| stream["stream"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let shown = names("acme");
    assert!(shown.contains(&"faults.in".to_owned()) && shown.contains(&"faults.out".to_owned()), "{shown:?}");
    assert!(shown.iter().all(|name| !name.contains("beta") && !name.contains("acme")), "{shown:?}");
    assert!(names("default").iter().all(|name| !name.contains("faults")), "{:?}", names("default"));
    // By the key it is not to be had either.
    let refused = mill.failure(2, &["history", "acme:faults.in"]);
    assert!(refused.contains("belongs to another tenant"), "{refused}");
    let refused = mill.failure(2, &["send", "acme:faults.in", "echo", "x"]);
    assert!(refused.contains("belongs to another tenant"), "{refused}");
    let workers = mill.json(&["workers", "--tenant", "acme"]);
    assert_eq!(workers[0]["handlers"].as_object().unwrap().keys().collect::<Vec<_>>(), ["faults"]);
    assert_eq!(mill.json(&["workers"])[0]["handlers"], json!({}));
    assert_eq!(mill.http("GET", "/v1/tenants/gamma/streams", &[], b"").status, 404);
}

pub fn handlers_of_the_same_name_are_two(way: Way) {
    let mill = Mill::start_with(way, &two(), None);
    let report = mill.pause("faults", &["--tenant", "acme"]);
    assert_eq!((report["handler"].as_str(), report["changed"].as_bool()), (Some("faults"), Some(true)));
    send(&mill, "acme", "faults.in", "a1", "echo");
    send(&mill, "beta", "faults.in", "b1", "echo");
    wait_for(&mill, "beta", "faults.out", 1);
    let stats = |tenant: &str| mill.json(&["stats", "--tenant", tenant])["handlers"]["faults"].clone();
    assert_eq!((stats("acme")["paused"].as_bool(), stats("beta")["paused"].as_bool()), (Some(true), Some(false)));
    assert_eq!(events(&mill, "acme", "faults.out"), Vec::<Value>::new());
    mill.json(&["resume", "faults", "--tenant", "acme"]);
    wait_for(&mill, "acme", "faults.out", 1);
    let metrics = mill.http("GET", "/metrics", &[], b"").body;
    assert!(metrics.contains("wasmill_events_acked_total{handler=\"faults\",tenant=\"acme\"} 1"), "{metrics}");
    assert!(metrics.contains("wasmill_events_acked_total{handler=\"faults\",tenant=\"beta\"} 1"), "{metrics}");
}

pub fn streams_are_shared_by_name(way: Way) {
    let sections = format!(
        "{}{}[tenants.acme.streams.\"faults.out\"]\nreaders = [\"beta\"]\n",
        handler("tenants.acme.handlers.faults", "streams = [\"faults.in\"]\npublishes = [\"faults.out\"]"),
        handler("tenants.beta.handlers.faults", "streams = [\"acme/faults.out\"]\npublishes = [\"faults.out\"]"),
    );
    let mill = Mill::start_with(way, &sections, None);
    send(&mill, "acme", "faults.in", "a1", "echo");
    let first = wait_for(&mill, "acme", "faults.out", 1);
    eventually("beta to have read it", DEADLINE, || {
        let stats = mill.json(&["stats", "--tenant", "beta"]);
        let status = &stats["handlers"]["faults"];
        (status["lag"] == 0 && status["pending"] == 0 && status["workers"] == 1).then_some(())
    });
    let groups = mill.json(&["streams", "faults.out", "--tenant", "acme"])[0]["groups"].clone();
    let groups: Vec<&str> = groups.as_array().unwrap().iter().map(|group| group["group"].as_str().unwrap()).collect();
    assert_eq!(groups, ["beta/faults"], "its group says whose it is: {first:?}");
    // Reading by its handlers is all that was granted.
    let refused = mill.failure(2, &["history", "acme/faults.out", "--tenant", "beta"]);
    assert!(refused.contains("belongs to another tenant"), "{refused}");
    let refused = mill.failure(2, &["send", "acme/faults.out", "echo", "x", "--tenant", "beta"]);
    assert!(refused.contains("belongs to another tenant"), "{refused}");
}

pub fn dead_letters_and_delayed_events_stay_with_their_tenant(way: Way) {
    let mill = Mill::start_with(way, &two(), None);
    send(&mill, "acme", "faults.in", "bad", "reject");
    let letters = |tenant: &str| mill.json(&["dlq", "ls", "faults", "--tenant", tenant]);
    let letter = eventually("a dead letter", DEADLINE, || letters("acme").as_array().unwrap().first().cloned());
    assert_eq!(letters("beta"), json!([]));
    assert_eq!(letter["handler"], "faults", "{letter}");
    mill.text(&["dlq", "redrive", "faults", "--all", "--tenant", "acme"]);
    eventually("it to come back", DEADLINE, || {
        let back = letters("acme").as_array().unwrap().first().cloned()?;
        (back["id"] != letter["id"]).then_some(())
    });
    mill.text(&["send", "faults.in", "echo", "x", "--tenant", "beta", "--id", "later", "--delay", "300ms"]);
    assert_eq!(causes(&wait_for(&mill, "beta", "faults.out", 1)), ["later"]);
}

pub fn versions_are_those_of_a_tenant(way: Way) {
    let mill = Mill::start_with(way, &two(), None);
    let bytes = std::fs::read(guests::component("faults")).unwrap();
    std::fs::write(mill.dir().join("next.wasm"), [&bytes[..], &[0, 2, 1, b'2']].concat()).unwrap();
    mill.text(&["deploy", "faults", "next.wasm", "--tenant", "acme"]);
    let versions = |tenant: &str| mill.json(&["versions", "faults", "--tenant", tenant]);
    let digest = versions("acme")["current"].as_str().expect("a version").to_owned();
    assert_eq!(versions("beta")["versions"], json!([]));
    let path = |tenant: &str| format!("/v1/tenants/{tenant}/components/{digest}");
    assert_eq!(mill.http("GET", &path("beta"), &[], b"").status, 404, "what others deployed is not there");
    assert_eq!(mill.http("GET", &path("acme"), &[], b"").status, 200);
    send(&mill, "acme", "faults.in", "a1", "echo");
    let event = wait_for(&mill, "acme", "faults.out", 1).remove(0);
    assert!(event["handlerdigest"].as_str().unwrap().contains(&digest), "{event}");
}

pub fn a_tenant_is_shown_with_its_usage(way: Way) {
    let quotas = "[tenants.acme.quotas]\nstream_bytes = \"1 MiB\"\ndead_letters = 5\n[tenants.acme.streams.x]\n";
    let mill = Mill::start_with(way, &format!("{}{quotas}", two()), None);
    let tenants = mill.json(&["tenants"]);
    let names: Vec<&str> =
        tenants.as_array().unwrap().iter().map(|tenant| tenant["tenant"].as_str().unwrap()).collect();
    assert_eq!(names.iter().filter(|name| **name != "default").collect::<Vec<_>>(), [&"acme", &"beta"]);
    send(&mill, "acme", "faults.in", "bad", "reject");
    let row = |name: &str| {
        let usage = mill.json(&["tenants", "show", "acme"]);
        usage["quotas"].as_array().unwrap().iter().find(|row| row["quota"] == name).cloned().unwrap()
    };
    let letters = eventually("a dead letter", DEADLINE, || Some(row("dead_letters")).filter(|row| row["used"] == 1));
    assert_eq!(letters["limit"], 5);
    let bytes = row("stream_bytes");
    assert_eq!(bytes["limit"], 1 << 20);
    assert!(bytes["used"].as_u64().is_some_and(|used| used > 0), "{bytes}");
    assert!(mill.text(&["tenants", "show", "acme"]).contains("1.0 MiB"));
}

/// Keys of a tenant all begin with its prefix: one pattern is its border.
#[test]
fn all_keys_of_a_tenant_have_its_prefix() {
    let mill = Mill::start_with(Way::Redis, &two().replace("streams = [", "dedup = \"1h\"\nstreams = ["), None);
    for r#type in ["echo", "reject", "flaky"] {
        send(&mill, "acme", "faults.in", r#type, r#type);
    }
    wait_for(&mill, "acme", "faults.out", 1);
    mill.text(&["send", "faults.in", "echo", "x", "--tenant", "acme", "--delay", "1h"]);
    let mut redis = ::redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
    let keys: Vec<String> = redis.keys("*").unwrap();
    let of_worker =
        ["wasmill:worker", "wasmill:delayed", "wasmill:components", "wasmill:deployments", "wasmill:paused"];
    let strays = keys.iter().filter(|key| {
        !key.starts_with("acme:") && !key.starts_with("beta:") && !of_worker.iter().any(|own| key.starts_with(own))
    });
    assert_eq!(strays.collect::<Vec<_>>(), Vec::<&String>::new(), "{keys:?}");
}

mod files {
    use super::*;

    /// A worker whose tenants stand in files.
    struct Files(Mill);

    impl Files {
        fn start(tenants: &[(&str, &str)]) -> Files {
            let main = handler("handlers.own", "streams = [\"own.in\"]");
            let mill = Mill::start_with(Way::RedisByWorker, &main, None);
            let files = Files(mill);
            std::fs::create_dir(files.folder()).unwrap();
            tenants.iter().for_each(|(name, text)| files.write(name, text));
            files.0.reconfigure_from_the_top(&format!("tenants_dir = {:?}\n", files.folder()), &main);
            files
        }

        fn folder(&self) -> std::path::PathBuf {
            self.0.dir().join("tenants.d")
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.folder().join(format!("{name}.toml")), text).unwrap();
        }

        fn reload(&self) -> Value {
            let answer = self.0.http("POST", "/v1/reload", &[], b"");
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()
        }
    }

    fn faults() -> String {
        handler("handlers.faults", "streams = [\"faults.in\"]\npublishes = [\"faults.out\"]")
    }

    #[test]
    fn tenants_come_change_and_go_by_their_files() {
        let files = Files::start(&[("acme", &faults())]);
        assert_eq!(files.reload()["added"], json!(["tenants.acme.handlers.faults"]));
        send(&files.0, "acme", "faults.in", "a1", "echo");
        wait_for(&files.0, "acme", "faults.out", 1);
        files.write("beta", &faults());
        files.write("acme", &format!("weight = 7\n{}", faults()));
        let report = files.reload();
        assert_eq!(report["added"], json!(["tenants.beta.handlers.faults"]));
        assert_eq!((&report["changed"], &report["unchanged"]), (&json!(["tenants.acme.handlers.faults"]), &json!(1)));
        std::fs::remove_file(files.folder().join("acme.toml")).unwrap();
        assert_eq!(files.reload()["removed"], json!(["tenants.acme.handlers.faults"]));
        assert_eq!(files.0.http("GET", "/v1/tenants/acme/streams", &[], b"").status, 404);
        send(&files.0, "beta", "faults.in", "b1", "echo");
        wait_for(&files.0, "beta", "faults.out", 1);
    }

    #[test]
    fn a_file_cannot_take_the_keys_of_a_tenant_that_stays_as_it_was() {
        let with_prefix = format!("prefix = \"shop:\"\n{}", faults());
        let files = Files::start(&[("acme", &with_prefix)]);
        files.reload();
        files.write("acme", "wieght = 1\n");
        files.write("beta", &with_prefix);
        let report = files.reload();
        let why = report["faulty"]["beta"].as_str().unwrap_or_else(|| panic!("{report}"));
        assert!(why.contains("meets `shop:`, which tenants.acme has as it runs"), "{report}");
        assert_eq!(files.0.http("GET", "/v1/tenants/beta/streams", &[], b"").status, 404);
        // When acme has gone, its keys can be had.
        std::fs::remove_file(files.folder().join("acme.toml")).unwrap();
        assert_eq!(files.reload()["added"], json!(["tenants.beta.handlers.faults"]));
    }

    #[test]
    fn a_faulty_file_leaves_its_tenant_as_it_was_and_the_others_go_on() {
        let files = Files::start(&[("acme", &faults()), ("beta", &faults())]);
        files.reload();
        files.write("acme", "wieght = 1\n");
        files.write("beta", &format!("{}retry = {{ max_attempts = 9 }}\n", faults()));
        files.write("gamma", &faults().replace("faults.wasm", "nowhere.wasm"));
        let report = files.reload();
        assert_eq!(report["changed"], json!(["tenants.beta.handlers.faults"]));
        let why = |tenant: &str| report["faulty"][tenant].as_str().unwrap_or_else(|| panic!("{report}")).to_owned();
        assert!(why("acme").contains("acme.toml:1:1: wieght: unknown field"), "{report}");
        assert!(why("gamma").contains("nowhere.wasm"), "{report}");
        send(&files.0, "acme", "faults.in", "a1", "echo");
        assert_eq!(wait_for(&files.0, "acme", "faults.out", 1).len(), 1, "it is served as it was");
        // Another worker cannot know what it was: it serves the others.
        let other = files.0.spawn_another();
        eventually("another worker to be ready", DEADLINE, || other.stderr_text().contains("ready").then_some(()));
        let log = other.stderr_text();
        assert!(log.contains("tenant=\"acme\"") && log.contains("the tenant is not served"), "{log}");
        let checked = files.0.run(&["check"]);
        assert_eq!(checked.status.code(), Some(2));
        let said = String::from_utf8(checked.stdout).unwrap();
        assert!(said.contains("wieght") && said.contains("nowhere.wasm"), "{said}");
    }
}
