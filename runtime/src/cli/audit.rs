//! `wasmill audit`: who has changed what.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use wasmill::audit::AuditReport;
use wasmill::envelope::format_time;
use wasmill::ops::AuditQuery;

use super::{Context, Report, block_on, print_json, table};

/// Arguments of `audit`.
#[derive(Parser)]
pub struct Args {
    /// The newest so many changes, at most 1000
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: usize,
    /// Those since then: a time, or how long ago (10m, 2h, 1d)
    #[arg(long, value_name = "PLACE")]
    since: Option<String>,
    /// Those until then
    #[arg(long, value_name = "PLACE")]
    until: Option<String>,
}

/// Lists them, the newest at the end.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let query = AuditQuery { from: args.since.clone(), to: args.until.clone(), limit: Some(args.limit) };
    let page = block_on(async { context.target(&config).await?.audit(&query).await })?;
    if context.is_json() {
        print_json(&json!(page));
        return Ok(ExitCode::SUCCESS);
    }
    if page.changes.is_empty() {
        say!("no changes");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table::new(["TIME", "WHO", "WHAT", "TENANT", "HANDLER", "OUTCOME", "DETAIL"]);
    for change in &page.changes {
        table.add_row(row(change));
    }
    say!("{table}");
    if let Some(next) = &page.next {
        say!("older ones: --until {next}");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(change: &AuditReport) -> [String; 7] {
    let plain = |text: &str| if text.is_empty() { "-".to_owned() } else { table::plain(text) };
    let details = [&change.what, &change.detail].into_iter().filter(|text| !text.is_empty());
    let details = details.map(String::as_str).collect::<Vec<_>>().join("; ");
    [
        format_time(change.at_ms),
        plain(&change.actor),
        plain(&change.verb),
        plain(&change.tenant),
        plain(&change.handler),
        change.outcome.name().to_owned(),
        plain(&details),
    ]
}
