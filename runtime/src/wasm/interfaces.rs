//! What a handler may use beside the publisher: grants, and what holds for each of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::http::HttpPolicy;
use super::world::Capability;

/// The host interfaces of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// What it may import.
    pub grants: Vec<Capability>,
    /// What it can read by `wasi:config`.
    pub config: Arc<Values>,
    /// Whether time and randomness depend on nothing but the event and the attempt.
    pub deterministic: bool,
    /// What its HTTP requests are bounded by; without it, all are denied.
    pub http: Option<Arc<HttpPolicy>>,
}

impl Default for Interfaces {
    /// What a handler has that does not say otherwise.
    fn default() -> Interfaces {
        Interfaces { grants: Capability::DEFAULT.to_vec(), config: Arc::default(), deterministic: false, http: None }
    }
}

impl Interfaces {
    /// All that cannot reach outside of the worker, with nothing behind it.
    pub fn inside() -> Interfaces {
        Interfaces { grants: Capability::INSIDE.to_vec(), ..Interfaces::default() }
    }
}

/// Names and values that a handler can read. The values may be secrets: `Debug` shows the names alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<String, String>);

impl Values {
    /// All of them, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl From<BTreeMap<String, String>> for Values {
    fn from(values: BTreeMap<String, String>) -> Values {
        Values(values)
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_shown() {
        let values = Values::from(BTreeMap::from([("token".to_owned(), "hunter2".to_owned())]));
        let interfaces = Interfaces { config: Arc::new(values), ..Interfaces::default() };
        let shown = format!("{interfaces:?}");
        assert!(shown.contains("token") && !shown.contains("hunter2"), "{shown}");
    }
}
