//! `wasmill check`: is the configuration right, and does every component fit?

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use wasmill::app::{self, BuildError};
use wasmill::broker::keys::Namespace;
use wasmill::config::{Config, SchemasConfig, environment};
use wasmill::envelope::settings::Preset;

use super::report::USAGE;
use super::table::{counted, plain};
use super::{Context, Report, print_json};

/// Arguments of `check`.
#[derive(Parser)]
pub struct Args {}

/// Checks; every fault is reported, exit code 2.
pub fn run(context: &Context, _: &Args) -> Result<ExitCode, Report> {
    let Findings { faults, handlers, envelopes } = find(context)?;
    if context.is_json() {
        print_json(&json!({"ok": faults.is_empty(), "handlers": handlers, "envelopes": envelopes, "faults": faults}));
    } else {
        faults.iter().for_each(|fault| say!("{fault}"));
        envelopes.iter().for_each(|(stream, envelope)| say!("stream {}: envelope {envelope}", plain(stream)));
        match faults.len() {
            0 => say!("ok: {}", counted(handlers, "handler")),
            count => say!("{}", counted(count, "fault")),
        }
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(USAGE) })
}

/// What there is to say of a configuration.
#[derive(Default)]
struct Findings {
    faults: Vec<String>,
    handlers: usize,
    /// The forms of the streams that are not CloudEvents.
    envelopes: BTreeMap<String, &'static str>,
}

fn find(context: &Context) -> Result<Findings, Report> {
    let Some(file) = &context.file else {
        return Err(Report::usage("there is no configuration to check: name it with --config"));
    };
    let mut config = match Config::load(file, environment()) {
        Ok(config) => config,
        Err(errors) => {
            let faults = errors.0.iter().map(ToString::to_string).collect();
            return Ok(Findings { faults, ..Findings::default() });
        }
    };
    let mut faults = Vec::new();
    if let Err(error) = app::redis_settings(&config) {
        faults.push(format!("{}: {error}", file.display()));
    }
    if let Err(error) = config.tokens() {
        faults.push(format!("{}: {error}", file.display()));
    }
    if let Err(schemas) = app::schemas(&config) {
        faults.extend(schemas.0.iter().map(|fault| format!("{}: schemas.directory: {fault}", file.display())));
        // They have been reported; the components can be looked at without them.
        config.schemas = SchemasConfig::default();
    }
    let engine = super::engine(&config)?;
    let cache = app::cache(&config).unwrap_or_else(|error| {
        faults.push(format!("{}: worker.cache_dir: {error}", file.display()));
        None
    });
    match app::deployments(&config, &Namespace::default(), &engine, cache.as_ref()) {
        Ok(_) => {}
        Err(BuildError::Components(components)) => {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            faults.extend(components.iter().map(|fault| match component_line(&text, &fault.handler) {
                Some(line) => format!("{}:{line}: {fault}", file.display()),
                None => format!("{}: {fault}", file.display()),
            }));
        }
        Err(other) => faults.push(format!("{}: {other}", file.display())),
    }
    let own = config.streams.iter().filter(|(_, stream)| stream.envelope != Preset::CloudEvents);
    let envelopes = own.map(|(name, stream)| (name.clone(), stream.envelope.as_str())).collect();
    Ok(Findings { faults, handlers: config.handlers.len(), envelopes })
}

/// The line on which the component of a handler is named.
fn component_line(text: &str, handler: &str) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let component = document.get_ref().get("handlers")?.get_ref().get(handler)?.get_ref().get("component")?;
    Some(text[..component.span().start].matches('\n').count() + 1)
}
