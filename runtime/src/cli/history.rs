//! `wasmill history`: past events of a stream, and those to come.

use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};
use wasmill::ops::{HistoryEvent, HistoryPage, HistoryQuery, MAX_HISTORY_PAGE};

use super::table::plain;
use super::target::Target;
use super::{Context, Report, block_on};

/// Events that are shown when nothing else is asked for.
const USUAL: usize = 20;
/// How long one request waits for events to come.
const WAIT_MS: u64 = 10_000;
/// The most characters of the data that a line shows.
const DATA_CHARS: usize = 200;

/// Arguments of `history`.
#[derive(Parser)]
#[command(
    after_help = "PLACE is an entry id (1700000000000-0), a time (2026-01-31T12:00:00Z), or how long ago (10m, 2h).
With --output json each event is one line."
)]
pub struct Args {
    /// The stream
    stream: String,
    /// The last so many events [default: 20, or all of the range]
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    last: Option<u64>,
    /// Not before this place
    #[arg(long, value_name = "PLACE")]
    since: Option<String>,
    /// Not after this place
    #[arg(long, value_name = "PLACE")]
    until: Option<String>,
    /// Only events of this type; `*` stands for any characters
    #[arg(long = "type", value_name = "PATTERN")]
    r#type: Option<String>,
    /// Go on with the events to come, until it is interrupted
    #[arg(long, short, conflicts_with = "until")]
    follow: bool,
    /// All of the data, on lines of its own
    #[arg(long)]
    full: bool,
}

/// Shows them.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    block_on(async {
        let target = context.target(&config).await?;
        let ranged = args.since.is_some() || args.until.is_some();
        let last = args.last.or((!ranged).then_some(USUAL as u64));
        let next = match last {
            Some(count) => show_last(context, &target, args, count).await?,
            None => show_range(context, &target, args, args.since.clone()).await?,
        };
        if args.follow {
            follow(context, &target, args, next).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The query of one page.
fn query(args: &Args) -> HistoryQuery {
    HistoryQuery {
        from: args.since.clone(),
        to: args.until.clone(),
        count: Some(MAX_HISTORY_PAGE),
        r#type: args.r#type.clone(),
        ..HistoryQuery::default()
    }
}

/// Shows a range in order, page by page; where what comes later begins.
async fn show_range(
    context: &Context,
    target: &Target,
    args: &Args,
    mut from: Option<String>,
) -> Result<Option<String>, Report> {
    loop {
        let page = target.history(&args.stream, &HistoryQuery { from: from.clone(), ..query(args) }).await?;
        page.events.iter().for_each(|event| show(context, args, event));
        let after = after(&page).or(from);
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(after),
        }
    }
}

/// Shows the last so many, oldest first. They are looked for from the end; only where the first one is is kept, so
/// that memory does not grow with their number.
async fn show_last(context: &Context, target: &Target, args: &Args, count: u64) -> Result<Option<String>, Report> {
    let (mut found, mut to, mut newest, mut first) = (0, args.until.clone(), None, None);
    let mut kept: Vec<HistoryEvent> = Vec::new();
    // With a type most entries may be others: the page counts what it looks at, not what it finds.
    let look = match args.r#type {
        Some(_) => MAX_HISTORY_PAGE,
        None => MAX_HISTORY_PAGE.min(usize::try_from(count).unwrap_or(usize::MAX)),
    };
    loop {
        let back = HistoryQuery { to: to.clone(), newest_first: true, count: Some(look), ..query(args) };
        let page = target.history(&args.stream, &back).await?;
        newest = newest.or_else(|| after(&page));
        for event in page.events {
            if found == count {
                break;
            }
            found += 1;
            first = Some(event.entry.clone());
            if count <= MAX_HISTORY_PAGE as u64 {
                kept.push(event);
            }
        }
        match page.next {
            Some(next) if found < count => to = Some(next),
            _ => break,
        }
    }
    match (count <= MAX_HISTORY_PAGE as u64, first) {
        (false, Some(first)) => show_range(context, target, args, Some(first)).await,
        _ => {
            kept.iter().rev().for_each(|event| show(context, args, event));
            Ok(newest)
        }
    }
}

/// Shows what comes, until it is interrupted.
async fn follow(context: &Context, target: &Target, args: &Args, from: Option<String>) -> Result<(), Report> {
    let mut from = from.unwrap_or_else(|| "-".to_owned());
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let query = HistoryQuery { from: Some(from.clone()), wait_ms: Some(WAIT_MS), ..query(args) };
        let page = tokio::select! {
            page = target.history(&args.stream, &query) => page?,
            _ = &mut interrupted => return Ok(()),
        };
        page.events.iter().for_each(|event| show(context, args, event));
        from = page.next.clone().or_else(|| after(&page)).unwrap_or(from);
    }
}

/// The place after all that a page has looked at.
fn after(page: &HistoryPage) -> Option<String> {
    let last: wasmill::broker::EntryId = page.last.as_deref()?.parse().ok()?;
    Some(last.next().to_string())
}

fn show(context: &Context, args: &Args, event: &HistoryEvent) {
    if context.is_json() {
        say!("{}", json!(event));
        return;
    }
    let Some(document) = &event.event else {
        say!("{}  not an event: {}", event.entry, plain(event.error.as_deref().unwrap_or_default()));
        return;
    };
    let text = |name: &str| document[name].as_str().map(plain).unwrap_or_default();
    let data = data(document);
    let short: String = match args.full {
        true => String::new(),
        false => plain(&data).chars().take(DATA_CHARS).collect(),
    };
    say!("{}  {}  {}  {}  {}  {short}", event.entry, text("time"), text("type"), text("source"), text("id"));
    if args.full {
        say!("    {}", plain(&data));
    }
}

/// The data of a CloudEvent as text; what is binary in base64.
fn data(document: &Value) -> String {
    match (&document["data"], &document["data_base64"]) {
        (Value::Null, Value::String(base64)) => format!("base64:{base64}"),
        (Value::Null, _) => String::new(),
        (Value::String(text), _) => text.clone(),
        (data, _) => data.to_string(),
    }
}
