//! `wasmill run`: the worker.

mod watch;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wasmill::admin::{Admin, Place, Token};
use wasmill::broker::Operate;
use wasmill::broker::keys::Namespace;
use wasmill::broker::memory::MemoryBroker;
use wasmill::broker::redis::RedisBroker;
use wasmill::config::{Config, environment};
use wasmill::pipeline::{self, Backend, Worker};
use wasmill::readiness::Readiness;
use wasmill::reload::{Parts, Reload, Reloader};
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
    let config = context.config_with_log()?;
    if config.handlers.is_empty() && config.intake.is_empty() {
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

impl Start<'_> {
    async fn serve(self, hangup: Signal) -> Result<ExitCode, Report> {
        let Start { context, args, config, engine, cache } = self;
        let namespace = Namespace::default();
        let schemas = super::schemas(&config)?;
        let deployments = app::deployments(&config, &namespace, &engine, cache.as_ref()).map_err(Report::usage)?;
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
            handlers = deployments.iter().map(|deployment| deployment.name()).collect::<Vec<_>>().join(","),
            "starting"
        );
        let (roster, orders) = app::roster(&config, &namespace, deployments);
        let file = context.file.clone();
        let read = {
            let file = file.clone();
            Arc::new(move || Config::load_or_default(file.as_deref(), environment()))
        };
        let parts = Parts { read, engine, cache, keys, namespace, roster: roster.clone(), broker };
        let (reloader, reload, operator) = Reloader::new(parts, config.clone(), schemas);
        let readiness = Arc::new(Readiness::default());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let admin = Admin {
            roster,
            readiness: readiness.clone(),
            operator,
            token: config.admin.token().map_err(Report::usage)?.map(|token| Token::new(&token)),
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
        reload.ask();
    }
    std::future::pending().await
}
