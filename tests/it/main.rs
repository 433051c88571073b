//! Tests through more than one module.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod chain;
mod check;
mod cli;
mod coming_from;
mod contract;
mod dedup;
mod delayed;
mod dlq;
mod envelopes;
mod faults;
mod fixtures;
mod generate;
mod groups;
mod handlers;
mod intake;
mod invoke;
mod lost;
mod memory;
mod operations;
mod pause;
mod recovery;
mod retention;
mod schema;
mod send;
mod shutdown;
mod snapshots;
mod swap;
mod tidy;
