//! What types cannot say: bounds, and keys that must fit each other. Works on a configuration that has the right shape.

mod admin;
mod interfaces;
mod tenants;

pub(super) use tenants::{sharing, tenant};

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use tracing_subscriber::EnvFilter;

use super::compile::{self, CompileConfig};
use super::deploy::DeployConfig;
use super::errors::{ConfigError, nearest};
use super::intake::IntakeConfig;
use super::parse::Document;
use super::redis::{SCHEMES, without_password};
use super::schemas::SchemasConfig;
use super::sections::{
    BuildConfig, HandlerConfig, Limits, LimitsOverride, LogConfig, RetryConfig, RetryOverride, WorkerConfig,
};
use super::streams::StreamConfig;
use super::units::{format_duration, format_size};
use super::{Config, RedisConfig};
use crate::broker::keys;
use crate::envelope::settings::Preset;
use crate::oci;
use crate::route::TypePattern;
use crate::schema::UnknownTypes;
use crate::wasm::MAX_COMPONENT_BYTES;

/// WebAssembly memories grow in pages of this size.
const MIN_MEMORY: ByteSize = ByteSize::kib(64);
/// What 32-bit memories can address.
const MAX_MEMORY: ByteSize = ByteSize::gib(4);
/// The largest event, and the most that one delivery may publish: it is held in memory several times over.
const MAX_EVENT: ByteSize = ByteSize::mib(64);
/// More log output of one delivery than this belongs into a stream.
const MAX_LOG: ByteSize = ByteSize::mib(1);
/// A slip rather than a wish, beyond it.
const MAX_THREADS: usize = 1024;
/// Each running delivery may have an instance of its own.
const MAX_CONCURRENCY: usize = 65_536;
/// How long a handler knows events that it has handled: each of them takes about 150 bytes in Redis for so long.
const MIN_DEDUP: Duration = Duration::from_secs(1);
const MAX_DEDUP: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest name of a consumer group, in bytes.
const MAX_GROUP_NAME: usize = 512;
/// Entries of another program are not taken sooner: it may be at work on them.
const MIN_TAKE_OVER_IDLE: Duration = Duration::from_secs(1);
/// The longest name of a handler, in bytes.
const MAX_HANDLER_NAME: usize = 63;
/// The words that a log level can be.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Everything that is wrong with a configuration of the right shape.
pub(super) fn faults(config: &Config, document: &Document<'_>) -> Vec<ConfigError> {
    let mut check = Check { document, base: Vec::new(), faults: Vec::new() };
    check.redis(&config.redis);
    check.worker(&config.worker);
    check.admin(&config.admin);
    check.log(&config.log);
    check.compile(&config.compile);
    check.deploy(&config.deploy);
    check.limits(&["limits"], &LimitsOverride::from(&config.limits));
    check.retry(&["retry"], &RetryOverride::from(&config.retry), &config.retry);
    check.schemas(&config.schemas);
    for (name, intake) in &config.intake {
        check.intake(name, intake, config);
    }
    for (name, stream) in &config.streams {
        check.stream(name, stream);
    }
    for (name, handler) in &config.handlers {
        check.handler(name, handler, config);
    }
    check.tenants(config);
    check.faults
}

impl From<&Limits> for LimitsOverride {
    fn from(limits: &Limits) -> Self {
        LimitsOverride {
            memory: Some(limits.memory),
            deadline: Some(limits.deadline),
            concurrency: Some(limits.concurrency),
            publishes: Some(limits.publishes),
            publish_bytes: Some(limits.publish_bytes),
            state_bytes: Some(limits.state_bytes),
            event_bytes: Some(limits.event_bytes),
            log_bytes: Some(limits.log_bytes),
            component_bytes: Some(limits.component_bytes),
        }
    }
}

impl From<&RetryConfig> for RetryOverride {
    fn from(retry: &RetryConfig) -> Self {
        RetryOverride { max_attempts: Some(retry.max_attempts), base: Some(retry.base), cap: Some(retry.cap) }
    }
}

struct Check<'d, 't> {
    document: &'d Document<'t>,
    /// Where in the document the configuration stands that is checked: `tenants.NAME`, or at the top.
    base: Vec<String>,
    faults: Vec<ConfigError>,
}

impl Check<'_, '_> {
    fn fault(&mut self, path: &[&str], problem: impl Into<String>, remedy: impl Into<String>) {
        let path: Vec<&str> = self.base.iter().map(String::as_str).chain(path.iter().copied()).collect();
        if !self.document.is_refused(&path) {
            self.faults.push(self.document.fault(&path, problem.into(), Some(remedy.into())));
        }
    }

    fn positive(&mut self, path: &[&str], duration: Duration) {
        if duration.is_zero() {
            self.fault(path, "must be longer than 0", "for example \"5s\"");
        }
    }

    fn redis(&mut self, redis: &RedisConfig) {
        self.url(&redis.url);
        let tls = redis.url.starts_with("rediss://");
        if redis.ca_file.is_some() && !tls {
            self.fault(&["redis", "ca_file"], "has no effect without TLS", "let `redis.url` begin with `rediss://`");
        }
        self.secret(&["redis"], ("password", "password"), &redis.password_env, &redis.password_file);
        let (env, file) = (redis.password_env.is_some(), redis.password_file.is_some());
        if env != file && redis.url_has_password() {
            let key = if env { "password_env" } else { "password_file" };
            let problem = format!("the password is given twice, by `{key}` and in `url`");
            self.fault(&["redis", key], problem, "take it out of the URL");
        }
        self.positive(&["redis", "connect_timeout"], redis.connect_timeout);
        self.positive(&["redis", "response_timeout"], redis.response_timeout);
    }

    fn url(&mut self, url: &str) {
        let path = ["redis", "url"];
        let shown = without_password(url);
        let Some(scheme) = SCHEMES.into_iter().find(|scheme| url.starts_with(scheme)) else {
            let remedy = format!("let it begin with one of {}", SCHEMES.join(", "));
            return self.fault(&path, format!("`{shown}` is not the address of a Redis"), remedy);
        };
        let place = url[scheme.len()..].split('?').next().unwrap_or("");
        if scheme.contains("unix") {
            if !place.starts_with('/') || place.len() == 1 {
                let problem = format!("`{shown}` has no absolute path of a socket");
                self.fault(&path, problem, "for example `unix:///run/redis/redis.sock`");
            }
            return;
        }
        let host = url[scheme.len()..].rsplit('@').next().unwrap_or("").split(['/', '?']).next().unwrap_or("");
        if host.is_empty() || host.starts_with(':') {
            self.fault(&path, format!("`{shown}` names no host"), format!("for example `{scheme}127.0.0.1:6379`"));
        } else if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            self.fault(&path, format!("`{shown}` has white space in it"), "take it out");
        }
    }

    fn worker(&mut self, worker: &WorkerConfig) {
        if worker.threads > MAX_THREADS {
            let problem = format!("{} threads are too many", worker.threads);
            self.fault(&["worker", "threads"], problem, format!("at most {MAX_THREADS}; 0 means one per core"));
        }
        self.positive(&["worker", "heartbeat"], worker.heartbeat);
        self.positive(&["worker", "retention_interval"], worker.retention_interval);
        if worker.heartbeat_ttl < worker.heartbeat * 3 {
            let remedy = "give it three heartbeats at least, or one lost beat lets others take this worker's events";
            self.fault(&["worker", "heartbeat_ttl"], "is shorter than three times `worker.heartbeat`", remedy);
        }
    }

    /// Where a secret is, in a variable or in a file; `key` and what it is, as in `[redis]` the `password`.
    fn secret(&mut self, section: &[&str], (key, what): (&str, &str), env: &Option<String>, file: &Option<PathBuf>) {
        let [env_key, file_key] = ["env", "file"].map(|kind| format!("{key}_{kind}"));
        if env.is_some() && file.is_some() {
            let problem = format!("the {what} is given twice, by `{env_key}` and by `{file_key}`");
            self.fault(&[section, &[&file_key]].concat(), problem, "leave one of the two out");
        }
        self.variable(&[section, &[&env_key]].concat(), env.as_deref(), what);
    }

    /// The name of a variable that holds a secret.
    fn variable(&mut self, path: &[&str], name: Option<&str>, what: &str) {
        if name.is_some_and(|name| name.is_empty() || name.contains(['=', '\0'])) {
            let remedy = format!("write the name of the variable, not the {what} itself");
            self.fault(path, "not the name of an environment variable", remedy);
        }
    }

    fn log(&mut self, log: &LogConfig) {
        let path = ["log", "level"];
        let remedy = "write `info`, or for example `info,wasmill=debug`";
        if log.level.trim().is_empty() {
            return self.fault(&path, "is empty", remedy);
        }
        if let Err(cause) = log.level.parse::<EnvFilter>() {
            return self.fault(&path, format!("`{}` is not a filter: {cause}", log.level), remedy);
        }
        // A bare word that is no level is the name of a target to the filter, which then hides everything else.
        for word in log.level.split(',').map(str::trim).filter(|word| !word.contains(['=', '[', ':'])) {
            let known = word.parse::<u8>().is_ok() || LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
            if let (false, Some(meant)) = (known, nearest(word, LEVELS)) {
                self.fault(&path, format!("`{word}` is not a level"), format!("did you mean `{meant}`?"));
            }
        }
    }

    fn compile(&mut self, compile: &CompileConfig) {
        let (min, max) = (compile::MIN_MEMORY, compile::MAX_MEMORY);
        if !(min..=max).contains(&compile.memory) {
            let problem = format!("{} is out of bounds", format_size(compile.memory));
            self.fault(&["compile", "memory"], problem, format!("from {} to {}", format_size(min), format_size(max)));
        }
        if compile.cpu_time < compile::MIN_CPU_TIME {
            let remedy = format!("{} at least", format_duration(compile::MIN_CPU_TIME));
            self.fault(&["compile", "cpu_time"], "is too short", remedy);
        }
        if compile.wall_time < compile.cpu_time {
            let remedy = "let it be as long as `compile.cpu_time` at least, and longer on a busy machine";
            self.fault(&["compile", "wall_time"], "is shorter than `compile.cpu_time`", remedy);
        }
    }

    fn deploy(&mut self, deploy: &DeployConfig) {
        let mut seen = BTreeSet::new();
        for (index, path) in deploy.public_keys.iter().enumerate() {
            let at = ["deploy", "public_keys", &index.to_string()];
            if path.as_os_str().is_empty() {
                self.fault(&at, "is empty", "name the file of a public key, as `openssl pkey -pubout` writes it");
            }
            if !seen.insert(path) {
                self.fault(&at, format!("`{}` is there twice", path.display()), "leave one out");
            }
        }
    }

    fn limits(&mut self, section: &[&str], limits: &LimitsOverride) {
        let sizes = [
            ("memory", limits.memory, MIN_MEMORY, MAX_MEMORY),
            ("publish_bytes", limits.publish_bytes, ByteSize(0), MAX_EVENT),
            ("state_bytes", limits.state_bytes, ByteSize(0), MAX_EVENT),
            ("event_bytes", limits.event_bytes, ByteSize(1), MAX_EVENT),
            ("log_bytes", limits.log_bytes, ByteSize(0), MAX_LOG),
            ("component_bytes", limits.component_bytes, ByteSize::kib(1), ByteSize(MAX_COMPONENT_BYTES)),
        ];
        for (key, size, min, max) in sizes {
            if let Some(size) = size.filter(|size| !(min..=max).contains(size)) {
                let problem = format!("{} is out of bounds", format_size(size));
                let remedy = format!("from {} to {}", format_size(min), format_size(max));
                self.fault(&[section, &[key]].concat(), problem, remedy);
            }
        }
        if let Some(deadline) = limits.deadline {
            self.positive(&[section, &["deadline"]].concat(), deadline);
        }
        if let Some(concurrency) = limits.concurrency.filter(|concurrency| !(1..=MAX_CONCURRENCY).contains(concurrency))
        {
            let remedy = format!("from 1 to {MAX_CONCURRENCY}");
            self.fault(&[section, &["concurrency"]].concat(), format!("{concurrency} is out of bounds"), remedy);
        }
    }

    /// `retry` is what is set here, `merged` what holds in the end.
    fn retry(&mut self, section: &[&str], retry: &RetryOverride, merged: &RetryConfig) {
        if retry.max_attempts == Some(0) {
            let remedy = "1 means that nothing is tried again";
            self.fault(&[section, &["max_attempts"]].concat(), "must be at least 1", remedy);
        }
        let key = if retry.base.is_some() { "base" } else { "cap" };
        if (retry.base.is_some() || retry.cap.is_some()) && merged.base > merged.cap {
            let remedy = "let `cap` be as long as `base` at least";
            self.fault(&[section, &[key]].concat(), "the first pause is longer than the longest one", remedy);
        }
    }

    fn schemas(&mut self, schemas: &SchemasConfig) {
        match &schemas.directory {
            Some(directory) if directory.as_os_str().is_empty() => {
                let remedy = "name the folder that holds TYPE/VERSION.json, or leave the key out";
                self.fault(&["schemas", "directory"], "is empty", remedy);
            }
            Some(_) => {}
            None => {
                let remedy = "add `directory = \"schemas\"`, the folder that holds TYPE/VERSION.json";
                if schemas.on_read {
                    self.fault(&["schemas", "on_read"], "has no effect without `schemas.directory`", remedy);
                }
                if schemas.unknown == UnknownTypes::Refuse {
                    let problem = "would refuse every event, as there are no schemas without `schemas.directory`";
                    self.fault(&["schemas", "unknown"], problem, remedy);
                }
            }
        }
    }

    fn stream(&mut self, name: &str, stream: &StreamConfig) {
        self.stream_name(&["streams", name], name);
        if stream.max_length == Some(0) {
            let remedy = "write the number of entries to keep, or leave it out to keep all";
            self.fault(&["streams", name, "max_length"], "must be at least 1", remedy);
        }
        if let Some(max_age) = stream.max_age {
            self.positive(&["streams", name, "max_age"], max_age);
        }
        self.envelope(name, stream);
    }

    /// Settings that mean nothing in the form that the stream has would be taken for ones that do.
    fn envelope(&mut self, name: &str, stream: &StreamConfig) {
        let (preset, plain) = (stream.envelope, StreamConfig::default());
        let is_document = matches!(preset, Preset::Json | Preset::MsgPack);
        let has_encoding = matches!(preset, Preset::Named | Preset::Action);
        let is_mapped = !matches!(preset, Preset::CloudEvents | Preset::Dapr);
        let is_foreign = preset != Preset::CloudEvents;
        for (key, is_set, has_meaning) in [
            ("field", stream.field != plain.field, is_document),
            ("encoding", stream.encoding != plain.encoding, has_encoding),
            ("time_format", stream.time_format != plain.time_format, is_mapped),
            ("names", stream.names != plain.names, is_mapped),
            ("default_type", stream.default_type.is_some(), is_foreign),
            ("default_source", stream.default_source.is_some(), is_foreign),
        ] {
            if is_set && !has_meaning {
                let problem = format!("has no effect with `envelope = \"{}\"`", preset.as_str());
                self.fault(&["streams", name, key], problem, "leave it out, or choose another envelope");
            }
        }
        let names = &stream.names;
        let all = [
            ("id", &names.id),
            ("type", &names.r#type),
            ("source", &names.source),
            ("time", &names.time),
            ("subject", &names.subject),
            ("version", &names.version),
            ("key", &names.key),
            ("data", &names.data),
        ];
        for (at, (key, value)) in all.iter().enumerate() {
            let Some(value) = value else { continue };
            let path = ["streams", name, "names", key];
            if value.is_empty() {
                self.fault(&path, "is empty", "write the name that the part has, or leave it out");
            }
            let is_same = |part: &str, other: &Option<String>| {
                other.as_deref().or(preset.usual_name(part)) == Some(value.as_str())
            };
            // Of two that are configured the second is told of.
            let others = all.iter().enumerate().filter(|(place, (_, other))| *place < at || other.is_none());
            let mut others = others.filter(|(place, _)| *place != at).map(|(_, other)| other);
            if let Some((other, _)) = others.find(|(part, other)| is_same(part, other)) {
                let problem = format!("`{value}` is the name of `{other}` already");
                self.fault(&path, problem, "give each part a name of its own");
            }
        }
        for (key, value) in [
            ("field", &stream.field),
            ("default_type", &stream.default_type),
            ("default_source", &stream.default_source),
        ] {
            if value.as_deref() == Some("") {
                self.fault(&["streams", name, key], "is empty", "leave it out for the usual one");
            }
        }
    }

    /// The name of a handler or an intake.
    fn name(&mut self, section: &[&str], name: &str, what: &str) {
        if !is_handler_name(name) {
            let remedy = format!(
                "use lower-case letters, digits, `_` and `-`, beginning with a letter or digit, \
                 {MAX_HANDLER_NAME} at most"
            );
            self.fault(section, format!("cannot be the name of {what}"), remedy);
        }
    }

    fn intake(&mut self, name: &str, intake: &IntakeConfig, config: &Config) {
        let at = |key: &'static str| ["intake", name, key];
        self.name(&["intake", name], name, "an intake");
        let channel = &intake.channel;
        if channel.is_empty() {
            let remedy = "add `channel = \"NAME\"`, the channel or pattern of channels to listen to";
            self.fault(&at("channel"), "is missing or empty", remedy);
        } else if channel.len() > keys::MAX_STREAM_NAME {
            let problem = format!("has {} bytes; the limit is {}", channel.len(), keys::MAX_STREAM_NAME);
            self.fault(&at("channel"), problem, "choose a shorter one");
        } else if channel.starts_with(keys::PREFIX) {
            let problem = format!("`{channel}`: channels that begin with `{}` are wasmill's own", keys::PREFIX);
            self.fault(&at("channel"), problem, "choose another one");
        }
        match intake.stream.is_empty() {
            true => {
                let remedy = "add `stream = \"NAME\"`, the stream that the events go to";
                self.fault(&at("stream"), "is missing or empty", remedy);
            }
            false => self.stream_name(&at("stream"), &intake.stream),
        }
        // Its entries are objects, and nobody knows what the messages are.
        if config.streams.get(&intake.stream).is_some_and(|stream| stream.envelope == Preset::Flat) {
            let problem = format!("`{}` has the envelope `flat`, which cannot hold every message", intake.stream);
            self.fault(&at("stream"), problem, "choose another stream, or another envelope for it");
        }
        for (key, value) in [("type", &intake.r#type), ("source", &intake.source)] {
            if value.as_ref().is_some_and(String::is_empty) {
                self.fault(&at(key), "is empty", "leave it out for the default");
            }
        }
    }

    fn handler(&mut self, name: &str, handler: &HandlerConfig, config: &Config) {
        let section = ["handlers", name];
        let at = |key: &'static str| ["handlers", name, key];
        self.name(&section, name, "a handler");
        if handler.component.as_os_str().is_empty() {
            let remedy = "add `component = \"PATH\"`, the file of a WebAssembly component";
            self.fault(&at("component"), "is missing or empty", remedy);
        }
        if let Some(reference) = handler.component.to_str().filter(|text| oci::is_reference(text)) {
            if let Err(error) = oci::check(reference) {
                self.fault(&at("component"), error.to_string(), "the digest is what `docker push` and others print");
            }
            if handler.build.is_some() {
                let remedy = "name the file that is to be built, or leave out `build`";
                self.fault(&at("component"), "a component in a registry is not built here", remedy);
            }
        }
        if let Some(build) = &handler.build {
            self.build(name, build);
        }
        if handler.streams.is_empty() {
            let remedy = "add `streams = [\"NAME\"]`, the streams to read";
            self.fault(&at("streams"), "is missing or empty", remedy);
        }
        if handler.types.is_empty() {
            self.fault(&at("types"), "an empty list wants no event", "leave it out, or write [\"*\"], to want all");
        }
        self.stream_names(&at("streams"), &handler.streams);
        self.stream_names(&at("publishes"), &handler.publishes);
        self.patterns(&at("types"), &handler.types);
        self.dead_letter(name, handler);
        self.group(name, handler, config);
        if let Some(dedup) = handler.dedup.filter(|dedup| !(MIN_DEDUP..=MAX_DEDUP).contains(dedup)) {
            let (problem, remedy) = (format_duration(dedup), format_duration(MAX_DEDUP));
            self.fault(&at("dedup"), format!("{problem} is out of bounds"), format!("from 1s to {remedy}"));
        }
        if handler.reuse.max_events == 0 {
            let remedy = "1 means that no instance is used again";
            self.fault(&["handlers", name, "reuse", "max_events"], "must be at least 1", remedy);
        }
        self.interfaces(name, handler);
        self.limits(&at("limits"), &handler.limits);
        self.retry(&at("retry"), &handler.retry, &handler.retry.over(&config.retry));
    }

    fn build(&mut self, name: &str, build: &BuildConfig) {
        if build.lang.is_none() {
            let remedy = "add `lang = \"NAME\"`, one of rust, js, ts, python, go, c, cpp, zig";
            self.fault(&["handlers", name, "build", "lang"], "is missing", remedy);
        }
        if build.directory.as_os_str().is_empty() {
            let remedy = "write the folder with the sources, or leave it out for that of this file";
            self.fault(&["handlers", name, "build", "directory"], "is empty", remedy);
        }
    }

    fn stream_names(&mut self, path: &[&str], names: &[String]) {
        let mut seen = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            let index = index.to_string();
            let path = [path, &[index.as_str()]].concat();
            self.stream_name(&path, name);
            if !seen.insert(name) {
                self.fault(&path, format!("`{name}` is there twice"), "leave one out");
            }
        }
    }

    fn stream_name(&mut self, path: &[&str], name: &str) {
        if let Err(problem) = keys::check_stream_name(name) {
            self.fault(path, problem, "choose another name");
        }
    }

    fn patterns(&mut self, path: &[&str], patterns: &[String]) {
        let mut seen = BTreeSet::new();
        for (index, pattern) in patterns.iter().enumerate() {
            let index = index.to_string();
            let path = [path, &[index.as_str()]].concat();
            if let Err(cause) = TypePattern::check(pattern) {
                let remedy = "write an event type, with `*` for any run of characters, such as \"order_*\"";
                self.fault(&path, format!("{pattern:?}: {cause}"), remedy);
            }
            if !seen.insert(pattern) {
                self.fault(&path, format!("`{pattern}` is there twice"), "leave one out");
            }
        }
    }

    fn group(&mut self, name: &str, handler: &HandlerConfig, config: &Config) {
        let path = ["handlers", name, "group"];
        if let Some(group) = &handler.group
            && (!(1..=MAX_GROUP_NAME).contains(&group.len()) || group.chars().any(char::is_control))
        {
            let problem = format!("{group:?} cannot be the name of a consumer group");
            self.fault(&path, problem, format!("1 to {MAX_GROUP_NAME} bytes, no control characters"));
        }
        let group_of = |name: &str, handler: &HandlerConfig| handler.group.clone().unwrap_or_else(|| name.to_owned());
        let group = group_of(name, handler);
        // Reported once, at the later of the two.
        let others = config.handlers.iter().take_while(|(other, _)| *other != name);
        let mut same = others.filter(|(other, theirs)| group_of(other, theirs) == group);
        let shared = same.find_map(|(other, theirs)| {
            let stream = handler.streams.iter().find(|stream| theirs.streams.contains(stream))?;
            Some((other.clone(), stream.clone()))
        });
        if let Some((other, stream)) = shared {
            let problem =
                format!("`{group}` is also the group of handlers.{other} on `{stream}`: each would get a part");
            self.fault(&path, problem, "let each handler have a group of its own");
        }
        if handler.take_over_idle < MIN_TAKE_OVER_IDLE {
            let problem = format!("{} is too short", format_duration(handler.take_over_idle));
            let remedy = "at least 1s, and longer than the other program ever takes for an event";
            self.fault(&["handlers", name, "take_over_idle"], problem, remedy);
        }
    }

    fn dead_letter(&mut self, name: &str, handler: &HandlerConfig) {
        let path = ["handlers", name, "dead_letter"];
        if let Some(stream) = &handler.dead_letter {
            self.stream_name(&path, stream);
        }
        let default = keys::default_dead_letter(name);
        let stream = handler.dead_letter.as_ref().unwrap_or(&default);
        if handler.streams.contains(stream) {
            let problem = format!("the handler reads its own dead letters (`{stream}`), which would go round for ever");
            self.fault(&path, problem, "choose another stream, or let another handler read it");
        }
    }
}

/// `[a-z0-9][a-z0-9_-]{0,62}`
pub(crate) fn is_handler_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=MAX_HANDLER_NAME).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || byte == b'_' || byte == b'-')
        && name.bytes().next().is_some_and(plain)
}
