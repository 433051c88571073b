//! Another version of a handler takes its place while it works: no event is lost or run twice, and no instance outlives its
//! version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wasmill::app;
use wasmill::broker::memory::MemoryBroker;
use wasmill::broker::{EntryId, Inspect as _};
use wasmill::config::Config;
use wasmill::envelope;
use wasmill::pipeline::{self, Backend, How, Observer, Seen};
use wasmill::readiness::Readiness;
use wasmill::wasm::{Component, Digest, Engine, EngineSettings};
use wasmill_tests::{eventually_async, guests};

const DEADLINE: Duration = Duration::from_secs(60);
const EVENTS: usize = 3000;
const SWAPS: usize = 30;

/// The same component with something at its end that does nothing: another version.
fn other_version(of: &[u8], name: u8) -> Vec<u8> {
    [of, &[0, 2, 1, name]].concat()
}

/// Which versions have run each entry.
#[derive(Debug, Default)]
struct Runs(Mutex<BTreeMap<EntryId, Vec<String>>>);

impl Observer for Runs {
    fn decided(&self, seen: &Seen<'_>) {
        let How::Run(run) = seen.how else { panic!("every event is run: {seen:?}") };
        let digest = run.digest.to_owned();
        self.0.lock().unwrap().entry(seen.entry).or_default().push(digest);
    }
}

/// A handler on a broker in this process.
struct Shop {
    config: Config,
    broker: MemoryBroker,
    engine: Engine,
    component: std::path::PathBuf,
    bytes: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Shop {
    fn new(settings: &str) -> Shop {
        let dir = tempfile::tempdir().unwrap();
        let component = dir.path().join("faults.wasm");
        let bytes = std::fs::read(guests::component("faults")).unwrap();
        std::fs::write(&component, &bytes).unwrap();
        let text = format!(
            "[worker]\nthreads = 2\n[limits]\nmemory = \"8 MiB\"\n[handlers.faults]\ncomponent = \"{}\"\n\
             streams = [\"in\"]\npublishes = [\"faults.out\"]\nisolation = \"reuse\"\n{settings}",
            component.display()
        );
        let config = Config::parse(None, &text, []).unwrap();
        let engine = app::engine(&config).unwrap();
        Shop { config, broker: MemoryBroker::new(), engine, component, bytes, _dir: dir }
    }

    fn add(&self, id: usize, r#type: &str, data: &str) {
        let id = id.to_string();
        let fields = [("ce_id", id.as_str()), ("ce_source", "/t"), ("ce_type", r#type), ("data", data)];
        let fields = fields.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        self.broker.append("in", fields.collect());
    }

    /// Compiles both versions once, so that what follows is about swapping.
    fn version(&self, name: u8) -> wasmill::deploy::Version {
        std::fs::write(&self.component, other_version(&self.bytes, name)).unwrap();
        let resolved = self.config.handler("faults").unwrap();
        app::version(&self.config, &resolved, &self.engine, None).unwrap()
    }

    async fn wait_settled(&self) {
        eventually_async("everything to be settled", DEADLINE, async || {
            let info = self.broker.stream("in").await.unwrap()?;
            info.groups.iter().any(|group| group.pending == 0 && group.lag == Some(0)).then_some(())
        })
        .await;
    }

    /// What was published, with the event that each comes from.
    async fn published(&self) -> Vec<(String, String)> {
        let entries = self.broker.range("faults.out", EntryId::MIN, EntryId::MAX, usize::MAX).await.unwrap();
        let event = |fields, ms| envelope::decode(fields, ms).unwrap();
        let events = entries.into_iter().map(|entry| event(entry.fields, entry.id.ms));
        let pair = |event: wasmill::event::Event| {
            let cause = event.attribute("causationid").unwrap().to_owned();
            (cause, String::from_utf8(event.data).unwrap())
        };
        events.map(pair).collect()
    }

    /// Serves while `work` is done, and drains.
    async fn serve(&self, runs: &Arc<Runs>, work: impl AsyncFnOnce(&pipeline::Deployment)) {
        std::fs::write(&self.component, &self.bytes).unwrap();
        let deployments = app::deployments(&self.config, &self.engine, None).unwrap();
        let deployment = deployments[0].clone();
        let (_, orders) = app::roster(&self.config, deployments);
        let worker = pipeline::Worker { observer: Some(runs.clone()), ..app::worker(&self.config) };
        let backend = Backend::Memory(self.broker.clone());
        let shutdown = work(&deployment);
        pipeline::serve(worker, backend, orders, &Readiness::default(), shutdown).await.unwrap();
    }
}

#[tokio::test]
async fn no_event_is_lost_or_run_twice_by_many_swaps() {
    let shop = Shop::new("");
    let runs = Arc::new(Runs::default());
    shop.serve(&runs, async |deployment| {
        let mut versions = BTreeSet::from([deployment.slot.current().digest.clone()]);
        // Compiled once: the cache is off, and compiling takes longer than all of the events.
        let prepared: Vec<_> = (0..3).map(|name| shop.version(name)).collect();
        let share = EVENTS / SWAPS;
        for swap in 0..SWAPS {
            for id in swap * share..(swap + 1) * share {
                shop.add(id, "echo", "{}");
            }
            // Some have begun, some have not.
            tokio::time::sleep(Duration::from_millis(3)).await;
            let next = &prepared[swap % prepared.len()];
            versions.insert(next.digest.clone());
            deployment
                .slot
                .swap(wasmill::deploy::Version { handler: next.handler.clone(), digest: next.digest.clone() });
        }
        shop.wait_settled().await;
        assert_eq!(versions.len(), 4);
    })
    .await;
    let runs = runs.0.lock().unwrap().clone();
    assert_eq!(runs.len(), EVENTS);
    let twice = runs.iter().filter(|(_, versions)| versions.len() != 1).count();
    assert_eq!(twice, 0, "{runs:?}");
    let versions: BTreeSet<&String> = runs.values().flatten().collect();
    assert!(versions.len() >= 3, "the swaps came while there was work: {versions:?}");
    let published = shop.published().await;
    let causes: BTreeSet<&String> = published.iter().map(|(cause, _)| cause).collect();
    assert_eq!((published.len(), causes.len()), (EVENTS, EVENTS));
}

#[tokio::test]
async fn what_begins_after_a_swap_runs_the_new_version_in_new_instances() {
    let shop = Shop::new("[handlers.faults.limits]\nconcurrency = 1\n");
    let runs = Arc::new(Runs::default());
    shop.serve(&runs, async |deployment| {
        let next = shop.version(1);
        let digest = next.digest.clone();
        assert_eq!(digest, Digest::of(&other_version(&shop.bytes, 1)).to_string());
        for id in 0..3 {
            shop.add(id, "remember", "");
        }
        shop.wait_settled().await;
        let before = deployment.slot.swap(next);
        assert_ne!(before.digest, digest);
        for id in 3..5 {
            shop.add(id, "remember", "");
        }
        shop.wait_settled().await;
        // Nobody holds what is out of use.
        eventually_async("the old version to be dropped", DEADLINE, async || {
            (Arc::strong_count(&before) == 1).then_some(())
        })
        .await;
    })
    .await;
    let counts: Vec<String> = shop.published().await.into_iter().map(|(_, data)| data).collect();
    assert_eq!(counts, ["1", "2", "3", "1", "2"], "an instance of the old version was used again");
    let runs = runs.0.lock().unwrap();
    let versions: Vec<&String> = runs.values().flatten().collect();
    assert!(versions[..3].iter().all(|version| *version == versions[0]) && versions[3] != versions[0], "{versions:?}");
}

#[tokio::test]
async fn what_has_begun_ends_on_its_version_and_an_idle_thread_lets_go_of_it() {
    let shop = Shop::new("[handlers.faults.limits]\nconcurrency = 1\n");
    let runs = Arc::new(Runs::default());
    shop.serve(&runs, async |deployment| {
        let next = shop.version(1);
        shop.add(0, "remember", "");
        shop.wait_settled().await;
        shop.add(1, "sleep", "1500");
        eventually_async("the event to be handed out", DEADLINE, async || {
            let info = shop.broker.stream("in").await.unwrap()?;
            info.groups.iter().any(|group| group.pending == 1).then_some(())
        })
        .await;
        // A thread begins what it was handed out at once.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = deployment.slot.swap(next);
        shop.wait_settled().await;
        let versions: Vec<String> = runs.0.lock().unwrap().values().flatten().cloned().collect();
        assert_eq!(versions, [before.digest.clone(), before.digest.clone()]);
        // No delivery comes that would show the thread the new version.
        eventually_async("the old version to be dropped", DEADLINE, async || {
            (Arc::strong_count(&before) == 1).then_some(())
        })
        .await;
        shop.add(2, "remember", "");
        shop.wait_settled().await;
    })
    .await;
    let counts: Vec<String> = shop.published().await.into_iter().map(|(_, data)| data).collect();
    assert_eq!(counts, ["1", "1"], "the instance that ended after the swap was used again");
}

#[test]
fn another_version_is_a_component_of_its_own() {
    let shop = Shop::new("");
    let [one, other] = [1, 2].map(|name| other_version(&shop.bytes, name));
    assert_ne!(Digest::of(&one).to_string(), Digest::of(&other).to_string());
    assert!(Component::new(&shop.engine, None, &one).is_ok());
}

/// A thousand handlers with the same component take the memory of one.
#[test]
fn handlers_with_the_same_component_share_its_code_as_long_as_one_of_them_lives() {
    let engine = Engine::new(EngineSettings::default()).unwrap();
    let bytes = std::fs::read(guests::component("faults")).unwrap();
    let load = |bytes: &[u8]| Component::new(&engine.apart(), None, bytes).unwrap();
    let (first, second) = (load(&bytes), load(&bytes));
    assert!(first.shares_code_with(&second));
    assert_eq!((first.digest, first.size, &first.imports), (second.digest, second.size, &second.imports));
    assert!(!first.shares_code_with(&load(&other_version(&bytes, b'1'))));
    drop(first);
    assert!(second.shares_code_with(&load(&bytes)));
    let elsewhere = Engine::new(EngineSettings::default()).unwrap();
    assert!(!second.shares_code_with(&Component::new(&elsewhere, None, &bytes).unwrap()));
}
