//! Components that are in memory: handlers that run the same bytes share the code.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::component::{Component, Digest, Entry};
use super::engine::Engine;

/// By digest, those that some handler holds.
#[derive(Default)]
pub(super) struct Loaded(Mutex<HashMap<Digest, Shared>>);

/// What components of the same bytes have in common.
struct Shared {
    entry: Weak<Entry>,
    digest_text: Arc<str>,
    size: usize,
    imports: Arc<[String]>,
}

impl Loaded {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The component of this digest, if a handler holds it.
    pub(super) fn get(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let loaded = self.lock();
        let Shared { entry, digest_text, size, imports } = loaded.get(&digest)?;
        Some(Component {
            engine: engine.clone(),
            entry: entry.upgrade()?,
            digest,
            digest_text: digest_text.clone(),
            size: *size,
            imports: imports.clone(),
        })
    }

    /// Notes a component. Those that nobody holds any more are forgotten.
    pub(super) fn put(&self, component: &Component) {
        let Component { entry, digest, digest_text, size, imports, .. } = component;
        let shared = Shared {
            entry: Arc::downgrade(entry),
            digest_text: digest_text.clone(),
            size: *size,
            imports: imports.clone(),
        };
        let mut loaded = self.lock();
        loaded.retain(|_, known| known.entry.strong_count() > 0);
        loaded.insert(*digest, shared);
    }
}
