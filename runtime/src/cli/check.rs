//! `wasmill check`: is the configuration right, and does every component fit?

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use wasmill::access::Tokens;
use wasmill::app::{self, BuildError};
use wasmill::broker::keys::DEFAULT_TENANT;
use wasmill::config::{Config, SchemasConfig, environment};
use wasmill::envelope::settings::Preset;
use wasmill::wasm::CompiledCache;

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
    let config = match Config::load(file, environment()) {
        Ok(config) => config,
        Err(errors) => {
            let faults = errors.0.iter().map(ToString::to_string).collect();
            return Ok(Findings { faults, ..Findings::default() });
        }
    };
    let mut findings = Findings::default();
    findings.faults.extend(config.faulty_tenants.iter().map(|tenant| tenant.faults.to_string()));
    if let Err(error) = app::redis_settings(&config) {
        findings.faults.push(format!("{}: {error}", file.display()));
    }
    let mut tokens = Tokens::default();
    for tenant in config.tenant_names() {
        if let Err(error) = config.add_tokens_of(tenant, &mut tokens, &Tokens::default()) {
            findings.faults.push(format!("{}: {error}", file.display()));
        }
    }
    let cache = app::cache(&config).unwrap_or_else(|error| {
        findings.faults.push(format!("{}: worker.cache_dir: {error}", file.display()));
        None
    });
    for own in config.of_all_tenants() {
        findings.look_at(own, file, cache.as_ref())?;
    }
    Ok(findings)
}

impl Findings {
    /// Looks at what a tenant has of the configuration.
    fn look_at(&mut self, mut config: Config, file: &Path, cache: Option<&CompiledCache>) -> Result<(), Report> {
        let tenant = config.tenant.name.clone();
        let file = file.display();
        let place = match tenant.as_str() {
            DEFAULT_TENANT => String::new(),
            tenant => format!("tenants.{tenant}."),
        };
        if let Err(schemas) = app::schemas(&config) {
            // The folder is the same for all tenants.
            if tenant == DEFAULT_TENANT {
                self.faults.extend(schemas.0.iter().map(|fault| format!("{file}: schemas.directory: {fault}")));
            }
            // They have been reported; the components can be looked at without them.
            config.schemas = SchemasConfig::default();
        }
        let engine = super::engine(&config)?;
        match app::deployments(&config, &engine, cache) {
            Ok(_) => {}
            Err(BuildError::Components(components)) => {
                let text = std::fs::read_to_string(file.to_string()).unwrap_or_default();
                self.faults.extend(components.iter().map(|fault| {
                    match component_line(&text, &tenant, &fault.handler) {
                        Some(line) => format!("{file}:{line}: {place}{fault}"),
                        None => format!("{file}: {place}{fault}"),
                    }
                }));
            }
            Err(other) => self.faults.push(format!("{file}: {other}")),
        }
        let own = config.streams.iter().filter(|(_, stream)| stream.envelope != Preset::CloudEvents);
        let named =
            own.map(|(name, stream)| (config.tenant.namespace.qualified(name).to_string(), stream.envelope.as_str()));
        self.envelopes.extend(named);
        self.handlers += config.handlers.len();
        Ok(())
    }
}

/// The line of the configuration file on which the component of a handler is named.
fn component_line(text: &str, tenant: &str, handler: &str) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut section = document.get_ref().get("handlers");
    if tenant != DEFAULT_TENANT {
        section = document.get_ref().get("tenants")?.get_ref().get(tenant)?.get_ref().get("handlers");
    }
    let component = section?.get_ref().get(handler)?.get_ref().get("component")?;
    Some(text[..component.span().start].matches('\n').count() + 1)
}
