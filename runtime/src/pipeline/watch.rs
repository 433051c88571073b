//! Waking up readers: one blocking request watches all streams that have nothing to read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

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
        loop {
            let cursors: Vec<Cursor> = self
                .idle()
                .keys()
                .map(|key| Cursor { key: key.clone(), after: newest.get(key).copied().unwrap_or_default() })
                .collect();
            if cursors.is_empty() {
                self.changed.notified().await;
                continue;
            }
            match self.wait(broker, &cursors).await {
                Ok(Woken::Streams(woken)) => {
                    for cursor in woken {
                        self.wake(&cursor.key);
                        newest.insert(cursor.key, cursor.after);
                    }
                }
                Ok(Woken::TimedOut) => {
                    newest.clear();
                    self.wake_all();
                }
                Ok(Woken::Interrupted) => {}
                Err(error) => {
                    tracing::debug!("waiting for events: {error}");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    self.wake_all();
                }
            }
        }
    }

    async fn wait(&self, broker: &dyn Broker, cursors: &[Cursor]) -> Result<Woken, crate::broker::BrokerError> {
        let wait = broker.wait(cursors, POLL);
        tokio::pin!(wait);
        let mut interrupted = false;
        loop {
            tokio::select! {
                woken = &mut wait => {
                    let woken = woken?;
                    return Ok(match (woken.is_empty(), interrupted) {
                        (false, _) => Woken::Streams(woken),
                        (true, true) => Woken::Interrupted,
                        (true, false) => Woken::TimedOut,
                    });
                }
                () = self.changed.notified() => interrupted = true,
                () = tokio::time::sleep(INTERRUPT_AGAIN), if interrupted => {}
            }
            broker.interrupt_wait().await?;
        }
    }
}

enum Woken {
    Streams(Vec<Cursor>),
    Interrupted,
    TimedOut,
}
