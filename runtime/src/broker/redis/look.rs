//! Looking whether there is something to do before the connection of a tenant's user is opened for it: by the worker's own
//! user, which needs to read the keys for that. If it may not, whoever wants to do something has to try.

use std::time::Duration;

use super::super::{BrokerError, Claimed, EntryId, Source, Trimmed};
use super::{RedisBroker, reply};

impl RedisBroker {
    /// Whether the group is there, as far as that can be seen.
    pub(super) async fn has_group(&self, source: &Source) -> Result<bool, BrokerError> {
        let mut pipeline = ::redis::pipe();
        pipeline.cmd("XINFO").arg("GROUPS").arg(&*source.key);
        let Some(Ok(groups)) = self.own.pipeline_each(&pipeline).await?.pop() else { return Ok(false) };
        let names = reply::maps(groups)?.into_iter().map(|group| group.foreign_name("name"));
        Ok(names.collect::<Result<Vec<_>, _>>()?.iter().any(|name| *name == *source.group))
    }

    /// Whether reading may bring something, or an error that the reader has to know.
    pub(super) async fn may_have_news(&self, source: &Source) -> Result<bool, BrokerError> {
        let mut pipeline = ::redis::pipe();
        pipeline.cmd("XINFO").arg("STREAM").arg(&*source.key);
        pipeline.cmd("XINFO").arg("GROUPS").arg(&*source.key);
        let mut replies = self.own.pipeline_each(&pipeline).await?.into_iter();
        let (Some(Ok(stream)), Some(Ok(groups))) = (replies.next(), replies.next()) else { return Ok(true) };
        let newest = reply::Map::new(stream)?.entry_id("last-entry")?;
        for group in reply::maps(groups)? {
            if group.foreign_name("name")? == *source.group {
                let delivered = group.id("last-delivered-id")?;
                return Ok(newest.is_some_and(|newest| newest > delivered));
            }
        }
        Ok(true)
    }

    /// Whether a member of a set of due times is due, and else when the first one is; `None` if that cannot be seen.
    pub(super) async fn first_due(&self, key: &str) -> Result<Option<FirstDue>, BrokerError> {
        let mut pipeline = ::redis::pipe();
        pipeline.cmd("TIME").cmd("ZRANGE").arg(key).arg(0).arg(0).arg("WITHSCORES");
        let mut replies = self.own.pipeline_each(&pipeline).await?.into_iter();
        let (Some(Ok(time)), Some(Ok(first))) = (replies.next(), replies.next()) else { return Ok(None) };
        let (seconds, micros): (u64, u64) = ::redis::from_redis_value(time).map_err(reply::unexpected)?;
        let first: Vec<(Vec<u8>, f64)> = ::redis::from_redis_value(first).map_err(reply::unexpected)?;
        let now = Duration::from_micros(seconds * 1_000_000 + micros);
        Ok(Some(match first.first() {
            None => FirstDue::None,
            Some((_, due)) => match Duration::from_millis(*due as u64).saturating_sub(now) {
                Duration::ZERO => FirstDue::Now,
                wait => FirstDue::In(wait),
            },
        }))
    }

    /// What trimming would come to, if there is nothing to trim; `None` if there may be, or that cannot be seen.
    pub(super) async fn needs_no_trim(
        &self,
        key: &str,
        max_length: Option<usize>,
        older_than: Option<Duration>,
    ) -> Result<Option<Trimmed>, BrokerError> {
        let mut pipeline = ::redis::pipe();
        pipeline.cmd("XLEN").arg(key).cmd("TIME");
        if older_than.is_some() {
            pipeline.cmd("XRANGE").arg(key).arg("-").arg("+").arg("COUNT").arg(1);
        }
        let replies: Vec<_> =
            self.own.pipeline_each(&pipeline).await?.into_iter().collect::<Result<_, _>>().unwrap_or_default();
        let mut replies = replies.into_iter();
        let (Some(length), Some(time)) = (replies.next(), replies.next()) else { return Ok(None) };
        let length: usize = ::redis::from_redis_value(length).map_err(reply::unexpected)?;
        let (seconds, micros): (u64, u64) = ::redis::from_redis_value(time).map_err(reply::unexpected)?;
        let is_old = |first: EntryId, age: Duration| {
            u128::from(seconds * 1000 + micros / 1000).saturating_sub(age.as_millis()) > u128::from(first.ms)
        };
        let first = replies.next().map(|entries| reply::entries(entries, 0)).transpose()?.unwrap_or_default();
        let too_old = older_than.is_some_and(|age| first.first().is_some_and(|entry| is_old(entry.id, age)));
        let too_long = max_length.is_some_and(|most| length > most);
        Ok((!too_old && !too_long).then(|| Trimmed { length, ..Trimmed::default() }))
    }
}

/// When the first of a set of due times is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstDue {
    /// It is over.
    Now,
    /// After so long.
    In(Duration),
    /// There is none.
    None,
}

impl FirstDue {
    /// What claiming would come to, if nothing is due.
    pub(super) fn nothing_to_claim(self) -> Option<Claimed> {
        let next_due = match self {
            FirstDue::Now => return None,
            FirstDue::In(wait) => Some(wait),
            FirstDue::None => None,
        };
        Some(Claimed { next_due, ..Claimed::default() })
    }
}
