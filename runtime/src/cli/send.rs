//! `wasmill send`: publish one event, or many from stdin.

mod batch;
mod lines;

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use wasmill::app;
use wasmill::clock::now_ms;
use wasmill::config::units::{format_duration, parse_duration};
use wasmill::envelope::{Envelope, parse_time};
use wasmill::event::{Event, is_attribute_name};
use wasmill::ops::PublishReport;
use wasmill::outcome::{Due, MAX_DELAY};
use wasmill::schema::Schemas;

use self::lines::Range;
use super::target::Target;
use super::{Context, Report, block_on, print_json};

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
    /// Only these lines of the input, such as 500-999,2000-
    #[arg(long, value_name = "RANGES", value_delimiter = ',', requires = "batch")]
    lines: Vec<Range>,
    /// Publish while reading, instead of checking all lines (of a pipe: up to 64 MiB of them) first
    #[arg(long, requires = "batch")]
    unchecked: bool,
    /// Write the JSON data as MsgPack; the JSON, too, is not longer than limits.event_bytes
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

impl Args {
    /// Whether the line with this number, from 1, is to be published.
    fn is_wanted(&self, number: u64) -> bool {
        self.lines.is_empty() || self.lines.iter().any(|range| (range.first..=range.last).contains(&number))
    }
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
    /// The form of the stream's entries; `None` for CloudEvents.
    envelope: Option<Arc<Envelope>>,
}

impl Rules {
    /// Reads no more of an input than an event may have, and one byte that tells that there is more.
    fn read(&self, input: impl Read) -> std::io::Result<Vec<u8>> {
        let mut data = Vec::new();
        input.take(self.event_bytes.saturating_add(1)).read_to_end(&mut data)?;
        Ok(data)
    }

    /// Before the data is looked at: what is longer than an event may be has not been read to its end.
    fn check_length(&self, data: &[u8]) -> Result<(), String> {
        let limit = self.event_bytes;
        match data.len() as u64 > limit {
            true => Err(format!("the data has more than {limit} bytes; limits.event_bytes is {limit}")),
            false => Ok(()),
        }
    }
}

/// Publishes and prints the ids.
pub fn run(context: &Context, args: Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    if args.stream.is_empty() || args.r#type.is_empty() || args.source.is_empty() {
        return Err(Report::usage("stream, type and source must not be empty"));
    }
    // No fault: other programs have streams that no handler reads.
    if let Some(doubt) = config.doubt_stream(&args.stream) {
        eprintln!("warning: {}", doubt);
    }
    let rules = Rules {
        event_bytes: config.limits.event_bytes.as_u64(),
        schemas: app::schemas(&config).map_err(Report::usage)?,
        envelope: app::envelopes(&config).of(&args.stream).cloned(),
    };
    let published = block_on(async {
        let target = context.target(&config).await?;
        if args.batch {
            batch::send(context, &rules, target, &args).await
        } else {
            send_one(&rules, target, &args).await
        }
    })?;
    if context.is_json() {
        print_json(&json!(published));
    } else if !args.batch {
        published.ids.iter().for_each(|id| say!("{id}"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn send_one(rules: &Rules, target: Target, args: &Args) -> Result<PublishReport, Report> {
    let data = match (&args.data, &args.file) {
        (Some(data), _) => data.clone().into_bytes(),
        (None, Some(path)) => File::open(path)
            .and_then(|file| rules.read(file))
            .map_err(|error| Report::usage(format!("cannot read {}: {error}", path.display())))?,
        (None, None) => rules.read(std::io::stdin()).map_err(|error| Report::failure(format!("stdin: {error}")))?,
    };
    let event = event(rules, args, data).map_err(Report::usage)?;
    target.publish(&args.stream, when(args), vec![event]).await
}

fn event(rules: &Rules, args: &Args, data: Vec<u8>) -> Result<Event, String> {
    rules.check_length(&data)?;
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
    event.check_size(rules.event_bytes).map_err(|error| error.to_string())?;
    rules.schemas.admit(&mut event).map_err(|violation| violation.to_string())?;
    if let Some(envelope) = &rules.envelope {
        envelope.check(&event).map_err(|error| error.to_string())?;
    }
    Ok(event)
}
