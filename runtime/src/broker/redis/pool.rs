//! The connections of the users of tenants on one worker: opened when they are needed, bounded in number, closed when idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::link::Shared;
use super::seats::{Asked, Id, Seats};

/// How long after it was of use a connection is taken for busy: whoever only looks whether there is something to do uses
/// it. Later, that is asked by the worker's own user, so that looking alone keeps no connection open.
const FRESH: Duration = Duration::from_secs(1);

/// The connections that share a bound.
pub(super) struct Pool {
    state: Mutex<State>,
    idle: Duration,
}

struct State {
    seats: Seats,
    links: HashMap<Id, Weak<Shared>>,
    waiters: HashMap<Id, Vec<oneshot::Sender<Lease>>>,
    next: Id,
}

/// That a connection is one of a pool. Given up when dropped.
pub(super) struct Place {
    pool: Arc<Pool>,
    id: Id,
}

/// The right to one request. Ends when dropped.
pub(super) struct Lease {
    shared: Arc<Shared>,
    of_use: bool,
}

impl Pool {
    /// At most `most` connections; one that was of no use for `idle` is closed by [`Pool::close_idle`].
    pub(super) fn new(most: usize, idle: Duration) -> Arc<Pool> {
        let (links, waiters) = (HashMap::new(), HashMap::new());
        Arc::new(Pool { state: Mutex::new(State { seats: Seats::new(most), links, waiters, next: 0 }), idle })
    }

    /// A place for what `make` makes.
    pub(super) fn join(self: &Arc<Pool>, make: impl FnOnce(Place) -> Shared) -> Arc<Shared> {
        let id = {
            let mut state = self.state();
            state.next += 1;
            state.next
        };
        let shared = Arc::new(make(Place { pool: self.clone(), id }));
        self.state().links.insert(id, Arc::downgrade(&shared));
        shared
    }

    /// Closes connections that were of no use for long, until the future is dropped.
    pub(super) async fn close_idle(&self) {
        loop {
            tokio::time::sleep(self.idle / 4).await;
            let Some(before) = Instant::now().checked_sub(self.idle) else { continue };
            let mut state = self.state();
            let closed: Vec<_> = state.seats.take_idle(before).into_iter().map(|id| state.close(id)).collect();
            // What is let go of for good looks here again.
            drop(state);
            drop(closed);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Closes the connection; what it belongs to must be dropped after the lock has been let go.
    fn close(&self, id: Id) -> Option<Arc<Shared>> {
        let shared = self.links.get(&id).and_then(Weak::upgrade);
        shared.inspect(|shared| shared.forget())
    }

    /// The leases of all that wait for this connection, which is there now.
    fn seat(&mut self, id: Id) -> Seated {
        let Some(shared) = self.links.get(&id).and_then(Weak::upgrade) else { return Seated::default() };
        let waiters = self.waiters.remove(&id).unwrap_or_default();
        let lease = |waiter| {
            self.seats.begin(id);
            (waiter, Lease { shared: shared.clone(), of_use: true })
        };
        let leases = waiters.into_iter().map(lease).collect();
        Seated { leases, _shared: Some(shared) }
    }
}

/// What those get that have waited. Must be dropped after the lock has been let go: what ends with it looks here again.
#[derive(Default)]
struct Seated {
    leases: Vec<(oneshot::Sender<Lease>, Lease)>,
    _shared: Option<Arc<Shared>>,
}

impl Seated {
    /// Hands the leases over. Those that nobody waits for any more end here.
    fn hand_over(self) {
        for (waiter, lease) in self.leases {
            drop(waiter.send(lease));
        }
    }
}

impl Place {
    /// Waits until the link may use its connection. `of_use`: the request is more than a look whether there is something
    /// to do.
    pub(super) async fn enter(&self, shared: &Arc<Shared>, of_use: bool) -> Lease {
        let (waiting, _closed) = {
            let mut state = self.pool.state();
            match state.seats.ask(self.id, Instant::now()) {
                Asked::Seated { closes } => (None, closes.and_then(|id| state.close(id))),
                Asked::Waits => {
                    let (sender, receiver) = oneshot::channel();
                    state.waiters.entry(self.id).or_default().push(sender);
                    (Some(receiver), None)
                }
            }
        };
        let fresh = || Lease { shared: shared.clone(), of_use };
        match waiting {
            None => fresh(),
            Some(receiver) => {
                let mut lease = receiver.await.expect("who waits is remembered as long as its link is there");
                lease.of_use = of_use;
                lease
            }
        }
    }

    /// Whether the connection was of use a moment ago.
    pub(super) fn is_fresh(&self) -> bool {
        let after = Instant::now().checked_sub(FRESH);
        after.is_some_and(|after| self.pool.state().seats.was_used_since(self.id, after))
    }

    /// Notes that a look was of use.
    pub(super) fn used(&self) {
        self.pool.state().seats.used(self.id, Instant::now());
    }

    fn leave(&self, shared: &Shared, of_use: bool) {
        let seated = {
            let mut state = self.pool.state();
            let left = state.seats.leave(self.id, Instant::now(), shared.is_open(), of_use);
            if left.closes {
                shared.forget();
            }
            left.seated.map(|id| state.seat(id)).unwrap_or_default()
        };
        seated.hand_over();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(place) = self.shared.place() {
            place.leave(&self.shared, self.of_use);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let seated = {
            let mut state = self.pool.state();
            state.links.remove(&self.id);
            state.waiters.remove(&self.id);
            let next = state.seats.remove(self.id, Instant::now());
            next.map(|id| state.seat(id)).unwrap_or_default()
        };
        seated.hand_over();
    }
}
