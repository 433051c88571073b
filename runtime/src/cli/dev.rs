//! `wasmill dev`: the handlers of a folder at work; built and exchanged on every save.
//!
//! One loop hears of everything: files that changed ([`super::files`]), builds that are done ([`builder`]), deliveries that were
//! decided ([`show`]) and lines that were typed ([`typed`]). What serves is a [`session`]. Another build of a handler takes
//! the place of the one before in its slot; another configuration is another session on the same broker.

mod address;
mod builder;
mod session;
mod show;
mod typed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use wasmill::broker::memory::MemoryBroker;
use wasmill::config::{Config, LogConfig, ResolvedHandler, environment};
use wasmill::deploy::Version;
use wasmill::event::Event;
use wasmill::outcome::Due;
use wasmill::readiness::Phase;
use wasmill::telemetry;

use self::address::Address;
use self::builder::{Builder, Done, Job, Setup, Told};
use self::session::Session;
use self::show::{Show, Shown, Window};
use self::typed::{Lines, Typed, unwanted};
use super::files::{Files, Look, MAX_QUIET, QUIET, Watcher, without_results};
use super::test::fixtures::Fixture;
use super::{Context, Report, block_on};

/// How often is looked whether the handlers are ready.
const READY_POLL: Duration = Duration::from_millis(20);
/// What is logged beside what is shown.
const LOG: &str = "warn,wasmill::pipeline::run=off,guest=off";
/// The folder of the events.
const EVENTS: &str = "events";

/// Arguments of `dev`.
#[derive(Parser)]
pub struct Args {
    /// Work on this Redis, without a URL on that of the configuration [default: a broker in this process, which ends with it]
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    redis: Option<String>,
    /// Where the events are [default: events, beside the configuration]
    #[arg(long, value_name = "DIR")]
    events: Option<PathBuf>,
    /// Send all events of that folder at the start
    #[arg(long)]
    send_events: bool,
}

/// What the loop hears of.
pub enum Input {
    /// Files may have changed.
    Changed,
    /// From the thread that builds.
    Builder(Told),
    /// A delivery was decided.
    Seen(Box<Shown>),
    /// A line was typed.
    Line(String),
}

/// The URL of the `wasmill dev` that runs with this configuration.
pub fn find(file: Option<&Path>) -> Option<String> {
    address::find(&file.and_then(Path::parent).unwrap_or(Path::new("")).join("."))
}

/// Works until SIGINT or SIGTERM.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let Some(file) = &context.file else {
        let problem = "there is no wasmill.toml here: `wasmill new` makes a project, --config names a file";
        return Err(Report::usage(problem));
    };
    // Paths are compared: there must be one way to write each.
    let canonical = |path: &Path| {
        let fault = |error| Report::usage(format!("{} cannot be read: {error}", path.display()));
        path.canonicalize().map_err(fault)
    };
    let file = canonical(file)?;
    let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
    let events = match &args.events {
        Some(events) => canonical(events)?,
        None => folder.join(EVENTS),
    };
    let log = LogConfig { level: LOG.to_owned(), ..LogConfig::default() };
    telemetry::init(&log, std::io::IsTerminal::is_terminal(&std::io::stderr())).map_err(Report::usage)?;
    let mut address = Address::take(&folder)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(Report::failure)?;
    let url = format!("http://{}", listener.local_addr().map_err(Report::failure)?);
    address.write(&url)?;
    let (inbox, inputs) = mpsc::unbounded_channel();
    let tell = {
        let inbox = inbox.clone();
        // When nobody listens any more, everything ends.
        move |input| inbox.send(input).is_ok()
    };
    let builder = Builder::start({
        let tell = tell.clone();
        move |told| _ = tell(Input::Builder(told))
    })?;
    let watcher = Watcher::new({
        let tell = tell.clone();
        move || _ = tell(Input::Changed)
    })?;
    let lines = Lines::read(move |line| tell(Input::Line(line)))?;
    let dev = Dev {
        show: Show::new(context),
        place: Place { file, events, redis: args.redis.clone(), listener, url },
        memory: args.redis.is_none().then(MemoryBroker::new),
        window: Arc::new(Window::new(inbox)),
        builder,
        watcher,
        look: Look::default(),
        to_send: Vec::new(),
        is_announced: false,
        send_events: args.send_events,
        under_way: BTreeSet::new(),
        made_of: BTreeMap::new(),
        next: None,
        session: None,
        generation: 0,
    };
    let result = block_on(dev.work(inputs));
    drop(lines);
    result
}

/// Where everything is.
struct Place {
    file: PathBuf,
    events: PathBuf,
    redis: Option<String>,
    listener: TcpListener,
    url: String,
}

impl Place {
    fn config(&self) -> Result<Config, String> {
        let mut config = Config::load(&self.file, environment()).map_err(|error| error.to_string())?;
        if config.handlers.is_empty() {
            return Err(format!("{}: no handlers are configured: add a [handlers.NAME] section", self.file.display()));
        }
        // What is being worked on is not signed yet.
        config.deploy.public_keys.clear();
        if let Some(url) = self.redis.as_ref().filter(|url| !url.is_empty()) {
            config.redis.url.clone_from(url);
        }
        Ok(config)
    }
}

/// Handlers that are being made ready, and serve when all of them are.
struct Next {
    setup: Arc<Setup>,
    versions: BTreeMap<String, Version>,
}

/// The state of the loop.
struct Dev {
    show: Show,
    place: Place,
    /// The broker in this process, unless there is another one.
    memory: Option<MemoryBroker>,
    window: Arc<Window>,
    builder: Builder,
    watcher: Watcher,
    look: Look,
    /// Events from files that wait until the handlers are ready.
    to_send: Vec<PathBuf>,
    /// That they are ready has been said.
    is_announced: bool,
    send_events: bool,
    /// Handlers that are being built.
    under_way: BTreeSet<String>,
    /// What each handler was made of when its last build began.
    made_of: BTreeMap<String, Files>,
    next: Option<Next>,
    session: Option<Session>,
    generation: u64,
}

impl Dev {
    async fn work(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) -> Result<ExitCode, Report> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Report::failure)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Report::failure)?;
        self.reload();
        // When to look at the files, and when the first of the changes came.
        let mut due: Option<(Instant, Instant)> = None;
        let mut ready_poll = tokio::time::interval(READY_POLL);
        let fault = loop {
            let look_at = due.map_or_else(Instant::now, |(at, _)| at);
            tokio::select! {
                _ = interrupt.recv() => break None,
                _ = terminate.recv() => break None,
                fault = ended(&mut self.session) => break Some(fault),
                () = tokio::time::sleep_until(look_at.into()), if due.is_some() => {
                    due = None;
                    self.look_again().await;
                }
                // What was decided before comes first.
                _ = ready_poll.tick(), if self.may_announce() && inputs.is_empty() => self.announce().await,
                Some(input) = inputs.recv() => match input {
                    Input::Changed => {
                        let now = Instant::now();
                        let first = due.map_or(now, |(_, first)| first);
                        due = Some(((now + QUIET).min(first + MAX_QUIET), first));
                    }
                    Input::Builder(Told::Progress(line)) => self.show.progress(&line),
                    Input::Builder(Told::Done(done)) => {
                        self.take(*done).await?;
                        // What was saved during the build has not been built.
                        due.get_or_insert_with(|| (Instant::now(), Instant::now()));
                    }
                    Input::Seen(shown) => self.show.event(&shown, self.window.shown()),
                    Input::Line(line) => self.typed(&line).await,
                },
            }
        };
        self.end(fault, inputs).await
    }

    async fn end(self, fault: Option<Report>, mut inputs: mpsc::UnboundedReceiver<Input>) -> Result<ExitCode, Report> {
        let Dev { show, window, builder, watcher, session, .. } = self;
        drop(watcher);
        let drain = session.as_ref().map_or(QUIET, |session| session.setup.config.worker.drain_timeout);
        let ended = match (fault, session) {
            (Some(fault), _) => Err(fault),
            (None, Some(session)) => session.end().await,
            (None, None) => Ok(()),
        };
        builder.end(drain);
        while let Ok(input) = inputs.try_recv() {
            if let Input::Seen(shown) = input {
                show.event(&shown, window.shown());
            }
        }
        ended?;
        show.note("stopped", "stopped");
        Ok(ExitCode::SUCCESS)
    }

    /// Reads the configuration, and makes its handlers ready if there is no fault in it.
    fn reload(&mut self) {
        let known = self.setup().map(|setup| setup.config.clone()).unwrap_or_default();
        // Before it is read: what is saved from now on is another change.
        match self.new_look(&known) {
            Ok(look) => self.look = look,
            Err(problem) => return self.show.problem(&problem),
        }
        let setup = self.place.config().and_then(|config| Setup::new(self.generation + 1, config));
        let setup = match setup {
            Ok(setup) => Arc::new(setup),
            Err(problem) => return self.show.problem(&format!("{problem}\n{}", self.what_goes_on())),
        };
        match self.new_look(&setup.config) {
            Ok(look) => {
                let before = std::mem::replace(&mut self.look, look);
                let stamp = before.settings.get(&self.place.file).copied();
                self.look.settings.extend(stamp.map(|stamp| (self.place.file.clone(), stamp)));
            }
            Err(problem) => return self.show.problem(&problem),
        }
        self.generation += 1;
        self.next = Some(Next { setup: setup.clone(), versions: BTreeMap::new() });
        self.under_way.clear();
        for handler in setup.config.handlers() {
            self.build(&setup, handler);
        }
    }

    fn new_look(&mut self, config: &Config) -> Result<Look, String> {
        let Dev { watcher, place, .. } = self;
        watcher.look(|| Look::new(&place.file, &place.events, config))
    }

    fn build(&mut self, setup: &Arc<Setup>, handler: ResolvedHandler) {
        let files = self.look.handlers.get(&handler.name).cloned().unwrap_or_default();
        self.made_of.insert(handler.name.clone(), files);
        self.under_way.insert(handler.name.clone());
        self.builder.add(Job { setup: setup.clone(), handler });
    }

    /// What new versions are for: the handlers that are made ready, or else those that serve.
    fn setup(&self) -> Option<Arc<Setup>> {
        let serving = || self.session.as_ref().map(|session| session.setup.clone());
        self.next.as_ref().map(|next| next.setup.clone()).or_else(serving)
    }

    fn what_goes_on(&self) -> &'static str {
        match self.session {
            Some(_) => "what served before goes on",
            None => "waiting for the next save",
        }
    }

    /// Looks what has changed, and does what follows from it.
    async fn look_again(&mut self) {
        let setup = self.setup();
        let config = setup.as_ref().map(|setup| setup.config.clone()).unwrap_or_default();
        let look = match self.new_look(&config) {
            Ok(look) => look,
            Err(problem) => return self.show.problem(&problem),
        };
        let before = std::mem::replace(&mut self.look, look);
        if self.look.settings != before.settings {
            self.show.note("reloading", "the configuration has changed");
            self.reload();
        } else if let Some(setup) = setup {
            self.build_changed(&setup);
        }
        let new = self.look.new_events(&before);
        self.to_send.extend(new);
        if self.is_announced {
            self.send_waiting().await;
        }
    }

    /// Builds what is not made of what it was made of before.
    fn build_changed(&mut self, setup: &Arc<Setup>) {
        for handler in setup.config.handlers() {
            if self.under_way.contains(&handler.name) {
                continue;
            }
            let now = self.look.handlers.get(&handler.name).cloned().unwrap_or_default();
            let built = self.made_of.get(&handler.name).cloned().unwrap_or_default();
            if without_results(now.clone(), &built) == built {
                self.made_of.insert(handler.name.clone(), now);
            } else {
                self.build(setup, handler);
            }
        }
    }

    /// A build is done.
    async fn take(&mut self, done: Done) -> Result<(), Report> {
        if self.setup().is_none_or(|setup| setup.generation != done.generation) {
            return Ok(());
        }
        self.under_way.remove(&done.handler);
        let version = match done.result {
            Ok(version) => version,
            Err(problem) => {
                self.show.not_built(&done.handler, &problem, self.what_goes_on());
                return Ok(());
            }
        };
        let digest = version.digest.clone();
        let Some(next) = &mut self.next else {
            let deployment = self.session.as_ref().and_then(|session| session.deployment(&done.handler));
            let what = match deployment {
                Some(deployment) if deployment.slot.current().digest == digest => "it is what it was",
                Some(deployment) => {
                    deployment.slot.swap(version);
                    "it serves from now on"
                }
                None => "nobody needs it",
            };
            self.show.built(&done.handler, done.took, &digest, what);
            return Ok(());
        };
        next.versions.insert(done.handler.clone(), version);
        let is_complete = next.versions.len() == next.setup.config.handlers.len();
        let what = if is_complete { "all handlers are ready" } else { "ready; others are not yet" };
        self.show.built(&done.handler, done.took, &digest, what);
        // A handler that is to be built again is not ready.
        if is_complete && self.under_way.is_empty() { self.start().await } else { Ok(()) }
    }

    /// Serves the handlers that have been made ready, in place of those that serve.
    async fn start(&mut self) -> Result<(), Report> {
        let Some(Next { setup, versions }) = self.next.take() else { return Ok(()) };
        if let Some(session) = self.session.take() {
            session.end().await?;
        }
        let listener = self.place.listener.try_clone().map_err(Report::failure)?;
        let session = Session::start(setup, versions, self.memory.as_ref(), listener, self.window.clone())?;
        self.session = Some(session);
        let at_start = std::mem::take(&mut self.send_events);
        if at_start {
            self.to_send = self.look.events.keys().cloned().collect();
        }
        self.is_announced = false;
        Ok(())
    }

    fn may_announce(&self) -> bool {
        !self.is_announced && self.session.is_some()
    }

    /// Says so when the handlers are ready, and sends what has waited for that.
    async fn announce(&mut self) {
        let Some(session) = &self.session else { return };
        if session.readiness.phase() != Phase::Ready {
            return;
        }
        let config = &session.setup.config;
        let broker = if self.memory.is_some() { "in this process".to_owned() } else { config.redis.shown_url() };
        let handlers: Vec<(String, Vec<String>)> =
            config.handlers().into_iter().map(|handler| (handler.name, handler.streams)).collect();
        let names: Vec<String> = self.look.events.keys().map(|file| self.fixture(file).name).collect();
        self.show.started(&self.place.url, &broker, &handlers, &names);
        self.is_announced = true;
        self.send_waiting().await;
    }

    async fn send_waiting(&mut self) {
        for file in std::mem::take(&mut self.to_send) {
            self.send_file(file).await;
        }
    }

    /// The event in a file below the folder of events.
    fn fixture(&self, file: &Path) -> Fixture {
        let folder = file.parent().filter(|folder| *folder != self.place.events);
        let folder = folder.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Fixture::new(file.to_owned(), folder.as_deref())
    }

    async fn typed(&mut self, line: &str) {
        let Some(session) = &self.session else { return self.show.problem("not sent: no handler serves yet") };
        match typed::parse(line, &session.setup.config.handlers()) {
            Ok(Typed::Empty) => {}
            Ok(Typed::Event { stream, event }) => self.send(&stream, *event, "what was typed").await,
            Ok(Typed::File(name)) => {
                let name = name.strip_suffix(".json").unwrap_or(&name);
                match self.look.events.keys().find(|file| self.fixture(file).name == name).cloned() {
                    Some(file) => self.send_file(file).await,
                    None => {
                        let problem = format!("there is no event `{name}` in {}", self.place.events.display());
                        self.show.problem(&problem);
                    }
                }
            }
            Err(problem) => self.show.problem(&problem),
        }
    }

    async fn send_file(&mut self, file: PathBuf) {
        let Some(session) = &self.session else { return };
        let fixture = self.fixture(&file);
        let handlers = session.setup.config.handlers();
        let read = fixture.event().and_then(|event| match fixture.reader(&event, &handlers) {
            Some(handler) => Ok((handler.streams.first().cloned().unwrap_or_default(), event)),
            None => Err(format!("{}: {}", file.display(), unwanted(&event.r#type))),
        });
        match read {
            Ok((stream, event)) => self.send(&stream, event, &fixture.name).await,
            Err(problem) => self.show.problem(&problem),
        }
    }

    async fn send(&self, stream: &str, event: Event, from: &str) {
        let Some(session) = &self.session else { return };
        match session.operator.publish(stream, Due::Now, vec![event]).await {
            Ok(report) => self.show.sent(stream, report.ids.first().map_or("", String::as_str), from),
            Err(error) => self.show.problem(&format!("{from}: not sent: {error}")),
        }
    }
}

/// Serves, if something is to be served.
async fn ended(session: &mut Option<Session>) -> Report {
    match session {
        Some(session) => session.ended().await,
        None => std::future::pending().await,
    }
}
