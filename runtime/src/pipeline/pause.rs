//! Pausing handlers on all workers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Command, Deployment};
use crate::broker::Broker;

/// How often a worker looks whether a handler has been paused: an operator does not wait for a second.
const POLL: Duration = Duration::from_millis(300);

/// Tells the threads which handlers are paused whenever that changes, until the future is dropped. While the broker does
/// not answer, everything stays as it is.
pub(super) async fn follow(
    broker: &dyn Broker,
    deployments: &[Arc<Deployment>],
    mut known: BTreeSet<String>,
    shards: &[mpsc::UnboundedSender<Command>],
) {
    deployments
        .iter()
        .filter(|deployment| known.contains(deployment.name()))
        .for_each(|deployment| note(deployment, true));
    loop {
        tokio::time::sleep(POLL).await;
        let paused: BTreeSet<String> = match broker.paused().await {
            Ok(paused) => paused.into_iter().collect(),
            Err(error) => {
                tracing::debug!("cannot see which handlers are paused: {error}");
                continue;
            }
        };
        for deployment in deployments {
            let is_paused = paused.contains(deployment.name());
            if is_paused == known.contains(deployment.name()) {
                continue;
            }
            note(deployment, is_paused);
            let handler = deployment.name.clone();
            for shard in shards {
                // A thread that has ended needs no telling.
                let _ = shard.send(Command::Pause { handler: handler.clone(), paused: is_paused });
            }
        }
        known = paused;
    }
}

fn note(deployment: &Deployment, paused: bool) {
    let handler = deployment.name();
    if paused {
        tracing::warn!(handler, "the handler is paused");
    } else {
        tracing::info!(handler, "the handler goes on");
    }
}
