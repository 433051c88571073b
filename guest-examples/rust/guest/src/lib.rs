//! What the Rust examples share: the bindings of `wit/events.wit`, and a few helpers over them.
//!
//! A handler is a function and one line that exports it:
//!
//! ```text
//! guest::export_handler!(handle);
//!
//! fn handle(event: &Event, delivery: &Delivery) -> Result<(), Failure> { .. }
//! ```

use serde::{Serialize, de::DeserializeOwned};

/// What `wit-bindgen` makes of the contract.
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "event-handler",
        // Drafts borrow their text: publishing allocates nothing in the guest.
        ownership: Borrowing { duplicate_if_necessary: false },
        pub_export_macro: true,
        generate_all,
        default_bindings_module: "guest::bindings",
    });
}

pub use bindings::exports::wasmill::events::handler::Guest;
pub use bindings::wasi::logging::logging::{Level, log};
pub use bindings::wasmill::events::publisher::{PublishError, publish, publish_batch};
pub use bindings::wasmill::events::types::{Delivery, Draft, Event, Failure};

/// Exports a function `fn(&Event, &Delivery) -> Result<(), Failure>` as the handler of this component.
#[macro_export]
macro_rules! export_handler {
    ($handle:path) => {
        struct Component;

        impl $crate::Guest for Component {
            fn handle(event: $crate::Event, delivery: $crate::Delivery) -> Result<(), $crate::Failure> {
                $handle(&event, &delivery)
            }
        }

        $crate::bindings::export!(Component with_types_in $crate::bindings);
    };
}

/// The JSON data of an event that must be of type `wanted`. Anything else can never be handled, so it is rejected.
pub fn parse<T: DeserializeOwned>(event: &Event, wanted: &str) -> Result<T, Failure> {
    if event.type_ != wanted {
        return Err(Failure::Reject(format!("expected an event of type {wanted}, got {}", event.type_)));
    }
    serde_json::from_slice(&event.data).map_err(|e| Failure::Reject(format!("the data of {wanted} is malformed: {e}")))
}

/// Publishes `data` as JSON to `stream`, as an event of type `kind` about the order `order_id`.
pub fn follow_up(stream: &str, kind: &str, order_id: &str, data: &impl Serialize) -> Result<(), Failure> {
    let data =
        serde_json::to_vec(data).map_err(|e| Failure::Reject(format!("cannot write the data of {kind}: {e}")))?;
    publish(Draft { subject: Some(order_id), ..Draft::json(stream, kind, &data) })?;
    Ok(())
}

impl<'a> Draft<'a> {
    /// An event with JSON data and nothing else set.
    pub fn json(stream: &'a str, kind: &'a str, data: &'a [u8]) -> Self {
        Draft {
            stream,
            type_: kind,
            subject: None,
            schema_version: None,
            partition_key: None,
            content_type: "application/json",
            attributes: &[],
            data,
            delay_ms: None,
        }
    }
}

impl PublishError {
    /// The case as the contract spells it.
    pub fn name(&self) -> &'static str {
        match self {
            PublishError::Denied(_) => "denied",
            PublishError::TooLarge(_) => "too-large",
            PublishError::TooMany(_) => "too-many",
            PublishError::Invalid(_) => "invalid",
        }
    }

    /// The case and what the host says about it.
    pub fn describe(&self) -> String {
        let name = self.name();
        match self {
            PublishError::Denied(stream) => format!("{name}: {stream}"),
            PublishError::TooLarge(bytes) => format!("{name}: the limit is {bytes} bytes"),
            PublishError::TooMany(events) => format!("{name}: the limit is {events} events"),
            PublishError::Invalid(why) => format!("{name}: {why}"),
        }
    }
}

/// A draft that was refused is refused again on the next attempt, so a handler that passes it on with `?` rejects.
impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Failure::Reject(error.describe())
    }
}
