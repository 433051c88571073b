//! What another reading of the configuration changes for a worker that runs. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Config, LogConfig, Tenant};
use crate::envelope::settings::EnvelopeSettings;
use crate::outcome::{Dedup, RetryPolicy};
use crate::route::Types;

/// The sections of which a running worker takes over every change, and `log.level` besides. All others need another
/// start.
const RELOADED: [&str; 8] = ["limits", "retry", "schemas", "streams", "intake", "handlers", "tenants", "tenants_dir"];

/// What is other than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Handlers that are new.
    pub added: BTreeSet<String>,
    /// Handlers that are gone.
    pub removed: BTreeSet<String>,
    /// Handlers whose events are read, chosen, tried again or given up otherwise. What their code is and what it may do is
    /// no part of that.
    pub lanes: BTreeSet<String>,
    /// Intakes that are new, gone or other.
    pub intakes: BTreeSet<String>,
    /// Streams whose settings are new, gone or other.
    pub streams: BTreeSet<String>,
    /// `log.level` is another one.
    pub log_level: bool,
    /// Settings that a running worker cannot change, by their dotted names.
    pub needs_restart: BTreeSet<String>,
}

impl Changes {
    /// What `wanted` has other than what runs.
    pub fn between(running: &Config, wanted: &Config) -> Changes {
        Changes {
            log_level: running.log.level != wanted.log.level,
            needs_restart: needs_restart(running, wanted),
            ..Changes::of_tenant(running, wanted)
        }
    }

    /// The same for what belongs to one tenant: both are what it has of a configuration.
    pub fn of_tenant(running: &Config, wanted: &Config) -> Changes {
        let (before, after) = (&running.handlers, &wanted.handlers);
        let intake = |config: &Config, name: &str| {
            let intake = config.intake.get(name)?.clone();
            Some((envelope(config, &intake.stream), intake))
        };
        Changes {
            added: after.keys().filter(|name| !before.contains_key(*name)).cloned().collect(),
            removed: before.keys().filter(|name| !after.contains_key(*name)).cloned().collect(),
            lanes: names(before.keys().filter(|name| after.contains_key(*name)), [])
                .filter(|name| Lane::of(running, name) != Lane::of(wanted, name))
                .collect(),
            intakes: names(running.intake.keys(), wanted.intake.keys())
                .filter(|name| intake(running, name) != intake(wanted, name))
                .collect(),
            streams: names(running.streams.keys(), wanted.streams.keys())
                .filter(|name| running.streams.get(name) != wanted.streams.get(name))
                .collect(),
            ..Changes::default()
        }
    }
}

impl Config {
    /// What a worker that runs by this configuration goes on with after it has taken over what it can of another one.
    pub fn taking_over(&self, wanted: Config) -> Config {
        let log = LogConfig { level: wanted.log.level.clone(), ..self.log.clone() };
        let (redis, worker, admin) = (self.redis.clone(), self.worker.clone(), self.admin.clone());
        let (compile, deploy) = (self.compile.clone(), self.deploy.clone());
        Config { redis, worker, admin, compile, deploy, log, ..wanted }
    }
}

/// How the events of a handler come to it, and what becomes of them.
#[derive(PartialEq)]
struct Lane {
    /// Which other tenants there are is no matter of a lane.
    tenant: Tenant,
    group: String,
    streams: Vec<String>,
    /// The forms of the entries of those.
    envelopes: Vec<EnvelopeSettings>,
    types: Types,
    checks_schemas: bool,
    retry: RetryPolicy,
    take_over_idle: Duration,
    dedup: Option<Dedup>,
    dead_letter: String,
    concurrency: usize,
}

impl Lane {
    fn of(config: &Config, name: &str) -> Option<Lane> {
        let handler = config.handler(name)?;
        Some(Lane {
            tenant: Tenant { namespace: config.tenant.namespace.clone().without([]), ..config.tenant.clone() },
            group: handler.group,
            envelopes: handler.streams.iter().map(|stream| envelope(config, stream)).collect(),
            streams: handler.streams,
            types: handler.types,
            checks_schemas: config.schemas.on_read,
            retry: handler.retry,
            take_over_idle: handler.take_over_idle,
            dedup: handler.dedup,
            dead_letter: handler.dead_letter,
            concurrency: handler.limits.concurrency,
        })
    }
}

/// The form of the entries of a stream.
fn envelope(config: &Config, stream: &str) -> EnvelopeSettings {
    config.streams.get(stream).map(|stream| stream.envelope_settings()).unwrap_or_default()
}

/// All names of both, once each.
fn names<'a>(
    before: impl IntoIterator<Item = &'a String>,
    after: impl IntoIterator<Item = &'a String>,
) -> impl Iterator<Item = String> {
    before.into_iter().chain(after).cloned().collect::<BTreeSet<_>>().into_iter()
}

/// The settings outside of what is reloaded that differ.
fn needs_restart(running: &Config, wanted: &Config) -> BTreeSet<String> {
    let (running, wanted) = (sections(running), sections(wanted));
    let mut found = BTreeSet::new();
    for section in names(running.keys(), wanted.keys()).filter(|section| !RELOADED.contains(&section.as_str())) {
        let [before, after] = [&running, &wanted].map(|config| config.get(&section).and_then(Value::as_object));
        let (none, other) = (Map::new(), Map::new());
        let (before, after) = (before.unwrap_or(&none), after.unwrap_or(&other));
        let differing = names(before.keys(), after.keys()).filter(|key| before.get(key) != after.get(key));
        found.extend(differing.map(|key| format!("{section}.{key}")));
    }
    found.remove("log.level");
    found
}

/// The sections as they would be written.
fn sections(config: &Config) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(sections)) => sections,
        // Whatever can be read from a file can be written into one.
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "[redis]\nurl = \"redis://here/\"\n[handlers.a]\ncomponent = \"a.wasm\"\nstreams = [\"s\"]\n\
        [handlers.b]\ncomponent = \"b.wasm\"\nstreams = [\"t\"]\n[intake.i]\nchannel = \"c\"\nstream = \"s\"\n";

    fn config(text: &str) -> Config {
        Config::parse(None, text, []).unwrap()
    }

    fn changes(text: &str) -> Changes {
        Changes::between(&config(BASE), &config(text))
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_same_file_changes_nothing() {
        assert_eq!(changes(BASE), Changes::default());
    }

    #[test]
    fn handlers_come_and_go() {
        let text = BASE.replace("handlers.b", "handlers.c");
        let expected = Changes { added: set(&["c"]), removed: set(&["b"]), ..Changes::default() };
        assert_eq!(changes(&text), expected);
    }

    #[test]
    fn each_setting_of_a_lane_is_told_for_its_handler_alone() {
        for setting in [
            "group = \"g\"",
            "types = [\"x_*\"]",
            "take_over_idle = \"1m\"",
            "dedup = \"1h\"",
            "dead_letter = \"dead\"",
            "limits = { concurrency = 2 }",
            "retry = { max_attempts = 2 }",
        ] {
            let text = BASE.replace("streams = [\"s\"]\n", &format!("streams = [\"s\"]\n{setting}\n"));
            assert_eq!(changes(&text), Changes { lanes: set(&["a"]), ..Changes::default() }, "{setting}");
        }
        let text = BASE.replace("streams = [\"t\"]", "streams = [\"t\", \"u\"]");
        assert_eq!(changes(&text).lanes, set(&["b"]));
        assert_eq!(changes(&format!("{BASE}[retry]\nmax_attempts = 2\n")).lanes, set(&["a", "b"]));
        assert_eq!(changes(&format!("{BASE}[schemas]\non_read = true\ndirectory = \"d\"\n")).lanes, set(&["a", "b"]));
    }

    #[test]
    fn what_code_may_do_is_no_matter_of_its_lane() {
        for setting in
            ["publishes = [\"x\"]", "isolation = \"reuse\"", "limits = { memory = \"1 MiB\" }", "grants = []"]
        {
            let text = BASE.replace("streams = [\"s\"]\n", &format!("streams = [\"s\"]\n{setting}\n"));
            assert_eq!(changes(&text), Changes::default(), "{setting}");
        }
    }

    #[test]
    fn the_form_of_a_stream_concerns_those_who_read_it_and_what_is_written_to_it() {
        let expected = Changes { lanes: set(&["a"]), intakes: set(&["i"]), streams: set(&["s"]), ..Changes::default() };
        assert_eq!(changes(&format!("{BASE}[streams.s]\nenvelope = \"json\"\n")), expected);
        let expected = Changes { streams: set(&["s"]), ..Changes::default() };
        assert_eq!(changes(&format!("{BASE}[streams.s]\nmax_length = 10\n")), expected, "retention concerns nobody");
    }

    #[test]
    fn settings_of_the_process_need_a_restart_and_are_not_taken_over() {
        let text = BASE.replace("redis://here/", "redis://there/");
        let text =
            format!("{text}[worker]\nthreads = 7\ncache_dir = \"x\"\n[log]\nformat = \"json\"\nlevel = \"warn\"\n");
        let found = changes(&text);
        let needs_restart = set(&["log.format", "redis.url", "worker.cache_dir", "worker.threads"]);
        assert_eq!(found, Changes { needs_restart: needs_restart.clone(), log_level: true, ..Changes::default() });
        let (running, wanted) = (config(BASE), config(&text));
        let next = running.taking_over(wanted.clone());
        assert_eq!((&next.redis, &next.worker, next.log.level.as_str()), (&running.redis, &running.worker, "warn"));
        // They are told again each time, as long as they are not in effect.
        let again = Changes::between(&next, &wanted);
        assert_eq!(again, Changes { needs_restart, ..Changes::default() });
    }

    /// A section that is new is not taken over before somebody has thought of it.
    #[test]
    fn every_section_is_reloaded_or_needs_a_restart() {
        let restarted = ["redis", "worker", "admin", "log", "compile", "deploy"];
        let known: BTreeSet<&str> = RELOADED.into_iter().chain(restarted).collect();
        let there = sections(&Config { tenants_dir: Some("tenants.d".into()), ..Config::default() });
        assert_eq!(there.keys().map(String::as_str).collect::<BTreeSet<_>>(), known);
    }
}
