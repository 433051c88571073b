//! `wasmill deploy` and `wasmill rollback`: another version of a handler, on all workers.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use wasmill::config::units::{format_duration, parse_duration};
use wasmill::deploy::canary::Percent;
use wasmill::deploy::record::{Ended, Rollout};
use wasmill::ops::{DeployQuery, RollbackRequest, VersionsReport};
use wasmill::wasm::MAX_COMPONENT_BYTES;

use super::table::{counted, plain};
use super::target::Target;
use super::{Context, Report, block_on, print_json, progress};

/// How often the workers' progress is looked at.
const POLL: Duration = Duration::from_millis(100);
/// The same while the version runs its share: workers say once a second how it does.
const CANARY_POLL: Duration = Duration::from_millis(500);
/// How long workers may take to say that they serve what they were told to; their heartbeats say so.
const SWITCH_TIME: Duration = Duration::from_secs(30);

/// Arguments of `deploy`.
#[derive(Parser)]
pub struct Args {
    /// The handler
    handler: String,
    /// The component, a file
    component: PathBuf,
    /// Who deploys, as `wasmill versions` shows it [default: the user of this machine]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// How long workers may take to prepare it, at most an hour
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5m")]
    prepare_time: Duration,
    /// Run this part of the events on it first, and all of them only if it does well, e.g. 5%
    ///
    /// The part is chosen by the partition key of the event, or its id if it has none, so that all events of a key run on
    /// the same version.
    #[arg(long, value_name = "SHARE")]
    canary: Option<Percent>,
    /// How long it runs that part, a second to a day [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "canary")]
    promote_after: Option<Duration>,
    /// The part of its deliveries that may fail meanwhile: to be tried again, or dead letters [default: 1%]
    #[arg(long, value_name = "SHARE", requires = "canary")]
    max_error_rate: Option<Percent>,
    /// Do not wait until all workers have switched
    #[arg(long)]
    no_wait: bool,
}

/// Arguments of `rollback`.
#[derive(Parser)]
pub struct RollbackArgs {
    /// The handler
    handler: String,
    /// The version, by its digest or how that begins [default: the one that served before; while a rollout goes on, that is
    /// cancelled]
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
    /// Who asks for it, as `wasmill versions` shows it [default: the user of this machine]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Deploys a component.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let bytes = read(&args.component)?;
    let query = DeployQuery {
        by: Some(args.by.clone().unwrap_or_else(user)),
        source: Some(short(&args.component)),
        prepare_ms: Some(millis(args.prepare_time)),
        canary: args.canary,
        promote_after_ms: args.promote_after.map(millis),
        max_error_rate: args.max_error_rate,
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
        if let Some(last) = begun.last.as_ref().filter(|last| last.cancelled && begun.rollout.is_none()) {
            return Ok(print_cancelled(context, &begun, last));
        }
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

fn print_cancelled(context: &Context, report: &VersionsReport, last: &Ended) -> ExitCode {
    match context.is_json() {
        true => print_json(&json!(report)),
        false => {
            let stays = report.current.as_ref().map(|digest| format!("sha256:{digest}"));
            let stays = stays.unwrap_or_else(|| "the component of the configuration".to_owned());
            say!("the rollout of sha256:{} is cancelled: {} goes on with {stays}", last.digest, report.handler);
        }
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
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
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
            _ => progress.set_message(going_on(&report)),
        }
        let pause = if report.canary.is_some() { CANARY_POLL } else { POLL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = &mut interrupted => {
                progress.finish_and_clear();
                return Err(not_waited_for(&report));
            }
        }
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

/// What remains when nobody waits any more.
fn not_waited_for(report: &VersionsReport) -> Report {
    let handler = &report.handler;
    Report::failure(match report.rollout {
        Some(_) => format!(
            "interrupted, but the rollout goes on: `wasmill versions {handler}` shows it, `wasmill rollback {handler}` \
             cancels it"
        ),
        None => format!("interrupted; the version serves, and workers switch: see `wasmill versions {handler}`"),
    })
}

/// How far a rollout is, in words.
fn going_on(report: &VersionsReport) -> String {
    canary(report).unwrap_or_else(|| preparing(report))
}

/// How the version does that runs a share of the events, if one does.
pub fn canary(report: &VersionsReport) -> Option<String> {
    let (status, asked) = (report.canary?, report.rollout.as_ref().and_then(Rollout::running_canary)?);
    let left = format_duration(Duration::from_secs(status.left_ms.div_ceil(1000)));
    let (share, allowed) = (asked.share, asked.max_error_rate);
    let (total, failed) = (status.tally.total(), status.tally.failed);
    Some(format!(
        "canary on {share} of the events: {failed} of {total} deliveries failed, {allowed} allowed; {left} left"
    ))
}

/// How many workers are prepared.
fn preparing(report: &VersionsReport) -> String {
    let states = report.workers.iter().filter_map(|worker| worker.rollout.as_ref());
    let prepared = states.filter(|state| state.is_prepared()).count();
    match report.workers.len() {
        0 => "no worker serves the handler: waiting for one".to_owned(),
        workers => format!("{prepared} of {workers} workers prepared"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The bytes of a component; no more than one may have.
pub fn read(path: &Path) -> Result<Vec<u8>, Report> {
    let unreadable = |error: std::io::Error| Report::usage(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_COMPONENT_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_COMPONENT_BYTES {
        return Err(Report::usage(format!("{}: more than {MAX_COMPONENT_BYTES} bytes", path.display())));
    }
    Ok(bytes)
}

/// The name of the file: where it lies on this machine says little elsewhere.
fn short(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().chars().filter(|c| !c.is_control()).collect()
}

pub fn user() -> String {
    ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default()
}
