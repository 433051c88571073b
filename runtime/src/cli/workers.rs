//! `wasmill workers`: who is alive.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use super::table::{self, age, plain};
use super::{Context, Report, block_on, print_json};

/// Arguments of `workers`.
#[derive(Parser)]
pub struct Args {}

/// Lists them.
pub fn run(context: &Context, _: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let workers = block_on(async { context.target(&config).await?.workers().await })?;
    if context.is_json() {
        print_json(&json!(workers));
        return Ok(ExitCode::SUCCESS);
    }
    if workers.is_empty() {
        say!("no worker is alive: start one with `wasmill run`");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table::new(["WORKER", "HOST", "PID", "VERSION", "UPTIME", "THREADS", "HANDLERS"]);
    for worker in &workers {
        let report = &worker.report;
        let handlers: Vec<&str> = report.handlers.keys().map(String::as_str).collect();
        table.add_row([
            plain(&report.worker),
            plain(&report.host),
            report.pid.to_string(),
            plain(&report.version),
            age(worker.uptime_ms),
            report.threads.to_string(),
            plain(&handlers.join(", ")),
        ]);
    }
    say!("{table}");
    Ok(ExitCode::SUCCESS)
}
