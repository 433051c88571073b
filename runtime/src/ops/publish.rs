//! Publishing from outside of handlers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Operator, OpsError};
use crate::broker::{EntryId, keys};
use crate::clock::now_ms;
use crate::config::units::format_duration;
use crate::event::Event;
use crate::outcome::{Due, MAX_DELAY, Publication};

/// The most events of one request.
pub const MAX_PUBLISH: usize = 10_000;

/// What was published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct PublishReport {
    /// The stream.
    pub stream: String,
    /// The ids of the events, in order.
    pub ids: Vec<String>,
    /// Their places in the stream; null for events that wait for their time.
    #[schema(value_type = Vec<Option<String>>)]
    pub entries: Vec<Option<EntryId>>,
}

impl Operator {
    /// Publishes all of the events, or none.
    pub async fn publish(&self, stream: &str, when: Due, mut events: Vec<Event>) -> Result<PublishReport, OpsError> {
        keys::check_stream_name(stream).map_err(OpsError::Invalid)?;
        let is_too_late = match when {
            Due::Now => false,
            Due::After(delay) => delay > MAX_DELAY,
            Due::At(ms) => ms > now_ms().saturating_add(MAX_DELAY.as_millis() as u64),
        };
        if is_too_late {
            return Err(OpsError::Invalid(format!(
                "events can be held back for {} at most",
                format_duration(MAX_DELAY)
            )));
        }
        let when = when.at_once_if_over(now_ms());
        if events.len() > MAX_PUBLISH {
            let count = events.len();
            return Err(OpsError::TooLarge(format!("{count} events in one request; the limit is {MAX_PUBLISH}")));
        }
        // What belongs to another tenant is no matter of the quotas of this one.
        let (key, waits_in) = (self.key(stream)?, self.tenant.namespace.delayed());
        self.check_publish(stream).await?;
        let envelope = self.envelopes.of(stream);
        let is_one = events.len() == 1;
        for (at, event) in events.iter_mut().enumerate() {
            let place = || if is_one { String::new() } else { format!("event {at}: ") };
            self.admit(event, place)?;
            if let Some(Err(error)) = envelope.map(|envelope| envelope.check(event)) {
                return Err(OpsError::Invalid(format!("{}{error}", place())));
            }
        }
        let publications: Vec<Publication> = events
            .into_iter()
            .map(|event| Publication {
                key: key.clone(),
                event,
                when,
                envelope: envelope.cloned(),
                waits_in: Some(waits_in.clone()),
            })
            .collect();
        let entries = self.broker.publish(&publications).await?;
        let ids = publications.into_iter().map(|publication| publication.event.id).collect();
        Ok(PublishReport { stream: stream.to_owned(), ids, entries })
    }

    fn admit(&self, event: &mut Event, place: impl Fn() -> String) -> Result<(), OpsError> {
        for (name, value) in [("id", &event.id), ("source", &event.source), ("type", &event.r#type)] {
            if value.is_empty() {
                return Err(OpsError::Invalid(format!("{}`{name}` is empty", place())));
            }
        }
        let fits = event.check_size(self.event_bytes as u64);
        fits.map_err(|error| OpsError::TooLarge(format!("{}{error}", place())))?;
        self.schemas.admit(event).map_err(|violation| OpsError::Schema { place: place(), violation })
    }
}
