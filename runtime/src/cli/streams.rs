//! `wasmill streams`: how long, how old, and who reads them.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use wasmill::ops::StreamReport;

use super::table::{self, age, count};
use super::{Context, Report, block_on, print_json};

/// Arguments of `streams`.
#[derive(Parser)]
pub struct Args {
    /// The streams [default: those of the configuration]
    streams: Vec<String>,
    /// All streams that there are
    #[arg(long, conflicts_with = "streams")]
    all: bool,
}

/// Lists them.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let reports = block_on(async { context.target(&config).await?.streams(&args.streams, args.all).await })?;
    if context.is_json() {
        print_json(&json!(reports));
        return Ok(ExitCode::SUCCESS);
    }
    if reports.is_empty() {
        say!("no streams");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        table::new(["STREAM", "LENGTH", "KEEPS", "MEMORY", "OLDEST", "NEWEST", "GROUP", "LAG", "PENDING", "CONSUMERS"]);
    for report in &reports {
        let mut head = head(report);
        if let Some(error) = &report.error {
            table.add_row([table::plain(&report.stream), table::plain(error)]);
            continue;
        }
        if report.groups.is_empty() {
            table.add_row(head.into_iter().chain(["-".to_owned()]));
            continue;
        }
        for group in &report.groups {
            let lag = group.lag.map_or_else(|| "?".to_owned(), count);
            let cells = [table::plain(&group.group), lag, count(group.pending), count(group.consumers)];
            table.add_row(head.into_iter().chain(cells));
            // The stream is named once.
            head = Default::default();
        }
    }
    say!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn head(report: &StreamReport) -> [String; 6] {
    let dash = || "-".to_owned();
    let keeps = [report.max_length.map(count), report.max_age_ms.map(age)].into_iter().flatten().collect::<Vec<_>>();
    [
        table::plain(&report.stream),
        if report.exists { count(report.length) } else { "not there yet".to_owned() },
        if keeps.is_empty() { "all".to_owned() } else { keeps.join(", ") },
        report.memory_bytes.map_or_else(dash, |bytes| bytesize::ByteSize(bytes).to_string()),
        report.first_age_ms.map_or_else(dash, age),
        report.last_age_ms.map_or_else(dash, age),
    ]
}
