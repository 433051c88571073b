//! `wasmill run`: the worker.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use wasmill::admin::{self, AdminState, Token};
use wasmill::broker::Operate;
use wasmill::broker::keys::Namespace;
use wasmill::broker::memory::MemoryBroker;
use wasmill::broker::redis::RedisBroker;
use wasmill::ops::Operator;
use wasmill::pipeline::{self, Backend, Deployment};
use wasmill::readiness::Readiness;
use wasmill::{app, config::Config};

use super::{Context, Report, block_on};

/// How long requests of the admin API may go on when everything else has ended.
const ADMIN_LEAVE_TIME: Duration = Duration::from_secs(1);

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
    let worker = app::worker(config, &Namespace::default());
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
    let admin = start_admin(config, state, stopped)?;
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
        fault = failed(&admin) => Err(fault),
    };
    // Nobody may be listening.
    let _ = stop.send(true);
    if let Some(admin) = admin
        && admin.thread.join().is_err()
    {
        tracing::warn!("the thread of the admin API has panicked");
    }
    result?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The admin API, on a thread of its own: a large answer must not hold up the heartbeat.
struct Admin {
    thread: std::thread::JoinHandle<()>,
    fault: watch::Receiver<Option<String>>,
}

fn start_admin(
    config: &Config,
    state: AdminState,
    mut stopped: watch::Receiver<bool>,
) -> Result<Option<Admin>, Report> {
    let Some(address) = config.admin.address() else { return Ok(None) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Report::failure)?;
    let (report, fault) = watch::channel(None);
    let serve = async move {
        let mut leaving = stopped.clone();
        let shutdown = async move {
            // The sender is dropped when the worker ends, which is just as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let overdue = async move {
            let _ = leaving.wait_for(|stop| *stop).await;
            tokio::time::sleep(ADMIN_LEAVE_TIME).await;
        };
        tokio::select! {
            result = admin::serve(address, state, shutdown) => {
                if let Err(error) = result {
                    let _ = report.send(Some(error.to_string()));
                }
            }
            // Clients that do not finish their requests, or do not read the answers.
            () = overdue => {}
        }
    };
    let thread = std::thread::Builder::new().name("admin".to_owned());
    let thread = thread.spawn(move || runtime.block_on(serve)).map_err(Report::failure)?;
    Ok(Some(Admin { thread, fault }))
}

/// Ends when the admin pages cannot be served.
async fn failed(admin: &Option<Admin>) -> Report {
    if let Some(admin) = admin
        && let Ok(fault) = admin.fault.clone().wait_for(Option::is_some).await
        && let Some(fault) = &*fault
    {
        return Report::usage(fault);
    }
    std::future::pending().await
}
