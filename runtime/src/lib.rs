//! wasmill runs event handlers: it reads events from Redis Streams, runs each one in a WebAssembly sandbox, and writes
//! everything that the handler asked for, together with the acknowledgement, in one atomic step.
//!
//! The way of an event, and the modules in that order:
//!
//! | step | module |
//! |---|---|
//! | read | [`broker`]: where events live; on Redis and in process |
//! | decode | [`envelope`]: fields of an entry to an [`event`] |
//! | check | [`schema`]: is the data what its type promises; also before each publish |
//! | route | [`route`]: does the handler want it |
//! | schedule | [`schedule`]: whose turn is it |
//! | execute | [`wasm`]: a sandbox, fresh or reused, and what the handler asked for |
//! | settle | [`outcome`]: what becomes of the event, written by the broker |
//!
//! [`pipeline`] joins them, [`app`] builds it all from the [`config`]. [`ops`] is what operators can do, from the command
//! line and through the HTTP API in [`admin`] alike. [`reload`] takes over another configuration while all that works.

pub mod access;
pub mod admin;
pub mod app;
pub mod audit;
pub mod broker;
pub mod clock;
pub mod config;
pub mod deploy;
pub mod envelope;
pub mod event;
pub mod fleet;
pub mod generate;
pub mod oci;
pub mod ops;
pub mod outcome;
pub mod pipeline;
pub mod project;
pub mod quota;
pub mod readiness;
pub mod reload;
pub mod route;
pub mod schedule;
pub mod schema;
pub mod state;
pub mod stats;
pub mod telemetry;
pub mod text;
pub mod wasm;
