//! `wasmill send`: publish one event, or many from stdin.

mod batch;
mod lines;

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use serde_json::json;
use wasmill::app;
use wasmill::broker::keys::Namespace;
use wasmill::broker::{Broker, EntryId};
use wasmill::clock::now_ms;
use wasmill::event::{Event, is_attribute_name};
use wasmill::outcome::Publication;
use wasmill::schema::Schemas;

use self::lines::Range;
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

/// What every event must keep to.
struct Rules {
    event_bytes: u64,
    schemas: Arc<Schemas>,
}

impl Rules {
    fn check_size(&self, bytes: usize) -> Result<(), String> {
        let limit = self.event_bytes;
        match bytes as u64 > limit {
            true => Err(format!("the event has {bytes} bytes; limits.event_bytes is {limit}")),
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
    let rules = Rules {
        event_bytes: config.limits.event_bytes.as_u64(),
        schemas: app::schemas(&config).map_err(Report::usage)?,
    };
    let published = block_on(async {
        let broker = context.redis(&config).await?;
        if args.batch {
            batch::send(context, &rules, broker, &args).await
        } else {
            send_one(&rules, broker, &args).await
        }
    })?;
    if context.is_json() {
        let (ids, entries): (Vec<String>, Vec<String>) =
            published.into_iter().map(|(id, entry)| (id, entry.to_string())).unzip();
        print_json(&json!({"stream": args.stream, "ids": ids, "entries": entries}));
    } else if !args.batch {
        published.iter().for_each(|(id, _)| say!("{id}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// An event's id and its place in the stream.
type Published = (String, EntryId);

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
    let entries = broker.publish(&[Publication::now(key, event)]).await?;
    Ok(entries.into_iter().map(|entry| (id.clone(), entry)).collect())
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
    rules.check_size(event.size())?;
    rules.schemas.admit(&mut event).map_err(|violation| violation.to_string())?;
    Ok(event)
}
