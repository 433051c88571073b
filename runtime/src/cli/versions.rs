//! `wasmill versions` and `wasmill gc`: what was deployed, and what is still kept of it.

use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Parser;
use serde_json::json;
use wasmill::clock::now_ms;
use wasmill::deploy::record::Preparation;
use wasmill::ops::{VersionState, VersionsReport};

use super::table::{self, age, counted, plain};
use super::{Context, Report, block_on, print_json};

/// Hexadecimal digits of a digest that are shown: enough to tell versions apart.
const SHORT_DIGEST: usize = 12;

/// Arguments of `versions`.
#[derive(Parser)]
pub struct Args {
    /// The handler
    handler: String,
}

/// Arguments of `gc`.
#[derive(Parser)]
pub struct GcArgs {
    /// Keep the newest so many versions of each handler as well, besides those that serve or served before
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep_last: usize,
}

/// Shows the versions of a handler.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let report = block_on(async { context.target(&config).await?.versions(&args.handler).await })?;
    if context.is_json() {
        print_json(&json!(report));
        return Ok(ExitCode::SUCCESS);
    }
    if report.versions.is_empty() {
        say!("nothing was deployed: {} serves the component of the configuration", report.handler);
    } else {
        say!("{}", versions(&report));
    }
    if let Some(canary) = super::deploy::canary(&report) {
        say!("{canary}");
    }
    for worker in &report.workers {
        let doing = match &worker.rollout {
            Some(Preparation::Preparing) => ", preparing".to_owned(),
            Some(Preparation::Prepared) => ", prepared".to_owned(),
            Some(Preparation::Canary(tally)) if report.canary.is_some() => {
                format!(", and the canary: {} of {} deliveries failed", tally.failed, tally.total())
            }
            Some(Preparation::Failed(_)) => ", cannot serve the last version".to_owned(),
            _ => String::new(),
        };
        say!("{} serves {}{doing}", plain(&worker.worker), short(&worker.serves));
    }
    if let Some((digest, why)) = report.last.as_ref().and_then(|last| Some((&last.digest, last.failed.as_ref()?))) {
        say!("{} was not deployed: {}", short(digest), plain(why));
    }
    Ok(ExitCode::SUCCESS)
}

fn versions(report: &VersionsReport) -> comfy_table::Table {
    let mut table = table::new(["DIGEST", "STATE", "AGE", "SIZE", "BY", "FROM"]);
    for known in &report.versions {
        let version = &known.version;
        table.add_row([
            short(&version.digest).to_owned(),
            word(known.state).to_owned(),
            age(now_ms().saturating_sub(version.deployed_ms)),
            ByteSize(version.size).to_string(),
            plain(&version.by),
            plain(&version.source),
        ]);
    }
    table
}

fn word(state: VersionState) -> &'static str {
    match state {
        VersionState::Current => "current",
        VersionState::Previous => "previous",
        VersionState::Preparing => "preparing",
        VersionState::Canary => "canary",
        VersionState::Kept => "kept",
        VersionState::Gone => "gone",
    }
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT_DIGEST).unwrap_or(digest)
}

/// Deletes components that nobody needs.
pub fn gc(context: &Context, args: &GcArgs) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let report = block_on(async { context.target(&config).await?.gc(args.keep_last).await })?;
    match context.is_json() {
        true => print_json(&json!(report)),
        false => {
            let removed = counted(report.removed.len(), "component");
            say!("{removed} deleted, {}; {} kept", ByteSize(report.bytes), report.kept);
        }
    }
    Ok(ExitCode::SUCCESS)
}
