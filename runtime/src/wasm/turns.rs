//! Whose turn it is to compile: one at a time, and the tenants take turns, however much one of them asks for.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Those who compile and those who wait for it.
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Somebody's turn has begun and not ended.
    is_taken: bool,
    /// Counts those who have come to wait.
    came: u64,
    /// Who waits, each tenant once: the first one's turn is next. A tenant that had its turn goes behind all others.
    waiting: VecDeque<(Arc<str>, VecDeque<u64>)>,
}

/// A turn; ends on drop.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    pub(super) const fn new() -> Turns {
        let state = State { is_taken: false, came: 0, waiting: VecDeque::new() };
        Turns { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks the thread until it is the turn of this request of the tenant. `None` if `is_unwanted`, which is looked at this
    /// often, says so before.
    pub(super) fn wait(&self, tenant: &Arc<str>, look: Duration, is_unwanted: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut state = self.lock();
        let ticket = state.enter(tenant);
        loop {
            if state.take(ticket) {
                return Some(Turn(self));
            }
            if is_unwanted() {
                state.leave(ticket);
                return None;
            }
            state = self.changed.wait_timeout(state, look).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().is_taken = false;
        self.0.changed.notify_all();
    }
}

impl State {
    /// Waits behind those of the same tenant.
    fn enter(&mut self, tenant: &Arc<str>) -> u64 {
        let ticket = self.came;
        self.came += 1;
        match self.waiting.iter_mut().find(|(name, _)| name == tenant) {
            Some((_, tickets)) => tickets.push_back(ticket),
            None => self.waiting.push_back((tenant.clone(), [ticket].into())),
        }
        ticket
    }

    /// Begins the turn of this ticket, if it is next.
    fn take(&mut self, ticket: u64) -> bool {
        let is_next = self.waiting.front().is_some_and(|(_, tickets)| tickets.front() == Some(&ticket));
        if self.is_taken || !is_next {
            return false;
        }
        self.is_taken = true;
        if let Some((tenant, mut tickets)) = self.waiting.pop_front() {
            tickets.pop_front();
            if !tickets.is_empty() {
                self.waiting.push_back((tenant, tickets));
            }
        }
        true
    }

    /// Waits no longer.
    fn leave(&mut self, ticket: u64) {
        self.waiting.iter_mut().for_each(|(_, tickets)| tickets.retain(|other| *other != ticket));
        self.waiting.retain(|(_, tickets)| !tickets.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order in which requests of these tenants get their turns.
    fn order(tenants: &[&str]) -> Vec<u64> {
        let mut state = State { is_taken: false, came: 0, waiting: VecDeque::new() };
        let mut open: Vec<u64> = tenants.iter().map(|tenant| state.enter(&(*tenant).into())).collect();
        let mut order = Vec::new();
        while !open.is_empty() {
            let next = open.iter().position(|&ticket| state.take(ticket)).expect("somebody is next");
            assert!(!open.iter().any(|&other| state.take(other)), "one at a time");
            order.push(open.remove(next));
            state.is_taken = false;
        }
        order
    }

    #[test]
    fn tenants_take_turns_however_much_one_asks_for() {
        assert_eq!(order(&["hog", "hog", "hog", "hog", "quiet", "third", "quiet"]), [0, 4, 5, 1, 6, 2, 3]);
        assert_eq!(order(&["one", "one", "one"]), [0, 1, 2]);
    }

    #[test]
    fn who_waits_no_longer_holds_up_nobody() {
        let turns = Turns::new();
        let look = Duration::from_millis(1);
        let (hog, quiet): (Arc<str>, Arc<str>) = ("hog".into(), "quiet".into());
        let first = turns.wait(&hog, look, || false).expect("nobody else is there");
        assert!(turns.wait(&hog, look, || true).is_none());
        assert!(turns.lock().waiting.is_empty());
        drop(first);
        assert!(turns.wait(&quiet, look, || false).is_some());
    }
}
