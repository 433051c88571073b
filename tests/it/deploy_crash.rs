//! SIGKILL at every step of a deployment, for those who take part in it: the fleet ends on one version, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
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
    /// The digests of all versions that have been deployed or begun to be.
    deployed: Vec<String>,
    events: usize,
}

impl Fleet {
    fn start() -> Fleet {
        let mill = Mill::start(Way::Redis, "");
        let server = mill.server.as_ref().unwrap();
        let redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        let (second, proxy) = worker_behind_proxy(&mill);
        let bytes = std::fs::read(guests::component("faults")).unwrap();
        let mut fleet = Fleet { mill, redis, second, proxy, bytes, deployed: Vec::new(), events: 0 };
        fleet.deploy();
        fleet
    }

    /// A version that nobody has seen before, and its digest.
    fn version(&mut self) -> (PathBuf, String) {
        let name = format!("{:04}", self.deployed.len());
        // A section that does nothing: its size, and its name with the size of that.
        let bytes = [&self.bytes[..], &[0, 5, 4], name.as_bytes()].concat();
        let path = self.mill.dir().join(format!("v{name}.wasm"));
        std::fs::write(&path, &bytes).unwrap();
        let digest = Digest::of(&bytes).hex();
        self.deployed.push(digest.clone());
        (path, digest)
    }

    fn spawn_deploy(&mut self, config: &Path) -> (Program, String) {
        let (component, digest) = self.version();
        let command = ["deploy", "faults", component.to_str().unwrap(), "--config", config.to_str().unwrap()];
        (Program::spawn(self.mill.dir(), &command), digest)
    }

    /// A proxy, and a configuration for a command that is to go through it.
    fn proxy(&self) -> (Proxy, PathBuf) {
        let server = self.mill.server.as_ref().unwrap();
        let proxy = Proxy::start(server.port());
        let config = std::fs::read_to_string(self.mill.dir().join("wasmill.toml")).unwrap();
        let path = self.mill.dir().join("proxied.toml");
        std::fs::write(&path, config.replace(&server.url(), &proxy.url())).unwrap();
        (proxy, path)
    }

    /// Deploys a new version, without a fault.
    fn deploy(&mut self) -> String {
        let (component, digest) = self.version();
        let report = self.mill.json(&["deploy", "faults", component.to_str().unwrap()]);
        assert_eq!(report["current"], digest.as_str());
        digest
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
        let by: BTreeSet<&str> = events.iter().map(|event| event["handlerdigest"].as_str().unwrap()).collect();
        let deployed: Vec<String> = self.deployed.iter().map(|digest| format!("sha256:{digest}")).collect();
        assert!(by.iter().all(|digest| deployed.iter().any(|known| known == digest)), "{by:?}");
    }
}

fn worker_behind_proxy(mill: &Mill) -> (Worker, Proxy) {
    let server = mill.server.as_ref().unwrap();
    let proxy = Proxy::start(server.port());
    let worker = second_worker(mill, &proxy);
    eventually("the second worker", DEADLINE, || worker.stderr_text().contains("ready").then_some(()));
    (worker, proxy)
}

/// Its compiled components are its own: what the other one has compiled is of no use to it.
fn second_worker(mill: &Mill, proxy: &Proxy) -> Worker {
    let config = std::fs::read_to_string(mill.dir().join("wasmill.toml")).unwrap();
    let config = config.replace(&mill.server.as_ref().unwrap().url(), &proxy.url());
    let cache = format!("[worker]\ncache_dir = \"{}\"", mill.dir().join("second").display());
    Worker::spawn(&config.replace("[worker]", &cache))
}

/// Waits until the proxy has stopped at a step, which it names, or the command has ended.
fn stop_or_end(proxy: &Proxy, command: &mut Program) -> Option<String> {
    eventually("the step, or the end of the command", DEADLINE, || {
        let stopped = proxy.stopped();
        if stopped.is_some() { Some(stopped) } else { command.try_wait().map(|_| None) }
    })
}

/// Deploys with a kill at each step, until a deployment has so few; returns the steps. `deploy` does it with a kill at that
/// step, and says which one it was.
fn at_every_step(mut deploy: impl FnMut(&mut Fleet, usize) -> Option<String>) -> BTreeSet<String> {
    let mut fleet = Fleet::start();
    let mut killed_at = BTreeSet::new();
    for step in 1..=MAX_STEPS {
        match deploy(&mut fleet, step) {
            Some(step) => killed_at.insert(step),
            None => {
                fleet.check_events();
                return killed_at;
            }
        };
    }
    panic!("a deployment has more than {MAX_STEPS} steps")
}

/// Kills one of two workers at each of its steps; returns them.
fn kill_a_worker(moment: Moment) -> BTreeSet<String> {
    at_every_step(|fleet, step| {
        let config = fleet.mill.dir().join("wasmill.toml");
        fleet.proxy.stop_at(step, moment);
        fleet.publish();
        let (mut command, digest) = fleet.spawn_deploy(&config);
        let stopped = stop_or_end(&fleet.proxy, &mut command);
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
        stopped
    })
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

/// Kills the deploying command at each of its steps; returns them.
fn kill_the_command(moment: Moment) -> BTreeSet<String> {
    at_every_step(|fleet, step| {
        let (proxy, config) = fleet.proxy();
        proxy.stop_at(step, moment);
        let before = fleet.record()["current"].as_str().unwrap().to_owned();
        fleet.publish();
        let (mut command, digest) = fleet.spawn_deploy(&config);
        let stopped = stop_or_end(&proxy, &mut command);
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
        stopped
    })
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

#[test]
fn what_a_killed_gc_leaves_the_next_one_removes() {
    let mut fleet = Fleet::start();
    fleet.deploy();
    let mut killed_at = BTreeSet::new();
    for moment in [Moment::Before, Moment::After] {
        for step in 1..=MAX_STEPS {
            // Now there is one that nobody needs.
            fleet.deploy();
            let current = fleet.record()["current"].as_str().unwrap().to_owned();
            let (proxy, config) = fleet.proxy();
            proxy.stop_at(step, moment);
            let gc = ["gc", "--keep-last", "0", "--config", config.to_str().unwrap()];
            let mut command = Program::spawn(fleet.mill.dir(), &gc);
            let stopped = stop_or_end(&proxy, &mut command);
            command.kill();
            fleet.check_components(&current, &format!("{moment:?} step {step}, {stopped:?}"));
            let Some(step) = stopped else { break };
            killed_at.insert(step);
        }
    }
    for step in ["DEL wasmill:component:", "HDEL wasmill:components", "HGETALL wasmill:deployments"] {
        assert!(killed_at.contains(step), "{step}: {killed_at:?}");
    }
}

#[test]
fn a_rollout_throws_a_damaged_compiled_component_away_and_makes_it_anew() {
    let mut fleet = Fleet::start();
    let (first, second) = (fleet.deploy(), fleet.deploy());
    // What it holds in memory goes with it.
    fleet.second.kill();
    let cache = fleet.mill.dir().join("second");
    let entries = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    let is_first = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&first);
    let entry = entries.into_iter().find(is_first).expect("a compiled component");
    let mut damaged = std::fs::read(&entry).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&entry, &damaged).unwrap();
    (fleet.second, fleet.proxy) = worker_behind_proxy(&fleet.mill);
    assert_eq!(fleet.settled("with a damaged entry"), second);
    assert_eq!(fleet.mill.json(&["rollback", "faults", "--to", &first])["current"], first.as_str());
    assert_eq!(fleet.settled("after the rollback"), first);
    let said = fleet.second.stderr_text();
    assert!(said.contains("a damaged entry of the compiled cache is thrown away"), "{said}");
    assert_ne!(std::fs::read(&entry).unwrap(), damaged, "it has been made anew");
    fleet.check_events();
    // A cache that others can write is not even looked at.
    fleet.second.kill();
    std::fs::set_permissions(&cache, std::os::unix::fs::PermissionsExt::from_mode(0o770)).unwrap();
    let mut refused = second_worker(&fleet.mill, &fleet.proxy);
    assert!(!refused.wait_exit(DEADLINE).success());
    assert!(refused.stderr_text().contains("chmod 700"), "{}", refused.stderr_text());
}
