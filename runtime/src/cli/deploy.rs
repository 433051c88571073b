//! `wasmill deploy` and `wasmill rollback`: another version of a handler, on all workers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use wasmill::config::units::parse_duration;
use wasmill::deploy::record::{Ended, Preparation};
use wasmill::deploy::source::Fetched;
use wasmill::ops::{DeployQuery, RollbackRequest, VersionsReport};

use super::table::{counted, plain};
use super::target::Target;
use super::{Context, Report, block_on, print_json, progress, sources};

/// How often the workers' progress is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How long workers may take to say that they serve what they were told to; their heartbeats say so.
const SWITCH_TIME: Duration = Duration::from_secs(30);

/// Arguments of `deploy`.
#[derive(Parser)]
pub struct Args {
    /// The handler
    handler: String,
    /// The component: a file, or oci://REGISTRY/NAME:TAG@sha256:DIGEST
    component: PathBuf,
    /// Who deploys, as `wasmill versions` shows it [default: the user of this machine]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// How long workers may take to prepare it, at most an hour
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5m")]
    prepare_time: Duration,
    /// Do not wait until all workers have switched
    #[arg(long)]
    no_wait: bool,
}

/// Arguments of `rollback`.
#[derive(Parser)]
pub struct RollbackArgs {
    /// The handler
    handler: String,
    /// The version, by its digest or how that begins [default: the one that served before]
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
    /// Who asks for it, as `wasmill versions` shows it [default: the user of this machine]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Deploys a component.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let Fetched { bytes, source } = sources::fetch(&args.component)?;
    let query = DeployQuery {
        by: Some(args.by.clone().unwrap_or_else(user)),
        source: Some(source),
        prepare_ms: Some(u64::try_from(args.prepare_time.as_millis()).unwrap_or(u64::MAX)),
    };
    block_on(async {
        let target = context.target(&config).await?;
        let begun = target.deploy(&args.handler, bytes, &query).await?;
        if args.no_wait {
            return Ok(print_begun(context, &begun));
        }
        follow(context, &target, begun).await
    })
}

/// Goes back to a version.
pub fn rollback(context: &Context, args: &RollbackArgs) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let request = RollbackRequest { to: args.to.clone(), by: Some(args.by.clone().unwrap_or_else(user)) };
    block_on(async {
        let target = context.target(&config).await?;
        let begun = target.rollback(&args.handler, &request).await?;
        follow(context, &target, begun).await
    })
}

fn print_begun(context: &Context, begun: &VersionsReport) -> ExitCode {
    match context.is_json() {
        true => print_json(&json!(begun)),
        false => say!("begun; `wasmill versions {}` shows how far it is", begun.handler),
    }
    ExitCode::SUCCESS
}

/// Waits until all workers have switched, or the rollout has ended without that.
async fn follow(context: &Context, target: &Target, begun: VersionsReport) -> Result<ExitCode, Report> {
    let handler = begun.handler.clone();
    let rollout = begun.rollout.as_ref().map(|rollout| (rollout.id.clone(), rollout.digest.clone()));
    // It may have ended already.
    let rollout = rollout.or_else(|| begun.last.as_ref().map(|last| (last.id.clone(), last.digest.clone())));
    let Some((id, digest)) = rollout else { return Err(Report::failure("the rollout has vanished")) };
    let progress = progress::saying();
    let mut deadline = None;
    let mut report = begun;
    loop {
        match &report.last {
            Some(Ended { id: ended, failed: Some(why), .. }) if *ended == id => {
                progress.finish_and_clear();
                return Err(Report::failure(format!("{handler} stays as it was: {}", plain(why))));
            }
            Some(Ended { id: ended, .. }) if *ended == id => {
                let behind = report.workers.iter().filter(|worker| worker.serves != digest).count();
                let until = *deadline.get_or_insert_with(|| std::time::Instant::now() + SWITCH_TIME);
                if behind == 0 || std::time::Instant::now() >= until {
                    progress.finish_and_clear();
                    return finished(context, &report, &digest, behind);
                }
                progress.set_message(format!("{} to switch", counted(behind, "worker")));
            }
            _ => progress.set_message(preparing(&report)),
        }
        tokio::time::sleep(POLL).await;
        progress.tick();
        report = target.versions(&handler).await?;
    }
}

fn finished(context: &Context, report: &VersionsReport, digest: &str, behind: usize) -> Result<ExitCode, Report> {
    if behind > 0 {
        let problem = format!(
            "the version is deployed, but {} did not say that they serve it: see `wasmill versions {}`",
            counted(behind, "worker"),
            report.handler
        );
        return Err(Report::failure(problem));
    }
    match context.is_json() {
        true => print_json(&json!(report)),
        false => {
            let workers = counted(report.workers.len(), "worker");
            say!("{} serves sha256:{digest} on {workers}", report.handler);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How many workers are prepared.
fn preparing(report: &VersionsReport) -> String {
    let is_prepared = |state: &Preparation| matches!(state, Preparation::Prepared | Preparation::Serving);
    let prepared = report.workers.iter().filter(|worker| worker.rollout.as_ref().is_some_and(is_prepared)).count();
    match report.workers.len() {
        0 => "no worker serves the handler: waiting for one".to_owned(),
        workers => format!("{prepared} of {workers} workers prepared"),
    }
}

fn user() -> String {
    ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default()
}
