//! Versions of a handler's code, and exchanging one for another while it serves.
//!
//! [`prepare`] does everything that can fail, beside the work. [`Slot::swap`] cannot fail and takes no time: whoever runs
//! the handler looks at the slot when a delivery begins. What has begun ends on the version that it began with, and the
//! instances of that version go with it. Entries, attempts and settling know nothing of versions, so that no event is lost
//! or run twice by a swap.

pub mod record;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// its bytes must have. Blocks the thread, as [`prepare`] does.
    pub fn successor(&self, cache: Option<&CompiledCache>, digest: &str, bytes: &[u8]) -> Result<Version, LoadError> {
        let found = Digest::of(bytes);
        if found.hex() != digest {
            return Err(LoadError::Altered(found));
        }
        self.with(Component::new(self.handler.component.engine(), cache, bytes)?)
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
        component.check_grants(&self.handler.policy.interfaces.grants)?;
        Ok(Version::new(Handler { component, ..self.handler.clone() }))
    }
}

/// Loads, compiles and checks a component. Blocks the thread; a Python component takes many seconds.
pub fn prepare(
    engine: &Engine,
    cache: Option<&CompiledCache>,
    component: &Path,
    policy: Policy,
    isolation: Isolation,
) -> Result<Version, LoadError> {
    let component = Component::from_file(engine, cache, component)?;
    Ok(Version::new(Handler::new(component, policy, isolation)?))
}

/// The same for a handler that is there already; `known` itself, if nothing is other than before.
pub fn prepare_again(
    known: &Arc<Version>,
    cache: Option<&CompiledCache>,
    component: &Path,
    policy: Policy,
    isolation: Isolation,
) -> Result<Arc<Version>, LoadError> {
    let own = &known.handler;
    let policy = if *own.policy == policy { own.policy.clone() } else { Arc::new(policy) };
    let bytes = Component::read(component)?;
    let is_same = Digest::of(&bytes) == own.component.digest;
    if is_same && Arc::ptr_eq(&own.policy, &policy) && own.isolation == isolation {
        return Ok(known.clone());
    }
    let component = match is_same {
        true => own.component.clone(),
        false => Component::new(own.component.engine(), cache, &bytes)?,
    };
    Ok(Arc::new(Version::new(Handler::new(component, policy, isolation)?)))
}

/// The place of the version that serves.
pub struct Slot {
    /// Counts the swaps. Read without the lock, as nearly always nothing has changed.
    swaps: AtomicU64,
    current: Mutex<Arc<Version>>,
    /// What serves was deployed, and is not the component of the configuration.
    is_deployed: AtomicBool,
}

impl Slot {
    /// A slot with its first version.
    pub fn new(version: impl Into<Arc<Version>>) -> Slot {
        Slot { swaps: AtomicU64::new(0), current: Mutex::new(version.into()), is_deployed: AtomicBool::new(false) }
    }

    /// Whether a deployed version is to serve, whatever component the configuration names.
    pub fn is_deployed(&self) -> bool {
        self.is_deployed.load(Ordering::Relaxed)
    }

    /// Notes whether a deployed version is to serve.
    pub(crate) fn set_deployed(&self, is_deployed: bool) {
        self.is_deployed.store(is_deployed, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Version>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version that serves.
    pub fn current(&self) -> Arc<Version> {
        self.lock().clone()
    }

    /// Puts another version in place, and returns the one before. Every delivery that begins from now on runs the new one.
    /// The old one is out of use when nobody else holds it.
    pub fn swap(&self, next: impl Into<Arc<Version>>) -> Arc<Version> {
        let next = next.into();
        let mut current = self.lock();
        let before = std::mem::replace(&mut *current, next);
        self.swaps.fetch_add(1, Ordering::Release);
        before
    }

    /// The version that serves, for one who looks again and again.
    pub(crate) fn hold(&self) -> InUse {
        let current = self.lock();
        InUse { swaps: self.swaps.load(Ordering::Acquire), version: current.clone() }
    }
}

/// The version that its holder knows of.
pub(crate) struct InUse {
    swaps: u64,
    version: Arc<Version>,
}

impl InUse {
    /// The version.
    pub(crate) fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// Takes the version that serves now; says whether that is another one.
    pub(crate) fn refresh(&mut self, slot: &Slot) -> bool {
        let is_other = slot.swaps.load(Ordering::Acquire) != self.swaps;
        if is_other {
            *self = slot.hold();
        }
        is_other
    }
}
