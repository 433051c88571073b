//! The threads that run handlers: starting them, telling them, waiting for their end.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::roster::Member;
use super::shard::Shard;
use super::watch::Watch;
use super::{Backend, Command, Deployment, Worker};

/// The way to all threads.
#[derive(Clone)]
pub(super) struct Threads(Vec<mpsc::UnboundedSender<Command>>);

/// A running thread.
pub(super) struct RunningShard {
    commands: mpsc::UnboundedSender<Command>,
    ended: oneshot::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Threads {
    /// Tells each of them.
    pub(super) fn tell_all(&self, command: &Command) {
        for thread in &self.0 {
            // A thread that has ended needs no telling.
            let _ = thread.send(command.clone());
        }
    }

    /// Tells one of them that has a share of the handler.
    pub(super) fn tell_one_that_has(&self, deployment: &Deployment, command: Command) {
        // A handler with little concurrency is not on every thread: those that do not have it ignore the command.
        if deployment.concurrency < self.0.len() {
            self.tell_all(&command);
        } else {
            let _ = self.0[rand::random_range(0..self.0.len())].send(command);
        }
    }

    /// Has each of them serve its share of the handler from now on; nothing of it, if its share is none.
    pub(super) fn serve(&self, member: &Member) {
        let Member { deployment, stats, turn, .. } = member;
        for (number, thread) in self.0.iter().enumerate() {
            let share = share(deployment.concurrency.max(1), self.0.len(), turn + number);
            let (deployment, stats, paused) = (deployment.clone(), stats.clone(), member.is_held());
            let _ = thread.send(Command::Serve { deployment, stats, share, paused });
        }
    }
}

/// Starts the threads of a worker. They serve nothing yet.
pub(super) fn start(
    worker: &Arc<Worker>,
    backend: &Backend,
    watch: &Arc<Watch>,
) -> std::io::Result<(Threads, Vec<RunningShard>)> {
    let start = |number| {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (ended_sender, ended) = oneshot::channel();
        let (worker, backend, watch, sender) = (worker.clone(), backend.clone(), watch.clone(), commands.clone());
        let thread = std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime needs nothing but an epoll descriptor");
            runtime.block_on(async move {
                let consumer = format!("{}.{number}", worker.id).into();
                Shard::new(worker, backend.brokers(), consumer, receiver, sender, watch).run().await;
            });
            // All has been settled or given up; a name that is still being looked up would hold up the end.
            runtime.shutdown_background();
            let _ = ended_sender.send(());
        })?;
        Ok(RunningShard { commands, ended, thread })
    };
    let shards: Vec<RunningShard> = (0..worker.threads.max(1)).map(start).collect::<std::io::Result<_>>()?;
    Ok((Threads(shards.iter().map(|shard| shard.commands.clone()).collect()), shards))
}

/// Tells the threads to finish until then at the latest, and waits until they have.
pub(super) async fn drain(shards: &mut [RunningShard], until: Instant) {
    for shard in &*shards {
        // A thread that has ended needs no telling.
        let _ = shard.commands.send(Command::Drain { until });
    }
    for shard in shards {
        // One that ended by itself has said so before.
        if !shard.ended.is_terminated() {
            (&mut shard.ended).await.ok();
        }
    }
}

/// Waits until a thread ends, which none does before it is told to drain.
pub(super) async fn any_ended(shards: &mut [RunningShard]) {
    futures::future::select_all(shards.iter_mut().map(|shard| &mut shard.ended)).await.0.ok();
}

/// Waits for the ends of all threads; says whether one of them panicked.
pub(super) fn join(shards: Vec<RunningShard>) -> bool {
    let joined: Vec<_> = shards.into_iter().map(|shard| shard.thread.join()).collect();
    joined.iter().any(Result::is_err)
}

/// The part of `concurrency` that one of the threads gets; the parts sum up to it.
fn share(concurrency: usize, threads: usize, turn: usize) -> usize {
    concurrency / threads + usize::from(turn % threads < concurrency % threads)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_sum_up(concurrency in 1usize..500, threads in 1usize..64, turn in 0usize..64) {
            let parts = (0..threads).map(|number| share(concurrency, threads, turn + number));
            prop_assert_eq!(parts.sum::<usize>(), concurrency);
        }
    }
}
