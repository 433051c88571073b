//! A `wasmill` verb in the background that is talked to: lines in, JSON documents out.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::eventually;
use crate::process::Process;
use crate::worker::{Signal, binary};

/// How long to wait for a document: a first build by cargo takes its time on a busy machine.
const DEADLINE: Duration = Duration::from_secs(240);

/// The program. Killed on drop.
pub struct Program {
    // Before the directory: dropped first.
    process: Process,
    stdin: ChildStdin,
    dir: TempDir,
    /// Documents that have been waited for.
    seen: usize,
}

impl Program {
    /// Starts `wasmill` in a folder.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn spawn(folder: &Path, arguments: &[&str]) -> Program {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [stdout, stderr] =
            ["stdout", "stderr"].map(|name| File::create(dir.path().join(name)).expect("an output file"));
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(folder).env_remove("WASMILL_ADMIN_URL");
        command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
        let mut process = Process::spawn(&mut command).expect("wasmill can be run");
        let stdin = process.take_stdin().expect("it is piped");
        Program { process, stdin, dir, seen: 0 }
    }

    /// Types a line.
    ///
    /// # Panics
    /// When nobody reads any more.
    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap_or_else(|error| panic!("{error}: {}", self.text()));
    }

    /// The documents that it has printed so far, one a line.
    ///
    /// # Panics
    /// When it has printed something else.
    pub fn documents(&self) -> Vec<Value> {
        let text = self.read("stdout");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
    }

    /// Waits for a document of which this is true, among those after the one that was waited for before.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = std::time::Instant::now() + DEADLINE;
        let (at, found) = eventually(what, DEADLINE + Duration::from_secs(1), || {
            let found = self.documents().into_iter().enumerate().skip(self.seen).find(|(_, document)| is_it(document));
            let is_late = found.is_none() && std::time::Instant::now() >= end;
            assert!(!is_late, "waited in vain for {what}; it said:\n{}", self.text());
            found
        });
        self.seen = at + 1;
        found
    }

    /// Everything that it has printed so far.
    pub fn text(&self) -> String {
        self.read("stdout") + &self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join(name)).unwrap_or_default()).into_owned()
    }

    /// Sends a signal; does nothing when the program has ended.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it at once, as SIGKILL does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// How it ended; `None` while it runs.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.process.try_wait()
    }

    /// Waits until it has ended of itself.
    ///
    /// # Panics
    /// When the deadline passes first.
    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        self.process.wait("the program to end", deadline)
    }
}
