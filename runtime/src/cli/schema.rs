//! `wasmill schema`: the schemas of events, and data checked by them.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use wasmill::app;
use wasmill::config::Config;
use wasmill::event::Event;
use wasmill::ops::{SchemaQuery, SchemaReport};
use wasmill::schema::{Schema, SchemaViolation, Schemas};

use super::report::FAILURE;
use super::table::{self, plain};
use super::{Context, Report, block_on, print_json};

/// Arguments of `schema`.
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List types with their versions
    Ls,
    /// Show one schema
    Show {
        /// The event type
        r#type: String,
        /// The version [default: the greatest]
        version: Option<String>,
    },
    /// Check data by a schema; without a type, check all schema files. Exit code 1 if something does not fit
    Check {
        /// The event type
        r#type: Option<String>,
        /// The data [default: stdin]
        #[arg(requires = "type")]
        file: Option<PathBuf>,
        /// The version of the schema [default: the greatest]
        #[arg(long, requires = "type")]
        version: Option<String>,
        /// The media type of the data
        #[arg(long, value_name = "MEDIA_TYPE", default_value = "application/json", requires = "type")]
        content_type: String,
    },
}

/// Does what is asked.
pub fn run(context: &Context, args: Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    if !context.is_by_worker() {
        need_folder(&config)?;
    }
    match args.verb {
        Verb::Ls => {
            let reports = block_on(async { context.lazy_target(&config)?.schemas().await })?;
            list(context, &reports);
            Ok(ExitCode::SUCCESS)
        }
        Verb::Show { r#type, version } => {
            let query = SchemaQuery { version };
            let document = block_on(async { context.lazy_target(&config)?.schema(&r#type, &query).await })?;
            match context.is_json() {
                true => print_json(&json!(document)),
                false => say!("{:#}", document.schema),
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Check { r#type, file, version, content_type } => {
            check(context, &config, r#type, file, version, content_type)
        }
    }
}

fn need_folder(config: &Config) -> Result<(), Report> {
    let remedy = "set `directory` in the section [schemas] of the configuration";
    let fault = || Report::usage(format!("there is no schema folder: {remedy}"));
    config.schemas.directory.as_ref().map(drop).ok_or_else(fault)
}

/// Checks all schema files, or data by one of them.
fn check(
    context: &Context,
    config: &Config,
    r#type: Option<String>,
    file: Option<PathBuf>,
    version: Option<String>,
    content_type: String,
) -> Result<ExitCode, Report> {
    need_folder(config)?;
    let schemas = match (app::schemas(config), &r#type) {
        (Ok(schemas), _) => schemas,
        (Err(faults), None) => {
            let faults: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
            return Ok(print_check(context, &json!({}), &faults, ""));
        }
        (Err(faults), Some(_)) => return Err(Report::usage(faults)),
    };
    let Some(r#type) = r#type else {
        let (types, count) = schemas.types().fold((0, 0), |(types, all), (_, own)| (types + 1, all + own.len()));
        let counts = json!({"types": types, "schemas": count});
        return Ok(print_check(context, &counts, &[], &format!("{count} schemas of {types} types")));
    };
    let schema = find(&schemas, &r#type, version.as_deref())?;
    let event = Event {
        schema_version: Some(schema.version.clone()),
        data: read(file)?,
        r#type,
        content_type,
        ..Event::default()
    };
    Ok(check_data(context, &schemas, &event))
}

fn find<'a>(schemas: &'a Arc<Schemas>, r#type: &str, version: Option<&str>) -> Result<&'a Schema, Report> {
    match schemas.find(r#type, version) {
        Ok(Some(schema)) => Ok(schema),
        Err(violation @ SchemaViolation::UnknownVersion { .. }) => Err(Report::usage(violation)),
        _ => {
            let known: Vec<&str> = schemas.types().map(|(known, _)| known).collect();
            Err(Report::usage(format!("there is no schema for {:?}; there are: {}", r#type, known.join(", "))))
        }
    }
}

fn list(context: &Context, reports: &[SchemaReport]) {
    if context.is_json() {
        print_json(&json!(reports));
        return;
    }
    let mut table = table::new(["TYPE", "VERSIONS", "TITLE"]);
    for report in reports {
        let versions: Vec<&str> = report.versions.iter().map(|version| version.version.as_str()).collect();
        let title = report.versions.last().and_then(|newest| newest.title.as_deref()).unwrap_or_default();
        table.add_row([plain(&report.r#type), plain(&versions.join(", ")), plain(title)]);
    }
    match table.is_empty() {
        true => say!("no schemas"),
        false => say!("{table}"),
    }
}

fn read(file: Option<PathBuf>) -> Result<Vec<u8>, Report> {
    match file.filter(|path| path.as_os_str() != "-") {
        Some(path) => {
            std::fs::read(&path).map_err(|error| Report::usage(format!("cannot read {}: {error}", path.display())))
        }
        None => {
            let mut data = Vec::new();
            std::io::stdin().read_to_end(&mut data).map_err(|error| Report::failure(format!("stdin: {error}")))?;
            Ok(data)
        }
    }
}

fn check_data(context: &Context, schemas: &Schemas, event: &Event) -> ExitCode {
    let version = event.schema_version.as_deref().unwrap_or_default();
    let said = json!({"type": event.r#type, "version": version});
    let faults = match schemas.check(event) {
        Ok(()) => Vec::new(),
        Err(SchemaViolation::Data { faults, more, .. }) => {
            let more = more.then(|| "and more".to_owned());
            faults.iter().map(ToString::to_string).chain(more).collect()
        }
        Err(other) => vec![other.to_string()],
    };
    print_check(context, &said, &faults, &format!("{} {version}", event.r#type))
}

/// Prints what came of a check: `said` goes with it as JSON, `fine` as text.
fn print_check(context: &Context, said: &Value, faults: &[String], fine: &str) -> ExitCode {
    if context.is_json() {
        let mut document = json!({"ok": faults.is_empty(), "faults": faults});
        for (name, value) in said.as_object().into_iter().flatten() {
            document[name] = value.clone();
        }
        print_json(&document);
    } else if faults.is_empty() {
        say!("ok: {fine}");
    } else {
        faults.iter().for_each(|fault| say!("{fault}"));
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) }
}
