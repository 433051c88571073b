//! Versions that workers hold besides the one that serves, so that dead letters can run on them.

use super::{Operator, OpsError};
use crate::audit::Verb;
use crate::deploy::record::{KnownVersion, PIN_MS, TooManyPins};
use crate::fleet::PinState;

/// A pin is renewed when so much of its time is over, in milliseconds: not by every question of one who waits.
const RENEW_MS: u64 = 60_000;

/// How it stands with a version that was asked for.
pub(super) enum Pinning {
    /// Every worker that serves the handler has it: its digest.
    Held(String),
    /// These workers do not have it yet.
    Waiting(Vec<String>),
}

impl Operator {
    /// Has every worker hold a version: `to` is its digest, or how it begins. Ask again until all of them have it.
    pub(super) async fn pin(&self, handler: &str, to: &str, by: &str) -> Result<Pinning, OpsError> {
        let digest = self.kept_version(handler, to).await?.digest;
        let now_ms = self.broker.time_ms().await?;
        let (_, record) = self.record(handler).await?;
        let is_fresh = |until_ms: u64| until_ms + RENEW_MS > now_ms + PIN_MS;
        if !record.pins.get(&digest).is_some_and(|pin| is_fresh(pin.until_ms)) {
            let conflict = |error: TooManyPins| OpsError::Conflict(error.to_string());
            let work = self.change(handler, |record| record.pin(&digest, by, now_ms).map_err(conflict));
            self.audited((Verb::Pin, handler), format!("sha256:{digest}"), work, |()| String::new()).await?;
        }
        let mut waiting = Vec::new();
        for status in self.workers().await? {
            let Some(report) = status.report.handlers.get(handler) else { continue };
            match report.pinned.get(&digest) {
                Some(PinState::Held) => {}
                Some(PinState::Failed(why)) => {
                    // Nobody is to try it again and again for a day.
                    self.change(handler, |record| Ok(record.unpin(&digest))).await?;
                    let worker = status.report.worker;
                    let problem = format!("{worker} cannot run sha256:{digest}: {why}; nothing was redriven");
                    return Err(OpsError::Conflict(problem));
                }
                None => waiting.push(status.report.worker),
            }
        }
        Ok(if waiting.is_empty() { Pinning::Held(digest) } else { Pinning::Waiting(waiting) })
    }

    /// A version that was deployed and whose component is kept, by its digest or how that begins.
    pub(super) async fn kept_version(&self, handler: &str, wanted: &str) -> Result<KnownVersion, OpsError> {
        let (_, record) = self.record(handler).await?;
        let Some(known) = record.find(wanted).cloned() else {
            let problem =
                format!("`{wanted}` is no version of {handler}, or several; see `wasmill versions {handler}`");
            return Err(OpsError::Invalid(problem));
        };
        if !self.broker.components().await?.contains_key(&known.digest) {
            let problem = format!("the component of {} has been deleted: deploy it again", known.digest);
            return Err(OpsError::Invalid(problem));
        }
        Ok(known)
    }
}
