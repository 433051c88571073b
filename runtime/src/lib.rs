//! lib
pub mod broker;
pub mod envelope;
pub mod event;
pub mod outcome;
pub mod wasm;
