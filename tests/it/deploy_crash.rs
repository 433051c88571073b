//! SIGKILL at every step of a deployment, for those who take part in it: the fleet ends on one version, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use wasmill::wasm::Digest;
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::program::Program;
use wasmill_tests::proxy::{Moment, Proxy};
use wasmill_tests::worker::Worker;
use wasmill_tests::{eventually, guests};

const DEADLINE: Duration = Duration::from_secs(60);
/// A deployment that has more steps than that goes round in circles.
const MAX_STEPS: usize = 60;

/// Two workers, one of which talks to Redis through a proxy, and the deployments that are tried on them.
struct Fleet {
    mill: Mill,
    redis: redis::Connection,
    /// The worker behind the proxy.
    second: Worker,
    proxy: Proxy,
    bytes: Vec<u8>,
    versions: usize,
    events: usize,
}

impl Fleet {
    fn start() -> Fleet {
        let mill = Mill::start(Way::Redis, "");
        let server = mill.server.as_ref().unwrap();
        let redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        let (second, proxy) = worker_behind_proxy(&mill);
        let bytes = std::fs::read(guests::component("faults")).unwrap();
        let mut fleet = Fleet { mill, redis, second, proxy, bytes, versions: 0, events: 0 };
        fleet.deploy();
        fleet
    }

    /// A version that nobody has seen before, and its digest.
    fn version(&mut self) -> (PathBuf, String) {
        self.versions += 1;
        let name = format!("{:04}", self.versions);
        // A section that does nothing: its size, and its name with the size of that.
        let bytes = [&self.bytes[..], &[0, 5, 4], name.as_bytes()].concat();
        let path = self.mill.dir().join(format!("v{name}.wasm"));
        std::fs::write(&path, &bytes).unwrap();
        (path, Digest::of(&bytes).hex())
    }

    fn spawn_deploy(&mut self, config: &str) -> (Program, String) {
        let (component, digest) = self.version();
        let arguments = ["deploy", "faults", component.to_str().unwrap(), "--config", config, "--output", "json"];
        (Program::spawn(self.mill.dir(), &arguments), digest)
    }

    /// Deploys a new version, without a fault.
    fn deploy(&mut self) {
        let (component, digest) = self.version();
        let report = self.mill.json(&["deploy", "faults", component.to_str().unwrap()]);
        assert_eq!(report["current"], digest);
    }

    fn publish(&mut self) {
        for _ in 0..5 {
            self.events += 1;
            self.mill.publish("faults.in", &self.events.to_string(), "echo", "{}");
        }
    }

    /// The record as it is: asking by `wasmill versions` could bring a deployment to its end.
    fn record(&mut self) -> Value {
        let text: String = redis::cmd("HGET").arg("wasmill:deployments").arg("faults").query(&mut self.redis).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until nothing goes on, and returns the version that all workers serve.
    fn settled(&mut self, what: &str) -> String {
        eventually(&format!("the rollout to end: {what}"), DEADLINE, || {
            self.record()["rollout"].is_null().then_some(())
        });
        eventually(&format!("two workers to serve the same: {what}"), DEADLINE, || {
            let report = self.mill.json(&["versions", "faults"]);
            let workers = report["workers"].as_array().unwrap();
            let is_settled = workers.len() == 2 && workers.iter().all(|worker| worker["serves"] == report["current"]);
            is_settled.then(|| report["current"].as_str().unwrap().to_owned())
        })
    }

    /// What is kept is what is listed, nothing is left that nobody needs, and the bytes are those of the digest.
    fn check_components(&mut self, current: &str, what: &str) {
        self.mill.json(&["gc", "--keep-last", "0"]);
        let listed: BTreeMap<String, u64> =
            redis::cmd("HGETALL").arg("wasmill:components").query(&mut self.redis).unwrap();
        let keys: BTreeSet<String> = redis::cmd("KEYS").arg("wasmill:component:*").query(&mut self.redis).unwrap();
        let expected: BTreeSet<String> = listed.keys().map(|digest| format!("wasmill:component:{digest}")).collect();
        assert_eq!(keys, expected, "{what}");
        let previous = self.record()["previous"].as_str().map(str::to_owned);
        let wanted: BTreeSet<String> = previous.into_iter().chain([current.to_owned()]).collect();
        assert_eq!(listed.keys().cloned().collect::<BTreeSet<_>>(), wanted, "{what}");
        for (digest, size) in listed {
            let key = format!("wasmill:component:{digest}");
            let bytes: Vec<u8> = redis::cmd("GET").arg(key).query(&mut self.redis).unwrap();
            assert_eq!((Digest::of(&bytes).hex(), bytes.len() as u64), (digest, size), "{what}");
        }
    }

    /// Every event has been handled once.
    fn check_events(&mut self) {
        self.publish();
        self.mill.wait_settled("faults");
        let events = self.mill.events("faults.out");
        let causes: BTreeSet<&str> = events.iter().map(|event| event["causationid"].as_str().unwrap()).collect();
        assert_eq!((events.len(), causes.len()), (self.events, self.events));
    }
}

fn worker_behind_proxy(mill: &Mill) -> (Worker, Proxy) {
    let server = mill.server.as_ref().unwrap();
    let proxy = Proxy::start(server.port());
    let config = std::fs::read_to_string(mill.dir().join("wasmill.toml")).unwrap();
    let config = config.replace(&server.url(), &proxy.url());
    // Its compiled components are its own: what the other one has compiled is of no use to it.
    let cache = format!("[worker]\ncache_dir = \"{}\"", mill.dir().join("second").display());
    let worker = Worker::spawn(&config.replace("[worker]", &cache));
    eventually("the second worker", DEADLINE, || worker.stderr_text().contains("ready").then_some(()));
    (worker, proxy)
}

/// Kills one of two workers at each of its steps, until a deployment has so few; returns the steps.
fn kill_a_worker(moment: Moment) -> BTreeSet<String> {
    let mut fleet = Fleet::start();
    let config = fleet.mill.dir().join("wasmill.toml").display().to_string();
    let mut killed_at = BTreeSet::new();
    for step in 1..=MAX_STEPS {
        fleet.proxy.stop_at(step, moment);
        fleet.publish();
        let (mut command, digest) = fleet.spawn_deploy(&config);
        let stopped = eventually("the step, or the end of the deployment", DEADLINE, || {
            let stopped = fleet.proxy.stopped();
            if stopped.is_some() { Some(stopped) } else { command.try_wait().map(|_| None) }
        });
        let what = format!("{moment:?} step {step}, {stopped:?}");
        if stopped.is_some() {
            fleet.second.kill();
            (fleet.second, fleet.proxy) = worker_behind_proxy(&fleet.mill);
        }
        fleet.publish();
        // A worker that is gone is not waited for.
        assert!(command.wait_exit(DEADLINE).success(), "{what}: {}", command.text());
        assert_eq!(fleet.settled(&what), digest, "{what}");
        fleet.check_components(&digest, &what);
        match stopped {
            Some(step) => killed_at.insert(step),
            None => {
                fleet.check_events();
                return killed_at;
            }
        };
    }
    panic!("a deployment has more than {MAX_STEPS} steps")
}

#[test]
fn a_worker_that_is_killed_before_it_writes_leaves_a_whole_fleet() {
    let steps = kill_a_worker(Moment::Before);
    assert!(steps.contains("HSET wasmill:deploying:"), "{steps:?}");
}

#[test]
fn a_worker_that_is_killed_after_any_step_leaves_a_whole_fleet() {
    let steps = kill_a_worker(Moment::After);
    for step in ["HGETALL wasmill:deployments", "GET wasmill:component:", "HSET wasmill:deploying:"] {
        assert!(steps.contains(step), "{step}: {steps:?}");
    }
}

/// Kills the deploying command at each of its steps, until a deployment has so few; returns the steps.
fn kill_the_command(moment: Moment) -> BTreeSet<String> {
    let mut fleet = Fleet::start();
    let server = fleet.mill.server.as_ref().unwrap();
    let (port, url) = (server.port(), server.url());
    let direct = std::fs::read_to_string(fleet.mill.dir().join("wasmill.toml")).unwrap();
    let config = fleet.mill.dir().join("proxied.toml");
    let mut killed_at = BTreeSet::new();
    for step in 1..=MAX_STEPS {
        let proxy = Proxy::start(port);
        std::fs::write(&config, direct.replace(&url, &proxy.url())).unwrap();
        proxy.stop_at(step, moment);
        let before = fleet.record()["current"].as_str().unwrap().to_owned();
        fleet.publish();
        let (mut command, digest) = fleet.spawn_deploy(config.to_str().unwrap());
        let stopped = eventually("the step, or the end of the deployment", DEADLINE, || {
            let stopped = proxy.stopped();
            if stopped.is_some() { Some(stopped) } else { command.try_wait().map(|_| None) }
        });
        let what = format!("{moment:?} step {step}, {stopped:?}");
        if stopped.is_some() {
            command.kill();
        } else {
            assert!(command.wait_exit(DEADLINE).success(), "{what}: {}", command.text());
        }
        // What is written down comes true, and what is not has not happened.
        let record = fleet.record();
        let has_begun = record["current"] == digest.as_str() || record["rollout"]["digest"] == digest.as_str();
        let expected = if has_begun { &digest } else { &before };
        assert_eq!(fleet.settled(&what), *expected, "{what}");
        fleet.check_components(expected, &what);
        fleet.publish();
        // Nothing is in the way of the next one.
        fleet.deploy();
        match stopped {
            Some(step) => killed_at.insert(step),
            None => {
                fleet.check_events();
                return killed_at;
            }
        };
    }
    panic!("a deployment has more than {MAX_STEPS} steps")
}

#[test]
fn a_command_that_is_killed_before_it_writes_leaves_a_whole_fleet() {
    let steps = kill_the_command(Moment::Before);
    for step in ["SET wasmill:component:", "HSET wasmill:components", "EVALSHA wasmill:deployments"] {
        assert!(steps.contains(step), "{step}: {steps:?}");
    }
}

#[test]
fn a_command_that_is_killed_after_any_step_leaves_a_whole_fleet() {
    let steps = kill_the_command(Moment::After);
    for step in ["SET wasmill:component:", "HSET wasmill:components", "EVALSHA wasmill:deployments"] {
        assert!(steps.contains(step), "{step}: {steps:?}");
    }
}
