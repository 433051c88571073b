//! Tests through more than one module.

mod contract;
mod tidy;
