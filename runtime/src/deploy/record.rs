//! What the fleet knows of the versions of a handler, and how a rollout goes on. Only decides; others read and write.
//!
//! Everything about a handler stands in one [`Record`], which is only ever replaced as a whole, and only if nobody else has
//! replaced it meanwhile. So whoever sees that a rollout can go on may say so: a worker, or the one who asked for it. No step
//! needs a certain process to be alive.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::canary::{Canary, Judgement, Tally};
use crate::text::printable;

/// The versions that a record remembers; older ones are forgotten, unless one of them serves.
pub const MAX_VERSIONS: usize = 50;
/// Versions of a handler that may be pinned at the same time: each takes memory on every worker.
pub const MAX_PINS: usize = 4;
/// How long a version stays pinned after it was last asked for, in milliseconds: a day.
pub const PIN_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a record remembers that a rollout has begun, in milliseconds: quotas count those of a minute.
pub const BEGUN_MS: u64 = 60 * 1000;
/// How many of these it remembers.
pub const MAX_BEGUN: usize = 1000;
/// The longest text that a record takes over from elsewhere, in characters.
const MAX_TEXT: usize = 500;

/// The versions of a handler, and which of them serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct Record {
    /// The digest of the version that serves; `None` for the component of the configuration.
    pub current: Option<String>,
    /// The one that served before: where a rollback leads.
    pub previous: Option<String>,
    /// Versions that were deployed, the newest first.
    pub versions: Vec<KnownVersion>,
    /// What is going on.
    pub rollout: Option<Rollout>,
    /// How the last rollout ended.
    pub last: Option<Ended>,
    /// Versions that workers hold besides, for dead letters that are to run on them, by their digests.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<String, Pin>,
    /// When rollouts began, in milliseconds since the Unix epoch: those of the minute before the newest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub begun_ms: Vec<u64>,
}

/// A version that is held although it does not serve.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Pin {
    /// Until when, in milliseconds since the Unix epoch.
    pub until_ms: u64,
    /// Who asked for it last.
    pub by: String,
}

/// A version that was deployed at some time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct KnownVersion {
    /// The SHA-256 of its component, 64 hexadecimal digits.
    pub digest: String,
    /// Bytes of its component.
    pub size: u64,
    /// When it was last deployed, in milliseconds since the Unix epoch.
    pub deployed_ms: u64,
    /// By whom.
    pub by: String,
    /// Where its component came from: a file, or a reference to a registry.
    pub source: String,
    /// The signature of its component, in base64, if it came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// A version on its way to serve.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Rollout {
    /// Tells it from others.
    pub id: String,
    /// The version.
    pub digest: String,
    /// Who asked for it.
    pub by: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When it is given up, if not every worker is prepared.
    pub until_ms: u64,
    /// How the version has to prove itself, if it does not serve as soon as every worker is prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// The digest of the smoke tests that each worker runs through the version first, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoke: Option<String>,
}

impl Rollout {
    /// The canary, while the version runs its share of the events.
    pub fn running_canary(&self) -> Option<&Canary> {
        self.canary.as_ref().filter(|canary| canary.since_ms.is_some())
    }
}

/// How a rollout is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When it is given up if not every worker is prepared, in milliseconds since the Unix epoch.
    pub until_ms: u64,
    /// How the version has to prove itself first.
    pub canary: Option<Canary>,
    /// The digest of the smoke tests that the version has to pass before that.
    pub smoke: Option<String>,
}

/// How a rollout ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Ended {
    /// Which one.
    pub id: String,
    /// The version.
    pub digest: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Why the version does not serve; `None` if it does.
    pub failed: Option<String>,
    /// Somebody did not want it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
}

/// What a worker says of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Progress {
    /// Which one.
    pub rollout: String,
    /// How far it has come.
    pub state: Preparation,
}

/// What workers say, by their names. One of another version of wasmill may say other things, which count as nothing.
pub fn progress_of(reports: &BTreeMap<String, String>) -> BTreeMap<String, Progress> {
    let parsed = |(worker, text): (&String, &String)| Some((worker.clone(), serde_json::from_str(text).ok()?));
    reports.iter().filter_map(parsed).collect()
}

/// How far a worker has come.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preparation {
    /// It compiles and checks.
    Preparing,
    /// It can switch at any time.
    Prepared,
    /// It runs a share of the events on the version, and this is what became of them on this worker.
    Canary(Tally),
    /// It has switched.
    Serving,
    /// It cannot, and says why.
    Failed(String),
}

impl Preparation {
    /// Whether it can switch at any time.
    pub fn is_prepared(&self) -> bool {
        matches!(self, Preparation::Prepared | Preparation::Canary(_) | Preparation::Serving)
    }
}

/// A rollout cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotBegin {
    /// Only one at a time.
    #[error(
        "{by} is deploying {digest} already. Wait until that has ended, which it does by itself when a worker cannot \
         prepare it, or cancel it with `wasmill rollback HANDLER`"
    )]
    Busy { by: String, digest: String },
    /// Nothing would change.
    #[error("{0} serves already")]
    Serves(String),
}

/// A version cannot be pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{MAX_PINS} other versions are held for dead letters already, and more would take too much memory: {0}; the first of \
         them goes when nobody has asked for it for a day. Redrive to one of them, or deploy the version"
)]
pub struct TooManyPins(String);

impl Record {
    /// The record of a handler, from its text.
    pub fn parse(text: &str) -> Result<Record, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Its text.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a record has nothing that JSON lacks")
    }

    /// The version of that digest, or the only one that begins so.
    pub fn find(&self, digest: &str) -> Option<&KnownVersion> {
        let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
        let mut found = self.versions.iter().filter(|version| !digest.is_empty() && version.digest.starts_with(digest));
        found.next().filter(|_| found.next().is_none())
    }

    /// With a rollout of this version.
    pub fn begin(&self, version: KnownVersion, id: String, terms: Terms) -> Result<Record, CannotBegin> {
        if let Some(rollout) = &self.rollout {
            return Err(CannotBegin::Busy { by: rollout.by.clone(), digest: rollout.digest.clone() });
        }
        if self.current.as_deref() == Some(&version.digest) {
            return Err(CannotBegin::Serves(version.digest));
        }
        let rollout = Rollout {
            id,
            digest: version.digest.clone(),
            by: version.by.clone(),
            started_ms: version.deployed_ms,
            until_ms: terms.until_ms,
            canary: terms.canary.map(|canary| Canary { since_ms: None, ..canary }),
            smoke: terms.smoke,
        };
        // A signature is that of the bytes: one that is known stays if none comes with them this time.
        let known = self.versions.iter().find(|known| known.digest == version.digest);
        let known = known.and_then(|known| known.signature.clone());
        let version = KnownVersion { signature: version.signature.clone().or(known), ..version };
        let mut next = Record { rollout: Some(rollout), ..self.clone() };
        next.begun_ms = self.begun_since(version.deployed_ms.saturating_sub(BEGUN_MS)).collect();
        next.begun_ms.push(version.deployed_ms);
        next.begun_ms.drain(..next.begun_ms.len().saturating_sub(MAX_BEGUN));
        next.versions.retain(|known| known.digest != version.digest);
        next.versions.insert(0, version);
        next.forget_old();
        Ok(next)
    }

    /// When rollouts began after that time: the last [`MAX_BEGUN`] of the last [`BEGUN_MS`].
    pub fn begun_since(&self, ms: u64) -> impl Iterator<Item = u64> {
        self.begun_ms.iter().copied().filter(move |&begun| begun > ms)
    }

    /// The digests of all that it names, some of them more than once.
    pub fn digests(&self) -> impl Iterator<Item = &str> {
        let of_rollout = self.rollout.iter().flat_map(|rollout| [Some(&rollout.digest), rollout.smoke.as_ref()]);
        let in_use = [self.current.as_ref(), self.previous.as_ref()].into_iter().chain(of_rollout).flatten();
        let versions = self.versions.iter().map(|version| &version.digest);
        versions.chain(self.pins.keys()).chain(in_use).map(String::as_str)
    }

    fn forget_old(&mut self) {
        let (current, previous) = (self.current.clone(), self.previous.clone());
        let mut kept = 0;
        let pins = &self.pins;
        self.versions.retain(|version| {
            kept += 1;
            let digest = Some(&version.digest);
            let is_used = digest == current.as_ref() || digest == previous.as_ref();
            kept <= MAX_VERSIONS || is_used || pins.contains_key(&version.digest)
        });
    }

    /// Whether workers have a use for the version of that digest.
    pub fn wants(&self, digest: &str) -> bool {
        self.current.as_deref() == Some(digest)
            || self.rollout.as_ref().is_some_and(|rollout| rollout.digest == digest)
            || self.pins.contains_key(digest)
    }

    /// With this version pinned from `now_ms` on for [`PIN_MS`], and without pins that are over.
    pub fn pin(&self, digest: &str, by: &str, now_ms: u64) -> Result<Record, TooManyPins> {
        let mut next = self.without_old_pins(now_ms).unwrap_or_else(|| self.clone());
        if !next.pins.contains_key(digest) && next.pins.len() >= MAX_PINS {
            return Err(TooManyPins(next.pins.keys().map(String::as_str).collect::<Vec<_>>().join(", ")));
        }
        let pin = Pin { until_ms: now_ms.saturating_add(PIN_MS), by: by.to_owned() };
        next.pins.insert(digest.to_owned(), pin);
        Ok(next)
    }

    /// Without the pin of this version.
    pub fn unpin(&self, digest: &str) -> Record {
        let mut next = self.clone();
        next.pins.remove(digest);
        next
    }

    /// Without pins that are over; `None` if there are none such.
    pub fn without_old_pins(&self, now_ms: u64) -> Option<Record> {
        let mut next = self.clone();
        next.pins.retain(|_, pin| now_ms < pin.until_ms);
        (next.pins.len() < self.pins.len()).then_some(next)
    }

    /// The smoke tests that a version has to pass before it is prepared.
    pub fn smoke(&self, digest: &str) -> Option<&str> {
        self.rollout.as_ref().filter(|rollout| rollout.digest == digest)?.smoke.as_deref()
    }

    /// What became of the deliveries that ran on the version of the rollout. What workers have said that are gone counts.
    pub fn tally(&self, said: &BTreeMap<String, Progress>) -> Tally {
        let Some(rollout) = &self.rollout else { return Tally::default() };
        let of_canary = said.values().filter(|progress| progress.rollout == rollout.id);
        let tallies = of_canary.filter_map(|progress| match progress.state {
            Preparation::Canary(tally) => Some(tally),
            _ => None,
        });
        tallies.sum()
    }

    /// What becomes of the rollout: `None` as long as it has to wait. `workers` are those that are alive and serve the
    /// handler, `said` is what workers have said, `now_ms` the time.
    pub fn advance(&self, workers: &[&str], said: &BTreeMap<String, Progress>, now_ms: u64) -> Option<Record> {
        let rollout = self.rollout.as_ref()?;
        let state = |worker: &str| said.get(worker).filter(|progress| progress.rollout == rollout.id);
        for worker in workers {
            if let Some(Progress { state: Preparation::Failed(why), .. }) = state(worker) {
                return Some(self.end(now_ms, Some(format!("{worker}: {why}"))));
            }
        }
        let judgement = rollout.running_canary().map(|canary| canary.judge(self.tally(said), now_ms));
        match judgement {
            Some(Judgement::Wait) => return None,
            Some(Judgement::GiveUp(why)) => return Some(self.end(now_ms, Some(why))),
            Some(Judgement::Promote) | None => {}
        }
        // Those who came while the version ran its share may need as long as the others had.
        let ends_ms = rollout.running_canary().and_then(Canary::ends_ms);
        let until_ms = ends_ms
            .map_or(rollout.until_ms, |ends| ends.saturating_add(rollout.until_ms.saturating_sub(rollout.started_ms)));
        let is_prepared = |worker: &&str| state(worker).is_some_and(|said| said.state.is_prepared());
        let waiting: Vec<&str> = workers.iter().copied().filter(|worker| !is_prepared(worker)).collect();
        match (workers.is_empty(), waiting.is_empty()) {
            (false, true) if rollout.canary.is_some() && judgement.is_none() => Some(self.begin_canary(now_ms)),
            (false, true) => Some(self.end(now_ms, None)),
            _ if now_ms < until_ms => None,
            (true, _) => Some(self.end(now_ms, Some("no worker serves the handler".to_owned()))),
            (false, false) => Some(self.end(now_ms, Some(format!("not prepared in time: {}", waiting.join(", "))))),
        }
    }

    /// With the version running its share from now on.
    fn begin_canary(&self, now_ms: u64) -> Record {
        let mut next = self.clone();
        if let Some(canary) = next.rollout.as_mut().and_then(|rollout| rollout.canary.as_mut()) {
            canary.since_ms = Some(now_ms);
        }
        next
    }

    /// Without its rollout, since `by` does not want it any more; `None` if there is none.
    pub fn cancel(&self, by: &str, now_ms: u64) -> Option<Record> {
        self.rollout.as_ref()?;
        let why = if by.is_empty() { "cancelled".to_owned() } else { format!("cancelled by {by}") };
        let mut next = self.end(now_ms, Some(why));
        if let Some(last) = &mut next.last {
            last.cancelled = true;
        }
        Some(next)
    }

    /// Without its rollout: the version serves, or `failed` says why it does not.
    pub fn end(&self, now_ms: u64, failed: Option<String>) -> Record {
        let mut next = self.clone();
        let Some(rollout) = next.rollout.take() else { return next };
        if failed.is_none() {
            next.previous = next.current.replace(rollout.digest.clone());
        }
        let failed = failed.map(|why| printable(&why).chars().take(MAX_TEXT).collect());
        next.last = Some(Ended { id: rollout.id, digest: rollout.digest, at_ms: now_ms, failed, cancelled: false });
        next
    }
}

#[cfg(test)]
mod tests;
