//! What a worker says of itself with each heartbeat, for whoever looks at the fleet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::stats::{HandlerStats, VersionStats};

/// A worker and what it has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct WorkerReport {
    /// Its name, unique per process start.
    pub worker: String,
    /// The version of wasmill.
    pub version: String,
    /// The machine that it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// When it started, in milliseconds since the Unix epoch, by its own clock.
    pub started_ms: u64,
    /// Threads that run handlers.
    pub threads: usize,
    /// Its handlers by name.
    pub handlers: BTreeMap<String, HandlerReport>,
}

/// How it stands with a version that a worker is to hold besides the one that serves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PinState {
    /// Dead letters can run on it.
    Held,
    /// It cannot be had, for this reason.
    Failed(String),
}

/// What one worker did for one handler since it started.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct HandlerReport {
    /// The digest of the component that serves.
    pub digest: String,
    /// Events acknowledged after the handler returned `ok`.
    pub acked: u64,
    /// Attempts that failed and will be made again.
    pub retried: u64,
    /// Events that went to the dead-letter stream.
    pub dead: u64,
    /// Follow-up events written.
    pub published: u64,
    /// Events of types that the handler does not want.
    pub skipped: u64,
    /// Events that the handler had handled before (`dedup`).
    pub duplicate: u64,
    /// Redis refuses what the handler did.
    pub blocked: bool,
    /// Runs of the handler.
    pub runs: u64,
    /// Half of the runs took no longer, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 runs took no longer, in microseconds.
    pub p99_us: u64,
    /// The longest run, in microseconds.
    pub max_us: u64,
    /// What became of the deliveries that ran on each of the last versions, by digest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, VersionCounts>,
    /// Versions that are held for dead letters, by their digests.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pinned: BTreeMap<String, PinState>,
}

/// What became of the deliveries that ran on one version of a handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct VersionCounts {
    /// Runs.
    pub runs: u64,
    /// Events acknowledged.
    pub acked: u64,
    /// Attempts that failed and will be made again.
    pub retried: u64,
    /// Events that went to the dead-letter stream.
    pub dead: u64,
}

impl VersionCounts {
    /// The counters as they stand.
    pub fn new(stats: &VersionStats) -> VersionCounts {
        let VersionStats { runs, acked, retried, dead } = stats;
        VersionCounts { runs: runs.get(), acked: acked.get(), retried: retried.get(), dead: dead.get() }
    }

    fn add(&mut self, other: &VersionCounts) {
        self.runs += other.runs;
        self.acked += other.acked;
        self.retried += other.retried;
        self.dead += other.dead;
    }
}

impl HandlerReport {
    /// The counters as they stand.
    pub fn new(digest: &str, stats: &HandlerStats) -> HandlerReport {
        let versions = stats.versions().into_iter();
        let durations = stats.durations();
        let quantile_us = |quantile| durations.value_at_quantile(quantile).div_ceil(1000);
        HandlerReport {
            digest: digest.to_owned(),
            acked: stats.acked.get(),
            retried: stats.retried.get(),
            dead: stats.dead.get(),
            published: stats.published.get(),
            skipped: stats.skipped.get(),
            duplicate: stats.duplicate.get(),
            blocked: stats.is_blocked(),
            runs: durations.len(),
            p50_us: quantile_us(0.5),
            p99_us: quantile_us(0.99),
            max_us: durations.max().div_ceil(1000),
            versions: versions.map(|(digest, counts)| (digest, VersionCounts::new(&counts))).collect(),
            pinned: BTreeMap::new(),
        }
    }

    /// Adds what another worker did. Of the durations the longer ones count: quantiles cannot be added.
    pub fn add(&mut self, other: &HandlerReport) {
        self.acked += other.acked;
        self.retried += other.retried;
        self.dead += other.dead;
        self.published += other.published;
        self.skipped += other.skipped;
        self.duplicate += other.duplicate;
        self.blocked |= other.blocked;
        self.runs += other.runs;
        self.p50_us = self.p50_us.max(other.p50_us);
        self.p99_us = self.p99_us.max(other.p99_us);
        self.max_us = self.max_us.max(other.max_us);
        for (digest, counts) in &other.versions {
            self.versions.entry(digest.clone()).or_default().add(counts);
        }
        if self.digest.is_empty() {
            self.digest.clone_from(&other.digest);
        }
    }
}
