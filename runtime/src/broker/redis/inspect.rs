//! Operations on streams: looking, redriving, trimming, deleting.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::super::{
    BrokerError, Entry, EntryId, GroupInfo, Inspect, PendingEntry, Refusal, Replay, Replayed, ServerInfo, Source,
    StreamInfo, Trimmed, acl, dead_letter, keys,
};
use super::link::Link;
use super::script::Script;
use super::{MAX_PIPELINE, RedisBroker, reply};

/// Entries of the slow log that are looked at.
const SLOW_ENTRIES: usize = 16;
/// Entries that one call of trim.lua removes, near enough: less than a millisecond of the server's time.
const TRIM_LIMIT: usize = 10_000;
/// Parked entries that one call of restore_due.lua looks at: about a millisecond of the server's time.
const PARKED_LIMIT: usize = 1_000;

impl RedisBroker {
    /// The newest id ever given out in the stream; `None` if there is no stream.
    pub(super) async fn last_id(link: &Link, key: &str) -> Result<Option<EntryId>, BrokerError> {
        RedisBroker::stream_map(link, key).await?.map(|map| map.id("last-generated-id")).transpose()
    }

    async fn stream_map(link: &Link, key: &str) -> Result<Option<reply::Map>, BrokerError> {
        match link.query(::redis::cmd("XINFO").arg("STREAM").arg(key)).await {
            Ok(value) => Ok(Some(reply::Map::new(value)?)),
            Err(BrokerError::NoGroup { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Inspect for RedisBroker {
    async fn stream(&self, key: &str) -> Result<Option<StreamInfo>, BrokerError> {
        let Some(map) = RedisBroker::stream_map(&self.requests, key).await? else { return Ok(None) };
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
                    name: group.foreign_name("name")?,
                    consumers: group.count("consumers")?,
                    pending: group.count("pending")?,
                    delivered: group.id("last-delivered-id")?,
                    lag: group.count("lag").ok(),
                })
            })
            .collect::<Result<_, BrokerError>>()?;
        let (length, last) = (map.count("length")?, map.id("last-generated-id")?);
        Ok(Some(StreamInfo { length, first: map.entry_id("first-entry")?, last, groups }))
    }

    async fn server(&self) -> Result<Option<ServerInfo>, BrokerError> {
        let info: String = self.own.query(&::redis::cmd("INFO")).await?;
        let (seconds, micros): (u64, u64) = self.own.query(&::redis::cmd("TIME")).await?;
        let info = info.lines().filter_map(|line| line.split_once(':'));
        let info = info.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned())).collect();
        let slow = match self.own.query(::redis::cmd("SLOWLOG").arg("GET").arg(SLOW_ENTRIES)).await {
            Ok(value) => Some(reply::slow_log(value)?),
            Err(BrokerError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Some(ServerInfo { info, now_ms: seconds * 1000 + micros / 1000, slow }))
    }

    async fn user_may_not(
        &self,
        user: &str,
        commands: &[acl::Command],
    ) -> Result<Option<Vec<Option<String>>>, BrokerError> {
        let mut pipeline = ::redis::Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.cmd("ACL").arg("DRYRUN").arg(user).arg(command);
        }
        let mut answers = Vec::with_capacity(commands.len());
        for reply in self.own.pipeline_each(&pipeline).await? {
            match reply {
                Ok(::redis::Value::Okay) => answers.push(None),
                Ok(reply) => answers.push(Some(reply::text(reply)?)),
                Err(BrokerError::Refused { refusal: Refusal::NoPermission, .. }) => return Ok(None),
                // No such user: it may nothing.
                Err(BrokerError::Refused { message, .. }) => answers.push(Some(message)),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(answers))
    }

    async fn stream_keys(&self, prefix: &str, limit: usize) -> Result<Vec<String>, BrokerError> {
        let (mut keys, mut cursor) = (BTreeSet::new(), "0".to_owned());
        loop {
            let mut command = ::redis::cmd("SCAN");
            command.arg(&cursor).arg("COUNT").arg(1000).arg("TYPE").arg("stream");
            if !prefix.is_empty() {
                // There are no characters in it that mean something in a pattern.
                command.arg("MATCH").arg(format!("{prefix}*"));
            }
            let (next, page): (String, Vec<Vec<u8>>) = self.own.query(&command).await?;
            // A key that is not UTF-8 cannot be named in a configuration.
            keys.extend(page.into_iter().filter_map(|key| String::from_utf8(key).ok()));
            if next == "0" || keys.len() >= limit {
                return Ok(keys.into_iter().take(limit).collect());
            }
            cursor = next;
        }
    }

    async fn memory(&self, key: &str) -> Result<Option<u64>, BrokerError> {
        match self.requests.query(::redis::cmd("MEMORY").arg("USAGE").arg(key)).await {
            Ok(bytes) => Ok(bytes),
            Err(BrokerError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn range_back(&self, key: &str, from: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, BrokerError> {
        let mut command = ::redis::cmd("XREVRANGE");
        command.arg(key).arg(to.to_string()).arg(from.to_string()).arg("COUNT").arg(count);
        reply::entries(self.requests.query(&command).await?, 0)
    }

    async fn pending(&self, source: &Source, from: EntryId, count: usize) -> Result<Vec<PendingEntry>, BrokerError> {
        let mut command = ::redis::cmd("XPENDING");
        command.arg(&*source.key).arg(&*source.group).arg(from.to_string()).arg("+").arg(count);
        reply::pending(self.requests.query(&command).await?)
    }

    async fn lost_parked(&self, source: &Source, restore: bool) -> Result<usize, BrokerError> {
        let (mut found, mut from) = (0, EntryId::MIN);
        loop {
            let reply = Script::RestoreDue
                .run(&self.requests, &[&source.key, &source.due_key], |command| {
                    command.arg(&*source.group).arg(keys::PARKED_CONSUMER).arg(from.to_string());
                    command.arg(PARKED_LIMIT).arg(u8::from(restore));
                })
                .await?;
            let (more, last): (usize, String) = ::redis::from_redis_value(reply).map_err(reply::unexpected)?;
            found += more;
            if last.is_empty() {
                return Ok(found);
            }
            from = last.parse::<EntryId>().map_err(reply::unexpected)?.next();
        }
    }

    async fn replay(&self, replay: &Replay<'_>) -> Result<Replayed, BrokerError> {
        let reply = Script::Replay
            .run(&self.requests, &[replay.key, replay.inbox], |command| {
                command.arg(replay.from.to_string()).arg(replay.to.to_string()).arg(replay.count);
                command.arg(replay.stream).arg(replay.run);
            })
            .await?;
        let (appended, skipped, last): (usize, usize, String) =
            ::redis::from_redis_value(reply).map_err(reply::unexpected)?;
        let last = (!last.is_empty()).then(|| last.parse()).transpose().map_err(reply::unexpected)?;
        Ok(Replayed { appended, skipped, last })
    }

    async fn workers(&self) -> Result<Vec<(String, String)>, BrokerError> {
        let ids: Vec<String> = self.own.query(::redis::cmd("ZRANGE").arg(keys::WORKERS).arg(0).arg(-1)).await?;
        let mut pipeline = ::redis::pipe();
        for id in &ids {
            pipeline.cmd("GET").arg(keys::heartbeat(id));
        }
        let reports: Vec<Option<String>> = match ids.is_empty() {
            true => Vec::new(),
            false => self.own.pipeline(&pipeline).await?,
        };
        Ok(ids.into_iter().zip(reports).filter_map(|(id, report)| Some((id, report?))).collect())
    }

    async fn range(&self, key: &str, from: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, BrokerError> {
        let mut command = ::redis::cmd("XRANGE");
        command.arg(key).arg(from.to_string()).arg(to.to_string()).arg("COUNT").arg(count);
        reply::entries(self.requests.query(&command).await?, 0)
    }

    async fn redrive(
        &self,
        dead_key: &str,
        entry: EntryId,
        inbox_key: &str,
        version: Option<&str>,
    ) -> Result<bool, BrokerError> {
        let reply = Script::Redrive
            .run(&self.requests, &[dead_key, inbox_key], |command| {
                command.arg(entry.to_string()).arg(version.unwrap_or_default());
            })
            .await?;
        let refused = |reason| Err(BrokerError::NotRedrivable { entry, reason });
        match reply::integer(&reply)? {
            -1 => refused(dead_letter::NOT_A_DEAD_LETTER),
            -2 => refused(dead_letter::NO_ORIGINAL),
            moved => Ok(moved == 1),
        }
    }

    async fn set_paused(&self, handler: &str, paused: bool) -> Result<bool, BrokerError> {
        if !paused {
            let removed: i64 = self.own.query(::redis::cmd("HDEL").arg(keys::PAUSED).arg(handler)).await?;
            return Ok(removed == 1);
        }
        let (seconds, micros): (u64, u64) = self.own.query(&::redis::cmd("TIME")).await?;
        let mut command = ::redis::cmd("HSETNX");
        command.arg(keys::PAUSED).arg(handler).arg(seconds * 1000 + micros / 1000);
        Ok(self.own.query::<i64>(&command).await? == 1)
    }

    async fn remove_streams(&self, keys: &[&str]) -> Result<(), BrokerError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.requests.query::<i64>(::redis::cmd("UNLINK").arg(keys)).await.map(|_| ())
    }

    async fn lengths(&self, keys: &[Arc<str>]) -> Result<Vec<Option<usize>>, BrokerError> {
        let mut lengths = Vec::with_capacity(keys.len());
        for keys in keys.chunks(MAX_PIPELINE) {
            let mut pipeline = ::redis::pipe();
            keys.iter().for_each(|key| _ = pipeline.cmd("XLEN").arg(&**key));
            let answers = self.requests.pipeline_each(&pipeline).await?.into_iter();
            lengths.extend(answers.map(|answer| usize::try_from(reply::integer(&answer.ok()?).ok()?).ok()));
        }
        Ok(lengths)
    }

    async fn trim(
        &self,
        key: &str,
        max_length: Option<usize>,
        older_than: Option<Duration>,
    ) -> Result<Trimmed, BrokerError> {
        if self.requests.is_quiet()
            && let Some(nothing) = self.needs_no_trim(key, max_length, older_than).await?
        {
            return Ok(nothing);
        }
        let text = |number: Option<u128>| number.map_or_else(String::new, |number| number.to_string());
        let reply = Script::Trim
            .run(&self.requests, &[key], |command| {
                command.arg(text(max_length.map(|max| max as u128)));
                command.arg(text(older_than.map(|age| age.as_millis()))).arg(TRIM_LIMIT);
            })
            .await?;
        reply::trimmed(reply)
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
