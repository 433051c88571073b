//! Building the parts from the configuration.

mod schemas;
mod users;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::keys::Namespace;
use crate::broker::redis::{InvalidSettings, RedisSettings};
use crate::clock::now_ms;
use crate::config::{
    CompileConfig, Config, IntakeConfig, Isolation as ConfiguredIsolation, ResolvedHandler, SecretError,
};
use crate::deploy::signature::KeyError;
use crate::deploy::{self, Pinned, PublicKeys, Slot, SourceError, Version};
use crate::envelope::Envelopes;
use crate::pipeline::{
    Change, Deployment, Intake, MAX_INSTANCES, Orders, Reading, Retention, Roster, Wanted, Worker, new_worker_id,
};
use crate::schema::Schemas;
use crate::wasm::{
    CacheError, CompileLimits, CompiledCache, Engine, EngineError, EngineSettings, Grant, Grants, Interfaces,
    Isolation, Policy,
};

pub use self::users::{login, operate, redis_broker, user_grants};
pub use schemas::{SchemaFolderFault, SchemaFolderFaults};

/// What the configuration asks for cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The wasm engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The compiled cache.
    #[error("worker.cache_dir: {0}")]
    Cache(#[from] CacheError),
    /// The password of Redis, or a value of a handler's configuration.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The address of Redis.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The schema folder.
    #[error(transparent)]
    Schemas(#[from] SchemaFolderFaults),
    /// A public key by which components must be signed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// One or more components.
    #[error("{}", .0.iter().map(ComponentFault::to_string).collect::<Vec<_>>().join("\n"))]
    Components(Vec<ComponentFault>),
}

/// A handler whose component cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("handlers.{handler}.component: {}: {cause}", path.display())]
pub struct ComponentFault {
    /// The handler.
    pub handler: String,
    /// The file of its component, or the reference to it.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub cause: SourceError,
}

/// How to reach the Redis of the configuration.
pub fn redis_settings(config: &Config) -> Result<RedisSettings, BuildError> {
    let redis = &config.redis;
    let password = redis.password()?;
    let settings = RedisSettings::with_credentials(
        &redis.url,
        redis.username.as_deref(),
        password.as_deref(),
        redis.ca_file.as_deref(),
    )?;
    Ok(settings.with_timeouts(redis.connect_timeout, redis.response_timeout))
}

/// This process as a worker, without a compiled cache, without public keys and without an observer.
pub fn worker(config: &Config) -> Worker {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Worker {
        id: new_worker_id(),
        heartbeat: config.worker.heartbeat,
        heartbeat_ttl: config.worker.heartbeat_ttl,
        drain_timeout: config.worker.drain_timeout.max(Duration::from_millis(1)),
        retention_interval: config.worker.retention_interval,
        threads: if config.worker.threads == 0 { cores() } else { config.worker.threads },
        started_ms: now_ms(),
        cache: None,
        keys: PublicKeys::default(),
        observer: None,
    }
}

/// These handlers, and the retention and the intakes of the configuration, as what a worker serves of its tenant.
pub fn serving(config: &Config, deployments: Vec<Arc<Deployment>>) -> Change {
    Change {
        tenant: config.tenant.namespace.tenant().clone(),
        handlers: deployments.into_iter().map(|deployment| Wanted { deployment, version: None }).collect(),
        removed: Vec::new(),
        retention: retention(config),
        intakes: intakes(config).into_iter().map(Arc::new).collect(),
    }
}

/// The same as all that a worker serves.
pub fn roster(config: &Config, deployments: Vec<Arc<Deployment>>) -> (Roster, Orders) {
    Roster::new([serving(config, deployments)])
}

/// The streams that are to be kept short.
pub fn retention(config: &Config) -> Vec<Retention> {
    let limited = config.streams.iter().filter(|(_, stream)| stream.is_trimmed());
    let limited = limited.map(|(name, stream)| Retention {
        stream: config.tenant.namespace.qualified(name).to_string(),
        key: config.tenant.namespace.stream(name),
        max_length: stream.max_length,
        max_age: stream.max_age,
        login: login(config),
        trimmed: Arc::default(),
    });
    // Nobody looks back into an inbox: what is settled may go.
    let inboxes = config.handlers.keys().map(|handler| {
        let key = config.tenant.namespace.inbox(handler);
        Retention {
            stream: key.to_string(),
            key,
            login: login(config),
            max_length: Some(0),
            max_age: None,
            trimmed: Arc::default(),
        }
    });
    limited.chain(inboxes).collect()
}

/// The messages that become events.
pub fn intakes(config: &Config) -> Vec<Intake> {
    let envelopes = envelopes(config);
    let intake = |(name, intake): (&String, &IntakeConfig)| Intake {
        name: name.clone(),
        channel: intake.channel.clone(),
        key: config.tenant.namespace.intake(name),
        stream_key: config.tenant.namespace.stream(&intake.stream),
        envelope: envelopes.of(&intake.stream).cloned(),
        r#type: intake.r#type.clone().unwrap_or_else(|| name.clone()),
        content_type: intake.content_type.clone(),
        source: intake.source.clone().unwrap_or_else(|| IntakeConfig::default_source(name)),
        stats: Arc::default(),
    };
    config.intake.iter().map(intake).collect()
}

/// An engine with room for the handlers of the configuration. It compiles in this process.
pub fn engine(config: &Config) -> Result<Engine, EngineError> {
    let handlers = config.handlers();
    let running: usize = handlers.iter().map(|handler| handler.limits.concurrency).sum();
    // As many may be running as are waiting for reuse.
    let instances = running.saturating_mul(2).clamp(16, MAX_INSTANCES) as u32;
    let max_memory = handlers.iter().map(|handler| handler.limits.memory).max().unwrap_or(64 << 20);
    Engine::new(EngineSettings { instances, max_memory })
}

/// An engine with room for whatever a configuration may ask for while the worker runs. It compiles in this process.
///
/// The room is address space (34 TB of 128), and costs 2 MB of memory and some 15 ms of the start.
pub fn roomy_engine() -> Result<Engine, EngineError> {
    Engine::new(EngineSettings { instances: MAX_INSTANCES as u32, max_memory: 4 << 30 })
}

/// What compiling a component may use.
pub fn compile_limits(config: &Config) -> CompileLimits {
    let CompileConfig { memory, cpu_time, wall_time } = config.compile;
    CompileLimits { memory: memory.as_u64(), cpu_time, wall_time }
}

/// The cache of compiled components; `None` if there is no place for one.
pub fn cache(config: &Config) -> Result<Option<CompiledCache>, CacheError> {
    let directory = config.worker.cache_dir(|name| std::env::var(name).ok());
    directory.map(|directory| CompiledCache::open(&directory)).transpose()
}

/// The keys by which every component must be signed; empty if none is configured.
pub fn public_keys(config: &Config) -> Result<PublicKeys, KeyError> {
    PublicKeys::load(&config.deploy.public_keys)
}

/// The envelopes of the streams of the configuration.
pub fn envelopes(config: &Config) -> Envelopes {
    Envelopes::new(config.streams.iter().map(|(name, stream)| (name.as_str(), stream.envelope_settings())))
}

/// The schemas of the configuration; empty if it names no folder.
pub fn schemas(config: &Config) -> Result<Arc<Schemas>, SchemaFolderFaults> {
    schemas::load(&config.schemas).map(Arc::new)
}

/// Loads the schemas and the components of all handlers; reports every fault of the one or the other.
pub fn deployments(
    config: &Config,
    engine: &Engine,
    cache: Option<&CompiledCache>,
) -> Result<Vec<Arc<Deployment>>, BuildError> {
    let (schemas, envelopes, keys) = (schemas(config)?, envelopes(config), public_keys(config)?);
    let (mut deployments, mut faults) = (Vec::new(), Vec::new());
    for resolved in config.handlers() {
        let policy = policy(&resolved, &config.tenant.namespace, &envelopes, schemas.clone())?;
        match deploy::prepare(engine, cache, &keys, &resolved.component, policy, isolation(resolved.isolation)) {
            Ok(version) => {
                let slot = Arc::new(Slot::new(version));
                deployments.push(Arc::new(deployment(config, &resolved, (slot, Arc::default()))));
            }
            Err(cause) => {
                faults.push(ComponentFault { handler: resolved.name, path: resolved.component, cause });
            }
        }
    }
    if faults.is_empty() { Ok(deployments) } else { Err(BuildError::Components(faults)) }
}

/// The handler as its component's file is now, ready for the slot in which another version serves.
pub fn version(
    config: &Config,
    resolved: &ResolvedHandler,
    engine: &Engine,
    cache: Option<&CompiledCache>,
) -> Result<Version, BuildError> {
    let policy = policy(resolved, &config.tenant.namespace, &envelopes(config), schemas(config)?)?;
    let keys = public_keys(config)?;
    deploy::prepare(engine, cache, &keys, &resolved.component, policy, isolation(resolved.isolation)).map_err(|cause| {
        let (handler, path) = (resolved.name.clone(), resolved.component.clone());
        BuildError::Components(vec![ComponentFault { handler, path, cause }])
    })
}

/// A handler of the tenant of the configuration, with the places of its versions.
pub fn deployment(config: &Config, resolved: &ResolvedHandler, (slot, pinned): (Arc<Slot>, Arc<Pinned>)) -> Deployment {
    let reading = Reading { envelopes: envelopes(config), check_schemas: config.schemas.on_read };
    let (tenant, namespace) = (&config.tenant, &config.tenant.namespace);
    let streams = resolved.streams.iter().map(|stream| Arc::new(namespace.source(stream, &resolved.group)));
    let inbox = Arc::new(namespace.inbox_source(&resolved.name, &resolved.group));
    Deployment {
        tenant: namespace.tenant().clone(),
        weight: tenant.weight,
        id: namespace.qualified(&resolved.name),
        name: resolved.name.as_str().into(),
        namespace: namespace.clone(),
        slot,
        pinned,
        types: resolved.types.clone(),
        sources: streams.chain([inbox]).collect(),
        retry: resolved.retry,
        dedup: resolved.dedup,
        login: login(config),
        marks: namespace.marks(&resolved.group),
        take_over_idle: resolved.take_over_idle,
        dead_key: namespace.stream(&resolved.dead_letter),
        concurrency: resolved.limits.concurrency.max(1),
        quotas: tenant.quotas.clone().map(Arc::new),
        reading,
    }
}

/// What the handler may do and use. What it publishes must follow `schemas`. Reads the secrets of its configuration.
pub fn policy(
    resolved: &ResolvedHandler,
    namespace: &Namespace,
    envelopes: &Envelopes,
    schemas: Arc<Schemas>,
) -> Result<Policy, SecretError> {
    let limits = &resolved.limits;
    let grants = resolved.publishes.iter();
    let grants = grants.map(|stream| Grant {
        stream: stream.clone(),
        key: namespace.stream(stream),
        envelope: envelopes.of(stream).cloned(),
    });
    let interfaces = Interfaces {
        grants: resolved.grants.clone(),
        config: Arc::new(resolved.values()?),
        deterministic: resolved.deterministic,
        http: resolved.http.clone().map(Arc::new),
    };
    Ok(Policy {
        tenant: namespace.tenant().clone(),
        handler: resolved.name.as_str().into(),
        grants: Grants::Named(grants.collect()),
        waits_in: Some(namespace.delayed()),
        publishes: limits.publishes,
        publish_bytes: limits.publish_bytes as u64,
        event_bytes: limits.event_bytes as u64,
        log_bytes: limits.log_bytes,
        component_bytes: limits.component_bytes,
        memory: limits.memory,
        deadline: limits.deadline,
        schemas,
        interfaces,
    })
}

/// Whether instances of a handler are reused.
pub fn isolation(configured: ConfiguredIsolation) -> Isolation {
    match configured {
        ConfiguredIsolation::Fresh => Isolation::Fresh,
        ConfiguredIsolation::Reuse { max_events, max_memory_growth } => {
            Isolation::Reuse { max_events, max_memory_growth }
        }
    }
}
