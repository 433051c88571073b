//! Events that the handler has handled before.
//!
//! Looking the marks up spares running the handler. What decides is the settle, which looks again.

use super::Deployment;
use super::run::decode;
use crate::broker::{Broker, Entry, EntryId, Source};

/// The entries among these whose events have been handled before. None if the marks cannot be read.
pub(super) async fn known(
    broker: &dyn Broker,
    deployment: &Deployment,
    source: &Source,
    entries: &[Entry],
) -> Vec<EntryId> {
    // Somebody has asked for what is in an inbox.
    let Some(dedup) = deployment.dedup.filter(|_| !source.is_inbox) else { return Vec::new() };
    let envelopes = &deployment.reading.envelopes;
    let decoded = entries.iter().filter_map(|entry| {
        let event = decode(envelopes, source, entry.id, entry.fields.clone()).1.ok()?;
        Some((entry.id, dedup.mark(&deployment.marks, &event).key))
    });
    let (ids, marks): (Vec<EntryId>, Vec<_>) = decoded.unzip();
    match broker.seen(&marks).await {
        Ok(seen) => ids.into_iter().zip(seen).filter(|(_, seen)| *seen).map(|(id, _)| id).collect(),
        Err(error) => {
            tracing::debug!(stream = source.stream, "cannot look for duplicates: {error}");
            Vec::new()
        }
    }
}
