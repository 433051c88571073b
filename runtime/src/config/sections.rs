//! The sections of the configuration file, one struct each. `Default` is what holds when a key is left out; the reason
//! for each default stands beside the key in `config/wasmill.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::interfaces::{ConfigValue, HttpConfig};
use crate::outcome::DedupBy;
use crate::project::Lang;
use crate::wasm::Capability;

use super::units::{duration, duration_option, size, size_option};

/// The shortest token of the admin API, in bytes: shorter ones can be guessed.
pub const MIN_TOKEN: usize = 16;

/// `[worker]`: how this process runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Threads that run handlers, at most 1024; 0 means one per core.
    pub threads: usize,
    /// How often the worker says that it is alive.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// How long after its last sign of life the worker counts as dead; at least three heartbeats.
    #[serde(with = "duration")]
    pub heartbeat_ttl: Duration,
    /// How long running deliveries may go on after SIGTERM.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// How often streams are trimmed; see [`super::StreamConfig`].
    #[serde(with = "duration")]
    pub retention_interval: Duration,
    /// Where compiled components are kept; see [`WorkerConfig::cache_dir`] for when it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        WorkerConfig {
            threads: 0,
            heartbeat: Duration::from_secs(2),
            heartbeat_ttl: Duration::from_secs(10),
            // Kubernetes kills 30 seconds after SIGTERM.
            drain_timeout: Duration::from_secs(25),
            retention_interval: Duration::from_secs(10),
            cache_dir: None,
        }
    }
}

impl WorkerConfig {
    /// The directory of compiled components: what is configured, else `$XDG_CACHE_HOME/wasmill`, else
    /// `~/.cache/wasmill`; `None` when the environment names no place either. `env` looks up a variable.
    pub fn cache_dir(&self, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        self.cache_dir.clone().or_else(|| {
            let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
            Some(caches.join("wasmill"))
        })
    }
}

/// `[admin]`: the HTTP API of a worker: operations, health and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// IP address and port; without a token a loopback address. Empty for none.
    pub listen: String,
    /// The environment variable that holds the token of those who may do everything; without one, everybody may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// The file that holds it; a line break at its end does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The variable with the token of those who may look at what belongs to the tenant `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view_env: Option<String>,
    /// The file with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view_file: Option<PathBuf>,
    /// The variable with the token of those who may publish, pause, redrive and replay there as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operate_env: Option<String>,
    /// The file with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operate_file: Option<PathBuf>,
    /// The variable with the token of those who may deploy there as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy_env: Option<String>,
    /// The file with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy_file: Option<PathBuf>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        AdminConfig {
            listen: "127.0.0.1:9464".into(),
            token_env: None,
            token_file: None,
            view_env: None,
            view_file: None,
            operate_env: None,
            operate_file: None,
            deploy_env: None,
            deploy_file: None,
        }
    }
}

impl AdminConfig {
    /// The address to listen on; `None` when the admin port is off (or the text is none, which loading refuses).
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.listen.parse().ok()
    }
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// `[log]`: what is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The shape of log lines.
    pub format: LogFormat,
    /// A filter as `tracing` knows it: a level, or `TARGET=LEVEL` pairs separated by commas.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { format: LogFormat::Text, level: "info".into() }
    }
}

/// `[limits]`: what one delivery may use, for all handlers that do not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Linear memory of one instance, 64 KiB to 4 GiB.
    #[serde(with = "size")]
    pub memory: ByteSize,
    /// Wall-clock time of one delivery, without that for which the tenant is throttled; more than 0.
    #[serde(with = "duration")]
    pub deadline: Duration,
    /// Deliveries of one handler that this worker runs at the same time, 1 to 65,536.
    pub concurrency: usize,
    /// Events that one delivery may publish.
    pub publishes: u32,
    /// Bytes of all events that one delivery may publish, at most 64 MiB.
    #[serde(with = "size")]
    pub publish_bytes: ByteSize,
    /// Bytes of keys and values of its state that one delivery may read and write, at most 64 MiB.
    #[serde(with = "size")]
    pub state_bytes: ByteSize,
    /// Bytes of an event that is given to the handler, 1 B to 64 MiB; larger ones become dead letters.
    #[serde(with = "size")]
    pub event_bytes: ByteSize,
    /// Bytes of log output that are kept of one delivery, at most 1 MiB.
    #[serde(with = "size")]
    pub log_bytes: ByteSize,
    /// Bytes of a component, 1 KiB to 64 MiB.
    #[serde(with = "size")]
    pub component_bytes: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory: ByteSize::mib(64),
            deadline: Duration::from_secs(5),
            concurrency: 64,
            publishes: 64,
            publish_bytes: ByteSize::mib(1),
            state_bytes: ByteSize::mib(1),
            event_bytes: ByteSize::mib(1),
            log_bytes: ByteSize::kib(16),
            component_bytes: ByteSize::mib(64),
        }
    }
}

/// `[handlers.NAME.limits]`: the limits that this handler has of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsOverride {
    /// Instead of [`Limits::memory`].
    #[serde(with = "size_option", skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Instead of [`Limits::deadline`].
    #[serde(with = "duration_option", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// Instead of [`Limits::concurrency`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// Instead of [`Limits::publishes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publishes: Option<u32>,
    /// Instead of [`Limits::publish_bytes`].
    #[serde(with = "size_option", skip_serializing_if = "Option::is_none")]
    pub publish_bytes: Option<ByteSize>,
    /// Instead of [`Limits::state_bytes`].
    #[serde(with = "size_option", skip_serializing_if = "Option::is_none")]
    pub state_bytes: Option<ByteSize>,
    /// Instead of [`Limits::event_bytes`].
    #[serde(with = "size_option", skip_serializing_if = "Option::is_none")]
    pub event_bytes: Option<ByteSize>,
    /// Instead of [`Limits::log_bytes`].
    #[serde(with = "size_option", skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<ByteSize>,
    /// Instead of [`Limits::component_bytes`].
    #[serde(with = "size_option", skip_serializing_if = "Option::is_none")]
    pub component_bytes: Option<ByteSize>,
}

impl LimitsOverride {
    /// These limits where they are set, the general ones elsewhere.
    pub fn over(&self, general: &Limits) -> Limits {
        Limits {
            memory: self.memory.unwrap_or(general.memory),
            deadline: self.deadline.unwrap_or(general.deadline),
            concurrency: self.concurrency.unwrap_or(general.concurrency),
            publishes: self.publishes.unwrap_or(general.publishes),
            publish_bytes: self.publish_bytes.unwrap_or(general.publish_bytes),
            state_bytes: self.state_bytes.unwrap_or(general.state_bytes),
            event_bytes: self.event_bytes.unwrap_or(general.event_bytes),
            log_bytes: self.log_bytes.unwrap_or(general.log_bytes),
            component_bytes: self.component_bytes.unwrap_or(general.component_bytes),
        }
    }
}

/// `[retry]`: how often and how patiently failures are tried again, for all handlers that do not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Attempts in all, the first included; at least 1.
    pub max_attempts: u32,
    /// The upper bound of the first pause; it doubles with every attempt.
    #[serde(with = "duration")]
    pub base: Duration,
    /// The upper bound of every pause; at least `base`.
    #[serde(with = "duration")]
    pub cap: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        RetryConfig { max_attempts: 5, base: Duration::from_millis(500), cap: Duration::from_secs(300) }
    }
}

/// `[handlers.NAME.retry]`: the retry settings that this handler has of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryOverride {
    /// Instead of [`RetryConfig::max_attempts`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Instead of [`RetryConfig::base`].
    #[serde(with = "duration_option", skip_serializing_if = "Option::is_none")]
    pub base: Option<Duration>,
    /// Instead of [`RetryConfig::cap`].
    #[serde(with = "duration_option", skip_serializing_if = "Option::is_none")]
    pub cap: Option<Duration>,
}

impl RetryOverride {
    /// These settings where they are set, the general ones elsewhere.
    pub fn over(&self, general: &RetryConfig) -> RetryConfig {
        RetryConfig {
            max_attempts: self.max_attempts.unwrap_or(general.max_attempts),
            base: self.base.unwrap_or(general.base),
            cap: self.cap.unwrap_or(general.cap),
        }
    }
}

/// Whether deliveries share an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IsolationMode {
    /// Every delivery has a new instance: nothing survives from one event to the next.
    #[default]
    Fresh,
    /// An instance serves several deliveries, one after the other, within [`ReuseConfig`].
    Reuse,
}

/// `[handlers.NAME.reuse]`: when an instance that is reused is replaced by a new one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReuseConfig {
    /// After so many events, at least 1.
    pub max_events: u32,
    /// After its memory has grown by so many bytes since its first delivery.
    #[serde(with = "size")]
    pub max_memory_growth: ByteSize,
}

impl Default for ReuseConfig {
    fn default() -> Self {
        ReuseConfig { max_events: 10_000, max_memory_growth: ByteSize::mib(16) }
    }
}

/// `[handlers.NAME.build]`: how `wasmill build` makes the component.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildConfig {
    /// The language that the handler is written in. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lang: Option<Lang>,
    /// The folder with its sources. In the file relative to the file's own directory.
    pub directory: PathBuf,
}

impl Default for BuildConfig {
    fn default() -> Self {
        BuildConfig { lang: None, directory: PathBuf::from(".") }
    }
}

/// `[handlers.NAME]`: a component, what it reads, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandlerConfig {
    /// The component's file. In the file relative to the file's own directory; [`super::Config::load`] joins the two. Or a
    /// reference to a registry, `oci://REGISTRY/NAME:TAG@sha256:DIGEST`.
    pub component: PathBuf,
    /// How the component is built from sources; not at all when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildConfig>,
    /// The streams that it reads; at least one.
    pub streams: Vec<String>,
    /// Patterns of the event types that it wants; others are acknowledged without running it.
    pub types: Vec<String>,
    /// Whether deliveries share an instance.
    pub isolation: IsolationMode,
    /// The bounds of sharing; without meaning for [`IsolationMode::Fresh`].
    pub reuse: ReuseConfig,
    /// Its own limits.
    pub limits: LimitsOverride,
    /// Its own retry settings.
    pub retry: RetryOverride,
    /// The streams that it may publish to, by their exact names.
    pub publishes: Vec<String>,
    /// The consumer group that it reads through; its name when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How long entries are idle under consumers of other programs until they are taken over; at least 1 second.
    #[serde(with = "duration")]
    pub take_over_idle: Duration,
    /// How long it knows events that it has handled, 1 second to 30 days; not at all when not set.
    #[serde(with = "duration_option", skip_serializing_if = "Option::is_none")]
    pub dedup: Option<Duration>,
    /// By what it knows them; without meaning if `dedup` is not set.
    pub dedup_by: DedupBy,
    /// The stream for events that it could not handle; `NAME.dead` when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// The host interfaces that it may import, beside those that every handler has.
    pub grants: Vec<Capability>,
    /// Whether time and randomness depend on nothing but the event and the attempt.
    pub deterministic: bool,
    /// Where its HTTP requests may go; without meaning if `http` is not granted.
    pub http: HttpConfig,
    /// What the handler itself can read as its configuration.
    pub config: BTreeMap<String, ConfigValue>,
}

impl Default for HandlerConfig {
    fn default() -> Self {
        HandlerConfig {
            component: PathBuf::new(),
            build: None,
            streams: Vec::new(),
            types: vec!["*".into()],
            isolation: IsolationMode::Fresh,
            reuse: ReuseConfig::default(),
            limits: LimitsOverride::default(),
            retry: RetryOverride::default(),
            publishes: Vec::new(),
            group: None,
            take_over_idle: Duration::from_secs(300),
            dedup: None,
            dedup_by: DedupBy::Id,
            dead_letter: None,
            grants: Capability::DEFAULT.to_vec(),
            deterministic: false,
            http: HttpConfig::default(),
            config: BTreeMap::new(),
        }
    }
}

impl HandlerConfig {
    /// The paths of files and folders that it names.
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let files = self.config.values_mut().filter_map(|value| match value {
            ConfigValue::File { file } => Some(file),
            ConfigValue::Text(_) | ConfigValue::Env { .. } => None,
        });
        let sources = self.build.as_mut().map(|build| &mut build.directory);
        files.chain([&mut self.component]).chain(sources)
    }
}
