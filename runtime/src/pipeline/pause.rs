//! Pausing handlers on all workers.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Command;
use super::roster::Roster;
use super::threads::Threads;
use crate::broker::Broker;

/// How often a worker looks whether a handler has been paused: an operator does not wait for a second.
const POLL: Duration = Duration::from_millis(300);

/// Tells the threads which handlers are paused whenever that changes, until the future is dropped. While the broker does
/// not answer, everything stays as it is.
pub(super) async fn follow(broker: &dyn Broker, roster: &Roster, threads: &Threads) {
    loop {
        tokio::time::sleep(POLL).await;
        let paused: BTreeSet<String> = match broker.paused().await {
            Ok(paused) => paused.into_iter().collect(),
            Err(error) => {
                tracing::debug!("cannot see which handlers are paused: {error}");
                continue;
            }
        };
        for member in roster.now().members() {
            let deployment = &member.deployment;
            let is_paused = paused.contains(deployment.id());
            if is_paused != member.is_paused() {
                member.set_paused(is_paused);
                threads.tell_all(&Command::Pause { handler: deployment.id.clone(), paused: member.is_held() });
            }
        }
    }
}
