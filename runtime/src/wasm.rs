//! Running handlers: component bytes -> checked [`Handler`] -> one [`Execution`] per delivery.
//!
//! Nothing in here has an effect on the outside, but for HTTP requests of handlers that were granted them: what a guest
//! asks for is collected and returned as data.

mod ambient;
pub mod anatomy;
mod cache;
pub mod compile;
mod component;
mod deadline;
mod engine;
mod host;
pub mod http;
mod interfaces;
mod invoke;
mod limiter;
mod loaded;
mod logs;
mod messaging;
mod state;
mod turns;
pub mod world;

pub use cache::{CacheError, CompiledCache};
pub use compile::{CompileError, CompileLimits, Compiler};
pub use component::{Component, Digest, LoadError, MAX_COMPONENT_BYTES, check_names, read_component};
pub use deadline::Throttled;
pub use engine::{Engine, EngineError, EngineSettings};
pub use host::{Grant, Grants, Policy};
pub use interfaces::{Interfaces, Values};
pub use invoke::{Execution, Handler, Isolation, Surroundings, WarmInstance};
pub use logs::{LogLevel, LogLine, LogSource};
pub use world::{Capability, Import};

/// The types of `wit/`, as wasmtime's generator makes them.
#[allow(missing_docs, reason = "documented in wit/events.wit")]
pub mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "event-handler",
        exports: { default: async },
    });
}

/// The types of `wit/deps/messaging`.
#[allow(missing_docs, reason = "documented in wit/deps/messaging/messaging.wit")]
pub mod messaging_bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "wasi:messaging/messaging-core",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "wasi:messaging/types.client": super::messaging::Client,
            "wasi:messaging/types.message": super::messaging::Message,
        },
    });
}

/// The types of `wit/deps/keyvalue`.
#[allow(missing_docs, reason = "documented in wit/deps/keyvalue/keyvalue.wit")]
pub mod keyvalue_bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::state::Bucket },
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
