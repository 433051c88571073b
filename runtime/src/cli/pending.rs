//! `wasmill pending`: what has been handed out and is not settled.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use wasmill::ops::PendingQuery;

use super::table::{self, age, count, plain};
use super::{Context, Report, block_on, print_json};

/// Arguments of `pending`.
#[derive(Parser)]
pub struct Args {
    /// The handler
    handler: String,
    /// The most entries to list, the oldest first
    #[arg(long, default_value_t = PendingQuery::default().limit)]
    limit: usize,
}

/// Lists it.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let query = PendingQuery { limit: args.limit };
    let report = block_on(async { context.target(&config).await?.pending(&args.handler, &query).await })?;
    if context.is_json() {
        print_json(&json!(report));
        return Ok(ExitCode::SUCCESS);
    }
    if report.total == 0 {
        say!("nothing is pending");
        return Ok(ExitCode::SUCCESS);
    }
    let mut consumers = table::new(["CONSUMER", "STATE", "PENDING", "OLDEST", "MOST ATTEMPTS"]);
    for consumer in &report.consumers {
        consumers.add_row([
            plain(&consumer.consumer),
            consumer.state.clone(),
            count(consumer.count),
            age(consumer.oldest_ms),
            consumer.max_attempts.to_string(),
        ]);
    }
    say!("{consumers}\n");
    let mut entries = table::new(["STREAM", "ENTRY", "CONSUMER", "AGE", "IDLE", "ATTEMPTS"]);
    for row in &report.entries {
        entries.add_row([
            plain(&row.stream),
            row.entry.clone(),
            plain(&row.consumer),
            age(row.age_ms),
            age(row.idle_ms),
            row.attempts.to_string(),
        ]);
    }
    say!("{entries}");
    let more = report.total.saturating_sub(report.entries.len());
    if more > 0 {
        say!("and {} more", count(more));
    }
    if report.looked_at < report.total {
        say!("ages and attempts are those of the oldest {}", count(report.looked_at));
    }
    Ok(ExitCode::SUCCESS)
}
