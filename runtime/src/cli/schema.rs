//! `wasmill schema`: the schemas of events, and data checked by them.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use wasmill::app;
use wasmill::event::Event;
use wasmill::schema::{Schema, SchemaViolation, Schemas};

use super::report::FAILURE;
use super::{Context, Report, print_json};

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
    if config.schemas.directory.is_none() {
        let remedy = "set `directory` in the section [schemas] of the configuration";
        return Err(Report::usage(format!("there is no schema folder: {remedy}")));
    }
    let schemas = match (app::schemas(&config), &args.verb) {
        (Ok(schemas), _) => schemas,
        (Err(faults), Verb::Check { r#type: None, .. }) => {
            let faults: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
            return Ok(print_check(context, &json!({}), &faults, ""));
        }
        (Err(faults), _) => return Err(Report::usage(faults)),
    };
    match args.verb {
        Verb::Ls => list(context, &schemas),
        Verb::Show { r#type, version } => show(context, &schemas, &r#type, version.as_deref()),
        Verb::Check { r#type: None, .. } => {
            let (types, count) = schemas.types().fold((0, 0), |(types, all), (_, own)| (types + 1, all + own.len()));
            let counts = json!({"types": types, "schemas": count});
            Ok(print_check(context, &counts, &[], &format!("{count} schemas of {types} types")))
        }
        Verb::Check { r#type: Some(r#type), file, version, content_type } => {
            let schema = find(&schemas, &r#type, version.as_deref())?;
            let event = Event {
                schema_version: Some(schema.version.clone()),
                data: read(file)?,
                r#type,
                content_type,
                ..Event::default()
            };
            Ok(check(context, &schemas, &event))
        }
    }
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

fn list(context: &Context, schemas: &Schemas) -> Result<ExitCode, Report> {
    if context.is_json() {
        let document = |(r#type, schemas): (&str, &[Schema])| {
            let versions = schemas.iter().map(|schema| json!({"version": schema.version, "title": schema.title}));
            json!({"type": r#type, "versions": versions.collect::<Value>()})
        };
        print_json(&schemas.types().map(document).collect());
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["TYPE", "VERSIONS", "TITLE"]);
    for (r#type, schemas) in schemas.types() {
        let versions: Vec<&str> = schemas.iter().map(|schema| schema.version.as_str()).collect();
        let title = schemas.last().and_then(|newest| newest.title.clone()).unwrap_or_default();
        table.add_row([r#type, &versions.join(", "), &title]);
    }
    match table.is_empty() {
        true => say!("no schemas"),
        false => say!("{table}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn show(context: &Context, schemas: &Arc<Schemas>, r#type: &str, version: Option<&str>) -> Result<ExitCode, Report> {
    let schema = find(schemas, r#type, version)?;
    if context.is_json() {
        print_json(&json!({
            "type": r#type,
            "version": schema.version,
            "title": schema.title,
            "schema": *schema.document,
        }));
    } else {
        say!("{:#}", schema.document);
    }
    Ok(ExitCode::SUCCESS)
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

fn check(context: &Context, schemas: &Schemas, event: &Event) -> ExitCode {
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
