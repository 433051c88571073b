//! Is everything as it should be? Each finding comes with its remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Operator, OpsError};
use crate::audit::Verb;
use crate::broker::{BrokerError, ServerInfo, Source, keys};
use crate::clock::now_ms;
use crate::config::StreamConfig;

/// The oldest server that wasmill works with, as (major, minor).
const MIN_VERSION: (u32, u32) = (7, 0);
/// A clock that is further away makes ages and times misleading. Due times do not depend on it.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(5);
/// With less of `maxmemory` left, writes will soon be refused.
const MIN_HEAD_ROOM: f64 = 0.2;
/// A stream of this length that nobody trims is worth a word.
const LONG_STREAM: usize = 1_000_000;
/// A command that takes longer holds up everybody.
const SLOW_COMMAND: Duration = Duration::from_millis(50);

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    Connection,
    User,
    Version,
    Persistence,
    EvictionPolicy,
    Clock,
    Memory,
    SlowLog,
    Workers,
    OrphanedConsumers,
    PendingWithoutOwner,
    ParkedWithoutTime,
    Trimming,
    DeadLetters,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but somebody should know.
    Warning,
    /// Events may be lost, or are not handled.
    Error,
}

/// What one look has shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub message: String,
    /// What to do about it; empty if nothing is wrong.
    pub remedy: String,
    /// `--fix` can mend it without any risk.
    pub fixable: bool,
    /// It has been mended.
    pub fixed: bool,
}

/// The state of health.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct DoctorReport {
    /// The worst level of all findings that have not been mended.
    pub level: Level,
    /// All findings.
    pub findings: Vec<Finding>,
}

impl Finding {
    pub(super) fn ok(check: Check, message: impl Into<String>) -> Finding {
        let (message, remedy) = (message.into(), String::new());
        Finding { check, level: Level::Ok, message, remedy, fixable: false, fixed: false }
    }

    pub(super) fn bad(check: Check, level: Level, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        let (message, remedy) = (message.into(), remedy.into());
        Finding { check, level, message, remedy, fixable: false, fixed: false }
    }
}

/// A consumer of a worker that is no longer alive.
struct Orphan {
    source: Source,
    consumer: String,
    pending: usize,
}

impl Operator {
    /// Looks at everything. With `fix`, mends what can be mended without any risk.
    pub async fn doctor(&self, fix: bool) -> Result<DoctorReport, OpsError> {
        if !fix {
            return self.look(false).await;
        }
        let told = |report: &DoctorReport| {
            let fixed = report.findings.iter().filter(|finding| finding.fixed).count();
            format!("{fixed} findings mended")
        };
        match self.audited((Verb::DoctorFix, ""), String::new(), self.look(true), told).await {
            // That is what there is to find.
            Err(OpsError::Broker(BrokerError::Unreachable { .. })) => self.look(false).await,
            result => result,
        }
    }

    async fn look(&self, fix: bool) -> Result<DoctorReport, OpsError> {
        let mut findings = match self.broker.server().await {
            Ok(Some(server)) => server_findings(&server, now_ms()),
            Ok(None) => {
                let text = "the broker is in the worker's process: its streams end with it";
                let remedy = "use it for development and tests; for everything else configure redis.url";
                vec![Finding::bad(Check::Persistence, Level::Warning, text, remedy)]
            }
            Err(error) => {
                let remedy = "see that Redis runs, and check redis.url, user and password";
                let finding = Finding::bad(Check::Connection, Level::Error, error.to_string(), remedy);
                return Ok(DoctorReport { level: Level::Error, findings: vec![finding] });
            }
        };
        let (of_user, can_work) = self.user_findings().await?;
        findings.extend(of_user);
        if !can_work {
            return Ok(DoctorReport { level: Level::Error, findings });
        }
        findings.extend(self.worker_findings().await?);
        findings.extend(self.orphan_findings(fix).await?);
        findings.extend(self.parked_findings(fix).await?);
        findings.extend(self.stream_findings().await?);
        let open = findings.iter().filter(|finding| !finding.fixed);
        let level = open.map(|finding| finding.level).max().unwrap_or(Level::Ok);
        Ok(DoctorReport { level, findings })
    }

    async fn worker_findings(&self) -> Result<Vec<Finding>, OpsError> {
        let workers = self.workers().await?;
        let mut findings = Vec::new();
        for handler in self.handlers() {
            let serves = |worker: &super::WorkerStatus| worker.report.handlers.contains_key(&handler.name);
            if !workers.iter().any(serves) {
                let text = format!("no worker serves {}: its events wait", handler.name);
                findings.push(Finding::bad(Check::Workers, Level::Warning, text, "start `wasmill run`"));
            }
        }
        for worker in &workers {
            for (name, _) in worker.report.handlers.iter().filter(|(_, handler)| handler.blocked) {
                let text = format!("{name} stands still on {}: Redis refuses what it did", worker.report.worker);
                let remedy = "the log of the worker (alarm settle_refused) says what is refused, and why";
                findings.push(Finding::bad(Check::Workers, Level::Error, text, remedy));
            }
        }
        if findings.is_empty() {
            findings.push(Finding::ok(Check::Workers, format!("{} alive, every handler is served", workers.len())));
        }
        Ok(findings)
    }

    /// Consumers of workers that are gone.
    async fn orphan_findings(&self, fix: bool) -> Result<Vec<Finding>, OpsError> {
        let orphans = self.orphans().await?;
        let mut findings = Vec::new();
        for Orphan { source, consumer, pending } in orphans {
            let (stream, group) = (&source.stream, &source.group);
            if pending > 0 {
                let text = format!("{pending} events of {stream} are pending under {consumer}, a worker that is gone");
                let remedy = format!("start `wasmill run`: any worker that serves {group} takes them over");
                findings.push(Finding::bad(Check::PendingWithoutOwner, Level::Error, text, remedy));
                continue;
            }
            let text = format!("{consumer} of group {group} on {stream} belongs to a worker that is gone");
            let remedy = "`wasmill doctor --fix` removes it; a running worker does so by itself";
            let fixed = fix && self.broker.remove_consumer(&source, &consumer).await?;
            let finding = Finding::bad(Check::OrphanedConsumers, Level::Warning, text, remedy);
            findings.push(Finding { fixable: true, fixed, ..finding });
        }
        if findings.is_empty() {
            findings.push(Finding::ok(Check::OrphanedConsumers, "no consumers of workers that are gone"));
        }
        Ok(findings)
    }

    async fn orphans(&self) -> Result<Vec<Orphan>, OpsError> {
        let mut found: BTreeMap<String, Vec<Orphan>> = BTreeMap::new();
        for handler in self.handlers() {
            for source in self.sources(&handler.name)? {
                let consumers = match self.broker.consumers(&source).await {
                    Err(BrokerError::NoGroup { .. } | BrokerError::Refused { .. }) => continue,
                    consumers => consumers?,
                };
                for info in consumers {
                    let Some(worker) = keys::worker_of(&info.name) else { continue };
                    let orphan = Orphan { source: source.clone(), consumer: info.name.clone(), pending: info.pending };
                    found.entry(worker.to_owned()).or_default().push(orphan);
                }
            }
        }
        let workers: Vec<String> = found.keys().cloned().collect();
        let alive = self.broker.alive(&workers).await?;
        let dead: BTreeSet<String> =
            workers.into_iter().zip(alive).filter(|(_, alive)| !alive).map(|(worker, _)| worker).collect();
        Ok(found.into_iter().filter(|(worker, _)| dead.contains(worker)).flat_map(|(_, orphans)| orphans).collect())
    }

    /// Entries that wait for another attempt, and that nobody would take back: their due times were deleted.
    async fn parked_findings(&self, fix: bool) -> Result<Vec<Finding>, OpsError> {
        let mut findings = Vec::new();
        for handler in self.handlers() {
            for source in self.sources(&handler.name)? {
                let lost = match self.broker.lost_parked(&source, fix).await {
                    Err(BrokerError::NoGroup { .. } | BrokerError::Refused { .. }) => continue,
                    lost => lost?,
                };
                if lost == 0 {
                    continue;
                }
                let (name, stream) = (&handler.name, &source.stream);
                let text = format!(
                    "{lost} events of {stream} wait for another attempt of {name}, and never get it: {} \
                     was deleted",
                    source.due_key
                );
                let remedy = "`wasmill doctor --fix` makes them due at once";
                let finding = Finding::bad(Check::ParkedWithoutTime, Level::Error, text, remedy);
                findings.push(Finding { fixable: true, fixed: fix, ..finding });
            }
        }
        if findings.is_empty() {
            findings.push(Finding::ok(Check::ParkedWithoutTime, "all that wait for another attempt will get it"));
        }
        Ok(findings)
    }

    async fn stream_findings(&self) -> Result<Vec<Finding>, OpsError> {
        let mut findings = Vec::new();
        let dead: BTreeSet<&str> = self.handlers().iter().map(|handler| handler.dead_letter.as_str()).collect();
        for name in self.configured_streams() {
            let info = match self.broker.stream(&self.tenant.namespace.stream(&name)).await {
                Err(BrokerError::Refused { message, .. }) => {
                    let remedy = "rename the key that is in the way, or grant the user the key";
                    let text = format!("{name}: {message}");
                    findings.push(Finding::bad(Check::Trimming, Level::Error, text, remedy));
                    continue;
                }
                info => info?,
            };
            let length = info.map_or(0, |info| info.length);
            if dead.contains(name.as_str()) && length > 0 {
                let text = format!("{name} holds {length} dead letters");
                let remedy = "look at them with `wasmill dlq ls`, mend, and `wasmill dlq redrive` or `drop`";
                findings.push(Finding::bad(Check::DeadLetters, Level::Warning, text, remedy));
            } else if length > LONG_STREAM && !self.streams.get(&name).is_some_and(StreamConfig::is_trimmed) {
                let text = format!("{name} has {length} entries");
                let remedy = format!("set max_length or max_age in [streams.\"{name}\"]");
                findings.push(Finding::bad(Check::Trimming, Level::Warning, text, remedy));
            }
        }
        if findings.is_empty() {
            findings.push(Finding::ok(Check::Trimming, "no stream grows without bound, and there are no dead letters"));
        }
        Ok(findings)
    }
}

/// What the server says of itself.
fn server_findings(server: &ServerInfo, now_ms: u64) -> Vec<Finding> {
    let field = |name: &str| server.info.get(name).map_or("", String::as_str);
    let number = |name: &str| field(name).parse::<u64>().unwrap_or(0);
    let version = field("redis_version");
    let mut findings = vec![Finding::ok(Check::Connection, "Redis answers")];
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    findings.push(match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < MIN_VERSION {
        true => {
            let text = format!("the server is Redis {version}");
            Finding::bad(Check::Version, Level::Error, text, "wasmill needs Redis 7.0 or newer")
        }
        false => Finding::ok(Check::Version, format!("Redis {version}")),
    });
    findings.push(match (field("aof_enabled"), field("aof_last_write_status")) {
        ("0", _) => {
            let text = "there is no append-only file: what was acknowledged may be lost when the server crashes";
            let remedy = "set appendonly to yes (CONFIG SET appendonly yes, and in redis.conf)";
            Finding::bad(Check::Persistence, Level::Warning, text, remedy)
        }
        (_, "err") => {
            let remedy = "see the server's log; often the disk is full";
            Finding::bad(Check::Persistence, Level::Error, "the append-only file cannot be written", remedy)
        }
        _ => Finding::ok(Check::Persistence, "the append-only file is on"),
    });
    findings.push(match field("maxmemory_policy") {
        "" | "noeviction" => Finding::ok(Check::EvictionPolicy, "noeviction"),
        policy => {
            let text = format!("maxmemory-policy is {policy}: Redis may drop events");
            Finding::bad(Check::EvictionPolicy, Level::Error, text, "set maxmemory-policy to noeviction")
        }
    });
    let difference = Duration::from_millis(server.now_ms.abs_diff(now_ms));
    findings.push(match difference > MAX_CLOCK_DIFFERENCE {
        true => {
            let text = format!("the clocks of this machine and of Redis differ by {} ms", difference.as_millis());
            Finding::bad(Check::Clock, Level::Warning, text, "set both by NTP; ages and times are misleading")
        }
        false => Finding::ok(Check::Clock, format!("{} ms from Redis's", difference.as_millis())),
    });
    findings.push(memory_finding(number("used_memory"), number("maxmemory")));
    findings.push(slow_finding(server.slow.as_deref()));
    findings
}

fn memory_finding(used: u64, most: u64) -> Finding {
    let (shown, of) = (bytesize::ByteSize(used), bytesize::ByteSize(most));
    match most {
        0 => Finding::ok(Check::Memory, format!("{shown} used, no maxmemory set")),
        _ if (most.saturating_sub(used)) as f64 / (most as f64) < MIN_HEAD_ROOM => {
            let remedy = "raise maxmemory, or trim streams: when it is reached, Redis refuses what handlers publish";
            Finding::bad(Check::Memory, Level::Warning, format!("{shown} of {of} used"), remedy)
        }
        _ => Finding::ok(Check::Memory, format!("{shown} of {of} used")),
    }
}

fn slow_finding(slow: Option<&[(Duration, String)]>) -> Finding {
    let Some(slow) = slow else {
        return Finding::ok(Check::SlowLog, "not looked at: the user has no permission for SLOWLOG");
    };
    match slow.iter().filter(|(duration, _)| *duration >= SLOW_COMMAND).max() {
        Some((duration, command)) => {
            let text = format!("a command took {} ms: {}", duration.as_millis(), command.escape_debug());
            let remedy = "find who sends it: while it runs, everybody waits (SLOWLOG GET, SLOWLOG RESET)";
            Finding::bad(Check::SlowLog, Level::Warning, text, remedy)
        }
        None => Finding::ok(Check::SlowLog, "no slow commands"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(info: &[(&str, &str)]) -> ServerInfo {
        let healthy = [("redis_version", "7.0.15"), ("aof_enabled", "1"), ("maxmemory_policy", "noeviction")];
        let info = healthy.iter().chain(info).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ServerInfo { info: info.collect(), now_ms: 1_000_000, slow: Some(Vec::new()) }
    }

    /// The worst finding of a server with these lines in INFO.
    fn worst(info: &[(&str, &str)]) -> Finding {
        let findings = server_findings(&server(info), 1_000_000);
        findings.into_iter().max_by_key(|finding| finding.level).expect("there are findings")
    }

    #[test]
    fn a_healthy_server_has_no_findings() {
        assert_eq!(worst(&[]).level, Level::Ok);
    }

    #[test]
    fn each_fault_of_a_server_is_found_with_its_remedy() {
        for (name, value, check, level) in [
            ("redis_version", "6.2.14", Check::Version, Level::Error),
            ("aof_enabled", "0", Check::Persistence, Level::Warning),
            ("aof_last_write_status", "err", Check::Persistence, Level::Error),
            ("maxmemory_policy", "allkeys-lru", Check::EvictionPolicy, Level::Error),
        ] {
            let finding = worst(&[(name, value)]);
            assert_eq!((finding.check, finding.level), (check, level), "{name}={value}");
            assert!(!finding.remedy.is_empty(), "{name}={value}");
        }
    }

    #[test]
    fn clocks_memory_and_slow_commands_have_their_edges() {
        let late = |by: u64| server_findings(&server(&[]), 1_000_000 + by);
        let clock = |findings: Vec<Finding>| findings.into_iter().find(|finding| finding.check == Check::Clock);
        assert_eq!(clock(late(5_000)).map(|finding| finding.level), Some(Level::Ok));
        assert_eq!(clock(late(5_001)).map(|finding| finding.level), Some(Level::Warning));
        assert_eq!(memory_finding(80, 100).level, Level::Ok);
        assert_eq!(memory_finding(81, 100).level, Level::Warning);
        assert_eq!(memory_finding(200, 100).level, Level::Warning);
        let slow = |ms| slow_finding(Some(&[(Duration::from_millis(ms), "KEYS *".to_owned())])).level;
        assert_eq!((slow(49), slow(50)), (Level::Ok, Level::Warning));
        assert_eq!(slow_finding(None).level, Level::Ok);
    }
}
