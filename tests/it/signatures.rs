//! With public keys, nothing is loaded that is not signed by one of them: from files, registries and the store.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use wasmill_tests::mill::{Mill, Way, faults_section};
use wasmill_tests::registry::Registry;
use wasmill_tests::worker::Worker;
use wasmill_tests::{eventually, guests, on_every_way};

use crate::deploy::{deploy, serving, settled, version};
use crate::invoke::{Place, code, said};
use crate::signatures as subject;

const DEADLINE: Duration = Duration::from_secs(60);

/// Keys as openssl makes them.
struct Keys(tempfile::TempDir);

impl Keys {
    fn new(names: &[&str]) -> Keys {
        let keys = Keys(tempfile::tempdir().unwrap());
        for name in names {
            let (private, public) = (keys.private(name), keys.public(name));
            openssl(&["genpkey", "-algorithm", "ed25519", "-out"], &[&private]);
            openssl(&["pkey", "-pubout", "-in"], &[&private, Path::new("-out"), &public]);
        }
        keys
    }

    fn private(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn public(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.pem"))
    }

    /// Writes the signature beside a component; its file.
    fn sign(&self, name: &str, component: &Path) -> PathBuf {
        let signature = component.with_extension("wasm.sig");
        let rest = [&self.private(name), Path::new("-in"), component, Path::new("-out"), &signature];
        openssl(&["pkeyutl", "-sign", "-rawin", "-inkey"], &rest);
        signature
    }

    /// The section that wants these keys.
    fn section(&self, names: &[&str]) -> String {
        let files: Vec<String> = names.iter().map(|name| format!("\"{}\"", self.public(name).display())).collect();
        format!("[deploy]\npublic_keys = [{}]\n", files.join(", "))
    }

    /// A component in the folder of the keys, signed if a key is named.
    fn component(&self, key: Option<&str>) -> PathBuf {
        let path = self.0.path().join("faults.wasm");
        std::fs::copy(guests::component("faults"), &path).unwrap();
        key.map(|key| self.sign(key, &path));
        path
    }
}

fn openssl(arguments: &[&str], rest: &[&Path]) {
    let output = Command::new("openssl").args(arguments).args(rest).output().expect("openssl is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The sections of a handler `faults` with this component, and these keys.
fn sections(component: &Path, keys: &str) -> String {
    let usual = guests::component("faults").display().to_string();
    faults_section("").replace(&usual, &component.display().to_string()) + keys
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

on_every_way!(subject::{signed_versions_are_deployed_and_others_are_not});

pub fn signed_versions_are_deployed_and_others_are_not(way: Way) {
    let keys = Keys::new(&["a", "b", "c"]);
    // Two keys at once, as while they are rotated.
    let mill = Mill::start_with(way, &sections(&keys.component(Some("a")), &keys.section(&["a", "b"])), None);
    let first = version(&mill, b'1');
    let refused = |component: &Path, why: &str| {
        let said = mill.failure(2, &["deploy", "faults", path(component)]);
        assert!(said.contains(why), "{said}");
    };
    refused(&first, "the component is not signed");
    keys.sign("c", &first);
    refused(&first, "by none of `deploy.public_keys`");
    keys.sign("a", &first);
    let one = deploy(&mill, &first)["current"].clone();
    let altered = [std::fs::read(&first).unwrap(), vec![0, 2, 1, b'x']].concat();
    std::fs::write(&first, altered).unwrap();
    refused(&first, "is that of other bytes");
    // Another key, in base64, from elsewhere.
    let second = version(&mill, b'2');
    let signature = std::fs::read(keys.sign("b", &second)).unwrap();
    std::fs::remove_file(second.with_extension("wasm.sig")).unwrap();
    let elsewhere = mill.dir().join("signature.txt");
    std::fs::write(&elsewhere, base64::Engine::encode(&base64::prelude::BASE64_STANDARD, signature)).unwrap();
    let report = mill.json(&["deploy", "faults", path(&second), "--signature", path(&elsewhere)]);
    assert_eq!(report["previous"], one);
    assert!(mill.failure(2, &["deploy", "faults", path(&second), "--signature", path(&second)]).contains("64 bytes"));
    assert_eq!(mill.json(&["rollback", "faults"])["current"], one);
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
}

#[test]
fn what_is_configured_must_be_signed() {
    let keys = Keys::new(&["a"]);
    let component = keys.component(None);
    let place = Place::new(&sections(&component, &keys.section(&["a"])));
    for arguments in [&["check"][..], &["run", "--embedded"]] {
        let output = place.run(arguments);
        let text = said(&output) + &String::from_utf8_lossy(&output.stdout);
        assert!(
            code(&output) == 2 && text.contains("handlers.faults.component") && text.contains("not signed"),
            "{text}"
        );
    }
    keys.sign("a", &component);
    assert_eq!(code(&place.run(&["check"])), 0);
    // A private key in the place of a public one would be spread.
    let private = Place::new(&sections(&component, &keys.section(&["a"]).replace("a.pem", "a")));
    let output = private.run(&["check"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(code(&output) == 2 && text.contains("holds a private key"), "{text}");
}

#[test]
fn a_reload_takes_over_nothing_that_is_not_signed() {
    let keys = Keys::new(&["a"]);
    let component = keys.component(Some("a"));
    let mill = Mill::start_with(Way::Embedded, &sections(&component, &keys.section(&["a"])), None);
    let other = [std::fs::read(&component).unwrap(), vec![0, 2, 1, b'x']].concat();
    std::fs::write(&component, other).unwrap();
    let reload = || mill.http("POST", "/v1/reload", &[], b"");
    let refused = reload();
    assert!(refused.status == 422 && refused.body.contains("is that of other bytes"), "{refused:?}");
    std::fs::remove_file(component.with_extension("wasm.sig")).unwrap();
    assert!(reload().body.contains("is not signed"));
    keys.sign("a", &component);
    assert_eq!(reload().json()["changed"], serde_json::json!(["handlers.faults"]));
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
}

#[test]
fn a_registry_carries_the_signature_as_an_annotation() {
    let (keys, registry) = (Keys::new(&["a", "b"]), Registry::start());
    let component = keys.component(Some("a"));
    let mill = Mill::start_with(Way::Redis, &sections(&component, &keys.section(&["a"])), None);
    let next = version(&mill, b'1');
    let bytes = std::fs::read(&next).unwrap();
    let annotation = |key: &str| {
        let signature = std::fs::read(keys.sign(key, &next)).unwrap();
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, signature)
    };
    let push = |tag: &str, value: &str| {
        registry.push_component(&format!("faults:{tag}"), &bytes, &[("dev.wasmill.signature", value)])
    };
    let unsigned = registry.push_component("faults:0", &bytes, &[]);
    assert!(mill.failure(2, &["deploy", "faults", &unsigned]).contains("not signed"));
    assert!(mill.failure(2, &["deploy", "faults", &push("1", &annotation("b"))]).contains("by none of"));
    assert!(mill.failure(2, &["deploy", "faults", &push("2", "x")]).contains("dev.wasmill.signature"));
    let good = push("3", &annotation("a"));
    assert_eq!(mill.json(&["deploy", "faults", &good])["versions"][0]["source"], *good);
    // Also where it is configured.
    let check =
        |component: &str| code(&Place::new(&sections(Path::new(component), &keys.section(&["a"]))).run(&["check"]));
    assert_eq!((check(&good), check(&unsigned)), (0, 2));
}

/// A worker of the mill's Redis, with these keys.
fn worker_with(mill: &Mill, keys: &Keys, name: &str) -> Worker {
    let config = std::fs::read_to_string(mill.dir().join("wasmill.toml")).unwrap() + &keys.section(&[name]);
    Worker::spawn(&config)
}

fn wait_ready(worker: &Worker) {
    eventually("the worker with keys", DEADLINE, || worker.stderr_text().contains("ready").then_some(()));
}

#[test]
fn each_worker_has_its_own_keys() {
    let keys = Keys::new(&["a"]);
    // Neither this worker nor the command has keys.
    let mill = Mill::start_with(Way::Redis, &sections(&keys.component(Some("a")), ""), None);
    let strict = worker_with(&mill, &keys, "a");
    wait_ready(&strict);
    let next = version(&mill, b'1');
    let before = serving(&mill);
    let refused = mill.failure(1, &["deploy", "faults", path(&next)]);
    assert!(refused.contains("faults stays as it was") && refused.contains("not signed"), "{refused}");
    assert_eq!((serving(&mill), before.len()), (before, 2));
    // The same component, at once, with what was missing.
    keys.sign("a", &next);
    let current = deploy(&mill, &next)["current"].clone();
    assert_eq!(settled(&mill), (current, 2));
}

#[test]
fn what_is_compiled_already_is_verified_as_well() {
    let keys = Keys::new(&["a"]);
    let mill = Mill::start_with(Way::Redis, &sections(&keys.component(Some("a")), ""), None);
    let next = version(&mill, b'1');
    keys.sign("a", &next);
    let current = deploy(&mill, &next)["current"].clone();
    let mut redis = ::redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap();
    let mut get =
        || -> String { ::redis::cmd("HGET").arg("wasmill:deployments").arg("faults").query(&mut redis).unwrap() };
    let signed = get();
    let mut record: Value = serde_json::from_str(&signed).unwrap();
    assert!(record["versions"][0].as_object_mut().unwrap().remove("signature").is_some());
    let mut set = |text: &str| {
        ::redis::cmd("HSET").arg("wasmill:deployments").arg("faults").arg(text).exec(&mut redis).unwrap();
    };
    set(&record.to_string());
    let strict = worker_with(&mill, &keys, "a");
    let told = eventually("the worker to say why it cannot serve", DEADLINE, || {
        Some(strict.stderr_text()).filter(|text| text.contains("cannot serve it"))
    });
    assert!(told.contains("the component is not signed") && !told.contains("ready"), "{told}");
    drop(strict);
    set(&signed);
    wait_ready(&worker_with(&mill, &keys, "a"));
    // Nor do other bytes in the store pass for the ones that were signed.
    let bytes = [std::fs::read(&next).unwrap(), vec![0, 2, 1, b'x']].concat();
    let key = format!("wasmill:component:{}", current.as_str().unwrap());
    ::redis::cmd("SET").arg(key).arg(bytes).exec(&mut redis).unwrap();
    let strict = worker_with(&mill, &keys, "a");
    eventually("the worker to say why it cannot serve", DEADLINE, || {
        strict.stderr_text().contains("cannot serve it").then_some(())
    });
    assert!(!strict.stderr_text().contains("ready"), "{}", strict.stderr_text());
}
