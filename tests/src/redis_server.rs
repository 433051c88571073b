//! A redis-server of one's own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Process;

/// How long a server may take to answer, or to end when told to.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long one PING may take.
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// How many free ports are tried: another process may take one between finding and using it.
const PORT_ATTEMPTS: usize = 8;

/// A redis-server on a free port, without persistence, in a directory of its own. Killed on drop.
pub struct RedisServer {
    // Before the directory: dropped first.
    process: Option<Process>,
    dir: TempDir,
    port: u16,
    extra: Vec<String>,
}

impl RedisServer {
    /// Starts a server; returns when it answers.
    pub fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// The same with further options (`["--appendonly", "yes"]`), which override those of the harness.
    pub fn start_with(extra: &[&str]) -> RedisServer {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let extra = extra.iter().map(|&option| option.to_owned()).collect();
        let mut server = RedisServer { process: None, dir, port: 0, extra };
        for _ in 0..PORT_ATTEMPTS {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        panic!("redis-server does not start:\n{}", server.log_text());
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory with the server's data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the server has logged since it was first started.
    pub fn log_text(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Lets the server end properly, and waits for it.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        process.signal(Signal::TERM);
        // A stopped process handles no signal before it goes on.
        process.signal(Signal::CONT);
        process.wait("redis-server to end", DEADLINE);
    }

    /// Ends the server at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Stops the server if it runs, and starts it again on the same port and directory.
    pub fn restart(&mut self) {
        self.stop();
        let end = Instant::now() + DEADLINE;
        while !self.launch() {
            assert!(Instant::now() < end, "redis-server does not start again:\n{}", self.log_text());
        }
    }

    /// The same with other options than before.
    pub fn restart_with(&mut self, extra: &[&str]) {
        self.extra = extra.iter().map(|&option| option.to_owned()).collect();
        self.restart();
    }

    /// Freezes the server: connections stay open, nothing is answered.
    pub fn pause(&self) {
        self.process.as_ref().expect("the server runs").signal(Signal::STOP);
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.process.as_ref().expect("the server runs").signal(Signal::CONT);
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("redis.log")
    }

    /// Starts the process and waits until it answers; `false` if it has ended instead.
    fn launch(&mut self) -> bool {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let errors = log.try_clone().expect("a second handle");
        let mut command = Command::new("redis-server");
        command.args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]).args(&self.extra);
        command.arg("--port").arg(self.port.to_string()).arg("--dir").arg(self.dir.path());
        let spawned = Process::spawn(command.stdin(Stdio::null()).stdout(log).stderr(errors));
        let mut process = match spawned {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                panic!("redis-server is not installed: run `cargo xtask test`, which installs it")
            }
            Err(error) => panic!("redis-server cannot be run: {error}"),
        };
        let port = self.port;
        let is_up = crate::eventually("redis-server to answer", DEADLINE, || {
            if process.try_wait().is_some() {
                return Some(false);
            }
            answers(port).then_some(true)
        });
        self.process = is_up.then_some(process);
        is_up
    }
}

/// A port that nobody listens on right now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Whether the server there answers PING. One that asks for a password is up as well; one that is loading is not.
fn answers(port: u16) -> bool {
    let answer = first_answer(port, b"PING\r\n", PING_TIMEOUT);
    answer.is_ok_and(|answer| answer.starts_with(b"+PONG") || answer.starts_with(b"-NOAUTH"))
}

/// The beginning of what the server there answers to a request.
pub(crate) fn first_answer(port: u16, request: &[u8], timeout: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(request)?;
    let mut answer = vec![0; 64];
    let length = stream.read(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}
