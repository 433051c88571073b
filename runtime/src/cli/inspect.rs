//! `wasmill inspect`: what a component is, what it wants, what it may have, and what it costs.

mod cost;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use wasmill::app;
use wasmill::clock::now_ms;
use wasmill::config::{Config, ResolvedHandler};
use wasmill::deploy::source;
use wasmill::event::Event;
use wasmill::wasm::anatomy::Anatomy;
use wasmill::wasm::world::{Access, interface_of};
use wasmill::wasm::{
    Capability, CompiledCache, Component, Digest, Engine, EngineSettings, Grants, Handler, Import, Isolation,
    LoadError, MAX_COMPONENT_BYTES,
};

use super::invoke;
use super::report::USAGE;
use super::{Context, Report, block_on, engine_with, sources};
use cost::Cost;

/// Arguments of `inspect`.
#[derive(Parser)]
pub struct Args {
    /// The component [default: that of the handler]
    #[arg(required_unless_present = "handler")]
    component: Option<PathBuf>,
    /// Use limits and grants of this handler of the configuration [default: those of a handler that sets none]
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// The event to measure with: a CloudEvents JSON file, or - for stdin [default: a small one without data]
    #[arg(long, short, value_name = "FILE")]
    event: Option<PathBuf>,
}

/// All that is known of a component.
struct Findings {
    path: PathBuf,
    resolved: ResolvedHandler,
    size: u64,
    /// What holds for the others: `None` if it is too large to be looked at.
    digest: Option<Digest>,
    anatomy: Anatomy,
    imports: Vec<Imported>,
    /// Why no handler with these grants can have it; `None` if it fits.
    problem: Option<String>,
    loading: Option<Loading>,
    cost: Option<Cost>,
}

/// An import of the component, and what becomes of it.
struct Imported {
    name: String,
    /// What grants it, where it is not there for all.
    grant: Option<Capability>,
    /// What is wrong with it.
    refused: Option<Import>,
}

/// How long loading takes.
struct Loading {
    /// With the compiling.
    cold: Duration,
    /// From the compiled cache.
    cached: Duration,
}

/// Shows what there is to say; exit code 2 if a handler with these grants cannot have the component.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let findings = find(&config, args)?;
    show::show(context, &config, &findings);
    Ok(if findings.problem.is_none() { ExitCode::SUCCESS } else { ExitCode::from(USAGE) })
}

fn find(config: &Config, args: &Args) -> Result<Findings, Report> {
    let given = args.component.clone().unwrap_or_default();
    let mut resolved = invoke::resolve(config, &given, args.handler.as_deref())?;
    if args.handler.is_none() {
        resolved.grants = Capability::DEFAULT.to_vec();
    }
    let path = args.component.clone().unwrap_or_else(|| resolved.component.clone());
    let event = args.event.as_deref().map(invoke::read_event).transpose()?;
    let unreadable = |cause| {
        let error = LoadError::Unreadable { path: path.clone(), cause };
        Report::usage(format!("{}: {error}", path.display()))
    };
    let fetched = source::reference(&path).map(|_| sources::fetch(&path, None)).transpose()?;
    let size = match &fetched {
        Some(fetched) => fetched.bytes.len() as u64,
        None => std::fs::metadata(&path).map_err(unreadable)?.len(),
    };
    let mut findings = Findings {
        resolved,
        size,
        digest: None,
        anatomy: Anatomy::default(),
        imports: Vec::new(),
        problem: None,
        loading: None,
        cost: None,
        path: path.clone(),
    };
    if size > MAX_COMPONENT_BYTES {
        findings.problem = Some(LoadError::TooLarge(size).to_string());
        return Ok(findings);
    }
    let bytes = match fetched {
        Some(fetched) => fetched.bytes,
        None => std::fs::read(&path).map_err(unreadable)?,
    };
    findings.digest = Some(Digest::of(&bytes));
    findings.anatomy = Anatomy::of(&bytes);
    findings.imports = imports(&findings.anatomy, &findings.resolved.grants);
    let settings = EngineSettings { instances: 2, max_memory: findings.resolved.limits.memory };
    let engine = engine_with(config, settings)?;
    match load(&engine, &bytes)? {
        Err(error) => findings.problem = Some(error.to_string()),
        Ok((component, loading)) => {
            findings.loading = Some(loading);
            findings.problem = component.check_grants(&findings.resolved.grants).err().map(|error| error.to_string());
            findings.cost = measure(config, &findings.resolved, component, args.event.as_deref(), event)?;
        }
    }
    Ok(findings)
}

/// What becomes of each import for a handler that has these grants.
fn imports(anatomy: &Anatomy, grants: &[Capability]) -> Vec<Imported> {
    let imported = |name: &String| Imported {
        name: name.clone(),
        grant: match interface_of(name).map(|interface| interface.access) {
            Some(Access::Grant(capability)) => Some(capability),
            _ => None,
        },
        refused: Import::check(name, grants),
    };
    anatomy.imports.iter().map(imported).collect()
}

/// Loads it twice: without anything, and from a compiled cache of its own.
fn load(engine: &Engine, bytes: &[u8]) -> Result<Result<(Component, Loading), LoadError>, Report> {
    let directory = tempfile::tempdir().map_err(Report::failure)?;
    let cache = CompiledCache::open(directory.path()).map_err(Report::failure)?;
    let timed = || {
        let start = Instant::now();
        Component::new(engine, Some(&cache), bytes).map(|component| (component, start.elapsed()))
    };
    let both = timed().and_then(|(_, cold)| timed().map(|(component, cached)| (component, Loading { cold, cached })));
    Ok(both)
}

/// Runs the handler for a while. Nothing gets out: what it publishes is dropped, and its HTTP requests are denied.
fn measure(
    config: &Config,
    resolved: &ResolvedHandler,
    component: Component,
    file: Option<&Path>,
    event: Option<Event>,
) -> Result<Option<Cost>, Report> {
    let schemas = app::schemas(config).map_err(Report::usage)?;
    let policy = app::policy(resolved, &config.tenant.namespace, &app::envelopes(config), schemas);
    let mut policy = policy.map_err(Report::usage)?;
    policy.interfaces.http = None;
    // Only what it costs is asked here.
    policy.grants = Grants::All;
    policy.interfaces.grants = Capability::INSIDE.into_iter().chain([Capability::Http]).collect();
    let Ok(handler) = Handler::new(component, policy, Isolation::Fresh) else { return Ok(None) };
    let name = file.map_or_else(|| "a small event without data".to_owned(), |file| file.display().to_string());
    let event = Arc::new(event.unwrap_or_else(sample).into());
    let delivery = invoke::delivery(resolved, 1);
    block_on(async { Ok(Some(cost::measure(&handler, name, event, delivery).await)) })
}

/// An event that most handlers refuse at once.
fn sample() -> Event {
    Event {
        id: "inspect".to_owned(),
        source: "/wasmill/inspect".to_owned(),
        r#type: "wasmill.inspect".to_owned(),
        time: now_ms(),
        ..Event::default()
    }
}
