//! `wasmill run`: the worker.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use wasmill::admin::{AdminState, Place, Token};
use wasmill::broker::Operate;
use wasmill::broker::keys::Namespace;
use wasmill::broker::memory::MemoryBroker;
use wasmill::broker::redis::RedisBroker;
use wasmill::ops::Operator;
use wasmill::pipeline::{self, Backend, Deployment, Worker};
use wasmill::readiness::Readiness;
use wasmill::{app, config::Config};

use super::admin_thread::{self, AdminThread};
use super::{Context, Report, block_on};

/// Arguments of `run`.
#[derive(Parser)]
pub struct Args {
    /// Keep the streams in this process instead of in Redis: for trying things out, they end with it
    #[arg(long)]
    embedded: bool,
}

/// Works until SIGTERM or SIGINT, drains, and returns.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    if config.handlers.is_empty() && config.intake.is_empty() {
        return Err(Report::usage(
            "neither handlers nor intakes are configured: add a [handlers.NAME] section, or name a file with --config",
        ));
    }
    let engine = super::engine(&config)?;
    let cache = app::cache(&config).map_err(Report::usage)?;
    let deployments =
        app::deployments(&config, &Namespace::default(), &engine, cache.as_ref()).map_err(Report::usage)?;
    block_on(serve(&config, args, deployments))
}

async fn serve(config: &Config, args: &Args, deployments: Vec<Arc<Deployment>>) -> Result<ExitCode, Report> {
    let (backend, broker): (Backend, Arc<dyn Operate>) = if args.embedded {
        let broker = MemoryBroker::new();
        (Backend::Memory(broker.clone()), Arc::new(broker))
    } else {
        let settings = app::redis_settings(config).map_err(Report::usage)?;
        (Backend::Redis(Box::new(settings.clone())), Arc::new(RedisBroker::new(settings)))
    };
    let worker = Worker {
        cache: app::cache(config).map_err(Report::usage)?,
        keys: app::public_keys(config).map_err(Report::usage)?,
        ..app::worker(config, &Namespace::default())
    };
    let stats = Arc::new(pipeline::new_stats(&deployments));
    let readiness = Arc::new(Readiness::default());
    let (stop, stopped) = watch::channel(false);
    let state = AdminState {
        stats: stats.clone(),
        readiness: readiness.clone(),
        operator: Operator::new(broker, config, app::schemas(config).map_err(Report::usage)?),
        retention: worker.retention.clone(),
        intakes: worker.intakes.clone(),
        token: config.admin.token().map_err(Report::usage)?.map(|token| Token::new(&token)),
    };
    let place = config.admin.address().map(Place::Address);
    let admin = place.map(|place| AdminThread::start(place, state, stopped)).transpose()?;
    let handlers: Vec<&str> = deployments.iter().map(|deployment| deployment.name()).collect();
    tracing::info!(
        worker = &*worker.id,
        broker = if args.embedded { "embedded".to_owned() } else { config.redis.shown_url() },
        threads = worker.threads,
        handlers = handlers.join(","),
        "starting"
    );
    let shutdown = {
        let mut terminate = signal(SignalKind::terminate()).map_err(Report::failure)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Report::failure)?;
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    };
    // A port that cannot be had ends the worker; one that is served does not.
    let serve = pipeline::serve(worker, backend, deployments, &stats, &readiness, shutdown);
    let result = tokio::select! {
        result = serve => result.map_err(Report::failure),
        fault = admin_thread::failed(admin.as_ref()) => Err(fault),
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
