//! A tenant that attacks in every way, beside a quiet one on the same worker: nothing of the quiet one is lost, doubled or
//! seen, and it can deploy.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::worker::Signal;
use wasmill_tests::{eventually, guests};

use super::{FOREIGN, resident};
use crate::bad_components::module_of;

const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of memory that the worker may have under attack.
const MEMORY: u64 = 512 << 20;
/// What the quiet tenant publishes says so, and nobody else knows it.
const SECRET: &str = "quiet-4711";

/// The sections of both tenants; `hostile` goes into that of the hostile one, before its handler.
fn tenants(hostile: &str) -> String {
    let component = guests::component("faults").display().to_string();
    format!(
        "[limits]\ndeadline = \"200ms\"\nmemory = \"16 MiB\"\n[retry]\nmax_attempts = 1\nbase = \"10ms\"\n\
         [compile]\ncpu_time = \"2s\"\n\
         [tenants.quiet.handlers.faults]\ncomponent = \"{component}\"\nstreams = [\"faults.in\"]\n\
         publishes = [\"faults.out\"]\n\
         [tenants.quiet.handlers.faults.limits]\ndeadline = \"30s\"\n\
         [tenants.hostile]\n{hostile}\n\
         [tenants.hostile.handlers.faults]\ncomponent = \"{component}\"\nstreams = [\"faults.in\"]\n\
         publishes = [\"faults.out\"]\n"
    )
}

fn keys(redis: &mut redis::Connection) -> BTreeSet<String> {
    redis::cmd("KEYS").arg("*").query(redis).unwrap()
}

fn entries(redis: &mut redis::Connection, key: &str) -> Vec<(String, Vec<(String, redis::Value)>)> {
    redis::cmd("XRANGE").arg(&[key, "-", "+"]).query(redis).unwrap()
}

fn text(entry: &[(String, redis::Value)], name: &str) -> String {
    let (_, value) = entry.iter().find(|(field, _)| field == name).unwrap_or_else(|| panic!("no {name}"));
    redis::from_redis_value(value.clone()).unwrap()
}

fn add(redis: &mut redis::Connection, key: &str, id: &str, r#type: &str, data: &str) {
    let fields = ["*", "ce_id", id, "ce_source", "/t", "ce_type", r#type, "data", data];
    redis::cmd("XADD").arg(key).arg(&fields).query::<String>(redis).unwrap();
}

fn connect(mill: &Mill) -> redis::Connection {
    redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap()
}

#[test]
fn nothing_of_a_quiet_tenant_is_lost_doubled_or_seen_while_another_attacks() {
    const QUIET: usize = 300;
    let mut mill = Mill::start_with(Way::RedisByWorker, &tenants(""), None);
    let mut redis = connect(&mill);
    let attacks = [
        "spin",
        "hog",
        "overflow",
        "panic",
        "exit",
        "handles",
        "churn",
        "flood_ignore",
        "flood_bytes",
        "log_flood",
        "foreign",
        "forge",
        "complain",
        "large",
        "retry_always",
        "sleep",
    ];
    let foreign = format!("{FOREIGN}quiet/faults.in\nquiet:faults.in\nquiet/faults.out\ndefault/faults.in");
    let huge = "0".repeat(1 << 20);
    let mut most = 0;
    for number in 0..QUIET {
        let attack = attacks[number % attacks.len()];
        let data = if number % 50 == 0 { &huge } else { &foreign };
        add(&mut redis, "hostile:faults.in", &number.to_string(), attack, data);
        add(&mut redis, "quiet:faults.in", &format!("{SECRET}-{number}"), "echo", SECRET);
        if number % 25 == 0 {
            most = most.max(resident(mill.worker.pid()));
        }
    }
    eventually("all of the quiet one", DEADLINE, || {
        most = most.max(resident(mill.worker.pid()));
        (entries(&mut redis, "quiet:faults.out").len() >= QUIET).then_some(())
    });
    eventually("the attacks to end", DEADLINE, || {
        most = most.max(resident(mill.worker.pid()));
        let groups: Vec<Vec<redis::Value>> =
            redis::cmd("XINFO").arg(&["GROUPS", "hostile:faults.in"]).query(&mut redis).unwrap();
        let is_zero = |at: usize| groups.iter().all(|group| group[at] == redis::Value::Int(0));
        (is_zero(5) && is_zero(11)).then_some(())
    });
    assert!(most < MEMORY, "{} MiB", most >> 20);
    let causes: Vec<String> =
        entries(&mut redis, "quiet:faults.out").iter().map(|(_, entry)| text(entry, "ce_causationid")).collect();
    assert_eq!(causes.len(), QUIET, "none twice");
    assert_eq!(causes.iter().collect::<BTreeSet<_>>().len(), QUIET, "each once");
    assert!(entries(&mut redis, "quiet:faults.dead").is_empty());

    // The hostile one has only what is its own, and nothing of the other is in it.
    let known = keys(&mut redis);
    for key in known.iter().filter(|key| key.starts_with("hostile:") && !key.contains(":wasmill:")) {
        for (_, entry) in entries(&mut redis, key) {
            assert!(!format!("{entry:?}").contains(SECRET), "{key}");
        }
    }
    let allowed = |key: &str| ["hostile:", "quiet:", "wasmill:"].iter().any(|prefix| key.starts_with(prefix));
    assert!(known.iter().all(|key| allowed(key)), "{known:?}");
    assert_eq!(entries(&mut redis, "quiet:faults.in").len(), QUIET, "nobody has written into it");
    let letters = mill.http("GET", "/v1/tenants/hostile/handlers/faults/dead-letters?limit=1000", &[], b"");
    assert!(letters.status == 200 && !letters.body.contains(SECRET), "{}", letters.status);
    for line in mill.worker.stderr_text().lines().filter(|line| line.contains("tenant=\"hostile\"")) {
        assert!(!line.contains(SECRET), "{line}");
    }
    mill.worker.signal(Signal::TERM);
    assert!(mill.worker.wait_exit(DEADLINE).success());
}

#[test]
fn tenants_with_the_same_component_share_no_instance() {
    let component = guests::component("faults").display().to_string();
    let section = |tenant: &str| {
        format!(
            "[tenants.{tenant}.handlers.faults]\ncomponent = \"{component}\"\nstreams = [\"faults.in\"]\n\
             publishes = [\"faults.out\"]\nisolation = \"reuse\"\n\
             [tenants.{tenant}.handlers.faults.limits]\nconcurrency = 1\n"
        )
    };
    let mill = Mill::start_with(Way::RedisByWorker, &[section("acme"), section("globex")].concat(), None);
    let mut redis = connect(&mill);
    // In turns, so that each one's instance is there when the other one runs.
    for round in 1..=5 {
        for tenant in ["acme", "globex"] {
            add(&mut redis, &format!("{tenant}:faults.in"), &round.to_string(), "remember", "");
            let out = format!("{tenant}:faults.out");
            eventually("it to be counted", DEADLINE, || (entries(&mut redis, &out).len() == round).then_some(()));
        }
    }
    for tenant in ["acme", "globex"] {
        let seen: Vec<String> =
            entries(&mut redis, &format!("{tenant}:faults.out")).iter().map(|(_, entry)| text(entry, "data")).collect();
        assert_eq!(seen, ["1", "2", "3", "4", "5"], "{tenant} remembers its own events");
    }
}

/// The component of the guest with a custom section of its own: another version.
fn version(number: usize) -> Vec<u8> {
    let name = format!("v{number:08}");
    let section = [&[0, name.len() as u8 + 1, name.len() as u8], name.as_bytes()].concat();
    [std::fs::read(guests::component("faults")).unwrap(), section].concat()
}

fn deploy(mill: &Mill, tenant: &str, component: &[u8]) -> wasmill_tests::mill::Answer {
    let head = ["content-type: application/wasm"];
    mill.http("POST", &format!("/v1/tenants/{tenant}/handlers/faults/versions"), &head, component)
}

fn versions(mill: &Mill, tenant: &str) -> Value {
    mill.http("GET", &format!("/v1/tenants/{tenant}/handlers/faults/versions"), &[], b"").json()
}

#[test]
fn compile_bombs_and_a_version_every_moment_do_not_keep_another_tenant_from_deploying() {
    let mill = Mill::start_with(Way::RedisByWorker, &tenants("quotas.deploys_per_minute = 1000"), None);
    // Each with a name of its own, of two printable characters.
    let name = |number: usize| [number / 90, number].map(|number| b' ' + (number % 90) as u8);
    let bomb = |number: usize| [module_of(1, 600_000), vec![0, 3, 2], name(number).to_vec()].concat();
    let mut deployed = 0;
    // A bomb is being compiled, and another one waits as soon as it has failed.
    assert_eq!(deploy(&mill, "hostile", &bomb(0)).status, 200, "{:?}", versions(&mill, "hostile"));
    for number in 0..3 {
        let wanted = version(number);
        let answer = deploy(&mill, "quiet", &wanted);
        assert!((200..300).contains(&answer.status), "{answer:?}");
        let digest = wasmill::wasm::Digest::of(&wanted).hex();
        eventually("the quiet one's version to serve", DEADLINE, || {
            deployed += 1;
            // Refused as long as one of its own is on its way.
            deploy(&mill, "hostile", &bomb(deployed));
            (versions(&mill, "quiet")["current"] == digest.as_str()).then_some(())
        });
    }
    let last = versions(&mill, "hostile")["last"].clone();
    assert!(last["failed"].as_str().unwrap().contains("compile.cpu_time"), "{last}");
}
