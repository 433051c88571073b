//! Watching streams by what Redis tells caching clients (`CLIENT TRACKING`): it remembers which keys a connection has looked
//! at, and says once when one of them changes. Looking at a stream and watching it is the same command.

use std::collections::HashMap;
use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Cmd, Pipeline, PushInfo, PushKind, Value};
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::super::watcher::{Changed, Watcher};
use super::super::{BrokerError, Cursor, EntryId, keys};
use super::link::{RedisSettings, classify};
use super::reply;

/// Streams that are looked at with one request.
const LOOK: usize = 500;

/// A connection of its own, which is told of changes.
pub(super) struct TrackingWatcher {
    connection: MultiplexedConnection,
    told: mpsc::UnboundedReceiver<PushInfo>,
    /// What is watched, by the bytes that Redis names it with.
    watched: HashMap<Vec<u8>, Arc<str>>,
}

impl TrackingWatcher {
    /// Connects. Fails if the server, or its user's permissions, do not have what is needed.
    pub(super) async fn open(settings: &RedisSettings) -> Result<TrackingWatcher, BrokerError> {
        let (sender, told) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(settings.response_timeout())
            .set_push_sender(sender);
        let opened = settings.watching().get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = opened.map_err(classify)?;
        let mut track = ::redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON");
        track.query_async::<()>(&mut connection).await.map_err(classify)?;
        // Else each look would be refused, and wake a reader in vain.
        let nothing = Cursor { key: format!("{}nothing", keys::PREFIX).into(), after: EntryId::MIN };
        look_after(&nothing).query_async::<()>(&mut connection).await.map_err(classify)?;
        Ok(TrackingWatcher { connection, told, watched: HashMap::new() })
    }

    fn take_in(&mut self, info: PushInfo, changed: &mut Vec<Arc<str>>) -> Result<bool, BrokerError> {
        match info.kind {
            PushKind::Invalidate => {}
            PushKind::Disconnection => {
                let message = "the connection that is told of changes broke".to_owned();
                return Err(BrokerError::Unreachable { message, cause: None });
            }
            _ => return Ok(false),
        }
        let Some(Value::Array(keys)) = info.data.into_iter().next() else {
            // All keys, such as by FLUSHALL.
            self.watched.clear();
            return Ok(true);
        };
        for key in keys {
            if let Value::BulkString(key) = key
                && let Some((_, key)) = self.watched.remove_entry(&key)
            {
                changed.push(key);
            }
        }
        Ok(false)
    }

    /// The answers of all commands; an answer may be an error.
    async fn ask(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, BrokerError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        self.connection.send_packed_commands(pipeline, 0, pipeline.len()).await.map_err(classify)
    }
}

/// Asks for the newest entry, if it is after the cursor: no other command says as much and copies as little.
fn look_after(cursor: &Cursor) -> Cmd {
    let mut look = ::redis::cmd("XREVRANGE");
    look.arg(&*cursor.key).arg("+").arg(cursor.after.next().to_string()).arg("COUNT").arg(1);
    look
}

/// The cursor behind what that has found, if something; as it was, if the stream cannot be looked at.
fn newer(cursor: &Cursor, answer: Value) -> Option<Cursor> {
    let Ok(entries) = reply::entries(answer, 0) else { return Some(cursor.clone()) };
    let after = entries.first()?.id;
    // There is nothing after the last id of all, which is found again.
    (after > cursor.after).then(|| Cursor { after, key: cursor.key.clone() })
}

#[async_trait]
impl Watcher for TrackingWatcher {
    async fn watch(&mut self, cursors: &[Cursor]) -> Result<Vec<Cursor>, BrokerError> {
        let mut found = Vec::new();
        for cursors in cursors.chunks(LOOK) {
            let mut pipeline = ::redis::pipe();
            for cursor in cursors {
                self.watched.insert(cursor.key.as_bytes().to_vec(), cursor.key.clone());
                // One each: one that may not be looked at must not be in the way of others.
                pipeline.add_command(look_after(cursor));
            }
            let answers = self.ask(&pipeline).await?;
            found.extend(cursors.iter().zip(answers).filter_map(|(cursor, answer)| newer(cursor, answer)));
        }
        Ok(found)
    }

    async fn changed(&mut self) -> Result<Changed, BrokerError> {
        let mut changed = Vec::new();
        while changed.is_empty() {
            let closed = || BrokerError::Unreachable { message: "the connection was closed".to_owned(), cause: None };
            let mut info = self.told.recv().await.ok_or_else(closed)?;
            loop {
                if self.take_in(info, &mut changed)? {
                    return Ok(Changed::All);
                }
                match self.told.try_recv() {
                    Ok(next) => info = next,
                    Err(_) => break,
                }
            }
        }
        Ok(Changed::Streams(changed))
    }

    async fn check(&mut self) -> Result<(), BrokerError> {
        ::redis::cmd("PING").query_async::<()>(&mut self.connection).await.map_err(classify)
    }
}
