//! Whose version is prepared next.

use std::collections::HashMap;
use std::sync::Arc;

/// When each tenant, and each of its handlers, last had a turn.
#[derive(Default)]
pub(super) struct Turns {
    /// Counts the turns.
    count: u64,
    tenants: HashMap<Arc<str>, u64>,
    handlers: HashMap<(Arc<str>, Arc<str>), u64>,
}

impl Turns {
    /// The place of the tenant and handler among those who ask that waits longest for a turn: a tenant that asks again and
    /// again keeps no other one waiting for longer than one turn. It has had it then. `None` if nobody asks.
    pub(super) fn next(&mut self, asking: &[(Arc<str>, Arc<str>)]) -> Option<usize> {
        let last = |whose: &(Arc<str>, Arc<str>)| (self.tenants.get(&whose.0), self.handlers.get(whose));
        let (at, whose) = asking.iter().enumerate().min_by_key(|(_, whose)| last(whose))?;
        self.count += 1;
        self.tenants.insert(whose.0.clone(), self.count);
        self.handlers.insert(whose.clone(), self.count);
        Some(at)
    }

    /// Forgets handlers that are served no more.
    pub(super) fn keep(&mut self, is_served: impl Fn(&str, &str) -> bool) {
        self.handlers.retain(|(tenant, handler), _| is_served(tenant, handler));
        self.tenants.retain(|tenant, _| self.handlers.keys().any(|(other, _)| other == tenant));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_take_turns_and_so_do_their_handlers() {
        let asking: Vec<(Arc<str>, Arc<str>)> = [("hog", "a"), ("hog", "b"), ("quiet", "a")]
            .map(|(tenant, handler)| (tenant.into(), handler.into()))
            .into();
        let mut turns = Turns::default();
        let order: Vec<usize> = (0..6).filter_map(|_| turns.next(&asking)).collect();
        assert_eq!(order, [0, 2, 1, 2, 0, 2]);
        assert_eq!(turns.next(&[]), None);
    }

    #[test]
    fn who_never_asked_comes_first_and_who_has_gone_is_forgotten() {
        let of = |tenant: &str| (Arc::from(tenant), Arc::from("h"));
        let mut turns = Turns::default();
        for _ in 0..3 {
            turns.next(&[of("hog")]);
        }
        assert_eq!(turns.next(&[of("hog"), of("new")]), Some(1));
        turns.keep(|tenant, _| tenant == "new");
        assert_eq!((turns.tenants.len(), turns.handlers.len()), (1, 1));
    }
}
