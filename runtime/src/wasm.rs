//! Running handlers: component bytes -> checked [`Handler`] -> one [`Execution`] per delivery.
//!
//! Nothing in here has an effect on the outside: what a guest asks for is collected and returned as data.

mod cache;
mod component;
mod engine;
mod host;
mod invoke;
mod limiter;
mod logs;

pub use cache::{CacheError, CompiledCache};
pub use component::{Component, Digest, Import, LoadError, MAX_COMPONENT_BYTES};
pub use engine::{Engine, EngineError, EngineSettings};
pub use host::{Grant, Grants, Policy};
pub use invoke::{Execution, Handler, Isolation, WarmInstance};
pub use logs::{LogLevel, LogLine, LogSource};

/// The types of `wit/`, as wasmtime's generator makes them.
#[allow(missing_docs, reason = "documented in wit/events.wit")]
pub mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "event-handler",
        exports: { default: async },
    });
}

pub use bindings::wasmill::events::types::{Delivery as GuestDelivery, Event as GuestEvent};

use crate::event::Event;

impl From<Event> for GuestEvent {
    fn from(event: Event) -> GuestEvent {
        GuestEvent {
            id: event.id,
            source: event.source,
            type_: event.r#type,
            time: event.time,
            subject: event.subject,
            schema_version: event.schema_version,
            partition_key: event.partition_key,
            content_type: event.content_type,
            attributes: event.attributes,
            data: event.data,
        }
    }
}
