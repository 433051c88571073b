//! Deliveries that wait for something: for an answer, or for their next turn after a long stretch.
//!
//! They are polled when their lane has its turn and not before, so that guests that never wait share the thread as fairly
//! as those that do.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::stream::{FuturesUnordered, StreamExt as _};
use futures::task::AtomicWaker;

use super::run::Finished;

/// A delivery that has been begun.
pub(super) type Run = Pin<Box<dyn Future<Output = Finished> + Send>>;

/// The lanes with deliveries that can go on, by their numbers.
#[derive(Default)]
pub(super) struct Woken {
    lanes: Mutex<Vec<usize>>,
    shard: AtomicWaker,
}

impl Woken {
    fn add(&self, lane: usize) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
        self.shard.wake();
    }

    /// Takes all of them.
    pub(super) fn take(&self) -> Vec<usize> {
        std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is one.
    pub(super) async fn any(&self) {
        std::future::poll_fn(|context| {
            self.shard.register(context.waker());
            match self.lanes.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }
}

/// Says that a lane can go on, once until it does.
struct LaneWaker {
    lane: usize,
    is_woken: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for LaneWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.woken.add(self.lane);
        }
    }
}

/// The deliveries of one lane that have been begun and wait.
pub(super) struct Runs {
    futures: FuturesUnordered<Run>,
    lane_waker: Arc<LaneWaker>,
    waker: Waker,
    /// One of them can go on.
    can_go_on: bool,
}

impl Runs {
    /// Those of the lane with this number: it is found in `woken` when one of them can go on.
    pub(super) fn new(lane: usize, woken: &Arc<Woken>) -> Runs {
        let lane_waker = Arc::new(LaneWaker { lane, is_woken: AtomicBool::new(false), woken: woken.clone() });
        Runs { futures: FuturesUnordered::new(), waker: lane_waker.clone().into(), lane_waker, can_go_on: false }
    }

    /// Takes in one that has been begun. It can go on: it has told nobody yet what it waits for.
    pub(super) fn push(&mut self, run: Run) {
        self.futures.push(run);
        self.can_go_on = true;
    }

    /// The lane was woken.
    pub(super) fn wake(&mut self) {
        self.can_go_on = true;
    }

    /// Whether one of them can go on.
    pub(super) fn can_go_on(&self) -> bool {
        self.can_go_on
    }

    /// Lets them go on, none of them twice, and no more than two that only gave up the thread; the one that has finished.
    pub(super) fn go_on(&mut self) -> Option<Finished> {
        // From now on it is to be said again.
        self.lane_waker.is_woken.store(false, Ordering::Release);
        match self.futures.poll_next_unpin(&mut Context::from_waker(&self.waker)) {
            // Others may be able to go on as well.
            Poll::Ready(Some(finished)) => Some(finished),
            Poll::Ready(None) | Poll::Pending => {
                self.can_go_on = false;
                None
            }
        }
    }

    /// Ends all of them.
    pub(super) fn clear(&mut self) {
        self.futures.clear();
    }
}
