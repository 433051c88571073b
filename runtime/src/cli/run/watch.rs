//! `wasmill run --watch`: a reload whenever a file changes that the worker serves from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;
use wasmill::access::Actor;
use wasmill::config::{Config, environment};
use wasmill::reload::Reload;

use super::Report;
use crate::cli::files::{Look, MAX_QUIET, QUIET, Watcher};

/// Watches the file and what it names, until the future is dropped; without a file, nothing. Ends when it cannot be watched.
pub async fn follow(file: Option<PathBuf>, config: Config, reload: &Reload) -> Report {
    match file {
        Some(file) => match watch(&file, config, reload).await {
            Ok(()) => std::future::pending().await,
            Err(fault) => fault,
        },
        None => std::future::pending().await,
    }
}

async fn watch(file: &Path, mut config: Config, reload: &Reload) -> Result<(), Report> {
    let changed = Arc::new(Notify::new());
    let mut watcher = {
        let changed = changed.clone();
        Watcher::new(move || changed.notify_one())?
    };
    let mut look = watcher.look(|| Look::served(file, &config)).map_err(Report::usage)?;
    loop {
        changed.notified().await;
        let first = Instant::now();
        while first.elapsed() < MAX_QUIET {
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(QUIET) => break,
            }
        }
        // Which files count, the configuration says. One with faults is told of by the reload.
        if let Ok(now) = Config::load(file, environment()) {
            config = now;
        }
        match watcher.look(|| Look::served(file, &config)) {
            Ok(now) if now == look => {}
            Ok(now) => {
                look = now;
                // The log says how it ended.
                let _ = reload.now(Actor::Files).await;
            }
            Err(problem) => tracing::warn!("{problem}"),
        }
    }
}
