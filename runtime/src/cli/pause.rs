//! `wasmill pause` and `wasmill resume`: stopping a handler for a while, on all workers.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use super::{Context, Report, block_on, print_json};

/// Arguments of both.
#[derive(Parser)]
pub struct Args {
    /// The handler
    handler: String,
}

/// Pauses the handler, or lets it go on. Doing it twice does it once.
pub fn run(context: &Context, args: &Args, paused: bool) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let report = block_on(async { context.target(&config).await?.set_paused(&args.handler, paused).await })?;
    let handler = &report.handler;
    match (context.is_json(), paused, report.changed) {
        (true, ..) => print_json(&json!(report)),
        (_, true, true) => say!("{handler} is paused; its events wait until `wasmill resume {handler}`"),
        (_, true, false) => say!("{handler} was paused already"),
        (_, false, true) => say!("{handler} goes on"),
        (_, false, false) => say!("{handler} was not paused"),
    }
    Ok(ExitCode::SUCCESS)
}
