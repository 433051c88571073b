//! Tests through more than one module.

mod chain;
mod contract;
mod tidy;
