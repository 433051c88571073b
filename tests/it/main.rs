//! Tests through more than one module.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod chain;
mod cli;
mod contract;
mod handlers;
mod recovery;
mod tidy;
