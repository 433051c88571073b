//! The `wasmill` binary: running it to its end, and as a worker in the background.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

pub use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Process;
use crate::{build, eventually, workspace};

/// Within which a worker says what it is to say.
const DEADLINE: Duration = Duration::from_secs(30);

/// The `wasmill` binary of this build: same profile, same target directory.
///
/// # Panics
/// When it cannot be built.
pub fn binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let (target, profile) = build::own_target();
        let _lock = build::lock("wasmill-binary.lock");
        let mut cargo = build::cargo(&workspace());
        cargo.args(["build", "--package", "wasmill", "--bin", "wasmill"]).arg("--target-dir").arg(target);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        build::run(&mut cargo);
        profile.join("wasmill")
    })
}

/// Runs `wasmill` with these arguments and nothing on its standard input.
pub fn wasmill<I: IntoIterator<Item: AsRef<OsStr>>>(args: I) -> Output {
    let output = Command::new(binary()).args(args).stdin(Stdio::null()).output();
    output.expect("wasmill can be run")
}

/// A `wasmill run` in the background. Killed on drop.
pub struct Worker {
    // Before the directory: dropped first.
    process: Process,
    dir: TempDir,
}

impl Worker {
    /// Starts a worker with this configuration. Does not wait for it to be ready.
    pub fn spawn(config_toml: &str) -> Worker {
        Worker::spawn_with(config_toml, |_| {})
    }

    /// The same; `adjust` may add environment variables and arguments.
    pub fn spawn_with(config_toml: &str, adjust: impl FnOnce(&mut Command)) -> Worker {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = dir.path().join("wasmill.toml");
        fs::write(&config, config_toml).expect("the configuration can be written");
        let [stdout, stderr] =
            ["stdout", "stderr"].map(|name| File::create(dir.path().join(name)).expect("an output file"));
        let mut command = Command::new(binary());
        command.arg("run").arg("--config").arg(config).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        adjust(&mut command);
        let process = Process::spawn(&mut command).expect("wasmill can be run");
        Worker { process, dir }
    }

    /// Writes another configuration where it reads its own, in one step.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn reconfigure(&self, config_toml: &str) {
        let new = self.dir.path().join("wasmill.toml.new");
        fs::write(&new, config_toml).expect("the configuration can be written");
        fs::rename(new, self.dir.path().join("wasmill.toml")).expect("it can be moved into place");
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a signal; does nothing when the worker has ended.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends the worker at once, as SIGKILL does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// How it ended; `None` while it runs.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.process.try_wait()
    }

    /// Waits until the worker has ended of itself.
    ///
    /// # Panics
    /// With the worker's log, when the deadline passes first.
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let dir = self.dir.path().to_path_buf();
        let end = std::time::Instant::now() + deadline;
        crate::eventually("a worker to end", deadline + Duration::from_secs(1), || {
            let status = self.process.try_wait();
            let late = status.is_none() && std::time::Instant::now() >= end;
            assert!(!late, "the worker did not end within {deadline:?}; it said:\n{}", text(&dir, "stderr"));
            status
        })
    }

    /// Waits until these words stand on its standard error.
    pub fn wait_to_say(&self, words: &str) {
        let said = || self.stderr_text().contains(words).then_some(());
        eventually(&format!("the worker to say `{words}`"), DEADLINE, said);
    }

    /// What it has written to standard error so far.
    pub fn stderr_text(&self) -> String {
        text(self.dir.path(), "stderr")
    }

    /// What it has written to standard output so far.
    pub fn stdout_text(&self) -> String {
        text(self.dir.path(), "stdout")
    }
}

fn text(dir: &Path, name: &str) -> String {
    let bytes = fs::read(dir.join(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
