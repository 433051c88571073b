//! `wasmill run`: the worker.

mod watch;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wasmill::access::{Actor, Tokens};
use wasmill::admin::{Admin, Gate, Place};
use wasmill::broker::Operate;
use wasmill::broker::keys::DEFAULT_TENANT;
use wasmill::broker::memory::MemoryBroker;
use wasmill::broker::redis::RedisBroker;
use wasmill::config::{Config, environment};
use wasmill::pipeline::{self, Backend, Change, Roster, Worker};
use wasmill::readiness::Readiness;
use wasmill::reload::{Parts, Reload, Reloader};
use wasmill::schema::Schemas;
use wasmill::wasm::CompiledCache;
use wasmill::{app, wasm};

use super::admin_thread::{self, AdminThread};
use super::{Context, Report, block_on};

/// Arguments of `run`.
#[derive(Parser)]
pub struct Args {
    /// Keep the streams in this process instead of in Redis: for trying things out, they end with it
    #[arg(long)]
    embedded: bool,
    /// Take over the configuration, schemas and components whenever their files change, as SIGHUP does
    #[arg(long)]
    watch: bool,
}

/// Works until SIGTERM or SIGINT, drains, and returns. Reloads on SIGHUP.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.whole_config()?;
    super::init_log(&config)?;
    if !config.is_anything_served() {
        return Err(Report::usage(
            "neither handlers nor intakes are configured: add a [handlers.NAME] section, or name a file with --config",
        ));
    }
    if args.watch && context.file.is_none() {
        return Err(Report::usage("--watch: there is no configuration file to watch; name one with --config"));
    }
    block_on(async {
        // From now on this signal does not end the process.
        let hangup = signal(SignalKind::hangup()).map_err(Report::failure)?;
        let engine = app::roomy_engine().map_err(Report::failure)?.compiling_in(super::compiler(&config));
        let cache = app::cache(&config).map_err(Report::usage)?;
        let parts = Start { context, args, config, engine, cache };
        parts.serve(hangup).await
    })
}

/// What a worker starts with.
struct Start<'a> {
    context: &'a Context,
    args: &'a Args,
    config: Config,
    engine: wasm::Engine,
    cache: Option<CompiledCache>,
}

/// What is served of all tenants.
struct Tenants {
    changes: Vec<Change>,
    schemas: BTreeMap<String, Arc<Schemas>>,
    /// Who is let in by the HTTP API.
    tokens: Arc<Tokens>,
    /// The configuration without the tenants that cannot be served.
    config: Config,
}

impl Start<'_> {
    /// Loads everything. What is wrong with a tenant other than `default` is told, and the tenant is not served.
    fn tenants(&self) -> Result<Tenants, Report> {
        let mut config = self.config.clone();
        let faulty = |tenant: &str, why: &str| {
            let why = why.replace('\n', "; ");
            tracing::error!(alarm = "tenant_faulty", tenant, "the tenant is not served: {why}");
        };
        config.faulty_tenants.iter().for_each(|tenant| faulty(&tenant.name, &tenant.faults.to_string()));
        let (mut changes, mut all_schemas, mut tokens) = (Vec::new(), BTreeMap::new(), Tokens::default());
        for own in self.config.of_all_tenants() {
            let name = own.tenant.name.clone();
            let loaded = app::deployments(&own, &self.engine, self.cache.as_ref());
            let loaded = loaded.and_then(|deployments| Ok((deployments, app::schemas(&own)?))).map_err(Report::usage);
            // Last, so that nobody is let in for a tenant that is not served.
            let admitted = |loaded| match self.config.add_tokens_of(&name, &mut tokens, &Tokens::default()) {
                Ok(()) => Ok(loaded),
                Err(error) => Err(Report::usage(error)),
            };
            match loaded.and_then(admitted) {
                Ok((deployments, schemas)) => {
                    changes.push(app::serving(&own, deployments));
                    all_schemas.insert(name, schemas);
                }
                Err(error) if name != DEFAULT_TENANT => {
                    faulty(&name, &error.to_string());
                    let tenant = config.tenants.remove(&name);
                    config.unserved_prefixes.extend(tenant.map(|tenant| tenant.prefix(&name)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Tenants { changes, schemas: all_schemas, tokens: Arc::new(tokens), config })
    }

    async fn serve(self, hangup: Signal) -> Result<ExitCode, Report> {
        let Tenants { changes, schemas, tokens, config } = self.tenants()?;
        let Start { context, args, engine, cache, .. } = self;
        let (backend, broker): (Backend, Arc<dyn Operate>) = if args.embedded {
            let broker = MemoryBroker::new();
            (Backend::Memory(broker.clone()), Arc::new(broker))
        } else {
            let settings = app::redis_settings(&config).map_err(Report::usage)?;
            (Backend::redis(settings.clone()), Arc::new(RedisBroker::new(settings)))
        };
        let keys = app::public_keys(&config).map_err(Report::usage)?;
        let worker = Worker { cache: cache.clone(), keys: keys.clone(), ..app::worker(&config) };
        tracing::info!(
            worker = &*worker.id,
            broker = if args.embedded { "embedded".to_owned() } else { config.redis.shown_url() },
            threads = worker.threads,
            handlers = some(changes.iter().flat_map(|change| &change.handlers).map(|wanted| wanted.deployment.id())),
            "starting"
        );
        let (roster, orders) = Roster::new(changes);
        let file = context.file.clone();
        let read = {
            let file = file.clone();
            Arc::new(move || Config::load_or_default(file.as_deref(), environment()))
        };
        let (tokens, gate) = tokio::sync::watch::channel(tokens);
        let users = backend.users().cloned();
        let parts = Parts { read, engine, cache, keys, roster: roster.clone(), broker, users, tokens };
        let (reloader, reload, operators) = Reloader::new(parts, config.clone(), &schemas);
        let readiness = Arc::new(Readiness::default());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let admin = Admin {
            roster,
            readiness: readiness.clone(),
            operators,
            gate: Gate::new(gate),
            reload: Some(reload.clone()),
        };
        let place = config.admin.address().map(Place::Address);
        let admin = place.map(|place| AdminThread::start(place, admin, stopped)).transpose()?;
        // A port that cannot be had ends the worker; one that is served does not.
        let result = tokio::select! {
            result = pipeline::serve(worker, backend, orders, &readiness, shutdown()?) => result.map_err(Report::failure),
            fault = admin_thread::failed(admin.as_ref()) => Err(fault),
            () = reloader.run() => Ok(()),
            () = reload_on(hangup, &reload) => Ok(()),
            fault = watch::follow(file.filter(|_| args.watch), config, &reload) => Err(fault),
        };
        // Nobody may be listening.
        let _ = stop.send(true);
        if let Some(admin) = admin {
            admin.join();
        }
        result?;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    }
}

/// Names in one line, the first few of them.
fn some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 20;
    let mut names: Vec<&str> = names.take(MOST + 1).collect();
    if names.len() > MOST {
        names[MOST] = "...";
    }
    names.join(",")
}

/// SIGTERM or SIGINT.
fn shutdown() -> Result<impl Future<Output = ()>, Report> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Report::failure)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Report::failure)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Asks for a reload on each signal, until the future is dropped.
async fn reload_on(mut signal: Signal, reload: &Reload) {
    while signal.recv().await.is_some() {
        reload.ask(Actor::Signal);
    }
    std::future::pending().await
}
