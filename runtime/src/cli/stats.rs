//! `wasmill stats`: rates, durations, lag, retries and dead letters of all handlers.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use wasmill::ops::{HandlerStatus, StatsReport};

use super::table::{self, count, counted, plain};
use super::{Context, Report, block_on, print_json, watch};

/// Arguments of `stats`.
#[derive(Parser)]
#[command(
    after_help = "Figures are sums over all workers since each of them started, and as old as their last heartbeat."
)]
pub struct Args {
    /// Go on, with rates, until it is interrupted (q on a terminal)
    #[arg(long, short)]
    watch: bool,
    /// How often to look
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval, requires = "watch")]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match interval >= Duration::from_millis(100) {
        true => Ok(interval),
        false => Err("at least 100ms".to_owned()),
    }
}

/// Shows them.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    block_on(async {
        let target = context.target(&config).await?;
        if !args.watch {
            let report = target.stats().await?;
            match context.is_json() {
                true => print_json(&json!(report)),
                false => say!("{}", text(&report, None)),
            }
            return Ok(ExitCode::SUCCESS);
        }
        match std::io::stdout().is_terminal() && !context.is_json() {
            true => watch::run(&target, args.interval).await?,
            false => lines(context, &target, args.interval).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// What rates are made from. Workers say what they have done every two seconds only; over less than some of these, rates
/// would jump.
const WINDOW_MS: u64 = 6000;

/// The reports of the last seconds.
#[derive(Default)]
pub struct Samples(VecDeque<StatsReport>);

impl Samples {
    /// Takes in the newest report.
    pub fn push(&mut self, report: StatsReport) {
        let oldest = report.at_ms.saturating_sub(WINDOW_MS);
        // One that is a little too old is better than none.
        while self.0.get(1).is_some_and(|second| second.at_ms <= oldest) {
            self.0.pop_front();
        }
        self.0.push_back(report);
    }

    /// The newest report.
    pub fn newest(&self) -> Option<&StatsReport> {
        self.0.back()
    }

    /// The oldest one, if it is another.
    pub fn before(&self) -> Option<&StatsReport> {
        self.0.front().filter(|_| self.0.len() > 1)
    }
}

/// One report after the other: JSON lines, or tables with an empty line between them.
async fn lines(context: &Context, target: &super::Target, interval: Duration) -> Result<(), Report> {
    let mut samples = Samples::default();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let report = target.stats().await?;
        samples.push(report.clone());
        match context.is_json() {
            true => say!("{}", json!(report)),
            false => say!("{}\n", text(&report, samples.before())),
        }
        tokio::select! {
            _ = &mut interrupted => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// What a handler is doing, in a word.
pub fn state(status: &HandlerStatus) -> &'static str {
    match status {
        _ if status.paused => "paused",
        _ if status.counts.blocked => "BLOCKED",
        _ if status.workers == 0 => "no worker",
        _ => "serving",
    }
}

/// The names of the columns.
pub const COLUMNS: [&str; 11] =
    ["HANDLER", "STATE", "WORKERS", "EVENTS", "RATE", "RETRIES", "P50", "P99", "LAG", "PENDING", "DEAD LETTERS"];

/// The cells of a handler. `last` is what was seen before, which rates are made from.
pub fn cells(name: &str, report: &StatsReport, last: Option<&StatsReport>) -> [String; 11] {
    let status = report.handlers.get(name).cloned().unwrap_or_default();
    let done = |status: &HandlerStatus| status.counts.acked + status.counts.dead;
    let before = last.and_then(|last| Some((last.at_ms, last.handlers.get(name)?)));
    let rate = before.filter(|(at, _)| *at < report.at_ms).map(|(at, before)| {
        let seconds = (report.at_ms - at) as f64 / 1000.0;
        // A worker that has gone takes its count along.
        done(&status).saturating_sub(done(before)) as f64 / seconds
    });
    let duration = |us: u64| match us {
        0..10_000 => format!("{us} us"),
        _ => format!("{} ms", us / 1000),
    };
    [
        plain(name),
        state(&status).to_owned(),
        status.workers.to_string(),
        count(done(&status) as usize),
        rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}/s")),
        count(status.counts.retried as usize),
        duration(status.counts.p50_us),
        duration(status.counts.p99_us),
        status.lag.map_or_else(|| "?".to_owned(), count),
        count(status.pending),
        count(status.dead_letters),
    ]
}

fn text(report: &StatsReport, last: Option<&StatsReport>) -> String {
    if report.handlers.is_empty() {
        return "no handlers are configured, and no worker serves any".to_owned();
    }
    let mut table = table::new(COLUMNS);
    for name in report.handlers.keys() {
        table.add_row(cells(name, report, last));
    }
    format!("{table}\n{}", counted(report.workers, "worker"))
}
