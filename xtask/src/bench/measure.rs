//! Running one case and watching it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cmd::Result;

/// The stream that the handler reads.
pub const IN: &str = "bench.in";
/// The stream that it publishes to.
pub const OUT: &str = "bench.out";
/// A case that does not end within this time has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who handles the events.
#[derive(Clone, Copy)]
pub enum Consumer {
    /// The native loop on that many threads.
    Native(usize),
    /// wasmill with a fresh instance for each event.
    Fresh,
    /// wasmill with reused instances.
    Reuse,
}

impl Consumer {
    /// All of them, native ones first.
    pub const ALL: [Consumer; 4] = [Consumer::Native(1), Consumer::Native(2), Consumer::Fresh, Consumer::Reuse];
}

/// What is measured at a time.
pub struct Case {
    /// Who handles the events.
    pub consumer: Consumer,
    /// Bytes of each event's payload.
    pub size: usize,
    /// How many there are.
    pub events: usize,
}

/// What came out.
pub struct Round {
    /// Follow-ups a second, from the first to the last one.
    pub events_per_second: f64,
    /// CPU time of the consumer.
    pub cpu_us: f64,
    /// CPU time of Redis.
    pub redis_cpu_us: f64,
    /// Resident memory of the consumer when it was done.
    pub rss_mib: f64,
    /// The mean of one run of the handler under this load, as wasmill itself measures it; 0 for native ones.
    pub handler_us: f64,
}

/// A process that does not outlive the benchmark.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Redis server of its own.
pub struct Server {
    _process: Process,
    port: u16,
    _directory: tempfile::TempDir,
}

/// A port that nobody listens on right now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Server {
    /// Starts one without persistence.
    pub fn start() -> Result<Server> {
        let directory = tempfile::tempdir()?;
        let port = free_port()?;
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| {
                format!("redis-server cannot be started ({error}): run `cargo xtask test`, which installs it")
            })?;
        let server = Server { _process: Process(process), port, _directory: directory };
        wait("redis-server answers", || Ok(server.connection().is_ok().then_some(())))?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A new connection.
    pub fn connection(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url())?.get_connection()
    }

    /// CPU time of the server so far, in seconds.
    pub fn cpu(&self) -> Result<f64> {
        let info: String = redis::cmd("INFO").arg("cpu").query(&mut self.connection()?)?;
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse::<f64>().ok()).ok_or(format!("INFO has no {name}"))
        };
        Ok(field("used_cpu_user")? + field("used_cpu_sys")?)
    }
}

/// Polls until there is something; fails after [`PATIENCE`].
pub fn wait<T>(what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(format!("timed out: {what}").into())
}

impl Case {
    /// The name of the case in the report.
    pub fn name(&self) -> String {
        let size = self.size;
        match self.consumer {
            Consumer::Native(threads) => format!("native{threads}_{size}"),
            Consumer::Fresh => format!("fresh_{size}"),
            Consumer::Reuse => format!("reuse_{size}"),
        }
    }

    /// Fills the stream, starts the consumer and watches it until it is done.
    pub fn measure(&self, root: &Path, server: &Server) -> Result<Round> {
        let mut redis = server.connection()?;
        redis::cmd("FLUSHALL").query::<()>(&mut redis)?;
        self.fill(&mut redis)?;
        let directory = tempfile::tempdir()?;
        let admin = free_port()?;
        let process = Process(self.start(root, server, directory.path(), admin)?);
        let mut published = || -> Result<usize> { Ok(redis::cmd("XLEN").arg(OUT).query(&mut redis)?) };
        let pid = process.0.id();
        let first = wait("the first event", || Ok(Some(published()?).filter(|&count| count > 0)))?;
        let (start, cpu, redis_cpu) = (Instant::now(), cpu_seconds(pid)?, server.cpu()?);
        wait("the last event", || Ok((published()? >= self.events).then_some(())))?;
        let seconds = start.elapsed().as_secs_f64();
        let (cpu, redis_cpu) = (cpu_seconds(pid)? - cpu, server.cpu()? - redis_cpu);
        let events = (self.events - first) as f64;
        let handler_us = match self.consumer {
            Consumer::Native(_) => 0.0,
            Consumer::Fresh | Consumer::Reuse => handler_us(admin)?,
        };
        if published()? != self.events {
            return Err("more follow-ups than events".into());
        }
        Ok(Round {
            events_per_second: events / seconds,
            cpu_us: cpu * 1e6 / events,
            redis_cpu_us: redis_cpu * 1e6 / events,
            rss_mib: rss_mib(pid)?,
            handler_us,
        })
    }

    fn fill(&self, redis: &mut redis::Connection) -> Result<()> {
        fill(redis, 0, self.events, self.size)
    }

    fn start(&self, root: &Path, server: &Server, directory: &Path, admin: u16) -> Result<Child> {
        let release = root.join("target/release");
        let isolation = match self.consumer {
            Consumer::Native(threads) => {
                let mut command = Command::new(release.join("bench-native"));
                return Ok(command.arg(server.url()).arg(threads.to_string()).spawn()?);
            }
            Consumer::Fresh => "fresh",
            Consumer::Reuse => "reuse",
        };
        let component = root.join("target/guests/bench.wasm");
        let config = format!(
            "[redis]\nurl = \"{}\"\n[log]\nlevel = \"error\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
             [handlers.bench]\ncomponent = \"{}\"\nstreams = [\"{IN}\"]\npublishes = [\"{OUT}\"]\n\
             isolation = \"{isolation}\"\n",
            server.url(),
            component.display()
        );
        run_worker(&release, directory, &config)
    }
}

/// Appends events with these numbers.
pub fn fill(redis: &mut redis::Connection, first: usize, events: usize, size: usize) -> Result<()> {
    for chunk in (first..first + events).collect::<Vec<_>>().chunks(1000) {
        let mut pipeline = redis::pipe();
        for &number in chunk {
            add_event(&mut pipeline, IN, number, size);
        }
        pipeline.query::<()>(redis)?;
    }
    Ok(())
}

/// Adds the appending to a stream of an event with so many bytes of payload. Its id ends with its number.
pub fn add_event(pipeline: &mut redis::Pipeline, stream: &str, number: usize, size: usize) {
    const BARE: usize = r#"{"order_id":"order-00000000","customer":"customer-0000","amount":100,"note":""}"#.len();
    let data = format!(
        r#"{{"order_id":"order-{number:08}","customer":"customer-{:04}","amount":100,"note":"{:x<note$}"}}"#,
        number % 1000,
        "",
        note = size.saturating_sub(BARE)
    );
    pipeline.cmd("XADD").arg(stream).arg("*").arg("ce_specversion").arg("1.0").arg("ce_id");
    pipeline.arg(format!("00000000-0000-4000-8000-{number:012}"));
    pipeline.arg("ce_source").arg("/bench").arg("ce_type").arg("order_placed").arg("ce_time");
    pipeline.arg("2026-01-01T00:00:00Z").arg("content-type").arg("application/json");
    pipeline.arg("data").arg(data).ignore();
}

/// Starts a worker with this configuration, which is written into the directory.
pub fn run_worker(release: &Path, directory: &Path, config: &str) -> Result<Child> {
    let file = directory.join("wasmill.toml");
    fs::write(&file, config)?;
    Ok(Command::new(release.join("wasmill")).arg("run").arg("--config").arg(file).spawn()?)
}

/// User and system time of a process so far.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program, in brackets, may hold spaces.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of proc(5), of which two have been cut off; the unit is USER_HZ, 100 on Linux.
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// Resident memory of a process.
pub fn rss_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0)
}

/// Asks the HTTP API of a worker; the answer with its head.
pub fn get(port: u16, path: &str) -> Result<String> {
    ask(port, "GET", path, "application/json", b"")
}

/// The same with a body.
pub fn ask(port: u16, method: &str, path: &str, content_type: &str, body: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")?;
    write!(stream, "Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn handler_us(admin: u16) -> Result<f64> {
    let metrics = get(admin, "/metrics")?;
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    Ok(value("wasmill_handler_duration_seconds_sum") * 1e6 / value("wasmill_handler_duration_seconds_count"))
}

/// What a worker costs that has nothing to do.
pub struct Idle {
    /// From the start of the process until it takes events, the compiled cache being warm.
    pub ready_ms: f64,
    /// Resident memory.
    pub rss_mib: f64,
}

/// Starts a worker with the four example handlers a few times; medians.
pub fn start_up(root: &Path, server: &Server) -> Result<Idle> {
    let example = fs::read_to_string(root.join("config/ecommerce.toml"))?;
    let guests: PathBuf = root.join("target/guests");
    let example = example.replace("../target/guests", &guests.to_string_lossy());
    let (mut ready, mut rss) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let directory = tempfile::tempdir()?;
        let admin = free_port()?;
        let url = server.url();
        let config = format!(
            "[redis]\nurl = \"{url}\"\n[log]\nlevel = \"error\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n{example}"
        );
        let start = Instant::now();
        let process = Process(run_worker(&root.join("target/release"), directory.path(), &config)?);
        wait("the worker is ready", || {
            Ok(get(admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")).then_some(()))
        })?;
        ready.push(start.elapsed().as_secs_f64() * 1e3);
        // Idle means: nothing has happened for a while.
        std::thread::sleep(Duration::from_secs(1));
        rss.push(rss_mib(process.0.id())?);
    }
    Ok(Idle { ready_ms: super::median(ready.into_iter()), rss_mib: super::median(rss.into_iter()) })
}
