//! The command line: one file per verb.

/// Prints a line of a result.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::write_line(format_args!($($text)*))
    };
}

mod admin_thread;
mod audit;
mod build;
mod check;
mod compile;
mod demo;
mod deploy;
mod dev;
mod dlq;
mod doctor;
mod dry_run;
mod execution;
mod files;
mod generate;
mod history;
mod inspect;
mod invoke;
mod new;
mod paint;
mod pause;
mod pending;
mod progress;
mod reload;
mod replay;
mod report;
mod run;
mod schema;
mod send;
mod shadow;
mod sources;
mod state;
mod stats;
mod streams;
mod table;
mod target;
mod tenants;
mod test;
mod versions;
mod watch;
mod wit;
mod workers;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use wasmill::access::Actor;
use wasmill::app;
use wasmill::broker::keys::DEFAULT_TENANT;
use wasmill::broker::redis::RedisBroker;
use wasmill::config::{Config, environment};
use wasmill::ops::Operator;
use wasmill::schema::Schemas;
use wasmill::telemetry;
use wasmill::wasm::{Compiler, Engine, EngineSettings};

pub use report::Report;
use target::Target;

/// Where the configuration is looked for when `--config` is not given.
const USUAL_PLACES: [&str; 2] = ["wasmill.toml", "config/wasmill.toml"];

/// Run event handlers in WebAssembly sandboxes, on Redis Streams.
#[derive(Parser)]
#[command(name = "wasmill", version, max_term_width = 100)]
pub struct Arguments {
    /// The configuration file [default: wasmill.toml or config/wasmill.toml, if there is one]
    #[arg(long, short, global = true, value_name = "FILE", env = "WASMILL_CONFIG")]
    config: Option<PathBuf>,
    /// The tenant whose handlers and streams are meant
    #[arg(long, global = true, value_name = "NAME", env = "WASMILL_TENANT", default_value = DEFAULT_TENANT)]
    tenant: String,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    admin: target::AdminArgs,
    #[command(subcommand)]
    verb: Verb,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs: one JSON document on stdout
    Json,
}

#[derive(Subcommand)]
enum Verb {
    /// Work: read events, run handlers, write what they asked for, until SIGTERM
    Run(run::Args),
    /// Write a new handler project, in the language of your choice
    New(new::Args),
    /// Build the components of handlers from their sources, with the tools of their languages
    Build(build::Args),
    /// Print the contract with handlers, or write it as a folder
    Wit(wit::Args),
    /// Check the configuration and all components
    Check(check::Args),
    /// Publish one event, or many from stdin
    Send(send::Args),
    /// Run one event through one component, without any broker
    Invoke(invoke::Args),
    /// Work on the handlers of this folder: run them, build and exchange them on every save
    Dev(dev::Args),
    /// Run the event fixtures of a project, and compare what comes out with what is expected
    Test(test::Args),
    /// Show what a component is, what it wants, what it may have, and what it costs
    Inspect(inspect::Args),
    /// Look at dead letters, and send them back to their handlers
    Dlq(dlq::Args),
    /// Show past events of a stream, and those to come
    History(history::Args),
    /// Run past events again through one handler
    Replay(replay::Args),
    /// List streams: length, age, who reads them and how far
    Streams(streams::Args),
    /// List what has been handed out to a handler and is not settled
    Pending(pending::Args),
    /// Look at what a handler remembers between events, and change it
    State(state::Args),
    /// Stop a handler on all workers, until it is resumed; its events wait
    Pause(pause::Args),
    /// Let a handler go on that was paused
    Resume(pause::Args),
    /// Deploy another version of a handler on all workers
    Deploy(deploy::Args),
    /// Go back to a version of a handler that was deployed before
    Rollback(deploy::RollbackArgs),
    /// Compare a version that is not deployed with the one that serves, on live or past events
    Shadow(shadow::Args),
    /// List the versions of a handler, and what each worker serves
    Versions(versions::Args),
    /// Delete components that nobody needs any more
    Gc(versions::GcArgs),
    /// Show rates, durations, lag, retries and dead letters of all handlers
    Stats(stats::Args),
    /// Have a worker read its configuration again, and take over what has changed
    Reload(reload::Args),
    /// List the workers that are alive
    Workers(workers::Args),
    /// List who has changed what: the audit log
    Audit(audit::Args),
    /// List the tenants, and show what one uses of what it may
    Tenants(tenants::Args),
    /// Look whether everything is as it should be
    Doctor(doctor::Args),
    /// Look at the schemas of events, and check data by them
    Schema(schema::Args),
    /// Show the example shop at work, on a broker in this process or on Redis
    Demo(demo::Args),
    /// Publish made-up events at a rate, for trying things out and for load
    Generate(generate::Args),
    /// Compile a component that is on stdin, within limits; what the other verbs start
    #[command(name = wasmill::wasm::compile::VERB, hide = true)]
    Compile(compile::Args),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What every verb gets.
pub struct Context {
    /// The configuration file, given or found.
    pub file: Option<PathBuf>,
    /// The tenant that is meant.
    pub tenant: String,
    /// How results are printed.
    pub output: Output,
    /// The worker that is to do it.
    admin: target::AdminArgs,
}

impl Context {
    /// Where operations are done.
    pub async fn target(&self, config: &Config) -> Result<Target, Report> {
        match self.admin.client(&self.tenant)? {
            Some(client) => Ok(Target::Worker(client)),
            None => Ok(Target::Broker(operator(self.redis(config).await?, config)?)),
        }
    }

    /// The HTTP API of the worker that is named, if one is.
    pub fn worker(&self) -> Result<Option<target::Client>, Report> {
        self.admin.client(&self.tenant)
    }

    /// Whether a worker does the operations.
    pub fn is_by_worker(&self) -> bool {
        self.admin.is_given()
    }

    /// The same as [`Context::target`], without connecting yet.
    pub fn lazy_target(&self, config: &Config) -> Result<Target, Report> {
        match self.admin.client(&self.tenant)? {
            Some(client) => Ok(Target::Worker(client)),
            None => {
                let broker = app::redis_broker(config).map_err(Report::usage)?;
                Ok(Target::Broker(operator(Arc::new(broker), config)?))
            }
        }
    }

    /// Reads the configuration of all tenants.
    pub fn whole_config(&self) -> Result<Config, Report> {
        Config::load_or_default(self.file.as_deref(), environment()).map_err(Report::usage)
    }

    /// Reads the configuration, as it is for the tenant that is meant.
    pub fn config(&self) -> Result<Config, Report> {
        let config = self.whole_config()?;
        let faulty = config.faulty_tenants.iter().find(|faulty| faulty.name == self.tenant);
        if let Some(faulty) = faulty.filter(|_| !self.admin.is_given()) {
            return Err(Report::usage(&faulty.faults));
        }
        // A worker elsewhere may know tenants that nobody knows here, or serve one as it was before it was at fault.
        if self.admin.is_given() && !config.tenant_names().any(|name| name == self.tenant) {
            return Ok(config.general());
        }
        config.of_tenant(&self.tenant).ok_or_else(|| {
            let known = config.tenant_names().take(20).collect::<Vec<_>>().join(", ");
            Report::usage(format!("--tenant: there is no tenant `{}`; there are: {known}", self.tenant))
        })
    }

    /// The same, and sets up the log as it says.
    pub fn config_with_log(&self) -> Result<Config, Report> {
        let config = self.config()?;
        init_log(&config)?;
        Ok(config)
    }

    /// Connects to the Redis of the configuration, as the tenant's user if it has one.
    pub async fn redis(&self, config: &Config) -> Result<Arc<RedisBroker>, Report> {
        let broker = app::redis_broker(config).map_err(Report::usage)?;
        let shown = |error| Report::failure(format!("{}: {error}", config.redis.shown_url()));
        broker.check_login().await.map_err(shown)?;
        Ok(Arc::new(broker))
    }

    /// Whether results are printed as JSON.
    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

/// Sets up the log as the configuration says.
fn init_log(config: &Config) -> Result<(), Report> {
    telemetry::init(&config.log, std::io::stderr().is_terminal()).map_err(Report::usage)
}

/// An engine with room for the handlers of the configuration, which compiles in a child process.
fn engine(config: &Config) -> Result<Engine, Report> {
    let engine = app::engine(config).map_err(Report::failure)?;
    Ok(engine.compiling_in(compiler(config)))
}

/// An engine with these settings, which compiles in a child process as the configuration says.
fn engine_with(config: &Config, settings: EngineSettings) -> Result<Engine, Report> {
    Ok(Engine::new(settings).map_err(Report::failure)?.compiling_in(compiler(config)))
}

/// The compiler of the configuration: this program, in a process of its own.
fn compiler(config: &Config) -> Compiler {
    // Also when the file has been replaced by another version since.
    Compiler::Child { program: "/proc/self/exe".into(), limits: app::compile_limits(config) }
}

/// Operations on the broker itself, by whoever has started this process.
fn operator(broker: Arc<RedisBroker>, config: &Config) -> Result<Operator, Report> {
    let user = Some(deploy::user()).filter(|user| !user.is_empty());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(Operator::new(broker, config, schemas(config)?).acting_as(Actor::Shell { user, host }))
}

/// The schemas of the configuration.
fn schemas(config: &Config) -> Result<Arc<Schemas>, Report> {
    app::schemas(config).map_err(Report::usage)
}

/// Writes a line to stdout. A reader that has gone (`wasmill dlq ls | head`) is no fault, and wants no more.
fn write_line(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a JSON document.
pub fn print_json(value: &serde_json::Value) {
    say!("{value:#}");
}

/// Runs a future on this thread.
pub fn block_on<T>(future: impl Future<Output = Result<T, Report>>) -> Result<T, Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Report::failure(format!("cannot start: {error}")))?.block_on(future)
}

/// Does what the arguments say.
pub fn dispatch(arguments: Arguments) -> Result<ExitCode, Report> {
    let usual = || USUAL_PLACES.iter().map(PathBuf::from).find(|path| path.exists());
    let file = arguments.config.or_else(usual);
    let admin = arguments.admin.or_found(|| dev::find(file.as_deref()));
    let context = Context { file, tenant: arguments.tenant, output: arguments.output, admin };
    match arguments.verb {
        Verb::Run(args) => run::run(&context, &args),
        Verb::New(args) => new::run(&context, &args),
        Verb::Build(args) => build::run(&context, &args),
        Verb::Wit(args) => wit::run(&context, &args),
        Verb::Check(args) => check::run(&context, &args),
        Verb::Send(args) => send::run(&context, args),
        Verb::Invoke(args) => invoke::run(&context, &args),
        Verb::Dev(args) => dev::run(&context, &args),
        Verb::Test(args) => test::run(&context, &args),
        Verb::Inspect(args) => inspect::run(&context, &args),
        Verb::Dlq(args) => dlq::run(&context, args),
        Verb::History(args) => history::run(&context, &args),
        Verb::Replay(args) => replay::run(&context, &args),
        Verb::Streams(args) => streams::run(&context, &args),
        Verb::Pending(args) => pending::run(&context, &args),
        Verb::State(args) => state::run(&context, &args),
        Verb::Pause(args) => pause::run(&context, &args, true),
        Verb::Resume(args) => pause::run(&context, &args, false),
        Verb::Deploy(args) => deploy::run(&context, &args),
        Verb::Rollback(args) => deploy::rollback(&context, &args),
        Verb::Shadow(args) => shadow::run(&context, &args),
        Verb::Versions(args) => versions::run(&context, &args),
        Verb::Gc(args) => versions::gc(&context, &args),
        Verb::Stats(args) => stats::run(&context, &args),
        Verb::Reload(args) => reload::run(&context, &args),
        Verb::Workers(args) => workers::run(&context, &args),
        Verb::Audit(args) => audit::run(&context, &args),
        Verb::Tenants(args) => tenants::run(context, &args),
        Verb::Doctor(args) => doctor::run(&context, &args),
        Verb::Schema(args) => schema::run(&context, args),
        Verb::Demo(args) => demo::run(&context, &args),
        Verb::Generate(args) => generate::run(&context, &args),
        Verb::Compile(args) => Ok(compile::run(&args)),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "wasmill", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
