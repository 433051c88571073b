//! Versions deployed to running workers: all of them switch or none, the way back, and whoever comes later.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::worker::{Signal, Worker};
use wasmill_tests::{eventually, guests, on_every_way};

use crate::bad_components::{child_of, handler_with, is_alive, module_of};
use crate::deploy;

const DEADLINE: Duration = Duration::from_secs(60);

/// The component of `faults` with something at its end that does nothing: another version.
pub(super) fn version(mill: &Mill, name: u8) -> PathBuf {
    let bytes = std::fs::read(guests::component("faults")).unwrap();
    write(mill, &format!("v{}.wasm", char::from(name)), &[&bytes[..], &[0, 2, 1, name]].concat())
}

pub fn write(mill: &Mill, name: &str, bytes: &[u8]) -> PathBuf {
    let path = mill.dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

pub(super) fn deploy(mill: &Mill, component: &Path) -> Value {
    mill.json(&["deploy", "faults", component.to_str().unwrap()])
}

/// What the workers say that they serve, once they say the same as the record.
pub(super) fn settled(mill: &Mill) -> (Value, usize) {
    eventually("all workers to serve what is deployed", DEADLINE, || {
        let report = mill.json(&["versions", "faults"]);
        let workers = report["workers"].as_array().unwrap();
        let is_settled =
            report["rollout"].is_null() && workers.iter().all(|worker| worker["serves"] == report["current"]);
        is_settled.then(|| (report["current"].clone(), workers.len()))
    })
}

/// What each worker serves while nothing is being rolled out, whether or not anything was ever deployed.
pub(super) fn serving(mill: &Mill) -> Vec<Value> {
    eventually("the rollout to end", DEADLINE, || {
        let report = mill.json(&["versions", "faults"]);
        let workers = report["workers"].as_array().unwrap().iter();
        report["rollout"].is_null().then(|| workers.map(|worker| worker["serves"].clone()).collect())
    })
}

pub(super) fn second_worker(mill: &Mill) -> Worker {
    let worker = mill.spawn_another();
    eventually("the second worker", DEADLINE, || worker.stderr_text().contains("ready").then_some(()));
    worker
}

on_every_way!(deploy::{a_version_is_deployed_and_gone_back_from, nothing_that_does_not_fit_is_deployed});

pub fn a_version_is_deployed_and_gone_back_from(way: Way) {
    let mill = Mill::start(way, "");
    let (first, second) = (version(&mill, b'1'), version(&mill, b'2'));
    let before = mill.json(&["versions", "faults"]);
    assert_eq!((&before["current"], before["versions"].as_array().unwrap().len()), (&Value::Null, 0));
    let one = deploy(&mill, &first)["current"].clone();
    assert!(one.as_str().is_some_and(|digest| digest.len() == 64), "{one}");
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
    let report = deploy(&mill, &second);
    let two = report["current"].clone();
    assert_eq!(report["previous"], one);
    assert_eq!(report["workers"][0]["serves"], two);
    let states: Vec<&Value> = report["versions"].as_array().unwrap().iter().map(|version| &version["state"]).collect();
    assert_eq!(states, ["current", "previous"]);
    // The same again is no deployment.
    assert!(mill.failure(1, &["deploy", "faults", second.to_str().unwrap()]).contains("serves already"));
    let back = mill.json(&["rollback", "faults"]);
    assert_eq!((&back["current"], &back["previous"]), (&one, &two));
    let forth = mill.json(&["rollback", "faults", "--to", &two.as_str().unwrap()[..8]]);
    assert_eq!(forth["current"], two);
    assert!(mill.failure(2, &["rollback", "faults", "--to", "0123"]).contains("no version of faults"));
    mill.publish("faults.in", "2", "echo", "");
    mill.wait_for("faults.out", 2);
    // What nobody needs goes, what may be gone back to stays.
    let third = deploy(&mill, &version(&mill, b'3'));
    assert_eq!(third["previous"], two);
    let gone = mill.json(&["gc", "--keep-last", "0"]);
    assert_eq!((&gone["removed"], &gone["kept"]), (&serde_json::json!([one]), &serde_json::json!(2)));
    assert!(mill.failure(2, &["rollback", "faults", "--to", one.as_str().unwrap()]).contains("has been deleted"));
    let text = mill.text(&["versions", "faults"]);
    assert!(text.contains("current") && text.contains("gone") && text.contains("v3.wasm"), "{text}");
}

pub fn nothing_that_does_not_fit_is_deployed(way: Way) {
    let mill = Mill::start(way, "");
    let good = std::fs::read(guests::component("faults")).unwrap();
    let current = deploy(&mill, &version(&mill, b'1'))["current"].clone();
    let truncated = write(&mill, "truncated.wasm", &good[..good.len() / 2]);
    let core = write(&mill, "core.wasm", &wat::parse_str("(module)").unwrap());
    let empty = write(&mill, "empty.wasm", &wat::parse_str("(component)").unwrap());
    let import = r#"(component (import "acme:billing/ledger@2.0.0" (instance)))"#;
    let import = write(&mill, "import.wasm", &wat::parse_str(import).unwrap());
    let world = include_str!("bad_components/handler.wat").replace("handler@0.1.0", "handler@0.2.0");
    let world = write(&mill, "world.wasm", &wat::parse_str(world).unwrap());
    let spins = write(&mill, "spins.wasm", &handler_with("(func $spin (loop (br 0))) (start $spin)"));
    let panics = write(&mill, "panics.wasm", &handler_with("(func $panic unreachable) (start $panic)"));
    for (component, why) in [
        (truncated, "not valid"),
        (core, "core module"),
        (empty, "does not export"),
        (import, "acme:billing/ledger@2.0.0"),
        (world, "handler@0.2.0"),
        (spins, "did not return within 300ms"),
        (panics, "unreachable"),
    ] {
        let said = mill.failure(1, &["deploy", "faults", component.to_str().unwrap()]);
        assert!(said.contains(why) && said.contains("stays as it was"), "{}: {said}", component.display());
        assert_eq!(settled(&mill).0, current);
    }
    let text = write(&mill, "text.wasm", b"hello");
    assert!(mill.failure(2, &["deploy", "faults", text.to_str().unwrap()]).contains("not a WebAssembly file"));
    assert!(mill.failure(2, &["deploy", "nobody", text.to_str().unwrap()]).contains("no handler `nobody`"));
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
}

#[test]
fn all_workers_switch_and_later_ones_begin_with_it() {
    let mill = Mill::start(Way::Redis, "");
    let _second = second_worker(&mill);
    let current = deploy(&mill, &version(&mill, b'1'))["current"].clone();
    assert_eq!(settled(&mill), (current.clone(), 2));
    let third = second_worker(&mill);
    assert_eq!(settled(&mill), (current.clone(), 3));
    // It has not run anything of the component in the configuration.
    assert!(third.stderr_text().contains("another version serves from now on"), "{}", third.stderr_text());
    let digest = current.as_str().unwrap();
    let text = third.stderr_text();
    assert!(text.find(digest) < text.find("ready"), "{text}");
}

/// The record is all that a deployment needs: neither the command nor any worker has to live until its end.
#[test]
fn a_deployment_goes_on_without_those_who_began_it() {
    let mill = Mill::start(Way::Redis, "");
    let mut second = second_worker(&mill);
    let component = version(&mill, b'1');
    let mut command = mill.command(&["deploy", "faults", component.to_str().unwrap(), "--no-wait"]);
    assert!(command.output().unwrap().status.success());
    second.kill();
    let current = eventually("the deployment to end", DEADLINE, || {
        // What is asked here is the record itself: asking by `versions` could end the deployment.
        let mut redis = ::redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
        let text: Option<String> =
            ::redis::cmd("HGET").arg("wasmill:deployments").arg("faults").query(&mut redis).unwrap();
        let record: Value = serde_json::from_str(&text?).unwrap();
        record["current"].as_str().map(str::to_owned)
    });
    assert_eq!(settled(&mill).0, current.as_str());
}

/// Fifty ways to damage a component: each is refused with a reason or is as good as the original, and the handler goes on.
#[test]
fn damaged_components_never_take_the_place_of_one_that_works() {
    let mill = Mill::start(Way::Redis, "");
    let good = std::fs::read(version(&mill, b'1')).unwrap();
    let current = deploy(&mill, &version(&mill, b'1'))["current"].clone();
    let (mut refused, mut serving) = (0, current);
    for number in 0..50usize {
        let mut bytes = good.clone();
        // Spread over the file: headers, types, code and data.
        let at = 8 + (bytes.len() - 9) * number / 50;
        match number % 2 {
            0 => bytes[at] ^= 1 << (number % 8),
            _ => bytes.truncate(at),
        }
        let mutant = write(&mill, "mutant.wasm", &bytes);
        let output = mill.run(&["deploy", "faults", mutant.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let (now, _) = settled(&mill);
        if output.status.success() {
            // Such as a changed letter of a text: a component like any other.
            assert_ne!(now, serving, "mutant {number}");
            serving = now;
            continue;
        }
        refused += 1;
        assert_eq!(output.status.code(), Some(1), "mutant {number}: {said}");
        assert!(said.contains("faults stays as it was: "), "mutant {number}: {said}");
        assert_eq!(now, serving, "mutant {number}");
    }
    assert!(refused >= 25, "only {refused} were refused");
    // What the flipped bits of the last one that was accepted do is its own affair.
    deploy(&mill, &version(&mill, b'2'));
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
}

#[test]
fn a_worker_that_leaves_ends_what_it_compiles() {
    let mill = Mill::start(Way::Redis, "");
    let mut second = second_worker(&mill);
    let bomb = write(&mill, "bomb.wasm", &module_of(1, 600_000));
    let output = mill.run(&["deploy", "faults", bomb.to_str().unwrap(), "--no-wait"]);
    assert!(output.status.success());
    let compiler = eventually("a compiler", DEADLINE, || child_of(second.pid()));
    second.signal(Signal::TERM);
    assert!(second.wait_exit(Duration::from_secs(10)).success());
    assert!(!is_alive(compiler));
    // The other one serves meanwhile.
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
}
