//! Two workers, and what is deployed to them by their HTTP API.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use super::super::measure::{IN, OUT, Process, Server, ask, free_port, get, wait};
use super::SWAP_EVERY;
use crate::cmd::Result;

/// The handler of the events.
const HANDLER: &str = "bench";
/// The handler for which Python components are compiled. No event is for it.
pub const PYTHON_HANDLER: &str = "python";
/// Within this time a worker notices that a handler is paused.
const PAUSE: Duration = Duration::from_secs(1);
/// What a worker logs when it has switched.
const SWITCHED: &str = "another version serves from now on";

/// The workers.
pub struct Fleet {
    /// The number of the next event.
    pub next_event: usize,
    workers: Vec<Running>,
    _directory: tempfile::TempDir,
    redis: redis::Connection,
    /// The two versions; the last one that was asked for is the second.
    versions: [String; 2],
    /// When which version was asked for.
    swaps: Vec<(Timestamp, String)>,
    python: Vec<u8>,
    /// The rollout for which is compiled.
    rollout: String,
}

struct Running {
    _process: Process,
    admin: u16,
    log: PathBuf,
}

impl Running {
    fn start(root: &Path, server: &Server, directory: &Path) -> Result<Running> {
        fs::create_dir(directory)?;
        let (admin, log) = (free_port()?, directory.join("log"));
        // A cache of its own: both are to compile, as on two machines.
        let config = format!(
            "[redis]\nurl = \"{}\"\n[log]\nlevel = \"error,wasmill::pipeline::rollout=info\"\nformat = \"json\"\n\
             [admin]\nlisten = \"127.0.0.1:{admin}\"\n[worker]\nthreads = 1\ncache_dir = \"cache\"\n\
             [handlers.{HANDLER}]\ncomponent = \"{component}\"\nstreams = [\"{IN}\"]\npublishes = [\"{OUT}\"]\n\
             [handlers.{PYTHON_HANDLER}]\ncomponent = \"{component}\"\nstreams = [\"bench.python\"]\n\
             [handlers.{PYTHON_HANDLER}.limits]\nmemory = \"256 MiB\"\n",
            server.url(),
            component = component(root, "bench").display(),
        );
        let file = directory.join("wasmill.toml");
        fs::write(&file, config)?;
        let mut command = Command::new(root.join("target/release/wasmill"));
        command.arg("run").arg("--config").arg(file).stderr(File::create(&log)?);
        Ok(Running { _process: Process(command.spawn()?), admin, log })
    }

    fn call(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Result<Value> {
        let answer = ask(self.admin, method, path, content_type, body)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("the worker does not answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            return Err(format!("{method} {path}: {answer}").into());
        }
        Ok(serde_json::from_str(body)?)
    }
}

fn component(root: &Path, name: &str) -> PathBuf {
    root.join(format!("target/guests/{name}.wasm"))
}

/// A component with something at its end that does nothing: another version.
fn other_version(of: &[u8], name: u8) -> Vec<u8> {
    [of, &[0, 2, 1, name]].concat()
}

impl Fleet {
    /// Starts two workers, and deploys two versions of the handler.
    pub fn start(root: &Path, server: &Server) -> Result<Fleet> {
        let python = fs::read(component(root, "enrich-python")).map_err(|error| {
            format!("enrich-python.wasm: {error}: `cargo xtask guests python` says what is missing")
        })?;
        let directory = tempfile::tempdir()?;
        let workers = ["a", "b"].map(|name| Running::start(root, server, &directory.path().join(name)));
        let workers = workers.into_iter().collect::<Result<Vec<_>>>()?;
        for worker in &workers {
            wait("a worker is ready", || {
                Ok(get(worker.admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")).then_some(()))
            })?;
        }
        let mut fleet = Fleet {
            next_event: 0,
            workers,
            _directory: directory,
            redis: server.connection()?,
            versions: Default::default(),
            swaps: Vec::new(),
            python,
            rollout: String::new(),
        };
        let bytes = fs::read(component(root, "bench"))?;
        for (at, name) in [b'1', b'2'].into_iter().enumerate() {
            let begun = fleet.deploy(HANDLER, &other_version(&bytes, name))?;
            fleet.versions[at] = begun["rollout"]["digest"].as_str().unwrap_or_default().to_owned();
            fleet.wait_deployed(HANDLER)?;
        }
        Ok(fleet)
    }

    fn deploy(&self, handler: &str, bytes: &[u8]) -> Result<Value> {
        let path = format!("/v1/handlers/{handler}/versions?by=bench");
        self.workers[0].call("POST", &path, "application/wasm", bytes)
    }

    /// Waits until every worker serves what was deployed.
    fn wait_deployed(&self, handler: &str) -> Result<()> {
        let path = format!("/v1/handlers/{handler}/versions");
        wait("a version is deployed", || {
            let report = self.workers[0].call("GET", &path, "application/json", b"")?;
            if let Some(why) = report["last"]["failed"].as_str() {
                return Err(format!("{handler}: {why}").into());
            }
            let workers = report["workers"].as_array().ok_or("no workers")?;
            let serves = |worker: &Value| worker["serves"] == report["current"];
            Ok((report["rollout"].is_null() && workers.len() == 2 && workers.iter().all(serves)).then_some(()))
        })
    }

    /// Lets the handler begin nothing, or go on.
    pub fn pause(&self, paused: bool) -> Result<()> {
        let verb = if paused { "pause" } else { "resume" };
        self.workers[0].call("POST", &format!("/v1/handlers/{HANDLER}/{verb}"), "application/json", b"")?;
        if paused {
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Swaps the versions at a steady pace for so long.
    pub fn swap_during(&mut self, time: Duration) -> Result<()> {
        let start = Instant::now();
        let mut next = SWAP_EVERY / 2;
        while next < time {
            std::thread::sleep(next.saturating_sub(start.elapsed()));
            self.versions.swap(0, 1);
            let to = self.versions[1].clone();
            let request = serde_json::json!({ "to": to, "by": "bench" }).to_string();
            self.swaps.push((Timestamp::now(), to));
            let path = format!("/v1/handlers/{HANDLER}/rollback");
            self.workers[0].call("POST", &path, "application/json", request.as_bytes())?;
            next += SWAP_EVERY;
        }
        Ok(())
    }

    /// How many swaps there were.
    pub fn swaps(&self) -> usize {
        self.swaps.len()
    }

    /// For each swap and worker the time from the request until the worker serves the version, in milliseconds.
    pub fn switch_ms(&self) -> Result<Vec<f64>> {
        let mut found = Vec::new();
        for worker in &self.workers {
            let log = fs::read_to_string(&worker.log)?;
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let switches: Vec<(Timestamp, Value)> = lines
                .filter(|line| line["message"] == SWITCHED && line["handler"] == HANDLER)
                .filter_map(|line| Some((line["timestamp"].as_str()?.parse().ok()?, line["digest"].clone())))
                .collect();
            for (asked, digest) in &self.swaps {
                let switch = switches.iter().find(|(at, to)| at >= asked && to == digest);
                let (at, _) = switch.ok_or("a worker has not switched")?;
                found.push(at.duration_since(*asked).as_secs_f64() * 1e3);
            }
        }
        Ok(found)
    }

    /// The size of the component that is compiled.
    pub fn python_mib(&self) -> f64 {
        self.python.len() as f64 / f64::from(1 << 20)
    }

    /// Has both workers compile a component that they have not seen before; returns when both do.
    pub fn begin_compiling(&mut self, number: usize) -> Result<()> {
        let begun = self.deploy(PYTHON_HANDLER, &other_version(&self.python, b'a' + u8::try_from(number)?))?;
        begun["rollout"]["id"].as_str().ok_or("no rollout")?.clone_into(&mut self.rollout);
        wait("both workers compile", || Ok(self.is_compiling()?.then_some(())))
    }

    /// Whether both workers still compile.
    pub fn is_compiling(&mut self) -> Result<bool> {
        let key = format!("wasmill:deploying:{PYTHON_HANDLER}");
        let said: BTreeMap<String, String> = redis::cmd("HGETALL").arg(key).query(&mut self.redis)?;
        let compiles = |text: &String| {
            let progress: Value = serde_json::from_str(text).unwrap_or_default();
            progress["rollout"] == self.rollout.as_str() && progress["state"] == "preparing"
        };
        Ok(said.values().filter(|text| compiles(text)).count() == self.workers.len())
    }

    /// Waits until what was compiled is deployed.
    pub fn end_compiling(&self) -> Result<()> {
        self.wait_deployed(PYTHON_HANDLER)
    }
}
