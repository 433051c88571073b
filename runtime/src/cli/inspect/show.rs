//! Findings as people and programs read them.

use std::time::Duration;

use serde_json::{Value, json};
use wasmill::config::{Config, Isolation};
use wasmill::wasm::Import;
use wasmill::wasm::anatomy::Anatomy;

use super::super::execution::outcome;
use super::super::table::{counted, plain};
use super::super::{Context, print_json};
use super::cost::{Cost, Sample};
use super::{Findings, Imported};

/// Prints all there is to say.
pub fn show(context: &Context, config: &Config, findings: &Findings) {
    match context.is_json() {
        true => print_json(&as_json(config, findings)),
        false => print_text(config, findings),
    }
}

/// What becomes of an import, in one word.
fn access(imported: &Imported) -> &'static str {
    match (&imported.refused, imported.grant) {
        (None, None) => "provided",
        (None, Some(_)) => "granted",
        (Some(Import::NotGranted(..)), _) => "denied",
        (Some(Import::Denied(_)), _) => "never",
        (Some(Import::OtherVersion(_)), _) => "other version",
        (Some(Import::Unknown(_)), _) => "unknown",
    }
}

/// The same with what to do about it.
fn fate(imported: &Imported) -> String {
    match (&imported.refused, imported.grant) {
        (None, Some(capability)) => format!("granted by \"{capability}\""),
        (Some(Import::NotGranted(_, capability)), _) => format!("DENIED: {}", capability.remedy()),
        (Some(Import::Denied(_)), _) => "DENIED: no setting grants it".to_owned(),
        (Some(Import::OtherVersion(_)), _) => "OTHER VERSION than this wasmill has: build against its WIT".to_owned(),
        (Some(Import::Unknown(_)), _) => "UNKNOWN to this wasmill".to_owned(),
        (None, None) => "provided".to_owned(),
    }
}

fn as_json(config: &Config, findings: &Findings) -> Value {
    let imports = findings.imports.iter().map(|imported| {
        let remedy = match &imported.refused {
            Some(Import::NotGranted(_, capability)) => Some(capability.remedy()),
            _ => None,
        };
        json!({
            "name": imported.name,
            "access": access(imported),
            "grant": imported.grant.map(|capability| capability.as_str()),
            "remedy": remedy,
        })
    });
    let anatomy = &findings.anatomy;
    let micros = |time: Duration| time.as_micros() as u64;
    let loading = findings.loading.as_ref();
    json!({
        "component": findings.path.display().to_string(),
        "fits": findings.problem.is_none(),
        "problem": findings.problem,
        "bytes": findings.size,
        "digest": findings.digest.map(|digest| digest.to_string()),
        "language": anatomy.language(),
        "languages": anatomy.languages,
        "tools": anatomy.tools,
        "parts": anatomy.parts,
        "imports": imports.collect::<Value>(),
        "exports": anatomy.exports,
        "loading": loading.map(|loading| json!({"cold_us": micros(loading.cold), "cached_us": micros(loading.cached)})),
        "memory_bytes": findings.cost.as_ref().map(|cost| cost.execution.peak_memory),
        "cost": findings.cost.as_ref().map(cost_json),
        "limits": limits_json(config, findings),
    })
}

fn cost_json(cost: &Cost) -> Value {
    let (word, message) = outcome(&cost.execution.verdict);
    let sample = |sample: &Sample| json!({"median_us": micros(sample), "deliveries": sample.runs});
    json!({
        "event": cost.event,
        "outcome": word,
        "message": message,
        "fresh": sample(&cost.fresh),
        "reused": cost.reused.as_ref().map(sample),
    })
}

fn micros(sample: &Sample) -> f64 {
    sample.median.as_nanos() as f64 / 1000.0
}

fn limits_json(config: &Config, findings: &Findings) -> Value {
    let (limits, compile) = (&findings.resolved.limits, &config.compile);
    json!({
        "isolation": isolation(findings),
        "memory": limits.memory,
        "deadline_ms": limits.deadline.as_millis() as u64,
        "concurrency": limits.concurrency,
        "publishes": limits.publishes,
        "publish_bytes": limits.publish_bytes,
        "event_bytes": limits.event_bytes,
        "log_bytes": limits.log_bytes,
        "component_bytes": limits.component_bytes,
        "compile_memory": compile.memory.as_u64(),
        "compile_cpu_time_ms": compile.cpu_time.as_millis() as u64,
    })
}

fn isolation(findings: &Findings) -> &'static str {
    match findings.resolved.isolation {
        Isolation::Fresh => "fresh",
        Isolation::Reuse { .. } => "reuse",
    }
}

fn print_text(config: &Config, findings: &Findings) {
    let line = |name: &str, value: &str| say!("{name:<10} {}", plain(value));
    let anatomy = &findings.anatomy;
    line("component", &findings.path.display().to_string());
    line("size", &format!("{} ({} bytes)", size(findings.size), findings.size));
    if let Some(digest) = findings.digest {
        line("digest", &digest.to_string());
        line("language", &language(anatomy));
        line("tools", &list(&anatomy.tools, "not said"));
        line("exports", &list(&anatomy.exports, "nothing"));
        line("imports", &counted(anatomy.imports.len(), "interface"));
    }
    let width = findings.imports.iter().map(|imported| plain(&imported.name).len()).max().unwrap_or(0);
    for imported in &findings.imports {
        say!("  {:<width$}  {}", plain(&imported.name), fate(imported));
    }
    if let Some(loading) = &findings.loading {
        line("loading", &format!("{:.1?} with compiling, {:.1?} from the cache", loading.cold, loading.cached));
    }
    if let Some(cost) = &findings.cost {
        line("memory", &format!("{} an instance", size(cost.execution.peak_memory as u64)));
        line("cost", &costs(cost));
        line("measured", &measured(cost));
    }
    line("limits", &limits(config, findings));
    match &findings.problem {
        Some(problem) => line("REFUSED", problem),
        None => line("fits", "a handler with these grants can have it"),
    }
}

fn list(entries: &[String], none: &str) -> String {
    if entries.is_empty() { none.to_owned() } else { entries.join(", ") }
}

/// The language of the handler, and those of its parts.
fn language(anatomy: &Anatomy) -> String {
    let Some(language) = anatomy.language() else { return "not said".to_owned() };
    let others: Vec<&str> = anatomy.languages.iter().map(String::as_str).filter(|other| *other != language).collect();
    if others.is_empty() { language.to_owned() } else { format!("{language}, with parts in {}", others.join(", ")) }
}

fn costs(cost: &Cost) -> String {
    let fresh = format!("{:.1?} with a fresh instance", cost.fresh.median);
    match &cost.reused {
        Some(reused) => format!("{fresh}, {:.1?} with a reused one", reused.median),
        None => format!("{fresh}; an instance cannot be used again after this outcome"),
    }
}

/// What the figures come from.
fn measured(cost: &Cost) -> String {
    let runs = match &cost.reused {
        Some(reused) => format!("{} and {} deliveries", cost.fresh.runs, reused.runs),
        None => format!("{} deliveries", cost.fresh.runs),
    };
    let (word, message) = outcome(&cost.execution.verdict);
    let message = if message.is_empty() { String::new() } else { format!(" ({message})") };
    format!("medians of {runs} of {}; outcome: {word}{message}", cost.event)
}

fn limits(config: &Config, findings: &Findings) -> String {
    let limits = &findings.resolved.limits;
    format!(
        "isolation {}, memory {}, deadline {:?}, concurrency {}, publishes {} of {}, events of {}, logs of {}; compiling: \
         memory {}, CPU time {:?}",
        isolation(findings),
        size(limits.memory as u64),
        limits.deadline,
        limits.concurrency,
        limits.publishes,
        size(limits.publish_bytes as u64),
        size(limits.event_bytes as u64),
        size(limits.log_bytes as u64),
        size(config.compile.memory.as_u64()),
        config.compile.cpu_time,
    )
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}
