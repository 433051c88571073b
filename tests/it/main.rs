//! Tests through more than one module.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_components;
mod chain;
mod check;
mod cli;
mod coming_from;
mod contract;
mod dedup;
mod delayed;
mod deploy;
mod dev;
mod dlq;
mod envelopes;
mod faults;
mod fixtures;
mod generate;
mod groups;
mod handlers;
mod host_interfaces;
mod http;
mod inspect;
mod intake;
mod invoke;
mod languages;
mod lost;
mod memory;
mod messaging;
mod operations;
mod pause;
mod pins;
mod project;
mod recovery;
mod reload;
mod retention;
mod schema;
mod send;
mod shadow;
mod shutdown;
mod snapshots;
mod swap;
mod tidy;
