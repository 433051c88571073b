//! The process that compiles for the other verbs; not for people.

use std::process::ExitCode;

use clap::Parser;
use wasmill::wasm::compile;

/// Arguments of the process.
#[derive(Parser)]
pub struct Args {
    /// Bytes of memory
    #[arg(long)]
    memory: u64,
    /// CPU time
    #[arg(long)]
    cpu_seconds: u64,
    /// The process that asked for it
    #[arg(long)]
    parent: u32,
}

/// Compiles what is on stdin.
pub fn run(args: &Args) -> ExitCode {
    compile::serve(args.memory, args.cpu_seconds, args.parent)
}
