//! `wasmill dlq`: dead letters with all their evidence, and the way back.

use std::process::ExitCode;

use clap::{Args as ClapArgs, Parser, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use wasmill::broker::dead_letter::{self, StoredDeadLetter};
use wasmill::broker::keys::{self, Namespace};
use wasmill::broker::{BrokerError, EntryId, Inspect};
use wasmill::config::Config;
use wasmill::envelope::{format_time, structured};

use super::{Context, Report, block_on, print_json};

/// Dead letters that are read at a time.
const PAGE: usize = 500;

/// Arguments of `dlq`.
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List dead letters, oldest first
    Ls {
        /// The handler [default: all of the configuration]
        handler: Option<String>,
        /// The most to list of a handler
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one dead letter: its evidence and the original event
    Show {
        /// The handler
        handler: String,
        /// The id of the dead letter
        id: EntryId,
    },
    /// Send dead letters back to their handler, with the id that the event had; doing it twice does it once
    Redrive(Selection),
    /// Delete dead letters for good
    Drop(Selection),
}

#[derive(ClapArgs)]
struct Selection {
    /// The handler
    handler: String,
    /// The ids of the dead letters; or --all
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<EntryId>,
    /// All that there are now
    #[arg(long)]
    all: bool,
}

/// Does what is asked.
pub fn run(context: &Context, args: Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    block_on(async {
        let broker = context.redis(&config).await?;
        match args.verb {
            Verb::Ls { handler, limit } => list(context, &config, &*broker, handler, limit).await,
            Verb::Show { handler, id } => show(context, &config, &*broker, &handler, id).await,
            Verb::Redrive(selection) => redrive(context, &config, &*broker, &selection).await,
            Verb::Drop(selection) => drop_letters(context, &config, &*broker, &selection).await,
        }
    })
}

/// The key of the handler's dead-letter stream.
fn dead_key(config: &Config, handler: &str) -> Result<std::sync::Arc<str>, Report> {
    let name = match config.handler(handler) {
        Some(resolved) => resolved.dead_letter,
        None if config.handlers.is_empty() => keys::default_dead_letter(handler),
        None => {
            let known: Vec<&str> = config.handlers.keys().map(String::as_str).collect();
            return Err(Report::usage(format!(
                "no handler `{handler}` is configured; there are: {}",
                known.join(", ")
            )));
        }
    };
    Ok(Namespace::default().stream(&name))
}

/// The dead letters of the handler from `from` to `to`. Other entries of the stream are passed over, those of handlers
/// that share it among them.
async fn letters(
    broker: &dyn Inspect,
    (handler, key): (&str, &str),
    (mut from, to): (EntryId, EntryId),
    limit: usize,
) -> Result<Vec<StoredDeadLetter>, Report> {
    let mut letters = Vec::new();
    while letters.len() < limit {
        let page = broker.range(key, from, to, PAGE.min(limit - letters.len())).await?;
        let Some(last) = page.last() else { break };
        from = last.id.next();
        let parsed = page.into_iter().filter_map(dead_letter::parse);
        letters.extend(parsed.filter(|letter| letter.get("handler") == handler));
    }
    Ok(letters)
}

async fn list(
    context: &Context,
    config: &Config,
    broker: &dyn Inspect,
    handler: Option<String>,
    limit: usize,
) -> Result<ExitCode, Report> {
    let handlers = match handler {
        Some(handler) => vec![handler],
        None if config.handlers.is_empty() => {
            return Err(Report::usage("no handlers are configured: name the handler, or a file with --config"));
        }
        None => config.handlers.keys().cloned().collect(),
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ID", "HANDLER", "CLASS", "ATTEMPTS", "LAST", "TYPE", "MESSAGE"]);
    let mut documents = Vec::new();
    for handler in handlers {
        let key = dead_key(config, &handler)?;
        for letter in letters(broker, (&handler, &key), (EntryId::MIN, EntryId::MAX), limit).await? {
            if context.is_json() {
                documents.push(document(&letter));
                continue;
            }
            let r#type = letter.event().map_or_else(|| "-".to_owned(), |event| event.r#type);
            let message: String = printable(letter.get("message")).chars().take(300).collect();
            let last = format_time(letter.get("last_time").parse().unwrap_or(0));
            let id = letter.id.to_string();
            let row =
                [&id, &handler, letter.get("class"), letter.get("attempts"), &last, &printable(&r#type), &message];
            table.add_row(row);
        }
    }
    match (context.is_json(), table.is_empty()) {
        (true, _) => print_json(&Value::Array(documents)),
        (false, true) => say!("no dead letters"),
        (false, false) => say!("{table}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The text without control characters: events may come from anybody.
fn printable(text: &str) -> String {
    text.escape_debug().to_string()
}

/// A dead letter as JSON. The original fields stand as text where they are UTF-8, else as base64.
fn document(letter: &StoredDeadLetter) -> Value {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!({"text": text}),
        Err(_) => json!({"base64": base64::engine::general_purpose::STANDARD.encode(bytes)}),
    };
    let original = letter.original.iter().map(|(name, value)| json!([encode(name), encode(value)]));
    let mut document = json!({"id": letter.id.to_string()});
    for (name, value) in &letter.evidence {
        let name = name.trim_start_matches("dl_");
        document[name] = match value.parse::<u64>() {
            Ok(number) if matches!(name, "attempts" | "first_time" | "last_time") => json!(number),
            _ => json!(value),
        };
    }
    document["event"] = letter.event().map_or(Value::Null, |event| structured::to_json(&event));
    document["original"] = original.collect();
    document
}

async fn show(
    context: &Context,
    config: &Config,
    broker: &dyn Inspect,
    handler: &str,
    id: EntryId,
) -> Result<ExitCode, Report> {
    let key = dead_key(config, handler)?;
    let letter = letters(broker, (handler, &key), (id, id), 1).await?.pop();
    let letter = letter.ok_or_else(|| Report::failure(format!("there is no dead letter {id} of {handler}")))?;
    if context.is_json() {
        print_json(&document(&letter));
        return Ok(ExitCode::SUCCESS);
    }
    say!("id: {}", letter.id);
    for (name, value) in &letter.evidence {
        let name = name.trim_start_matches("dl_");
        match (name, value.parse()) {
            ("first_time" | "last_time", Ok(ms)) => say!("{name}: {}", format_time(ms)),
            _ => say!("{name}: {}", printable(value)),
        }
    }
    say!("original:");
    for (name, value) in &letter.original {
        say!("  {}: {}", name.escape_ascii(), String::from_utf8_lossy(value).escape_debug());
    }
    Ok(ExitCode::SUCCESS)
}

/// The ids that are meant, and those of them that belong to another handler on the same stream.
async fn selected(
    broker: &dyn Inspect,
    key: &str,
    selection: &Selection,
) -> Result<(Vec<EntryId>, Vec<String>), Report> {
    let handler = &selection.handler;
    if selection.all {
        let letters = letters(broker, (handler, key), (EntryId::MIN, EntryId::MAX), usize::MAX).await?;
        return Ok((letters.into_iter().map(|letter| letter.id).collect(), Vec::new()));
    }
    let (mut own, mut foreign) = (Vec::new(), Vec::new());
    for &id in &selection.ids {
        let found = broker.range(key, id, id, 1).await?.pop().and_then(dead_letter::parse);
        match found.is_some_and(|letter| letter.get("handler") != handler) {
            true => foreign.push(id.to_string()),
            false => own.push(id),
        }
    }
    Ok((own, foreign))
}

async fn redrive(
    context: &Context,
    config: &Config,
    broker: &dyn Inspect,
    selection: &Selection,
) -> Result<ExitCode, Report> {
    let key = dead_key(config, &selection.handler)?;
    let inbox = Namespace::default().inbox(&selection.handler);
    let (ids, mut absent) = selected(broker, &key, selection).await?;
    let (mut moved, mut refused) = (Vec::new(), Vec::new());
    for id in ids {
        match broker.redrive(&key, id, &inbox).await {
            Ok(true) => moved.push(id.to_string()),
            Ok(false) => absent.push(id.to_string()),
            // The others can be redriven all the same.
            Err(error @ BrokerError::NotRedrivable { .. }) => refused.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    let done = print_result(context, "redriven", &moved, &absent);
    if refused.is_empty() { Ok(done) } else { Err(Report::failure(refused.join("\n"))) }
}

async fn drop_letters(
    context: &Context,
    config: &Config,
    broker: &dyn Inspect,
    selection: &Selection,
) -> Result<ExitCode, Report> {
    let key = dead_key(config, &selection.handler)?;
    let (ids, mut absent) = selected(broker, &key, selection).await?;
    let mut dropped = Vec::new();
    for id in ids {
        if broker.delete(&key, &[id]).await? == 1 { &mut dropped } else { &mut absent }.push(id.to_string());
    }
    Ok(print_result(context, "dropped", &dropped, &absent))
}

/// Says what was done. What was done before is no failure.
fn print_result(context: &Context, done: &str, ids: &[String], absent: &[String]) -> ExitCode {
    if context.is_json() {
        print_json(&json!({done: ids, "absent": absent}));
    } else {
        say!("{done}: {}", ids.len());
        absent.iter().for_each(|id| say!("no longer there: {id}"));
    }
    ExitCode::SUCCESS
}
