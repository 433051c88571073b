//! Child processes that do not outlive the test process, however it ends.

use std::io;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;

/// How long a killed process may take to be gone.
const REAP_DEADLINE: Duration = Duration::from_secs(10);

/// A child process that is killed on drop. A guard kills it when the test process dies without dropping: a shell that
/// waits for the end of its standard input, which only the test process holds open.
pub(crate) struct Process {
    child: Child,
    guard: Child,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Process> {
        let mut child = command.spawn()?;
        let guard = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\" 2>/dev/null", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match guard {
            Ok(guard) => Ok(Process { child, guard }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Its standard input, if that is piped and has not been taken.
    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; does nothing when the process has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        let _ = kill_process(pid, signal);
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, deadline: Duration) -> ExitStatus {
        eventually(what, deadline, || self.try_wait())
    }

    /// Ends it at once, as SIGKILL does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.wait("a killed process to be gone", REAP_DEADLINE);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guard first: once the child is reaped, its id may be somebody else's.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
