//! `wasmill run`: the worker.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use wasmill::admin::{self, AdminState};
use wasmill::broker::keys::Namespace;
use wasmill::pipeline::{self, Backend, Deployment};
use wasmill::{app, config::Config};

use super::{Context, Report, block_on};

/// Arguments of `run`.
#[derive(Parser)]
pub struct Args {}

/// Works until SIGTERM or SIGINT, drains, and returns.
pub fn run(context: &Context, _: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    if config.handlers.is_empty() && config.intake.is_empty() {
        return Err(Report::usage(
            "neither handlers nor intakes are configured: add a [handlers.NAME] section, or name a file with --config",
        ));
    }
    let engine = app::engine(&config).map_err(Report::failure)?;
    let cache = app::cache(&config).map_err(Report::usage)?;
    let deployments =
        app::deployments(&config, &Namespace::default(), &engine, cache.as_ref()).map_err(Report::usage)?;
    block_on(serve(&config, deployments))
}

async fn serve(config: &Config, deployments: Vec<Arc<Deployment>>) -> Result<ExitCode, Report> {
    let backend = Backend::Redis(Box::new(app::redis_settings(config).map_err(Report::usage)?));
    let worker = app::worker(config, &Namespace::default());
    let stats = Arc::new(pipeline::new_stats(&deployments));
    let ready = Arc::new(AtomicBool::new(false));
    let (stop, stopped) = watch::channel(false);
    let admin = start_admin(
        config,
        AdminState {
            stats: stats.clone(),
            ready: ready.clone(),
            retention: worker.retention.clone(),
            intakes: worker.intakes.clone(),
        },
        stopped,
    );
    let handlers: Vec<&str> = deployments.iter().map(|deployment| deployment.name()).collect();
    tracing::info!(
        worker = &*worker.id,
        redis = config.redis.shown_url(),
        threads = worker.threads,
        handlers = handlers.join(","),
        "starting"
    );
    let shutdown = {
        let ready = ready.clone();
        let mut terminate = signal(SignalKind::terminate()).map_err(Report::failure)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Report::failure)?;
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            ready.store(false, Ordering::Relaxed);
            tracing::info!("draining");
        }
    };
    let is_ready = || {
        ready.store(true, Ordering::Relaxed);
        tracing::info!("ready");
    };
    // A port that cannot be had ends the worker; one that is served does not.
    let serve = pipeline::serve(worker, backend, deployments, &stats, is_ready, shutdown);
    let result = tokio::select! {
        result = serve => result.map_err(Report::failure),
        fault = failed(&admin) => Err(fault),
    };
    // Nobody may be listening.
    let _ = stop.send(true);
    if let Some(admin) = admin {
        let _ = admin.task.await;
    }
    result?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The admin pages, served in the background.
struct Admin {
    task: tokio::task::JoinHandle<()>,
    fault: watch::Receiver<Option<String>>,
}

fn start_admin(config: &Config, state: AdminState, mut stopped: watch::Receiver<bool>) -> Option<Admin> {
    let address = config.admin.address()?;
    let (report, fault) = watch::channel(None);
    let task = tokio::spawn(async move {
        let shutdown = async move {
            // The sender is dropped when the worker ends, which is just as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Err(error) = admin::serve(address, state, shutdown).await {
            let _ = report.send(Some(error.to_string()));
        }
    });
    Some(Admin { task, fault })
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
