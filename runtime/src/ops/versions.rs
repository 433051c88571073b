//! Versions of handlers: deploying, going back, forgetting.
//!
//! Nothing here switches anything: it writes the record that all workers follow ([`crate::deploy::record`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Operator, OpsError};
use crate::audit::Verb;
use crate::broker::keys::DEFAULT_TENANT;
use crate::deploy::canary::{
    Canary, MAX_ERROR_RATE, MAX_PROMOTE_AFTER_MS, MIN_PROMOTE_AFTER_MS, PROMOTE_AFTER_MS, Percent, Tally,
};
use crate::deploy::record::{Ended, KnownVersion, Preparation, Progress, Record, Rollout, Terms, progress_of};
use crate::deploy::signature::Signature;
use crate::deploy::smoke::SmokeTests;
use crate::wasm::Digest;

/// How long workers may take to prepare a version, if nothing else is asked for: compiling a Python component takes many
/// seconds, on a busy machine minutes.
pub const PREPARE_TIME: Duration = Duration::from_secs(300);
/// The most that may be asked for.
pub const MAX_PREPARE_TIME: Duration = Duration::from_secs(3600);
/// The longest name and source that a version is remembered with, in bytes.
const MAX_TEXT: usize = 1024;
/// Others who change the record at the same time: more tries than that need a reason.
const TRIES: usize = 20;

/// Who deploys what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct DeployQuery {
    /// Who asks for it, as `versions` shows it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Where the component comes from, as `versions` shows it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The digest of smoke tests that were uploaded: each worker runs them through the version first
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoke: Option<String>,
    /// The signature of the component, in base64
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// How long workers may take to prepare it, in milliseconds, 1 to 3,600,000 [default: 300,000]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepare_ms: Option<u64>,
    /// Run this part of the events on it first, such as 5%, and go on only if it does well
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub canary: Option<Percent>,
    /// How long it runs that part, in milliseconds, 1,000 to 86,400,000 [default: 600,000]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promote_after_ms: Option<u64>,
    /// The part of its deliveries that may fail meanwhile [default: 1%]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub max_error_rate: Option<Percent>,
}

impl DeployQuery {
    /// The signature, in the one form that it is kept in.
    fn signature(&self) -> Result<Option<String>, OpsError> {
        let parsed = self.signature.as_deref().map(|text| Signature::parse(text, "`signature`")).transpose();
        Ok(parsed.map_err(|error| OpsError::Invalid(error.to_string()))?.map(|signature| signature.text()))
    }

    fn prepare(&self) -> Result<Duration, OpsError> {
        let prepare = self.prepare_ms.map_or(PREPARE_TIME, Duration::from_millis);
        if prepare.is_zero() || prepare > MAX_PREPARE_TIME {
            return Err(OpsError::Invalid("`prepare_ms` must be 1 to 3600000, that is an hour".to_owned()));
        }
        Ok(prepare)
    }

    fn canary(&self) -> Result<Option<Canary>, OpsError> {
        let Some(share) = self.canary else {
            if self.promote_after_ms.is_some() || self.max_error_rate.is_some() {
                let problem = "`promote_after_ms` and `max_error_rate` say something of a `canary`, which is missing";
                return Err(OpsError::Invalid(problem.to_owned()));
            }
            return Ok(None);
        };
        if share.is_zero() {
            return Err(OpsError::Invalid("`canary` must be more than 0%: none would run on it".to_owned()));
        }
        let promote_after_ms = self.promote_after_ms.unwrap_or(PROMOTE_AFTER_MS);
        if !(MIN_PROMOTE_AFTER_MS..=MAX_PROMOTE_AFTER_MS).contains(&promote_after_ms) {
            let problem = "`promote_after_ms` must be 1000 to 86400000, that is a second to a day";
            return Err(OpsError::Invalid(problem.to_owned()));
        }
        let max_error_rate = self.max_error_rate.unwrap_or(MAX_ERROR_RATE);
        Ok(Some(Canary { share, promote_after_ms, max_error_rate, since_ms: None }))
    }
}

/// Smoke tests that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SmokeReport {
    /// Their digest, 64 hexadecimal digits.
    pub digest: String,
    /// How many there are.
    pub tests: usize,
}

/// Where to go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RollbackRequest {
    /// The digest of the version, or how it begins; the version that served before if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Who asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// The versions of a handler, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct VersionsReport {
    /// The handler.
    pub handler: String,
    /// The digest of the version that serves; absent for the component of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// The one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Versions that were deployed, the newest first.
    pub versions: Vec<VersionReport>,
    /// What is going on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// How the version does that runs a share of the events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryReport>,
    /// How the last rollout ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Ended>,
    /// The workers that serve the handler.
    pub workers: Vec<WorkerVersion>,
}

/// How a version does that runs a share of the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct CanaryReport {
    /// What became of its deliveries on all workers, those included that are gone.
    #[serde(flatten)]
    pub tally: Tally,
    /// Milliseconds until it serves, if it does well.
    pub left_ms: u64,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct VersionReport {
    /// What is known of it.
    #[serde(flatten)]
    pub version: KnownVersion,
    /// What it does.
    pub state: VersionState,
}

/// What a version does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// It serves.
    Current,
    /// It served before.
    Previous,
    /// Workers prepare it.
    Preparing,
    /// It runs a share of the events.
    Canary,
    /// It is kept, and can be gone back to.
    Kept,
    /// Its component has been deleted.
    Gone,
}

/// What a worker does for the handler.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct WorkerVersion {
    /// The worker.
    pub worker: String,
    /// The digest of the version that it serves, by its last heartbeat.
    pub serves: String,
    /// How far it is with the rollout, if it has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Preparation>,
}

/// Components that were deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct GcReport {
    /// Their digests.
    pub removed: Vec<String>,
    /// Bytes that they had.
    pub bytes: u64,
    /// Components that are kept.
    pub kept: usize,
}

impl Operator {
    /// Keeps the component, and asks all workers to prepare it and then to serve it.
    pub async fn deploy(&self, handler: &str, bytes: &[u8], query: &DeployQuery) -> Result<VersionsReport, OpsError> {
        let allowed = self.handler(handler)?.limits.component_bytes;
        let (prepare, canary) = (query.prepare()?, query.canary()?);
        if bytes.len() as u64 > allowed {
            let size = bytes.len();
            let problem = format!("the component has {size} bytes; {allowed} are allowed (limits.component_bytes)");
            return Err(OpsError::TooLarge(problem));
        }
        if !bytes.starts_with(b"\0asm") {
            return Err(OpsError::Invalid("not a WebAssembly file: it does not begin with \\0asm".to_owned()));
        }
        let digest = Digest::of(bytes).hex();
        // A deployment that cannot begin should not cost an upload.
        let (_, record) = self.record(handler).await?;
        let version = KnownVersion {
            digest: digest.clone(),
            size: bytes.len() as u64,
            deployed_ms: self.broker.time_ms().await?,
            by: name("by", query.by.as_deref())?,
            source: name("source", query.source.as_deref())?,
            signature: query.signature()?,
        };
        let terms = Begin { prepare, canary, smoke: self.smoke(query.smoke.as_deref()).await? };
        begin(&record, version.clone(), &terms)?;
        let canary = canary.map_or_else(String::new, |canary| format!(", canary on {}", canary.share));
        let what = format!("sha256:{digest}{canary}");
        let work = async {
            self.check_deploy(&digest, version.size, version.deployed_ms).await?;
            self.broker.put_component(&digest, bytes).await?;
            if let Err(error) = self.change(handler, |record| begin(record, version.clone(), &terms)).await {
                // What no record names counts against no quota: nothing of it stays.
                if self.wanted(usize::MAX).await.is_ok_and(|wanted| !wanted.contains(&digest)) {
                    self.broker.remove_component(&digest).await?;
                }
                return Err(error);
            }
            // As long as no record named it, `gc` took it for one that nobody needs.
            if !self.broker.components().await?.contains_key(&digest) {
                self.broker.put_component(&digest, bytes).await?;
            }
            Ok(())
        };
        self.audited((Verb::Deploy, handler), what, work, rollout_begun).await?;
        self.versions(handler).await
    }

    /// Keeps smoke tests, for a deployment that names them by their digest.
    pub async fn put_smoke(&self, document: &[u8]) -> Result<SmokeReport, OpsError> {
        let tests = SmokeTests::parse(document).map_err(|error| OpsError::Invalid(error.to_string()))?;
        let digest = Digest::of(document).hex();
        let work = async { Ok(self.broker.put_component(&digest, document).await?) };
        self.audited((Verb::SmokeTests, ""), format!("sha256:{digest}"), work, |()| String::new()).await?;
        Ok(SmokeReport { digest, tests: tests.tests.len() })
    }

    /// The digest of smoke tests that are kept.
    async fn smoke(&self, digest: Option<&str>) -> Result<Option<String>, OpsError> {
        let Some(digest) = digest else { return Ok(None) };
        let document = if Digest::parse(digest).is_some() { self.broker.component(digest).await? } else { None };
        // A component is answered as nothing: it may be another tenant's.
        if document.is_none_or(|document| SmokeTests::parse(&document).is_err()) {
            let digest = digest.escape_debug();
            let problem = format!("no smoke tests of the digest `{digest}` are kept: upload them first");
            return Err(OpsError::Invalid(problem));
        }
        Ok(Some(digest.to_owned()))
    }

    /// Asks all workers to go back to a version that was deployed before. While a rollout goes on, and no version is named, it
    /// is that rollout which ends, and the version that serves stays. If the last one has ended without effect, a version must
    /// be named.
    pub async fn rollback(&self, handler: &str, request: &RollbackRequest) -> Result<VersionsReport, OpsError> {
        self.handler(handler)?;
        let by = name("by", request.by.as_deref())?;
        let (_, record) = self.record(handler).await?;
        if record.rollout.is_some() && request.to.is_none() {
            let now_ms = self.broker.time_ms().await?;
            let ended =
                || OpsError::Conflict(format!("the rollout has ended meanwhile: see `wasmill versions {handler}`"));
            let work = self.change(handler, |record| record.cancel(&by, now_ms).ok_or_else(ended));
            let what = "the rollout that goes on".to_owned();
            self.audited((Verb::Rollback, handler), what, work, |()| "it has ended".to_owned()).await?;
            return self.versions(handler).await;
        }
        // Whoever wanted to end a rollout, and came too late for that, does not mean the version before the one that serves.
        if request.to.is_none() && record.last.as_ref().is_some_and(|last| last.failed.is_some()) {
            let problem = format!(
                "the last rollout of {handler} has ended without effect: what served before it serves. To go back from that, \
                 name one of `wasmill versions` with --to"
            );
            return Err(OpsError::Conflict(problem));
        }
        let Some(wanted) = request.to.as_deref().or(record.previous.as_deref()) else {
            let problem = format!(
                "no deployed version of {handler} served before: name one of `wasmill versions` with --to, or deploy the \
                 component that the configuration names"
            );
            return Err(OpsError::Invalid(problem));
        };
        let known = self.kept_version(handler, wanted).await?;
        let version = KnownVersion { by, deployed_ms: self.broker.time_ms().await?, ..known };
        let work = self.change(handler, |record| begin(record, version.clone(), &Begin::default()));
        let what = format!("to sha256:{}", version.digest);
        self.audited((Verb::Rollback, handler), what, work, rollout_begun).await?;
        self.versions(handler).await
    }

    /// The versions of a handler, what its workers serve, and how far a rollout is. Ends a rollout that no worker is there to
    /// end.
    pub async fn versions(&self, handler: &str) -> Result<VersionsReport, OpsError> {
        self.handler(handler)?;
        let (text, mut record) = self.record(handler).await?;
        let said = self.said(handler).await?;
        let workers: Vec<WorkerVersion> = self.worker_versions(handler, &said, &record).await?;
        let names: Vec<&str> = workers.iter().map(|worker| worker.worker.as_str()).collect();
        let now_ms = self.broker.time_ms().await?;
        if let Some(next) = record.advance(&names, &said, now_ms)
            && self.broker.change_record(&self.id(handler), text.as_deref(), &next.text()).await?
        {
            record = next;
        }
        let running = record.rollout.as_ref().and_then(Rollout::running_canary);
        let canary = running.map(|canary| CanaryReport {
            tally: record.tally(&said),
            left_ms: canary.ends_ms().map_or(0, |ends| ends.saturating_sub(now_ms)),
        });
        let kept = self.broker.components().await?;
        let versions = record
            .versions
            .iter()
            .map(|version| VersionReport { state: state(&record, version, &kept), version: version.clone() });
        Ok(VersionsReport {
            handler: handler.to_owned(),
            versions: versions.collect(),
            workers,
            canary,
            ..shown(record)
        })
    }

    /// The bytes of a component that was deployed to a handler of this tenant and is kept, by its digest.
    pub async fn component(&self, digest: &str) -> Result<Vec<u8>, OpsError> {
        let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
        if Digest::parse(digest).is_none() {
            return Err(OpsError::Invalid(format!("`{digest}` is no digest: it has 64 hexadecimal digits")));
        }
        let unknown = || OpsError::UnknownComponent { digest: digest.to_owned() };
        if !self.own_digests().await?.contains(digest) {
            return Err(unknown());
        }
        self.broker.component(digest).await?.ok_or_else(unknown)
    }

    /// The digests of all versions of this tenant's handlers.
    pub(super) async fn own_digests(&self) -> Result<BTreeSet<String>, OpsError> {
        let mut digests = BTreeSet::new();
        for (id, text) in self.broker.records().await? {
            if self.tenant.namespace.unqualified(&id).is_some() {
                digests.extend(parse(&text)?.versions.into_iter().map(|version| version.digest));
            }
        }
        Ok(digests)
    }

    /// Deletes components that no handler of any tenant serves, has served before, is about to serve, or holds for dead
    /// letters. With `keep_last`, the newest so many of each handler stay as well. The tenant `default` is the operator:
    /// it deletes for all; others delete what they deployed themselves.
    pub async fn gc(&self, keep_last: usize) -> Result<GcReport, OpsError> {
        let work = self.collect(keep_last);
        let told = |report: &GcReport| format!("{} components, {} bytes", report.removed.len(), report.bytes);
        self.audited((Verb::Gc, ""), format!("keep the last {keep_last}"), work, told).await
    }

    async fn collect(&self, keep_last: usize) -> Result<GcReport, OpsError> {
        let mut report = GcReport::default();
        let wanted = self.wanted(keep_last).await?;
        let own = if self.is_operator() { None } else { Some(self.own_digests().await?) };
        let is_own = |digest: &String| own.as_ref().is_none_or(|own| own.contains(digest));
        for (digest, bytes) in self.broker.components().await?.into_iter().filter(|(digest, _)| is_own(digest)) {
            // Looked at again: it may be deployed at this moment.
            if wanted.contains(&digest) || self.wanted(keep_last).await?.contains(&digest) {
                report.kept += 1;
            } else if self.broker.remove_component(&digest).await? {
                report.bytes += bytes;
                report.removed.push(digest);
            }
        }
        Ok(report)
    }

    /// Whether it works for the tenant `default`, whose operators look after all.
    fn is_operator(&self) -> bool {
        &**self.tenant.namespace.tenant() == DEFAULT_TENANT
    }

    /// The digests of what some handler needs.
    async fn wanted(&self, keep_last: usize) -> Result<BTreeSet<String>, OpsError> {
        let (mut wanted, now_ms) = (BTreeSet::new(), self.broker.time_ms().await?);
        for (id, text) in self.broker.records().await? {
            let record = parse(&text)?;
            // What another tenant has deployed as well is its own matter.
            let is_asked = self.is_operator() || self.tenant.namespace.unqualified(&id).is_some();
            let keep_last = if is_asked { keep_last } else { usize::MAX };
            wanted.extend(record.pins.into_iter().filter(|(_, pin)| now_ms < pin.until_ms).map(|(digest, _)| digest));
            wanted.extend(record.versions.iter().take(keep_last).map(|version| version.digest.clone()));
            let of_rollout = record.rollout.map(|rollout| [Some(rollout.digest), rollout.smoke]);
            let in_use = [record.current, record.previous].into_iter().chain(of_rollout.into_iter().flatten());
            wanted.extend(in_use.flatten());
        }
        Ok(wanted)
    }

    /// The record of a handler, and its text if there is one.
    pub(super) async fn record(&self, handler: &str) -> Result<(Option<String>, Record), OpsError> {
        let text = self.broker.records().await?.remove(&*self.id(handler));
        let record = text.as_deref().map(parse).transpose()?.unwrap_or_default();
        Ok((text, record))
    }

    /// Changes the record, as often as others change it meanwhile.
    pub(super) async fn change(
        &self,
        handler: &str,
        next: impl Fn(&Record) -> Result<Record, OpsError>,
    ) -> Result<(), OpsError> {
        for _ in 0..TRIES {
            let (text, record) = self.record(handler).await?;
            if self.broker.change_record(&self.id(handler), text.as_deref(), &next(&record)?.text()).await? {
                return Ok(());
            }
        }
        Err(OpsError::Conflict(format!("others keep changing the versions of {handler}; try again")))
    }

    async fn said(&self, handler: &str) -> Result<BTreeMap<String, Progress>, OpsError> {
        Ok(progress_of(&self.broker.reports(&self.id(handler)).await?))
    }

    async fn worker_versions(
        &self,
        handler: &str,
        said: &BTreeMap<String, Progress>,
        record: &Record,
    ) -> Result<Vec<WorkerVersion>, OpsError> {
        let rollout = record.rollout.as_ref();
        let last = record.last.as_ref();
        let id = rollout.map(|rollout| &rollout.id).or(last.map(|last| &last.id));
        let workers = self.workers().await?.into_iter().filter_map(|worker| {
            let serves = worker.report.handlers.get(handler)?.digest.clone();
            let progress = said.get(&worker.report.worker).filter(|progress| Some(&progress.rollout) == id);
            let state = progress.map(|progress| progress.state.clone());
            // Its heartbeat may be older than its switch.
            let switched = record.current.as_deref().filter(|_| state == Some(Preparation::Serving));
            let serves = switched.unwrap_or(serves.strip_prefix("sha256:").unwrap_or(&serves)).to_owned();
            Some(WorkerVersion { worker: worker.report.worker, serves, rollout: state })
        });
        Ok(workers.collect())
    }
}

fn rollout_begun((): &()) -> String {
    "the rollout has begun".to_owned()
}

pub(super) fn parse(text: &str) -> Result<Record, OpsError> {
    Record::parse(text).map_err(|error| OpsError::Invalid(format!("the record in `wasmill:deployments`: {error}")))
}

/// How a rollout is to go.
struct Begin {
    prepare: Duration,
    canary: Option<Canary>,
    smoke: Option<String>,
}

impl Default for Begin {
    fn default() -> Begin {
        Begin { prepare: PREPARE_TIME, canary: None, smoke: None }
    }
}

fn begin(record: &Record, version: KnownVersion, terms: &Begin) -> Result<Record, OpsError> {
    let until_ms = version.deployed_ms.saturating_add(terms.prepare.as_millis() as u64);
    let id = uuid::Uuid::now_v7().to_string();
    let terms = Terms { until_ms, canary: terms.canary, smoke: terms.smoke.clone() };
    record.begin(version, id, terms).map_err(|error| OpsError::Conflict(error.to_string()))
}

pub(super) fn name(field: &str, text: Option<&str>) -> Result<String, OpsError> {
    let text = text.unwrap_or_default();
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(OpsError::Invalid(format!("`{field}` has at most {MAX_TEXT} bytes and no control characters")));
    }
    Ok(text.to_owned())
}

fn state(record: &Record, version: &KnownVersion, kept: &BTreeMap<String, u64>) -> VersionState {
    let is = |digest: Option<&String>| digest == Some(&version.digest);
    match () {
        () if is(record.current.as_ref()) => VersionState::Current,
        () if is(record.rollout.as_ref().map(|rollout| &rollout.digest)) => {
            let canary = record.rollout.as_ref().and_then(Rollout::running_canary);
            canary.map_or(VersionState::Preparing, |_| VersionState::Canary)
        }
        () if !kept.contains_key(&version.digest) => VersionState::Gone,
        () if is(record.previous.as_ref()) => VersionState::Previous,
        () => VersionState::Kept,
    }
}

fn shown(record: Record) -> VersionsReport {
    let Record { current, previous, rollout, last, .. } = record;
    VersionsReport { current, previous, rollout, last, ..VersionsReport::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_texts_are_allowed_up_to_their_limits() {
        let prepare = |prepare_ms| DeployQuery { prepare_ms: Some(prepare_ms), ..DeployQuery::default() }.prepare();
        assert_eq!(prepare(3_600_000).ok(), Some(MAX_PREPARE_TIME));
        assert!(prepare(1).is_ok() && prepare(0).is_err() && prepare(3_600_001).is_err());
        let canary = |promote_after_ms| {
            let canary = "5%".parse().ok();
            DeployQuery { canary, promote_after_ms: Some(promote_after_ms), ..DeployQuery::default() }.canary()
        };
        assert!(canary(MIN_PROMOTE_AFTER_MS).is_ok() && canary(MIN_PROMOTE_AFTER_MS - 1).is_err());
        assert!(canary(MAX_PROMOTE_AFTER_MS).is_ok() && canary(MAX_PROMOTE_AFTER_MS + 1).is_err());
        let long = "x".repeat(MAX_TEXT + 1);
        assert!(name("by", Some(&long[1..])).is_ok() && name("by", Some(&long)).is_err());
        assert!(name("by", Some("two\nlines")).is_err());
    }
}
