//! A mill to operate: a worker on Redis or on its own embedded broker, and the command line beside it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::eventually;
use crate::guests;
use crate::redis_server::RedisServer;
use crate::worker::{Worker, binary};

const DEADLINE: Duration = Duration::from_secs(30);

/// Where the streams are, and which way the command line takes to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In Redis, which the command line talks to itself.
    Redis,
    /// In Redis, by way of the worker's HTTP API.
    RedisByWorker,
    /// In the worker, by way of its HTTP API: there is no other.
    Embedded,
}

/// Makes tests of functions that take a [`Way`]: `redis::TEST`, `redis_by_worker::TEST` and `embedded::TEST` of each.
#[macro_export]
macro_rules! on_every_way {
    ($($module:ident :: { $($test:ident),* $(,)? })*) => {
        $crate::on_every_way!(@one redis, Redis, $($module :: { $($test),* })*);
        $crate::on_every_way!(@one redis_by_worker, RedisByWorker, $($module :: { $($test),* })*);
        $crate::on_every_way!(@one embedded, Embedded, $($module :: { $($test),* })*);
    };
    (@one $name:ident, $way:ident, $($module:ident :: { $($test:ident),* })*) => {
        mod $name {
            use super::*;
            $($(
                #[test]
                fn $test() {
                    $module::$test($crate::mill::Way::$way);
                }
            )*)*
        }
    };
}

/// A worker with the handlers that a test asks for.
pub struct Mill {
    way: Way,
    /// The worker.
    pub worker: Worker,
    /// Its Redis; `None` if it has none.
    pub server: Option<RedisServer>,
    address: String,
    dir: tempfile::TempDir,
    token: Option<String>,
    /// What the configuration begins with.
    head: String,
}

/// An answer of the HTTP API.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The lines of the head, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

impl Mill {
    /// Starts a worker with a handler `faults` that reads `faults.in`; `settings` go into its section, and what follows
    /// them behind it. Returns when the worker is ready.
    pub fn start(way: Way, settings: &str) -> Mill {
        Mill::start_with(way, &faults_section(settings), None)
    }

    /// The same with further arguments of the worker.
    pub fn start_as(way: Way, arguments: &[&str], settings: &str) -> Mill {
        Mill::launch(way, arguments, &faults_section(settings), &[])
    }

    /// The same with all sections of handlers as they are given, and a token for the HTTP API.
    ///
    /// # Panics
    /// When the worker does not become ready.
    pub fn start_with(way: Way, sections: &str, token: Option<&str>) -> Mill {
        let tokens = token.map(|token| ("token", token.to_owned()));
        Mill::launch(way, &[], sections, tokens.as_slice())
    }

    /// The same with a handler `faults`, and tokens of roles: `view`, `operate`, `deploy`, and `token` for everything, which
    /// the command line has. Each lies in a file of that name in [`Mill::dir`].
    pub fn start_with_tokens(way: Way, tokens: &[(&str, String)]) -> Mill {
        Mill::launch(way, &[], &faults_section(""), tokens)
    }

    /// The same on a server that is there already.
    pub fn start_on(server: RedisServer, sections: &str) -> Mill {
        Mill::launch_on(Some(server), Way::Redis, &[], sections, &[])
    }

    fn launch(way: Way, arguments: &[&str], sections: &str, tokens: &[(&str, String)]) -> Mill {
        let server = (way != Way::Embedded).then(RedisServer::start);
        Mill::launch_on(server, way, arguments, sections, tokens)
    }

    fn launch_on(
        server: Option<RedisServer>,
        way: Way,
        arguments: &[&str],
        sections: &str,
        tokens: &[(&str, String)],
    ) -> Mill {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let url = server.as_ref().map_or_else(|| "redis://127.0.0.1:1/".to_owned(), RedisServer::url);
        let mut token_files = String::new();
        for (key, token) in tokens {
            std::fs::write(dir.path().join(key), token).expect("the token can be written");
            token_files += &format!("{key}_file = \"{}\"\n", dir.path().join(key).display());
        }
        let head = format!(
            "[redis]\nurl = \"{url}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{token_files}\
             [worker]\nthreads = 2\nheartbeat = \"100ms\"\nheartbeat_ttl = \"2s\"\n"
        );
        let config = format!("{head}{sections}");
        let path = dir.path().join("wasmill.toml");
        std::fs::write(&path, &config).expect("the configuration can be written");
        let worker = Worker::spawn_with(&config, |command| {
            command.current_dir(dir.path()).args(arguments);
            if way == Way::Embedded {
                command.arg("--embedded");
            }
        });
        let address = eventually("the worker to be ready", DEADLINE, || {
            let text = worker.stderr_text();
            let address = text.lines().find_map(|line| line.split("address=").nth(1))?.trim().to_owned();
            text.contains("ready").then_some(address)
        });
        let token = tokens.iter().find(|(key, _)| *key == "token").map(|(_, token)| token.clone());
        Mill { way, worker, server, address, dir, token, head }
    }

    /// The directory that the worker and the command line have in common; the configuration is in it.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Starts another worker with the same configuration; only on Redis do they share anything. Does not wait for it.
    pub fn spawn_another(&self) -> Worker {
        let config = std::fs::read_to_string(self.dir.path().join("wasmill.toml")).expect("it has been written");
        Worker::spawn_with(&config, |command| {
            command.current_dir(self.dir.path());
        })
    }

    /// Writes other sections of handlers into the configuration, for the worker and the command line. It is not told.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn reconfigure(&self, sections: &str) {
        self.reconfigure_from_the_top("", sections);
    }

    /// The same with something before all sections.
    pub fn reconfigure_from_the_top(&self, top: &str, sections: &str) {
        let config = format!("{top}{}{sections}", self.head);
        self.worker.reconfigure(&config);
        std::fs::write(self.dir.path().join("wasmill.toml"), config).expect("the configuration can be written");
    }

    /// The URL of the worker's HTTP API.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A `wasmill` command with the way set.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--config").arg(self.dir.path().join("wasmill.toml")).current_dir(self.dir.path());
        command.stdin(Stdio::null()).env_remove("WASMILL_ADMIN_URL").env_remove("WASMILL_ADMIN_TOKEN");
        if self.way != Way::Redis {
            command.env("WASMILL_ADMIN_URL", self.admin_url());
            command.envs(self.token.as_ref().map(|token| ("WASMILL_ADMIN_TOKEN", token)));
        }
        command
    }

    /// Runs `wasmill`.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("wasmill can be run")
    }

    /// Runs `wasmill` with this on its standard input.
    pub fn run_with_stdin(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("wasmill can be run");
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        // One that refuses may stop reading before all has been sent.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("wasmill can be waited for");
        writer.join().expect("it only writes");
        output
    }

    /// What `wasmill` says with `--output json`.
    ///
    /// # Panics
    /// Unless it succeeds and says JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut lines = self.json_lines(arguments);
        assert_eq!(lines.len(), 1, "{arguments:?}");
        lines.remove(0)
    }

    /// The documents that `wasmill` says with `--output json`, one after the other.
    ///
    /// # Panics
    /// Unless it succeeds and says JSON.
    #[track_caller]
    pub fn json_lines(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.text(&[arguments, &["--output", "json"]].concat());
        let documents = serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>();
        documents.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// What `wasmill` says.
    ///
    /// # Panics
    /// Unless it succeeds.
    #[track_caller]
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} on {:?}: {}: {errors}", self.way, output.status);
        String::from_utf8(output.stdout).expect("the output is UTF-8")
    }

    /// What `wasmill` says on standard error when it fails.
    ///
    /// # Panics
    /// Unless it fails with that exit code.
    #[track_caller]
    pub fn failure(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?} on {:?}: {errors}", self.way);
        errors
    }

    /// Asks the HTTP API. `head` are further lines of the request.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn http(&self, method: &str, path: &str, head: &[&str], body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(&self.address).expect("the API can be reached");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time limit can be set");
        let mut lines = vec![format!("{method} {path} HTTP/1.1"), "connection: close".to_owned()];
        if !head.iter().any(|line| line.starts_with("host:")) {
            lines.push(format!("host: {}", self.address));
        }
        if let Some(token) = self.token.as_ref().filter(|_| !head.iter().any(|line| line.starts_with("authorization")))
        {
            lines.push(format!("authorization: Bearer {token}"));
        }
        lines.push(format!("content-length: {}", body.len()));
        lines.extend(head.iter().map(|&line| line.to_owned()));
        let request = [lines.join("\r\n").as_bytes(), b"\r\n\r\n", body].concat();
        // A server that refuses may stop reading before all has been sent.
        let _ = stream.write_all(&request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: no answer: {text}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if is_chunked { unchunked(body) } else { body.to_owned() };
        Answer { status, head: head.to_ascii_lowercase(), body }
    }

    /// Pauses a handler, with these arguments besides, and waits until the worker does so: it looks now and then. The report.
    pub fn pause(&self, handler: &str, arguments: &[&str]) -> Value {
        let pauses = || self.worker.stderr_text().matches("the handler is paused").count();
        let before = pauses();
        let report = self.json(&[&["pause", handler], arguments].concat());
        eventually("the worker to pause the handler", DEADLINE, || (pauses() > before).then_some(()));
        report
    }

    /// Publishes an event by HTTP, whatever the way; its entry.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn publish(&self, stream: &str, id: &str, r#type: &str, data: &str) -> String {
        let event = serde_json::json!({
            "specversion": "1.0", "id": id, "source": "/t", "type": r#type, "datacontenttype": "text/plain", "data": data,
        });
        let head = ["content-type: application/cloudevents+json"];
        let answer = self.http("POST", &format!("/v1/streams/{stream}/events"), &head, event.to_string().as_bytes());
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["entries"][0].as_str().expect("an entry").to_owned()
    }

    /// The events of a stream, oldest first, as CloudEvents JSON with their entry as `entry`; empty without a stream.
    pub fn events(&self, stream: &str) -> Vec<Value> {
        let (mut events, mut from) = (Vec::new(), "-".to_owned());
        loop {
            let answer = self.http("GET", &format!("/v1/streams/{stream}/events?from={from}&count=1000"), &[], b"");
            if answer.status == 404 {
                return events;
            }
            let page = answer.json();
            for item in page["events"].as_array().unwrap_or_else(|| panic!("no events: {answer:?}")) {
                let mut event = item["event"].clone();
                event["entry"] = item["entry"].clone();
                events.push(event);
            }
            match page["next"].as_str() {
                Some(next) => from = next.to_owned(),
                None => return events,
            }
        }
    }

    /// Waits until a stream has so many events.
    #[track_caller]
    pub fn wait_for(&self, stream: &str, count: usize) -> Vec<Value> {
        let what = format!("{count} events in {stream}");
        eventually(&what, DEADLINE, || Some(self.events(stream)).filter(|events| events.len() >= count))
    }

    /// Waits until a handler has nothing left to do.
    #[track_caller]
    pub fn wait_settled(&self, handler: &str) {
        eventually(&format!("{handler} to have nothing left to do"), DEADLINE, || {
            let stats = self.http("GET", "/v1/stats", &[], b"").json();
            let status = &stats["handlers"][handler];
            (status["pending"] == 0 && status["lag"] == 0).then_some(())
        });
    }
}

/// The section of a handler `faults` that reads `faults.in` and publishes to `faults.out`.
pub fn faults_section(settings: &str) -> String {
    format!(
        "[limits]\ndeadline = \"300ms\"\nmemory = \"8 MiB\"\nevent_bytes = \"64 KiB\"\n\
         [retry]\nmax_attempts = 3\nbase = \"10ms\"\ncap = \"50ms\"\n\
         [handlers.faults]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n{settings}\n",
        guests::component("faults").display(),
    )
}

/// The body of an answer that was sent in chunks.
fn unchunked(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        body.push_str(&rest[..size]);
        text = rest[size..].trim_start_matches("\r\n");
    }
    body
}
