//! What the fleet knows of the versions of a handler, and how a rollout goes on. Only decides; others read and write.
//!
//! Everything about a handler stands in one [`Record`], which is only ever replaced as a whole, and only if nobody else has
//! replaced it meanwhile. So whoever sees that a rollout can go on may say so: a worker, or the one who asked for it. No step
//! needs a certain process to be alive.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::canary::{Canary, Judgement, Tally};

/// The versions that a record remembers; older ones are forgotten, unless one of them serves.
pub const MAX_VERSIONS: usize = 50;
/// Versions of a handler that may be pinned at the same time: each takes memory on every worker.
pub const MAX_PINS: usize = 4;
/// How long a version stays pinned after it was last asked for, in milliseconds: a day.
pub const PIN_MS: u64 = 24 * 60 * 60 * 1000;
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
        next.versions.retain(|known| known.digest != version.digest);
        next.versions.insert(0, version);
        next.forget_old();
        Ok(next)
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
        let failed = failed.map(|why| why.chars().take(MAX_TEXT).collect());
        next.last = Some(Ended { id: rollout.id, digest: rollout.digest, at_ms: now_ms, failed, cancelled: false });
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::canary::Percent;

    fn version(digest: &str) -> KnownVersion {
        KnownVersion {
            digest: digest.into(),
            size: 1,
            deployed_ms: 10,
            by: "me".into(),
            source: "x.wasm".into(),
            signature: None,
        }
    }

    fn said(rollout: &str, states: &[(&str, Preparation)]) -> BTreeMap<String, Progress> {
        let progress = |state: &Preparation| Progress { rollout: rollout.to_owned(), state: state.clone() };
        states.iter().map(|(worker, state)| ((*worker).to_owned(), progress(state))).collect()
    }

    fn until(until_ms: u64) -> Terms {
        Terms { until_ms, canary: None, smoke: None }
    }

    fn begun(digest: &str) -> Record {
        Record::default().begin(version(digest), "r".into(), until(100)).expect("nothing is going on")
    }

    fn percent(text: &str) -> Percent {
        text.parse().expect("a percentage")
    }

    /// A rollout that has begun at 10 and may take until 100, with 1000 on a twentieth of the events.
    fn begun_canary() -> Record {
        let canary =
            Canary { share: percent("5%"), promote_after_ms: 1000, max_error_rate: percent("1%"), since_ms: Some(7) };
        let record = Record { current: Some("old".into()), ..Record::default() };
        let terms = Terms { until_ms: 100, canary: Some(canary), smoke: None };
        record.begin(version("a"), "r".into(), terms).expect("nothing is going on")
    }

    /// The same where both workers have been prepared at 50.
    fn running_canary() -> Record {
        let states = [("1", Preparation::Prepared), ("2", Preparation::Prepared)];
        begun_canary().advance(&["1", "2"], &said("r", &states), 50).expect("all are prepared")
    }

    fn tally(acked: u64, failed: u64) -> Preparation {
        Preparation::Canary(Tally { acked, failed })
    }

    fn why(record: Option<Record>) -> Option<String> {
        record.and_then(|record| record.last).and_then(|last| last.failed)
    }

    #[test]
    fn a_signature_that_is_known_stays_unless_another_one_comes() {
        let signed = |signature: Option<&str>| KnownVersion { signature: signature.map(str::to_owned), ..version("a") };
        let mut record = Record::default();
        for (comes, is_kept) in [(None, None), (Some("s"), Some("s")), (None, Some("s")), (Some("t"), Some("t"))] {
            let begun = record.begin(signed(comes), "r".into(), until(100)).expect("nothing is going on");
            assert_eq!(begun.versions[0].signature.as_deref(), is_kept);
            record = begun.end(20, Some("no".into()));
        }
    }

    #[test]
    fn it_serves_when_every_worker_is_prepared_and_not_before() {
        let record = begun("a");
        let (ready, not) = (Preparation::Prepared, Preparation::Preparing);
        assert_eq!(record.advance(&["1", "2"], &said("r", &[("1", ready.clone()), ("2", not)]), 50), None);
        assert_eq!(record.advance(&["1", "2"], &said("r", &[("1", ready.clone())]), 50), None);
        // What was said of another rollout says nothing about this one.
        assert_eq!(record.advance(&["1"], &said("q", &[("1", ready.clone())]), 50), None);
        // A worker that has gone is not waited for.
        let next = record.advance(&["1"], &said("r", &[("1", ready)]), 50).expect("all are prepared");
        assert_eq!((next.current.as_deref(), &next.rollout), (Some("a"), &None));
        assert_eq!(next.last.map(|last| (last.id, last.failed)), Some(("r".to_owned(), None)));
    }

    #[test]
    fn one_that_cannot_ends_it_and_the_old_version_stays() {
        let record = Record { current: Some("old".into()), ..Record::default() };
        let record = record.begin(version("a"), "r".into(), until(100)).expect("nothing is going on");
        let states = [("1", Preparation::Prepared), ("2", Preparation::Failed("no export".into()))];
        let next = record.advance(&["1", "2"], &said("r", &states), 50).expect("it has ended");
        assert_eq!(next.current.as_deref(), Some("old"));
        assert_eq!(next.last.and_then(|last| last.failed).as_deref(), Some("2: no export"));
    }

    #[test]
    fn it_is_given_up_at_its_end_and_says_for_whom_it_waited() {
        let record = begun("a");
        let nobody = BTreeMap::new();
        assert_eq!(record.advance(&["1"], &nobody, 99), None);
        let late = record.advance(&["1"], &nobody, 100).expect("its time is over");
        assert_eq!(late.last.and_then(|last| last.failed).as_deref(), Some("not prepared in time: 1"));
        assert_eq!(late.current, None);
        assert_eq!(record.advance(&[], &nobody, 99), None);
        assert!(record.advance(&[], &nobody, 100).is_some_and(|next| next.rollout.is_none()));
        assert_eq!(Record::default().advance(&["1"], &nobody, 1000), None);
    }

    #[test]
    fn a_canary_begins_when_all_are_prepared_and_serves_at_its_time() {
        let record = running_canary();
        let since = |record: &Record| record.rollout.as_ref().and_then(|rollout| rollout.canary?.since_ms);
        assert_eq!((since(&begun_canary()), since(&record), record.current.as_deref()), (None, Some(50), Some("old")));
        // Nothing of what is prepared or said makes it earlier.
        let good = said("r", &[("1", tally(60, 0)), ("2", tally(40, 1))]);
        assert_eq!(record.advance(&["1", "2"], &good, 1049), None);
        let next = record.advance(&["1", "2"], &good, 1050).expect("its time has come");
        assert_eq!((next.current.as_deref(), next.previous.as_deref()), (Some("a"), Some("old")));
        assert_eq!((next.rollout.clone(), why(Some(next))), (None, None));
    }

    #[test]
    fn a_canary_that_fails_too_often_ends_at_once_and_the_old_version_stays() {
        let record = running_canary();
        let bad = said("r", &[("1", tally(18, 0)), ("2", tally(1, 1))]);
        let next = record.advance(&["1", "2"], &bad, 60).expect("it has failed");
        assert_eq!((next.current.as_deref(), &next.rollout), (Some("old"), &None));
        assert_eq!(why(Some(next)).as_deref(), Some("5% of 20 deliveries failed, 1% is allowed"));
        // A worker that is gone has said what happened all the same; of another rollout it says nothing.
        assert!(why(record.advance(&["1"], &bad, 60)).is_some());
        assert_eq!(record.advance(&["1", "2"], &said("q", &[("1", tally(0, 100))]), 60), None);
    }

    #[test]
    fn a_canary_that_ran_too_little_is_not_promoted() {
        let next = running_canary().advance(&["1", "2"], &said("r", &[("1", tally(19, 0)), ("2", tally(0, 0))]), 1050);
        assert!(why(next.clone()).is_some_and(|why| why.starts_with("only 19 deliveries")), "{next:?}");
        assert_eq!(next.and_then(|next| next.current).as_deref(), Some("old"));
    }

    #[test]
    fn a_canary_waits_for_those_who_come_late_but_not_for_ever() {
        let record = running_canary();
        let states = [("1", tally(100, 0)), ("2", tally(100, 0)), ("3", Preparation::Preparing)];
        let workers = ["1", "2", "3"];
        assert_eq!(record.advance(&workers, &said("r", &states), 1050), None);
        assert_eq!(record.advance(&workers, &said("r", &states), 1139), None);
        let late = why(record.advance(&workers, &said("r", &states), 1140));
        assert_eq!(late.as_deref(), Some("not prepared in time: 3"));
        let states = [("1", tally(100, 0)), ("3", Preparation::Prepared)];
        let next = record.advance(&["1", "3"], &said("r", &states), 1050).expect("all can switch");
        assert_eq!(next.current.as_deref(), Some("a"));
        let failed = said("r", &[("1", tally(100, 0)), ("3", Preparation::Failed("no".into()))]);
        assert_eq!(why(record.advance(&["1", "3"], &failed, 60)).as_deref(), Some("3: no"));
        let nobody = why(record.advance(&[], &said("r", &[("1", tally(100, 0))]), 1140));
        assert_eq!(nobody.as_deref(), Some("no worker serves the handler"));
    }

    #[test]
    fn a_rollout_can_be_cancelled_at_any_time() {
        for record in [begun("a"), begun_canary(), running_canary()] {
            let next = record.cancel("me", 70).expect("it goes on");
            assert_eq!((&next.current, &next.rollout), (&record.current, &None));
            assert!(next.last.as_ref().is_some_and(|last| last.cancelled));
            assert_eq!(why(Some(next.clone())).as_deref(), Some("cancelled by me"));
            assert_eq!(next.cancel("me", 71), None);
            assert!(record.wants("a") && !next.wants("a"));
        }
    }

    #[test]
    fn only_one_at_a_time_and_nothing_twice() {
        let record = begun("a");
        assert!(matches!(record.begin(version("b"), "s".into(), until(9)), Err(CannotBegin::Busy { .. })));
        let serving = record.end(20, None);
        assert_eq!(serving.begin(version("a"), "s".into(), until(9)), Err(CannotBegin::Serves("a".into())));
        let back = serving.begin(version("b"), "s".into(), until(9)).expect("another one").end(30, None);
        assert_eq!((back.current.as_deref(), back.previous.as_deref()), (Some("b"), Some("a")));
    }

    #[test]
    fn old_versions_are_forgotten_but_not_those_in_use() {
        let mut record = begun("first").end(20, None);
        for number in 0..MAX_VERSIONS {
            let digest = format!("{number:064x}");
            record = record
                .begin(version(&digest), "r".into(), until(9))
                .expect("one after the other")
                .end(20, Some("no".into()));
        }
        assert_eq!(record.versions.len(), MAX_VERSIONS + 1);
        assert!(record.find("first").is_some());
        record = record.begin(version("last"), "r".into(), until(9)).expect("one after the other");
        assert_eq!(record.versions.len(), MAX_VERSIONS + 1);
        assert!(record.find(&format!("{:064x}", 0)).is_none() && record.find("sha256:last").is_some());
    }

    #[test]
    fn pins_last_a_day_and_are_few() {
        let mut record = begun("first");
        for number in 0..MAX_PINS {
            record = record.pin(&number.to_string(), "me", 10 + number as u64).expect("room for another");
        }
        let refused = record.pin("more", "me", 20).expect_err("one more").to_string();
        assert!(refused.contains("0, 1, 2, 3"), "{refused}");
        let renewed = record.pin("0", "you", 20).expect("it is pinned already");
        assert_eq!(renewed.pins["0"], Pin { until_ms: 20 + PIN_MS, by: "you".into() });
        assert_eq!(record.without_old_pins(9 + PIN_MS), None);
        let later = record.without_old_pins(10 + PIN_MS).expect("one is over");
        assert!(!later.wants("0") && later.wants("1"));
        assert!(record.pin("more", "me", 10 + PIN_MS).is_ok_and(|record| record.pins.len() == MAX_PINS));
        assert!(record.unpin("0").pin("more", "me", 20).is_ok_and(|record| !record.wants("0")));
        // A rollout does not touch them, and what is pinned is not forgotten.
        let mut ended = begun("a").pin("a", "me", 20).expect("room").end(30, Some("no".into()));
        for number in 0..MAX_VERSIONS {
            ended = ended
                .begin(version(&format!("{number:064x}")), "r".into(), until(9))
                .expect("free")
                .end(20, Some("no".into()));
        }
        assert!(ended.find("a").is_some() && Record::parse(&ended.text()).ok() == Some(ended));
    }

    #[test]
    fn digests_may_be_shortened_if_that_is_clear() {
        let mut record = begun("abc1");
        record.versions.push(version("abd2"));
        assert_eq!(record.find("abc").map(|version| version.digest.as_str()), Some("abc1"));
        assert!(record.find("ab").is_none() && record.find("").is_none() && record.find("x").is_none());
    }

    #[test]
    fn records_survive_their_text_and_old_ones_may_lack_fields() {
        let record = begun("a").end(20, Some("why".into()));
        assert_eq!(Record::parse(&record.text()).ok(), Some(record));
        let record = running_canary();
        assert_eq!(Record::parse(&record.text()).ok(), Some(record));
        let old = r#"{"rollout":{"id":"r","digest":"a","by":"","started_ms":1,"until_ms":2}}"#;
        assert!(Record::parse(old).is_ok_and(|record| record.rollout.is_some_and(|rollout| rollout.canary.is_none())));
        assert_eq!(Record::parse("{}").ok(), Some(Record::default()));
        assert!(Record::parse("1").is_err());
    }
}
