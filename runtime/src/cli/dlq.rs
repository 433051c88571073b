//! `wasmill dlq`: dead letters with all their evidence, and the way back.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args as ClapArgs, Parser, Subcommand};
use serde_json::{Value, json};
use wasmill::broker::EntryId;
use wasmill::envelope::format_time;
use wasmill::ops::{DeadLetterQuery, DeadLetterReport, MovedReport, PREPARE_TIME, RawBytes, Selection};

use super::table::{self, plain};
use super::target::Target;
use super::{Context, Report, block_on, deploy, print_json, progress};

/// Dead letters that are asked for, or moved, at a time.
const PAGE: usize = 500;
/// How often it is asked whether the workers have a version.
const POLL: Duration = Duration::from_millis(200);
/// The most characters of a message in the table.
const MESSAGE_CHARS: usize = 300;

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
        /// The handler [default: all]
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
    Redrive {
        #[command(flatten)]
        chosen: Chosen,
        /// Run them on this version, by its digest or how that begins, whatever serves [default: what serves by then]
        #[arg(long, value_name = "DIGEST")]
        to: Option<String>,
        /// Who asks for it, as the record of the versions shows it [default: the user of this machine]
        #[arg(long, value_name = "NAME", requires = "to")]
        by: Option<String>,
    },
    /// Delete dead letters for good
    Drop(Chosen),
}

#[derive(ClapArgs)]
struct Chosen {
    /// The handler
    handler: String,
    /// The ids of the dead letters; or --all
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<EntryId>,
    /// All that there are now
    #[arg(long)]
    all: bool,
}

/// Where chosen dead letters go.
enum Way {
    /// Back, to run on the version of that digest if one is named, as somebody asks.
    Redrive {
        to: Option<String>,
        by: Option<String>,
    },
    Drop,
}

/// Does what is asked.
pub fn run(context: &Context, args: Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    block_on(async {
        let target = context.target(&config).await?;
        match args.verb {
            Verb::Ls { handler, limit } => list(context, &target, handler, limit).await,
            Verb::Show { handler, id } => show(context, &target, &handler, id).await,
            Verb::Redrive { chosen, to, by } => {
                let by = to.as_ref().map(|_| by.unwrap_or_else(deploy::user));
                move_all(context, &target, &chosen, &Way::Redrive { to, by }).await
            }
            Verb::Drop(chosen) => move_all(context, &target, &chosen, &Way::Drop).await,
        }
    })
}

/// Up to `limit` dead letters of a handler, oldest first.
async fn letters(target: &Target, handler: &str, limit: usize) -> Result<Vec<DeadLetterReport>, Report> {
    let (mut letters, mut from) = (Vec::new(), None);
    while letters.len() < limit {
        let query =
            DeadLetterQuery { from, limit: Some(PAGE.min(limit - letters.len())), ..DeadLetterQuery::default() };
        let page = target.dead_letters(handler, &query).await?;
        letters.extend(page.dead_letters);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    Ok(letters)
}

async fn list(context: &Context, target: &Target, handler: Option<String>, limit: usize) -> Result<ExitCode, Report> {
    let handlers = match handler {
        Some(handler) => vec![handler],
        None => target.handlers().await?,
    };
    if handlers.is_empty() {
        return Err(Report::usage("no handlers are configured: name a file with --config"));
    }
    let mut table = table::new(["ID", "HANDLER", "CLASS", "ATTEMPTS", "LAST", "TYPE", "MESSAGE"]);
    let mut documents = Vec::new();
    for handler in handlers {
        for letter in letters(target, &handler, limit).await? {
            if context.is_json() {
                documents.push(json!(letter));
                continue;
            }
            let r#type = letter.event.as_ref().and_then(|event| event["type"].as_str()).unwrap_or("-");
            let message: String = plain(&letter.message).chars().take(MESSAGE_CHARS).collect();
            table.add_row([
                letter.id.clone(),
                handler.clone(),
                letter.class.clone(),
                letter.attempts.to_string(),
                format_time(letter.last_time),
                plain(r#type),
                message,
            ]);
        }
    }
    match (context.is_json(), table.is_empty()) {
        (true, _) => print_json(&Value::Array(documents)),
        (false, true) => say!("no dead letters"),
        (false, false) => say!("{table}"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(context: &Context, target: &Target, handler: &str, id: EntryId) -> Result<ExitCode, Report> {
    let letter = target.dead_letter(handler, &id.to_string()).await?;
    let document = json!(letter);
    if context.is_json() {
        print_json(&document);
        return Ok(ExitCode::SUCCESS);
    }
    for (name, value) in document.as_object().into_iter().flatten() {
        match (name.as_str(), value) {
            ("event" | "original", _) => {}
            ("first_time" | "last_time", Value::Number(ms)) => {
                say!("{name}: {}", format_time(ms.as_u64().unwrap_or(0)))
            }
            (_, Value::String(text)) => say!("{name}: {}", plain(text)),
            (_, value) => say!("{name}: {value}"),
        }
    }
    say!("original:");
    for (name, value) in &letter.original {
        say!("  {}: {}", shown(name), shown(value));
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes for people.
fn shown(bytes: &RawBytes) -> String {
    match bytes {
        RawBytes::Text(text) => plain(text),
        RawBytes::Base64(text) => format!("base64:{text}"),
    }
}

async fn move_all(context: &Context, target: &Target, chosen: &Chosen, way: &Way) -> Result<ExitCode, Report> {
    let mut total = MovedReport::default();
    if chosen.all {
        let mut query = DeadLetterQuery { limit: Some(PAGE), brief: true, ..DeadLetterQuery::default() };
        loop {
            let page = target.dead_letters(&chosen.handler, &query).await?;
            let ids = page.dead_letters.into_iter().map(|letter| letter.id).collect();
            move_some(target, &chosen.handler, ids, way, &mut total).await?;
            let Some(next) = page.next else { break };
            // What is dead by now: a letter that dies again must not go round.
            query = DeadLetterQuery { from: Some(next), to: Some(page.to), ..query };
        }
    }
    for ids in chosen.ids.chunks(PAGE) {
        let ids = ids.iter().map(ToString::to_string).collect();
        move_some(target, &chosen.handler, ids, way, &mut total).await?;
    }
    let done = match way {
        Way::Redrive { .. } => "redriven",
        Way::Drop => "dropped",
    };
    // What was done before is no failure.
    if context.is_json() {
        print_json(&json!({done: total.done, "absent": total.absent, "refused": total.refused}));
    } else {
        say!("{done}: {}", total.done.len());
        total.absent.iter().for_each(|id| say!("no longer there: {id}"));
    }
    if !total.refused.is_empty() {
        return Err(Report::failure(total.refused.join("\n")));
    }
    Ok(ExitCode::SUCCESS)
}

async fn move_some(
    target: &Target,
    handler: &str,
    ids: Vec<String>,
    way: &Way,
    total: &mut MovedReport,
) -> Result<(), Report> {
    let moved = match way {
        Way::Redrive { to, by } => redrive(target, handler, &Selection { ids, to: to.clone(), by: by.clone() }).await?,
        Way::Drop => target.drop_dead_letters(handler, &Selection { ids, ..Selection::default() }).await?,
    };
    total.done.extend(moved.done);
    total.absent.extend(moved.absent);
    total.refused.extend(moved.refused);
    Ok(())
}

/// Sends dead letters back, as soon as every worker has the version that they are to run on.
async fn redrive(target: &Target, handler: &str, selection: &Selection) -> Result<MovedReport, Report> {
    let progress = progress::saying();
    let deadline = Instant::now() + PREPARE_TIME;
    loop {
        let moved = target.redrive(handler, selection).await?;
        if moved.waiting.is_empty() {
            progress.finish_and_clear();
            return Ok(moved);
        }
        let waiting = moved.waiting.iter().map(|worker| plain(worker)).collect::<Vec<_>>().join(", ");
        if Instant::now() >= deadline {
            progress.finish_and_clear();
            let problem =
                format!("the version was not prepared within {PREPARE_TIME:?} by {waiting}; nothing was redriven");
            return Err(Report::failure(problem));
        }
        progress.set_message(format!("the version is prepared by {waiting}"));
        progress.tick();
        tokio::time::sleep(POLL).await;
    }
}
