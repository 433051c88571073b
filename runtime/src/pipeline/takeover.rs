//! Taking over from workers that have died, and from other programs.
//!
//! What is pending under whom can only be asked stream by stream. So all of them are asked only after a worker has gone;
//! otherwise some at a time, in turn, for other programs (which have no heartbeat) and for what was missed.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::brokers::Brokers;
use super::roster::Roster;
use super::threads::Threads;
use super::{Command, Deployment, Heirloom, Worker};
use crate::broker::{BrokerError, ConsumerInfo, Source, keys};

/// Streams that are asked with each heartbeat though no worker has gone. So with the default heartbeat of two seconds and N
/// streams (inboxes included), what other programs have left idle is found within N/50 seconds, at least two.
const LOOK: usize = 100;

/// What a look begins with.
struct Takeover<'a> {
    brokers: &'a Brokers,
    worker: &'a Worker,
    threads: &'a Threads,
    /// The workers that were alive when it was last looked.
    alive: BTreeSet<String>,
    /// A worker has gone, and not all streams have been asked since.
    is_thorough: bool,
    /// Where the next look in turn begins.
    next: usize,
    /// Streams with something to take over: whether that is done is seen next time.
    again: HashSet<Arc<Source>>,
}

/// Looks for dead workers and has their entries taken over, until the future is dropped.
pub(super) async fn run(brokers: &Brokers, worker: &Worker, roster: &Roster, threads: &Threads) {
    // Workers may have died before this one began.
    let (alive, again) = (BTreeSet::new(), HashSet::new());
    let mut takeover = Takeover { brokers, worker, threads, alive, is_thorough: true, next: 0, again };
    loop {
        // Spread over the workers, so that they do not all look at the same moment.
        tokio::time::sleep(worker.heartbeat.mul_f64(0.5 + rand::random::<f64>())).await;
        if let Err(error) = takeover.look(roster).await {
            tracing::debug!("cannot look for dead workers: {error}");
            takeover.is_thorough = true;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

impl Takeover<'_> {
    async fn look(&mut self, roster: &Roster) -> Result<(), BrokerError> {
        let alive = self.brokers.own.living().await?;
        self.is_thorough |= !self.alive.is_subset(&alive);
        self.alive = alive;
        let served = roster.now();
        let all: Vec<_> = served.sources().collect();
        let turn = turn(&mut self.next, all.len());
        let again = std::mem::take(&mut self.again);
        let is_asked =
            |at: usize, source: &Arc<Source>| self.is_thorough || turn.contains(&at) || again.contains(source);
        let asked = all.iter().enumerate().filter(|(at, (_, source))| is_asked(*at, source)).map(|(_, of)| *of);
        let asked: Vec<_> = asked.collect();
        let mut found = Vec::new();
        for (deployment, source) in asked {
            found.extend(self.consumers(deployment, source).await?);
        }
        self.take(found).await?;
        self.is_thorough = false;
        Ok(())
    }

    /// Consumers of other workers. What other programs have left idle is taken from them.
    async fn consumers<'d>(
        &mut self,
        deployment: &'d Arc<Deployment>,
        source: &'d Arc<Source>,
    ) -> Result<Vec<Found<'d>>, BrokerError> {
        let consumers = match self.brokers.own.consumers(source).await {
            Ok(consumers) => consumers,
            // The readers notice it too, and create the group again.
            Err(BrokerError::NoGroup { .. }) => return Ok(Vec::new()),
            // One stream that cannot be read is no reason to leave the others alone.
            Err(error @ BrokerError::Unreachable { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(stream = source.stream, "cannot look for dead workers: {error}");
                return Ok(Vec::new());
            }
        };
        let mut found = Vec::new();
        for consumer in consumers {
            match keys::worker_of(&consumer.name) {
                Some(owner) if owner == &*self.worker.id => {}
                Some(owner) => found.push(Found { deployment, source, owner: owner.to_owned(), consumer }),
                // Nobody says whether other programs live: what has been idle for long is taken from them.
                None if consumer.name == keys::PARKED_CONSUMER || consumer.pending == 0 => {}
                None => {
                    let from = Heirloom { consumer: consumer.name, min_idle: Some(deployment.take_over_idle) };
                    self.inherit(deployment, source, from);
                }
            }
        }
        Ok(found)
    }

    /// Has the entries of those taken over that are dead, and removes their consumers when they have none.
    async fn take(&mut self, found: Vec<Found<'_>>) -> Result<(), BrokerError> {
        let owners: BTreeSet<&String> = found.iter().map(|found| &found.owner).collect();
        let owners: Vec<String> = owners.into_iter().cloned().collect();
        let alive = self.brokers.own.alive(&owners).await?;
        let dead = owners.into_iter().zip(alive).filter_map(|(owner, alive)| (!alive).then_some(owner));
        let dead: BTreeSet<String> = dead.collect();
        for Found { deployment, source, owner, consumer } in found.iter().filter(|found| dead.contains(&found.owner)) {
            if consumer.pending == 0 {
                let broker = self.brokers.of(deployment.login.as_ref());
                match broker.remove_consumer(source, &consumer.name).await {
                    Ok(_) => {}
                    Err(error @ BrokerError::Unreachable { .. }) => return Err(error),
                    // What is refused to the user of one tenant is no reason to leave the events of others with the dead.
                    Err(error) => {
                        tracing::debug!(stream = source.stream, "cannot remove the consumer of a dead worker: {error}");
                    }
                }
                continue;
            }
            tracing::info!(
                handler = deployment.id(),
                worker = owner,
                pending = consumer.pending,
                "taking over the events of a dead worker"
            );
            self.inherit(deployment, source, Heirloom { consumer: consumer.name.clone(), min_idle: None });
        }
        Ok(())
    }

    /// Has a thread take the entries of a consumer.
    fn inherit(&mut self, deployment: &Deployment, source: &Arc<Source>, from: Heirloom) {
        self.again.insert(source.clone());
        let command = Command::Inherit { handler: deployment.id.clone(), source: source.clone(), from };
        self.threads.tell_one_that_has(deployment, command);
    }
}

/// A consumer of another worker.
struct Found<'a> {
    deployment: &'a Arc<Deployment>,
    source: &'a Arc<Source>,
    owner: String,
    consumer: ConsumerInfo,
}

/// The places of those whose turn it is among so many.
fn turn(next: &mut usize, count: usize) -> std::ops::Range<usize> {
    let from = if *next < count { *next } else { 0 };
    *next = from + LOOK;
    from..*next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_in_as_many_looks_as_it_takes() {
        for count in [1, LOOK - 1, LOOK, LOOK + 1, 10 * LOOK] {
            let mut next = 0;
            let looks = count.div_ceil(LOOK);
            let looked: BTreeSet<usize> = (0..looks).flat_map(|_| turn(&mut next, count)).collect();
            assert!((0..count).all(|at| looked.contains(&at)), "{count}");
        }
    }
}
