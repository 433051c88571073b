//! `wasmill send`: publish one event, or many from stdin.

use std::io::{BufRead, IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures::stream::{FuturesOrdered, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use wasmill::app;
use wasmill::broker::keys::Namespace;
use wasmill::broker::{Broker, BrokerError, EntryId};
use wasmill::clock::now_ms;
use wasmill::config::units::{format_duration, parse_duration};
use wasmill::envelope::parse_time;
use wasmill::event::{Event, is_attribute_name};
use wasmill::outcome::{Due, MAX_DELAY, Publication};
use wasmill::schema::Schemas;

use super::{Context, Report, block_on, print_json};

/// Events that are published in one step.
const CHUNK: usize = 500;
/// Steps that are on their way at the same time.
const IN_FLIGHT: usize = 4;

/// Arguments of `send`.
#[derive(Parser)]
pub struct Args {
    /// The stream to publish to
    stream: String,
    /// The type of the event
    r#type: String,
    /// The data [default: stdin, unless --file is given]
    #[arg(conflicts_with_all = ["file", "batch"])]
    data: Option<String>,
    /// Read the data from a file
    #[arg(long, short, value_name = "FILE", conflicts_with = "batch")]
    file: Option<PathBuf>,
    /// Read many events from stdin: NDJSON, the data of one event a line
    #[arg(long)]
    batch: bool,
    /// Write the JSON data as MsgPack
    #[arg(long)]
    msgpack: bool,
    /// The media type of the data [default: application/json, or application/msgpack]
    #[arg(long, value_name = "MEDIA_TYPE")]
    content_type: Option<String>,
    /// Who makes the event
    #[arg(long, default_value = "/wasmill/send")]
    source: String,
    /// The id of the event [default: a new one]
    #[arg(long, conflicts_with = "batch")]
    id: Option<String>,
    /// What the event is about
    #[arg(long)]
    subject: Option<String>,
    /// Events with the same key belong together
    #[arg(long = "key", value_name = "PARTITION_KEY")]
    partition_key: Option<String>,
    /// The version of the schema of the data
    #[arg(long, value_name = "VERSION")]
    schema_version: Option<String>,
    /// Publish it so much later, such as 10m; at most 30 days. Needs a worker that runs at that time
    #[arg(long, value_name = "DURATION", value_parser = delay)]
    delay: Option<Duration>,
    /// Publish it at this time, such as 2030-01-31T12:00:00Z; a time that is over means at once
    #[arg(long, value_name = "TIME", value_parser = at, conflicts_with = "delay")]
    at: Option<u64>,
    /// A further attribute; may be given more than once
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has the form NAME=VALUE")?;
    match is_attribute_name(name) {
        true => Ok((name.to_owned(), value.to_owned())),
        false => Err("the name is 1 to 64 of a-z and 0-9".to_owned()),
    }
}

fn delay(text: &str) -> Result<Duration, String> {
    let delay = parse_duration(text)?;
    if delay > MAX_DELAY { Err(too_late()) } else { Ok(delay) }
}

/// A time in milliseconds since the Unix epoch.
fn at(text: &str) -> Result<u64, String> {
    let ms = parse_time(text).ok_or("it is a time in the form of RFC 3339, such as 2030-01-31T12:00:00Z")?;
    if ms > now_ms().saturating_add(MAX_DELAY.as_millis() as u64) { Err(too_late()) } else { Ok(ms) }
}

fn too_late() -> String {
    format!("events can be held back for {} at most", format_duration(MAX_DELAY))
}

/// When the events enter the stream.
fn when(args: &Args) -> Due {
    args.delay.map(Due::After).or(args.at.map(Due::At)).unwrap_or_default()
}

/// What every event must keep to.
struct Rules {
    event_bytes: u64,
    schemas: Arc<Schemas>,
}

/// Publishes and prints the ids.
pub fn run(context: &Context, args: Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    if args.stream.is_empty() || args.r#type.is_empty() || args.source.is_empty() {
        return Err(Report::usage("stream, type and source must not be empty"));
    }
    let rules = Rules {
        event_bytes: config.limits.event_bytes.as_u64(),
        schemas: app::schemas(&config).map_err(Report::usage)?,
    };
    let published = block_on(async {
        let broker = context.redis(&config).await?;
        if args.batch {
            send_batch(context, &rules, broker, &args).await
        } else {
            send_one(&rules, broker, &args).await
        }
    })?;
    if context.is_json() {
        let (ids, entries): (Vec<String>, Vec<Option<String>>) =
            published.into_iter().map(|(id, entry)| (id, entry.map(|entry| entry.to_string()))).unzip();
        print_json(&json!({"stream": args.stream, "ids": ids, "entries": entries}));
    } else if !args.batch {
        published.iter().for_each(|(id, _)| say!("{id}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// An event's id and its place in the stream, if it is there already.
type Published = (String, Option<EntryId>);

async fn send_one(rules: &Rules, broker: Arc<dyn Broker>, args: &Args) -> Result<Vec<Published>, Report> {
    let data = match (&args.data, &args.file) {
        (Some(data), _) => data.clone().into_bytes(),
        (None, Some(path)) => {
            std::fs::read(path).map_err(|error| Report::usage(format!("cannot read {}: {error}", path.display())))?
        }
        (None, None) => {
            let mut data = Vec::new();
            std::io::stdin().read_to_end(&mut data).map_err(|error| Report::failure(format!("stdin: {error}")))?;
            data
        }
    };
    let event = event(rules, args, data).map_err(Report::usage)?;
    let id = event.id.clone();
    let key = Namespace::default().stream(&args.stream);
    let entries = broker.publish(&[Publication { key, event, when: when(args), envelope: None }]).await?;
    Ok(entries.into_iter().map(|entry| (id.clone(), entry)).collect())
}

async fn send_batch(
    context: &Context,
    rules: &Rules,
    broker: Arc<dyn Broker>,
    args: &Args,
) -> Result<Vec<Published>, Report> {
    let progress = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{spinner} {human_pos} events, {per_sec}").map_err(Report::failure)?;
    progress.set_style(style);
    let mut lines = std::io::stdin().lock().lines().enumerate();
    let mut in_flight = FuturesOrdered::new();
    let mut published = Vec::new();
    let mut end = None;
    while end.is_none() || !in_flight.is_empty() {
        while end.is_none() && in_flight.len() < IN_FLIGHT {
            match next_chunk(rules, args, &mut lines) {
                Ok(chunk) => {
                    end = (chunk.len() < CHUNK).then_some(Ok(()));
                    if !chunk.is_empty() {
                        in_flight.push_back(publish(broker.clone(), chunk));
                    }
                }
                // What is on its way will be published: its ids are printed before the fault is told.
                Err(fault) => end = Some(Err(fault)),
            }
        }
        if let Some(result) = in_flight.next().await {
            let result: Vec<Published> = result?;
            progress.inc(result.len() as u64);
            if context.is_json() {
                published.extend(result);
            } else {
                let text: String = result.iter().flat_map(|(id, _)| [id, "\n"]).collect();
                say!("{}", text.trim_end());
            }
        }
    }
    progress.finish();
    end.unwrap_or(Ok(()))?;
    Ok(published)
}

async fn publish(broker: Arc<dyn Broker>, chunk: Vec<Publication>) -> Result<Vec<Published>, BrokerError> {
    let entries = broker.publish(&chunk).await?;
    Ok(chunk.into_iter().map(|publication| publication.event.id).zip(entries).collect())
}

/// The next events of the input; fewer than [`CHUNK`] at its end.
fn next_chunk(
    rules: &Rules,
    args: &Args,
    lines: &mut impl Iterator<Item = (usize, std::io::Result<String>)>,
) -> Result<Vec<Publication>, Report> {
    let key = Namespace::default().stream(&args.stream);
    let mut chunk = Vec::with_capacity(CHUNK);
    while chunk.len() < CHUNK {
        let Some((number, line)) = lines.next() else { break };
        let fault = |error: String| Report::usage(format!("stdin, line {}: {error}", number + 1));
        let line = line.map_err(|error| fault(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&line) {
            return Err(fault(format!("not JSON: {error}")));
        }
        let event = event(rules, args, line.into_bytes()).map_err(fault)?;
        chunk.push(Publication { key: key.clone(), event, when: when(args), envelope: None });
    }
    Ok(chunk)
}

fn event(rules: &Rules, args: &Args, data: Vec<u8>) -> Result<Event, String> {
    let data = if args.msgpack {
        let value: serde_json::Value = serde_json::from_slice(&data).map_err(|error| format!("not JSON: {error}"))?;
        rmp_serde::to_vec_named(&value).map_err(|error| format!("cannot be written as MsgPack: {error}"))?
    } else {
        data
    };
    let usual = if args.msgpack { "application/msgpack" } else { "application/json" };
    let mut event = Event {
        id: args.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
        source: args.source.clone(),
        r#type: args.r#type.clone(),
        time: now_ms(),
        subject: args.subject.clone(),
        schema_version: args.schema_version.clone(),
        partition_key: args.partition_key.clone(),
        content_type: args.content_type.clone().unwrap_or_else(|| usual.to_owned()),
        attributes: args.attributes.clone(),
        data,
    };
    let limit = rules.event_bytes;
    if event.size() as u64 > limit {
        return Err(format!("the event has {} bytes; limits.event_bytes is {limit}", event.size()));
    }
    rules.schemas.admit(&mut event).map_err(|violation| violation.to_string())?;
    Ok(event)
}
