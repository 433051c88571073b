//! `wasmill reload`: a worker reads its configuration again.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use super::table::counted;
use super::{Context, Report, block_on, print_json};

/// Arguments of `reload`.
#[derive(Parser)]
pub struct Args {}

/// Asks the worker, and shows what has changed; exit code 1 if a tenant stays as it was because it is at fault.
pub fn run(context: &Context, _: &Args) -> Result<ExitCode, Report> {
    let Some(worker) = context.worker()? else {
        let problem = "which worker? Name its HTTP API with --admin http://HOST:PORT, or send it the signal SIGHUP";
        return Err(Report::usage(problem));
    };
    let report = block_on(worker.reload())?;
    let code = if report.faulty.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if context.is_json() {
        print_json(&json!(report));
        return Ok(code);
    }
    for (what, names) in [("added", &report.added), ("changed", &report.changed), ("removed", &report.removed)] {
        names.iter().for_each(|name| say!("{name} {what}"));
    }
    say!("{} untouched", counted(report.unchanged, "handler"));
    for setting in &report.needs_restart {
        say!("{setting} has changed and needs a restart of the worker to take effect");
    }
    for (tenant, why) in &report.faulty {
        say!("tenants.{tenant} stays as it was: {why}");
    }
    Ok(code)
}
