//! `wasmill deploy` and `wasmill rollback`: another version of a handler, on all workers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Parser;
use serde_json::json;
use wasmill::app;
use wasmill::config::Config;
use wasmill::config::units::{format_duration, parse_duration};
use wasmill::deploy::canary::Percent;
use wasmill::deploy::record::{Ended, Rollout};
use wasmill::deploy::smoke::{SmokeTest, SmokeTests};
use wasmill::deploy::source::Fetched;
use wasmill::envelope::structured;
use wasmill::ops::{DeployQuery, RollbackRequest, VersionsReport};

use super::table::{counted, plain};
use super::target::Target;
use super::test::fixtures::{self, Choice, Fixture};
use super::{Context, Report, block_on, print_json, progress, sources};

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
    /// The component: a file, or oci://REGISTRY/NAME:TAG@sha256:DIGEST
    component: PathBuf,
    /// Run these events through it first, on each worker: a folder of `wasmill test`, or one file
    #[arg(long, value_name = "PATH")]
    smoke: Option<PathBuf>,
    /// Its signature, 64 bytes or their base64 [default: COMPONENT.sig if there is one, or that in the registry]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
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
    /// cancelled; to be named if the last rollout had no effect]
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
    /// Who asks for it, as `wasmill versions` shows it [default: the user of this machine]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Deploys a component.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let progress = progress::saying();
    let say = |message: String| {
        progress.set_message(message);
        progress.tick();
    };
    say(format!("fetching {}", args.component.display()));
    let Fetched { bytes, source, signature } = sources::fetch(&args.component, args.signature.as_deref())?;
    let keys = app::public_keys(&config).map_err(Report::usage)?;
    if !keys.is_empty() {
        say("verifying its signature".to_owned());
        let refused = |error| Report::usage(format!("{}: {error}", args.component.display()));
        keys.verify(&bytes, signature.as_ref()).map_err(refused)?;
    }
    let smoke = args.smoke.as_deref().map(|path| smoke_tests(path, &args.handler, &config)).transpose()?;
    let mut query = DeployQuery {
        by: Some(args.by.clone().unwrap_or_else(user)),
        source: Some(source),
        signature: signature.map(|signature| signature.text()),
        smoke: None,
        prepare_ms: Some(millis(args.prepare_time)),
        canary: args.canary,
        promote_after_ms: args.promote_after.map(millis),
        max_error_rate: args.max_error_rate,
    };
    block_on(async {
        let target = context.target(&config).await?;
        if let Some(document) = smoke {
            say("uploading smoke tests".to_owned());
            query.smoke = Some(target.put_smoke(document).await?.digest);
        }
        say(format!("uploading {}", ByteSize(bytes.len() as u64)));
        let begun = target.deploy(&args.handler, bytes, &query).await?;
        progress.finish_and_clear();
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

/// The events of a folder that are for the handler, or that of a file, with what is expected of them.
fn smoke_tests(path: &Path, handler: &str, config: &Config) -> Result<Vec<u8>, Report> {
    let fixtures = match path.is_dir() {
        true => fixtures::find(path, config)?,
        false => vec![Fixture::new(path.to_owned(), Some(handler))],
    };
    let all = config.handlers();
    let mut tests = Vec::new();
    for fixture in fixtures {
        let event = fixture.event().map_err(Report::usage)?;
        let chosen = fixture.choose(&event, &all, &[handler]);
        let chosen = chosen.map_err(|problem| Report::usage(format!("{}: {problem}", fixture.file.display())))?;
        if chosen == Choice::NotSelected {
            continue;
        }
        let expected = fixture.expected().map_err(Report::usage)?;
        let state = fixture.state().map_err(Report::usage)?;
        tests.push(SmokeTest { name: fixture.name, event: structured::to_json(&event), state, expected });
    }
    if tests.is_empty() {
        return Err(Report::usage(format!("{}: no event is for {handler}", path.display())));
    }
    SmokeTests { tests }.document().map_err(|error| Report::usage(format!("{}: {error}", path.display())))
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
            _ if report.rollout.as_ref().is_some_and(|rollout| rollout.id == id) => {
                progress.set_message(going_on(&report));
            }
            _ => {
                progress.finish_and_clear();
                return Err(overtaken(&report));
            }
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

/// What remains when the record tells of a later rollout alone: this one has ended between two looks at it.
fn overtaken(report: &VersionsReport) -> Report {
    let handler = &report.handler;
    Report::failure(format!(
        "another rollout of {handler} has followed this one already: see `wasmill versions {handler}`"
    ))
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

pub fn user() -> String {
    ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default()
}
