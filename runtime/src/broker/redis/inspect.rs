//! Operations on streams: looking, redriving, deleting.

use async_trait::async_trait;

use super::super::{BrokerError, Entry, EntryId, GroupInfo, Inspect, StreamInfo, dead_letter};
use super::script::Script;
use super::{RedisBroker, reply};

impl RedisBroker {
    /// The newest id ever given out in the stream; `None` if there is no stream.
    pub(super) async fn last_id(&self, key: &str) -> Result<Option<EntryId>, BrokerError> {
        Ok(self.stream_map(key).await?.map(|(_, last)| last))
    }

    async fn stream_map(&self, key: &str) -> Result<Option<(usize, EntryId)>, BrokerError> {
        match self.requests.query(::redis::cmd("XINFO").arg("STREAM").arg(key)).await {
            Ok(value) => {
                let map = reply::Map::new(value)?;
                let last = map.text("last-generated-id")?.parse().map_err(reply::unexpected)?;
                Ok(Some((map.count("length")?, last)))
            }
            Err(BrokerError::NoGroup { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Inspect for RedisBroker {
    async fn stream(&self, key: &str) -> Result<Option<StreamInfo>, BrokerError> {
        let Some((length, last)) = self.stream_map(key).await? else { return Ok(None) };
        let groups = match self.requests.query(::redis::cmd("XINFO").arg("GROUPS").arg(key)).await {
            Ok(value) => reply::maps(value)?,
            // Deleted between the two requests.
            Err(BrokerError::NoGroup { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let groups = groups
            .into_iter()
            .map(|group| {
                Ok(GroupInfo {
                    name: group.text("name")?,
                    pending: group.count("pending")?,
                    lag: group.count("lag").ok(),
                })
            })
            .collect::<Result<_, BrokerError>>()?;
        Ok(Some(StreamInfo { length, last, groups }))
    }

    async fn range(&self, key: &str, from: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, BrokerError> {
        let mut command = ::redis::cmd("XRANGE");
        command.arg(key).arg(from.to_string()).arg(to.to_string()).arg("COUNT").arg(count);
        reply::entries(self.requests.query(&command).await?, 0)
    }

    async fn redrive(&self, dead_key: &str, entry: EntryId, inbox_key: &str) -> Result<bool, BrokerError> {
        let reply = Script::Redrive
            .run(&self.requests, &[dead_key, inbox_key], |command| {
                command.arg(entry.to_string());
            })
            .await?;
        let refused = |reason| Err(BrokerError::NotRedrivable { entry, reason });
        match reply::integer(&reply)? {
            -1 => refused(dead_letter::NOT_A_DEAD_LETTER),
            -2 => refused(dead_letter::NO_ORIGINAL),
            moved => Ok(moved == 1),
        }
    }

    async fn remove_streams(&self, keys: &[&str]) -> Result<(), BrokerError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.requests.query::<i64>(::redis::cmd("UNLINK").arg(keys)).await.map(|_| ())
    }

    async fn delete(&self, key: &str, entries: &[EntryId]) -> Result<usize, BrokerError> {
        if entries.is_empty() {
            return Ok(0);
        }
        let mut command = ::redis::cmd("XDEL");
        command.arg(key);
        for entry in entries {
            command.arg(entry.to_string());
        }
        self.requests.query(&command).await
    }
}
