//! `wasmill invoke`: one event through one component, without any broker.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use wasmill::app;
use wasmill::broker::keys;
use wasmill::clock::now_ms;
use wasmill::config::{Config, ResolvedHandler, ResolvedLimits};
use wasmill::envelope::structured;
use wasmill::event::Event;
use wasmill::outcome::RetryPolicy;
use wasmill::state;
use wasmill::wasm::{
    Capability, Component, EngineSettings, Execution, Grants, GuestDelivery, GuestEvent, Handler, Isolation,
    Surroundings,
};

use super::execution::{as_json, outcome, print_text};
use super::{Context, Report, block_on, engine_with, print_json, sources};

/// Arguments of `invoke`.
#[derive(Parser)]
pub struct Args {
    /// The component to run
    component: PathBuf,
    /// The event: a CloudEvents JSON file, or - for stdin
    #[arg(long, short, value_name = "FILE")]
    event: PathBuf,
    /// Use limits and grants of this handler of the configuration [default: general limits, every stream granted, no HTTP]
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// The number of the attempt that the handler is told
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: u32,
    /// A stream to publish to; may be given more than once [default: what the handler may, or every stream]
    #[arg(long = "publishes", value_name = "STREAM")]
    publishes: Vec<String>,
}

/// How an invocation ended, as users see it, with its exit code.
const OUTCOMES: [(&str, u8); 5] = [("ack", 0), ("retry", 10), ("reject", 11), ("trap", 12), ("timeout", 13)];

/// Runs the event; the exit code tells the outcomes apart.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let mut resolved = resolve(&config, &args.component, args.handler.as_deref())?;
    if !args.publishes.is_empty() {
        resolved.publishes.clone_from(&args.publishes);
    }
    let event = read_event(&args.event)?;
    event.check_size(resolved.limits.event_bytes as u64).map_err(Report::usage)?;
    let engine = engine_with(&config, EngineSettings { instances: 1, max_memory: resolved.limits.memory })?;
    let component = Component::from_file(&engine, None, &args.component)
        .map_err(|error| Report::usage(format!("{}: {error}", args.component.display())))?;
    let schemas = app::schemas(&config).map_err(Report::usage)?;
    if config.schemas.on_read {
        schemas.check(&event).map_err(Report::usage)?;
    }
    let mut policy =
        app::policy(&resolved, &config.tenant.namespace, &app::envelopes(&config), schemas).map_err(Report::usage)?;
    if resolved.publishes.is_empty() && args.handler.is_none() {
        policy.grants = Grants::All;
    }
    let handler = Handler::new(component, policy, Isolation::Fresh)
        .map_err(|error| Report::usage(format!("{}: {error}", args.component.display())))?;
    let delivery = delivery(&resolved, args.attempt);
    let event = Arc::new(GuestEvent::from(event));
    let state = Some(state::empty());
    let (execution, cpu) = block_on(async {
        let ((execution, _), cpu) = with_cpu_time(handler.run(None, event, delivery, Surroundings::here(state))).await;
        Ok((execution, cpu))
    })?;
    Ok(print(context, &execution, cpu))
}

/// What the handler is told of an attempt that no broker knows of.
pub fn delivery(resolved: &ResolvedHandler, attempt: u32) -> GuestDelivery {
    GuestDelivery {
        tenant: keys::DEFAULT_TENANT.to_owned(),
        handler: resolved.name.clone(),
        stream: resolved.streams.first().cloned().unwrap_or_else(|| "invoke".to_owned()),
        entry_id: format!("{}-0", now_ms()),
        attempt,
        max_attempts: resolved.retry.max_attempts,
        deadline_ms: u64::try_from(resolved.limits.deadline.as_millis()).unwrap_or(u64::MAX),
        replay: false,
    }
}

/// A handler of the configuration; without a name, one of this component that sets nothing itself.
pub fn resolve(config: &Config, component: &Path, handler: Option<&str>) -> Result<ResolvedHandler, Report> {
    Ok(match handler {
        Some(name) => config.handler(name).ok_or_else(|| sources::unknown(config, name))?,
        None => ResolvedHandler {
            name: component.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            component: component.to_owned(),
            build: None,
            streams: Vec::new(),
            types: wasmill::route::Types::new(["*"]),
            isolation: wasmill::config::Isolation::Fresh,
            limits: ResolvedLimits::from(&config.limits),
            retry: RetryPolicy::from(&config.retry),
            publishes: Vec::new(),
            group: String::new(),
            take_over_idle: Duration::ZERO,
            dedup: None,
            dead_letter: String::new(),
            grants: Capability::INSIDE.to_vec(),
            deterministic: false,
            http: None,
            config: Default::default(),
        },
    })
}

/// The event in a file of CloudEvents JSON, or on stdin.
pub fn read_event(path: &Path) -> Result<Event, Report> {
    let document = read(path)?;
    structured::parse(&document, now_ms())
        .map_err(|error| Report::usage(format!("{}: not a CloudEvent in JSON: {error}", path.display())))
}

fn read(path: &Path) -> Result<Vec<u8>, Report> {
    let mut bytes = Vec::new();
    let result = if path.as_os_str() == "-" {
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    result.map_err(|error| Report::usage(format!("cannot read {}: {error}", path.display())))
}

/// The result of a future, and the CPU time that this thread used for it.
async fn with_cpu_time<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let mut future = pin!(future);
    let mut used = Duration::ZERO;
    std::future::poll_fn(|context| {
        let before = thread_time();
        let polled = future.as_mut().poll(context);
        used += thread_time().saturating_sub(before);
        match polled {
            Poll::Ready(value) => Poll::Ready((value, used)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

fn print(context: &Context, execution: &Execution, cpu: Duration) -> ExitCode {
    let (word, _) = outcome(&execution.verdict);
    if context.is_json() {
        let mut document = as_json(execution);
        document["cpu_us"] = (cpu.as_micros() as u64).into();
        print_json(&document);
    } else {
        print_text(execution);
        let memory = bytesize::ByteSize(execution.peak_memory as u64);
        say!("{} us wall, {} us CPU, {memory} memory", execution.wall.as_micros(), cpu.as_micros());
    }
    let code = OUTCOMES.iter().find(|(name, _)| *name == word).map_or(1, |(_, code)| *code);
    ExitCode::from(code)
}
