//! The threads that run handlers: starting them, telling them, waiting for their end.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::courtesy::Courtesy;
use super::roster::Member;
use super::shard::Shard;
use super::watch::{Thread, Watch};
use super::{Backend, Command, Deployment, Share, Worker};

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
        // A handler with little concurrency, its own or that of its tenant, is not on every thread: those that do not have it
        // ignore the command.
        let of_tenant = deployment.quotas.as_deref().map_or(usize::MAX, |quotas| quotas.concurrency);
        if deployment.concurrency.min(of_tenant) < self.0.len() {
            self.tell_all(&command);
        } else {
            let _ = self.0[rand::random_range(0..self.0.len())].send(command);
        }
    }

    /// Has each of them serve its share of the handler from now on; nothing of it, if its share is none.
    pub(super) fn serve(&self, member: &Member) {
        let Member { deployment, stats, budget, turn, .. } = member;
        let quotas = deployment.quotas.as_deref();
        budget.renew(quotas, Instant::now());
        let of_tenant = quotas.map_or(usize::MAX, |quotas| quotas.concurrency.max(1));
        let concurrency = (deployment.concurrency.max(1), of_tenant);
        let first = first_thread(&deployment.tenant, self.0.len());
        for (number, thread) in self.0.iter().enumerate() {
            let share = share(concurrency, self.0.len(), first + number, *turn);
            let (deployment, stats, budget) = (deployment.clone(), stats.clone(), budget.clone());
            let _ = thread.send(Command::Serve { deployment, stats, budget, share, paused: member.is_held() });
        }
    }
}

/// Starts the threads of a worker. They serve nothing yet.
pub(super) fn start(
    worker: &Arc<Worker>,
    backend: &Backend,
    watch: &Arc<Watch>,
) -> std::io::Result<(Threads, Vec<RunningShard>)> {
    let courtesy = Arc::new(Courtesy::new(Instant::now()));
    let start = |number| {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (ended_sender, ended) = oneshot::channel();
        let (worker, backend, watch, courtesy) = (worker.clone(), backend.clone(), watch.clone(), courtesy.clone());
        let woken = Thread::new(commands.clone());
        let thread = std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime needs nothing but an epoll descriptor");
            runtime.block_on(async move {
                let consumer = format!("{}.{number}", worker.id).into();
                Shard::new(worker, backend.brokers(), consumer, receiver, woken, watch, courtesy).run().await;
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

/// The thread that a tenant comes to first: not the same one for all of them.
fn first_thread(tenant: &str, threads: usize) -> usize {
    tenant.bytes().fold(0, |sum: usize, byte| (sum * 31 + usize::from(byte)) % threads)
}

/// What one of the threads gets of the concurrency of a handler and of its tenant; the parts sum up to the whole, or for the
/// handler to what its tenant may. A tenant that may run less than there are threads is on so many of them only. `number` is
/// counted from the first one of the tenant, `turn` is the handler's.
fn share((handler, tenant): (usize, usize), threads: usize, number: usize, turn: usize) -> Share {
    let (at, used) = (number % threads, threads.min(tenant));
    if at >= used {
        return Share { handler: 0, tenant: 0 };
    }
    let handler = handler.min(tenant);
    // What is left over of the handler's goes where its tenant may run one more, too.
    let room = if tenant / used > handler / used { used } else { tenant % used };
    let has_more = at < room && (turn + at) % room < handler % used;
    Share { handler: handler / used + usize::from(has_more), tenant: tenant / used + usize::from(at < tenant % used) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_sum_up(
            (handler, tenant) in (1usize..500, prop_oneof![1usize..500, Just(usize::MAX)]),
            threads in 1usize..64,
            (first, turn) in (0usize..64, 0usize..64),
        ) {
            let parts: Vec<Share> = (0..threads).map(|at| share((handler, tenant), threads, first + at, turn)).collect();
            prop_assert_eq!(parts.iter().map(|part| part.handler).sum::<usize>(), handler.min(tenant));
            prop_assert_eq!(parts.iter().map(|part| part.tenant).fold(0, usize::saturating_add), tenant);
            // Else it could never run as much.
            prop_assert!(parts.iter().all(|part| part.handler <= part.tenant));
        }
    }
}
