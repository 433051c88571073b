//! Deliveries that wait for something: for an answer, or for their next turn after a long stretch.
//!
//! They are polled when their lane has its turn and not before, so that guests that never wait share the thread as fairly
//! as those that do.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use slab::Slab;

use super::run::Finished;

/// A delivery that has been begun.
pub(super) type Run = Pin<Box<dyn Future<Output = Finished> + Send>>;

/// The deliveries that can go on, of all lanes of a thread.
#[derive(Default)]
pub(super) struct Woken {
    runs: Mutex<Vec<Place>>,
    shard: AtomicWaker,
}

/// Where a delivery is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of its lane.
    pub(super) lane: usize,
    /// Its number there.
    run: usize,
}

impl Woken {
    fn add(&self, place: Place) {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        self.shard.wake();
    }

    /// Takes all of them.
    pub(super) fn take(&self) -> Vec<Place> {
        std::mem::take(&mut *self.runs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is one.
    pub(super) async fn any(&self) {
        std::future::poll_fn(|context| {
            self.shard.register(context.waker());
            match self.runs.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }
}

/// Says that a delivery can go on, once until it does.
struct RunWaker {
    place: Place,
    is_woken: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for RunWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.woken.add(self.place);
        }
    }
}

/// The deliveries of one lane that have been begun and wait.
pub(super) struct Runs {
    lane: usize,
    waiting: Slab<Waiting>,
    /// Those that can go on, in the order in which they were woken. One that has ended since may be among them.
    able: VecDeque<usize>,
    woken: Arc<Woken>,
}

struct Waiting {
    run: Run,
    state: Arc<RunWaker>,
    waker: Waker,
}

impl Runs {
    /// Those of the lane with this number: they are found in `woken` when they can go on.
    pub(super) fn new(lane: usize, woken: &Arc<Woken>) -> Runs {
        Runs { lane, waiting: Slab::new(), able: VecDeque::new(), woken: woken.clone() }
    }

    /// Takes in one that has been begun. It can go on: it has told nobody yet what it waits for.
    pub(super) fn push(&mut self, run: Run) {
        let entry = self.waiting.vacant_entry();
        let place = Place { lane: self.lane, run: entry.key() };
        let state = Arc::new(RunWaker { place, is_woken: AtomicBool::new(true), woken: self.woken.clone() });
        entry.insert(Waiting { run, waker: state.clone().into(), state });
        self.able.push_back(place.run);
    }

    /// This one was woken.
    pub(super) fn wake(&mut self, place: Place) {
        self.able.push_back(place.run);
    }

    /// Whether one of them can go on.
    pub(super) fn can_go_on(&self) -> bool {
        !self.able.is_empty()
    }

    /// Lets the one go on that was woken first, for one stretch; it, if it has finished.
    pub(super) fn go_on(&mut self) -> Option<Finished> {
        while let Some(at) = self.able.pop_front() {
            // Another one may have its place by now, which was not woken.
            let known = self.waiting.get_mut(at).filter(|run| run.state.is_woken.swap(false, Ordering::AcqRel));
            let Some(Waiting { run, waker, .. }) = known else { continue };
            let Poll::Ready(finished) = run.as_mut().poll(&mut Context::from_waker(waker)) else { return None };
            self.waiting.remove(at);
            return Some(finished);
        }
        None
    }

    /// Ends all of them.
    pub(super) fn clear(&mut self) {
        self.able.clear();
        self.waiting.clear();
    }
}
