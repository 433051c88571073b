//! Watching streams by what Redis tells caching clients (`CLIENT TRACKING`): it remembers which keys a connection has looked
//! at, and says once when one of them changes. Looking at a stream and watching it is the same command.

use std::collections::HashMap;
use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Pipeline, PushInfo, PushKind, Value};
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::super::watcher::{Changed, Watcher};
use super::super::{BrokerError, Cursor, EntryId, keys};
use super::link::{RedisSettings, classify};

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
        let (mut look, nothing) = (::redis::pipe(), format!("{}nothing", keys::PREFIX));
        look_after(&Cursor { key: nothing.into(), after: EntryId::MIN }, &mut look);
        look.query_async::<Value>(&mut connection).await.map_err(classify)?;
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

/// Asks for the newest entry, if it is after the cursor: no other command says as much and copies as little. After the last
/// id of all there is nothing, and Redis refuses to look there.
fn look_after(cursor: &Cursor, pipeline: &mut Pipeline) {
    let start = if cursor.after == EntryId::MAX { cursor.after.to_string() } else { format!("({}", cursor.after) };
    pipeline.cmd("XREVRANGE").arg(&*cursor.key).arg("+").arg(start).arg("COUNT").arg(1);
}

/// The cursor behind what that has found, if something; as it was, if the stream cannot be looked at.
fn newer(cursor: &Cursor, answer: &Value) -> Option<Cursor> {
    let Value::Array(entries) = answer else { return Some(cursor.clone()) };
    let Value::Array(newest) = entries.first()? else { return None };
    let Value::BulkString(id) = newest.first()? else { return None };
    let after: EntryId = std::str::from_utf8(id).ok()?.parse().ok()?;
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
                look_after(cursor, &mut pipeline);
            }
            let answers = self.ask(&pipeline).await?;
            found.extend(cursors.iter().zip(&answers).filter_map(|(cursor, answer)| newer(cursor, answer)));
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
