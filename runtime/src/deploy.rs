//! Versions of a handler's code, and exchanging one for another while it serves.
//!
//! [`prepare`] does everything that can fail, beside the work. [`Slot::swap`] cannot fail and takes no time: whoever runs
//! the handler looks at the slot when a delivery begins. What has begun ends on the version that it began with, and the
//! instances of that version go with it. Entries, attempts and settling know nothing of versions, so that no event is lost
//! or run twice by a swap.

pub mod canary;
pub mod expected;
pub mod record;
pub mod signature;
pub mod smoke;
pub mod source;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::canary::Percent;
pub use self::signature::PublicKeys;
pub use self::source::SourceError;
use crate::fleet::PinState;
use crate::stats::{HandlerStats, VersionStats};
use crate::wasm::{CompiledCache, Component, Digest, Engine, Handler, Isolation, LoadError, Policy};

/// A handler that is ready to run, in one version.
pub struct Version {
    /// Code, grants and limits.
    pub handler: Handler,
    /// The digest of the component, as text.
    pub digest: String,
}

impl Version {
    /// A version with this code.
    pub fn new(handler: Handler) -> Version {
        Version { digest: handler.component.digest.to_string(), handler }
    }

    /// A version with the same grants and limits and another component, given by the digest (64 hexadecimal digits) that
    /// its bytes must have. `engine` is the one of this version, as [`Engine::apart`] gives it. Blocks the thread, as
    /// [`prepare`] does.
    pub fn successor(
        &self,
        engine: &Engine,
        cache: Option<&CompiledCache>,
        digest: &str,
        bytes: &[u8],
    ) -> Result<Version, LoadError> {
        let found = Digest::of(bytes);
        if found.hex() != digest {
            return Err(LoadError::Altered(found));
        }
        self.handler.policy.check_size(bytes.len() as u64)?;
        self.with(Component::new(engine, cache, bytes)?)
    }

    /// The same from the compiled cache; `None` if it is not there. `size` is that of the component's bytes.
    pub fn from_cache(
        &self,
        cache: Option<&CompiledCache>,
        digest: &str,
        size: u64,
    ) -> Option<Result<Version, LoadError>> {
        let component = Component::cached(self.handler.component.engine(), cache?, Digest::parse(digest)?, size)?;
        Some(self.with(component))
    }

    /// The same component with the grants, limits and isolation that another version of the handler has; itself, if it has
    /// those. Cannot be if the component imports what is not granted.
    pub fn as_granted_to(self: &Arc<Self>, other: &Handler) -> Result<Arc<Version>, LoadError> {
        let own = &self.handler;
        if Arc::ptr_eq(&own.policy, &other.policy) && own.isolation == other.isolation {
            return Ok(self.clone());
        }
        own.component.check_grants(&other.policy.interfaces.grants)?;
        Ok(Arc::new(Version::new(Handler { component: own.component.clone(), ..other.clone() })))
    }

    fn with(&self, component: Component) -> Result<Version, LoadError> {
        self.handler.policy.check_size(component.size as u64)?;
        component.check_grants(&self.handler.policy.interfaces.grants)?;
        Ok(Version::new(Handler { component, ..self.handler.clone() }))
    }
}

/// Loads, compiles and checks a component, which must be signed by one of `keys` if there are any. Blocks the thread; a
/// Python component takes many seconds.
pub fn prepare(
    engine: &Engine,
    cache: Option<&CompiledCache>,
    keys: &PublicKeys,
    component: &Path,
    policy: Policy,
    isolation: Isolation,
) -> Result<Version, SourceError> {
    let component = source::load(engine, cache, keys, component)?;
    Ok(Version::new(Handler::new(component, policy, isolation)?))
}

/// The same for a handler that is there already, whose component was named `was`; `known` itself, if nothing is other than
/// before.
pub fn prepare_again(
    known: &Arc<Version>,
    was: &Path,
    cache: Option<&CompiledCache>,
    keys: &PublicKeys,
    component: &Path,
    policy: Policy,
    isolation: Isolation,
) -> Result<Arc<Version>, SourceError> {
    let own = &known.handler;
    let policy = if *own.policy == policy { own.policy.clone() } else { Arc::new(policy) };
    let component = source::load_again(&own.component, was, cache, keys, component)?;
    let is_same = component.digest == own.component.digest && own.isolation == isolation;
    if is_same && Arc::ptr_eq(&own.policy, &policy) {
        return Ok(known.clone());
    }
    Ok(Arc::new(Version::new(Handler::new(component, policy, isolation)?)))
}

/// The place of the version that serves, and of one that runs a share of the events beside it.
pub struct Slot {
    /// Counts the changes. Read without the lock, as nearly always nothing has changed.
    changes: AtomicU64,
    versions: Mutex<Versions>,
    /// What serves was deployed, and is not the component of the configuration.
    is_deployed: AtomicBool,
}

/// What is in a slot.
#[derive(Clone)]
struct Versions {
    current: Arc<Version>,
    candidate: Option<Candidate>,
}

/// A version that runs a share of the events: those whose partition key, or id if they have none, belongs to it. The digest
/// is the salt, so that the same events are chosen on every worker and at every attempt.
#[derive(Clone)]
pub struct Candidate {
    /// The version.
    pub version: Arc<Version>,
    /// Its share.
    pub share: Percent,
}

impl Slot {
    /// A slot with its first version.
    pub fn new(version: impl Into<Arc<Version>>) -> Slot {
        let versions = Versions { current: version.into(), candidate: None };
        Slot { changes: AtomicU64::new(0), versions: Mutex::new(versions), is_deployed: AtomicBool::new(false) }
    }

    /// Whether a deployed version is to serve, whatever component the configuration names.
    pub fn is_deployed(&self) -> bool {
        self.is_deployed.load(Ordering::Relaxed)
    }

    /// Notes whether a deployed version is to serve.
    pub(crate) fn set_deployed(&self, is_deployed: bool) {
        self.is_deployed.store(is_deployed, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version that serves.
    pub fn current(&self) -> Arc<Version> {
        self.lock().current.clone()
    }

    /// The version that runs a share of the events beside it.
    pub fn candidate(&self) -> Option<Candidate> {
        self.lock().candidate.clone()
    }

    /// Puts another version in place, and returns the one before. Every delivery that begins from now on runs the new one;
    /// none runs a candidate any more. The old one is out of use when nobody else holds it.
    pub fn swap(&self, next: impl Into<Arc<Version>>) -> Arc<Version> {
        self.replace(next.into(), None)
    }

    /// Puts other versions in both places, and returns the one that served before.
    pub(crate) fn replace(&self, current: Arc<Version>, candidate: Option<Candidate>) -> Arc<Version> {
        let mut versions = self.lock();
        let before = std::mem::replace(&mut *versions, Versions { current, candidate });
        self.changes.fetch_add(1, Ordering::Release);
        before.current
    }

    /// Has a version run its share of the deliveries that begin from now on; `None` for no version but the current one.
    pub fn try_out(&self, candidate: Option<Candidate>) {
        let mut versions = self.lock();
        versions.candidate = candidate;
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The versions that are in use, for one who looks again and again and counts what becomes of deliveries in `stats`.
    pub(crate) fn hold(&self, stats: &HandlerStats) -> InUse {
        let (changes, versions) = {
            let versions = self.lock();
            (self.changes.load(Ordering::Acquire), versions.clone())
        };
        let serving = |version: Arc<Version>| Serving { counts: stats.version(&version.digest), version };
        let candidate = versions.candidate.map(|candidate| (serving(candidate.version), candidate.share));
        InUse { changes, current: serving(versions.current), candidate }
    }
}

/// Versions that are held besides the one that serves, for dead letters that are to run on them, by their digests without
/// `sha256:`.
#[derive(Default)]
pub struct Pinned(Mutex<BTreeMap<String, Result<Arc<Version>, String>>>);

impl Pinned {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Result<Arc<Version>, String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of that digest, if it is held.
    pub fn get(&self, digest: &str) -> Option<Arc<Version>> {
        self.lock().get(digest)?.as_ref().ok().cloned()
    }

    /// Holds a version, or why it cannot be had.
    pub(crate) fn hold(&self, digest: &str, version: Result<Arc<Version>, String>) {
        self.lock().insert(digest.to_owned(), version);
    }

    /// Gives them the grants, limits and isolation of this handler, if they may have them.
    pub(crate) fn exchange(&self, like: &Handler) {
        for held in self.lock().values_mut() {
            if let Ok(version) = held {
                *held = version.as_granted_to(like).map_err(|error| error.to_string());
            }
        }
    }

    /// Lets all go but these.
    pub(crate) fn keep(&self, is_wanted: impl Fn(&str) -> bool) {
        self.lock().retain(|digest, _| is_wanted(digest));
    }

    /// How it stands with each of them.
    pub fn states(&self) -> BTreeMap<String, PinState> {
        let state = |version: &Result<Arc<Version>, String>| match version {
            Ok(_) => PinState::Held,
            Err(why) => PinState::Failed(why.clone()),
        };
        self.lock().iter().map(|(digest, version)| (digest.clone(), state(version))).collect()
    }
}

/// A version that is in use, and what becomes of its deliveries on this worker.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) version: Arc<Version>,
    pub(crate) counts: Arc<VersionStats>,
}

/// The versions that their holder knows of.
pub(crate) struct InUse {
    changes: u64,
    current: Serving,
    candidate: Option<(Serving, Percent)>,
}

impl InUse {
    /// The version that serves.
    pub(crate) fn version(&self) -> &Arc<Version> {
        &self.current.version
    }

    /// The version that runs the event with this partition key, or this id if it has none.
    pub(crate) fn for_key(&self, key: &str) -> &Serving {
        match &self.candidate {
            Some((candidate, share)) if share.takes(&candidate.version.digest, key) => candidate,
            _ => &self.current,
        }
    }

    /// Whether deliveries may begin with this version.
    pub(crate) fn has(&self, version: &Arc<Version>) -> bool {
        let candidate = self.candidate.as_ref().map(|(candidate, _)| candidate);
        [Some(&self.current), candidate].into_iter().flatten().any(|serving| Arc::ptr_eq(&serving.version, version))
    }

    /// Takes the versions that are in use now; says whether they are others.
    pub(crate) fn refresh(&mut self, slot: &Slot, stats: &HandlerStats) -> bool {
        let is_other = slot.changes.load(Ordering::Acquire) != self.changes;
        if is_other {
            *self = slot.hold(stats);
        }
        is_other
    }
}
