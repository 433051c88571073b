//! Waking up readers: one blocking request watches all streams that have nothing to read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::Command;
use crate::broker::{Broker, Cursor, EntryId};

/// All idle readers try again after this time: a stream that was deleted and made again with smaller ids wakes nobody.
const POLL: Duration = Duration::from_secs(5);
/// How long an interrupted wait may take to notice, before it is interrupted again: the first interruption may have
/// come before the wait had begun.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(5);
/// The pause after the broker could not be asked.
const ERROR_PAUSE: Duration = Duration::from_millis(500);

/// Who waits for which stream.
#[derive(Default)]
pub(super) struct Watch {
    idle: Mutex<HashMap<Arc<str>, Vec<mpsc::UnboundedSender<Command>>>>,
    changed: Notify,
}

impl Watch {
    fn idle(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<mpsc::UnboundedSender<Command>>>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Asks for one [`Command::Wake`] when the stream has something new.
    pub(super) fn register(&self, key: &Arc<str>, shard: &mpsc::UnboundedSender<Command>) {
        let mut idle = self.idle();
        let waiting = idle.entry(key.clone()).or_default();
        if !waiting.iter().any(|other| other.same_channel(shard)) {
            waiting.push(shard.clone());
        }
        if waiting.len() == 1 {
            self.changed.notify_one();
        }
    }

    fn wake(&self, key: &str) {
        for shard in self.idle().remove(key).unwrap_or_default() {
            // A shard that has ended needs no waking.
            let _ = shard.send(Command::Wake(key.into()));
        }
    }

    fn wake_all(&self) {
        let keys: Vec<Arc<str>> = self.idle().keys().cloned().collect();
        keys.iter().for_each(|key| self.wake(key));
    }

    /// Waits on the broker and wakes shards, until the future is dropped.
    pub(super) async fn run(&self, broker: &dyn Broker) {
        let mut newest: HashMap<Arc<str>, EntryId> = HashMap::new();
        // Streams that wake their readers all the time do not put this off.
        let mut next_poll = Instant::now() + POLL;
        loop {
            let now = Instant::now();
            if now >= next_poll {
                next_poll = now + POLL;
                newest.clear();
                self.wake_all();
            }
            let cursors: Vec<Cursor> = self
                .idle()
                .keys()
                .map(|key| Cursor { key: key.clone(), after: newest.get(key).copied().unwrap_or_default() })
                .collect();
            if cursors.is_empty() {
                self.changed.notified().await;
                continue;
            }
            match self.wait(broker, &cursors, next_poll - now).await {
                Ok(woken) => {
                    for cursor in woken {
                        self.wake(&cursor.key);
                        newest.insert(cursor.key, cursor.after);
                    }
                }
                Err(error) => {
                    tracing::debug!("waiting for events: {error}");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    self.wake_all();
                }
            }
        }
    }

    /// The streams that have something new; none when the time is over or other streams are to be watched.
    async fn wait(
        &self,
        broker: &dyn Broker,
        cursors: &[Cursor],
        timeout: Duration,
    ) -> Result<Vec<Cursor>, crate::broker::BrokerError> {
        let wait = broker.wait(cursors, timeout);
        tokio::pin!(wait);
        let mut interrupted = false;
        loop {
            tokio::select! {
                woken = &mut wait => return woken,
                () = self.changed.notified() => interrupted = true,
                () = tokio::time::sleep(INTERRUPT_AGAIN), if interrupted => {}
            }
            broker.interrupt_wait().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::memory::MemoryBroker;

    /// A reader that waits for a stream in vain asks again all the same, though another stream wakes its reader each
    /// second.
    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_is_tried_again_beside_a_busy_one() {
        let (watch, broker) = (Watch::default(), MemoryBroker::new());
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let [quiet, busy]: [Arc<str>; 2] = ["quiet".into(), "busy".into()];
        watch.register(&quiet, &sender);
        watch.register(&busy, &sender);
        let start = Instant::now();
        let readers = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                broker.append(&busy, Vec::new());
                let Some(Command::Wake(key)) = receiver.recv().await else { panic!("another command") };
                if key == quiet {
                    return start.elapsed();
                }
                watch.register(&busy, &sender);
            }
        };
        let asked = tokio::select! {
            () = watch.run(&broker) => unreachable!("it runs until it is dropped"),
            asked = readers => asked,
            () = tokio::time::sleep(POLL * 20) => panic!("the quiet stream starves"),
        };
        assert!(asked >= POLL && asked <= POLL * 2, "{asked:?}");
    }
}
