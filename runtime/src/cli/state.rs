//! `wasmill state`: what a handler remembers between events.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;
use wasmill::ops::{RawBytes, StateQuery, StateWrite};

use super::table::{count, counted, plain};
use super::{Context, Report, block_on, print_json};

/// Arguments of `state`.
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List the keys
    Ls {
        /// The handler
        handler: String,
        /// Only keys that begin with this
        #[arg(long, default_value = "")]
        prefix: String,
        /// The most keys to list
        #[arg(long, default_value_t = StateQuery::default().limit)]
        limit: usize,
    },
    /// Print a value as it is
    Get {
        /// The handler
        handler: String,
        /// The key
        key: String,
    },
    /// Set a value; deliveries that have read it and are not settled are run again
    Set {
        /// The handler
        handler: String,
        /// The key
        key: String,
        /// The value
        #[arg(required_unless_present = "file", conflicts_with = "file", allow_hyphen_values = true)]
        value: Option<String>,
        /// The file that holds the value, or - for stdin
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Delete a key
    Rm {
        /// The handler
        handler: String,
        /// The key
        key: String,
    },
    /// Delete all keys
    Clear {
        /// The handler
        handler: String,
    },
}

/// Looks at it, or changes it.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    match &args.verb {
        Verb::Ls { handler, prefix, limit } => {
            let query = StateQuery { prefix: prefix.clone(), limit: *limit };
            let report = block_on(async { context.target(&config).await?.state(handler, &query).await })?;
            if context.is_json() {
                print_json(&json!(report));
                return Ok(ExitCode::SUCCESS);
            }
            report.keys.iter().for_each(|key| say!("{}", plain(key)));
            match report.total - report.keys.len() {
                0 if report.total == 0 => say!("there are no keys"),
                0 => {}
                more => say!("and {} more", count(more)),
            }
        }
        Verb::Get { handler, key } => {
            let value = block_on(async { context.target(&config).await?.state_value(handler, key).await })?;
            match context.is_json() {
                true => print_json(&json!(value)),
                false => {
                    let bytes = value.value.bytes().map_err(Report::failure)?;
                    std::io::stdout().write_all(&bytes).map_err(Report::failure)?;
                }
            }
        }
        Verb::Set { handler, key, value, file } => {
            let bytes = match (value, file) {
                (Some(value), _) => value.clone().into_bytes(),
                (None, Some(file)) => read(file)?,
                (None, None) => Vec::new(),
            };
            let write = StateWrite { key: key.clone(), value: Some(RawBytes::new(&bytes)) };
            change(context, handler, &write, ["set; it was not there", "set; it had another value or the same"])?;
        }
        Verb::Rm { handler, key } => {
            let write = StateWrite { key: key.clone(), value: None };
            change(context, handler, &write, ["it was not there", "deleted"])?;
        }
        Verb::Clear { handler } => {
            let cleared = block_on(async { context.target(&config).await?.clear_state(handler).await })?;
            match context.is_json() {
                true => print_json(&json!(cleared)),
                false => say!("{} deleted", counted(cleared.keys as usize, "key")),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a change; `words` say that the key was not there before, and that it was.
fn change(context: &Context, handler: &str, write: &StateWrite, words: [&str; 2]) -> Result<(), Report> {
    let config = context.config()?;
    let written = block_on(async { context.target(&config).await?.write_state(handler, write).await })?;
    match context.is_json() {
        true => print_json(&json!(written)),
        false => say!("{}: {}", plain(&written.key), words[usize::from(written.existed)]),
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Report> {
    let mut bytes = Vec::new();
    let result = match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_end(&mut bytes).map(|_| bytes),
        false => std::fs::read(path),
    };
    result.map_err(|error| Report::usage(format!("cannot read {}: {error}", path.display())))
}
