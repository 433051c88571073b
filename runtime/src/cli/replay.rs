//! `wasmill replay`: run past events again through one handler.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;
use wasmill::ops::{MAX_REPLAY_PAGE, ReplayRequest};

use super::dry_run;
use super::table::counted;
use super::target::Target;
use super::{Context, Report, block_on, print_json, progress};

/// How long to wait before asking again whether the handler has caught up.
const BACKLOG_PAUSE: Duration = Duration::from_millis(100);
/// Without any worker that serves the handler, what is asked for would only pile up.
const NO_WORKER: &str = "no worker serves the handler now; the events wait in its inbox until one does";

/// Arguments of `replay`.
#[derive(Parser)]
#[command(
    after_help = "PLACE is an entry id (1700000000000-0), a time (2026-01-31T12:00:00Z), or how long ago (10m, 2h).
Handlers see that it is a replay (`delivery.replay`). Follow-ups have ids of their own, unless --same-ids is given."
)]
pub struct Args {
    /// The stream that the events are in
    pub stream: String,
    /// The handler that is to run them; it must read the stream
    #[arg(long)]
    pub handler: String,
    /// The first event
    #[arg(long, value_name = "PLACE")]
    pub from: String,
    /// The last event [default: the end of the stream as it is now]
    #[arg(long, value_name = "PLACE")]
    pub to: Option<String>,
    /// The most events
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Events a second [default: as fast as the handler takes them]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
    /// Run them here, show outcomes and follow-ups, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Follow-ups have the ids that they had the first time, so that those who know them already drop them
    #[arg(long, conflicts_with = "run")]
    pub same_ids: bool,
    /// Go on with an earlier replay: its run id, with --from where it stopped
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
}

/// What a replay came to.
#[derive(Default)]
struct Total {
    appended: u64,
    skipped: u64,
    workers: usize,
    run: String,
    /// Where to go on, if it was interrupted.
    rest: Option<String>,
}

/// Replays.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    block_on(async {
        let target = context.target(&config).await?;
        if args.dry_run {
            return dry_run::run(context, &config, &target, args).await;
        }
        let total = replay(&target, args).await?;
        report(context, args, &total);
        Ok(ExitCode::from(u8::from(total.rest.is_some())))
    })
}

async fn replay(target: &Target, args: &Args) -> Result<Total, Report> {
    let progress = progress::counting("events");
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let start = Instant::now();
    let mut total = Total::default();
    // A tenth of a second at a time is smooth enough.
    let step = args.rate.map_or(MAX_REPLAY_PAGE, |rate| (rate as usize / 10).clamp(1, MAX_REPLAY_PAGE));
    let mut request = ReplayRequest {
        stream: args.stream.clone(),
        from: Some(args.from.clone()),
        to: args.to.clone(),
        count: None,
        run: if args.same_ids { Some(String::new()) } else { args.run.clone() },
    };
    let mut warned = false;
    loop {
        let left = args.count.map_or(u64::MAX, |count| count - total.appended - total.skipped);
        if left == 0 {
            break;
        }
        request.count = Some(step.min(usize::try_from(left).unwrap_or(usize::MAX)));
        let page = target.replay(&args.handler, &request).await?;
        total.appended += page.appended as u64;
        total.skipped += page.skipped as u64;
        total.workers = page.workers;
        total.run.clone_from(&page.run);
        progress.set_position(total.appended);
        let is_full = page.appended + page.skipped == 0;
        let Some(next) = page.next else { break };
        request = ReplayRequest { from: Some(next.clone()), to: Some(page.to), run: Some(page.run), ..request };
        if is_full && page.workers == 0 && !warned {
            eprintln!("{NO_WORKER}; waiting for room in the inbox ({} events)", page.backlog);
            warned = true;
        }
        let pause = match args.rate {
            _ if is_full => BACKLOG_PAUSE,
            Some(rate) => {
                let due = Duration::from_secs_f64(total.appended as f64 / f64::from(rate));
                due.saturating_sub(start.elapsed())
            }
            None => Duration::ZERO,
        };
        tokio::select! {
            biased;
            _ = &mut interrupted => {
                total.rest = Some(next);
                break;
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
    progress.finish_and_clear();
    Ok(total)
}

fn report(context: &Context, args: &Args, total: &Total) {
    if context.is_json() {
        print_json(&json!({
            "handler": args.handler,
            "stream": args.stream,
            "replayed": total.appended,
            "skipped": total.skipped,
            "run": total.run,
            "workers": total.workers,
            "next": total.rest,
        }));
        return;
    }
    let events = counted(usize::try_from(total.appended).unwrap_or(usize::MAX), "event");
    say!("{events} of {} put into the inbox of {}", args.stream, args.handler);
    if total.skipped > 0 {
        say!("{} entries were left out: they have more than 3000 fields", total.skipped);
    }
    if total.workers == 0 && total.appended > 0 {
        say!("{NO_WORKER}");
    }
    if let Some(next) = &total.rest {
        say!("interrupted; to go on: --from {next} --run {}", total.run);
    }
}
