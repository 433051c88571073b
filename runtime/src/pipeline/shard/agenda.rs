//! Which lanes have to be looked at, and when: so that a thousand idle ones cost nothing.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::time::Instant;

/// Lanes, by their numbers, that something may be asked for. Whoever changes a lane lists it.
#[derive(Default)]
pub(super) struct Agenda {
    listed: VecDeque<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    lanes: Vec<Item>,
}

/// What is known of one lane.
#[derive(Clone, Default)]
struct Item {
    is_listed: bool,
    /// The timer that counts; others of this lane among the timers have been replaced by it.
    timer: Option<Instant>,
}

impl Agenda {
    fn item(&mut self, lane: usize) -> &mut Item {
        if self.lanes.len() <= lane {
            self.lanes.resize(lane + 1, Item::default());
        }
        &mut self.lanes[lane]
    }

    /// The lane is to be looked at. May be said again.
    pub(super) fn list(&mut self, lane: usize) {
        if !std::mem::replace(&mut self.item(lane).is_listed, true) {
            self.listed.push_back(lane);
        }
    }

    /// The lane is to be looked at then, if not before: looking too early does no harm.
    pub(super) fn list_at(&mut self, lane: usize, at: Instant) {
        let item = self.item(lane);
        if item.timer.is_none_or(|known| at < known) {
            item.timer = Some(at);
            self.timers.push(Reverse((at, lane)));
        }
    }

    /// Takes a lane that is to be looked at.
    pub(super) fn take(&mut self) -> Option<usize> {
        let lane = self.listed.pop_front()?;
        self.lanes[lane].is_listed = false;
        Some(lane)
    }

    /// Lists the lanes whose time has come.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(&Reverse((at, lane))) = self.timers.peek() {
            let item = &mut self.lanes[lane];
            let counts = item.timer == Some(at);
            if counts && at > now {
                return;
            }
            self.timers.pop();
            if counts {
                item.timer = None;
                self.list(lane);
            }
        }
    }

    /// When the next lane is to be looked at, if none is now.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        // One that was replaced may stand before it: then it is woken too early, once.
        self.timers.peek().map(|Reverse((at, _))| *at)
    }
}

/// Lanes that wait until something has happened, each once, in the order in which they came.
#[derive(Default)]
pub(super) struct Waiting {
    lanes: Vec<usize>,
    known: HashSet<usize>,
}

impl Waiting {
    /// Says whether the lane did not wait before.
    pub(super) fn add(&mut self, lane: usize) -> bool {
        let is_new = self.known.insert(lane);
        if is_new {
            self.lanes.push(lane);
        }
        is_new
    }

    /// It has happened.
    pub(super) fn take(&mut self) -> Vec<usize> {
        self.known.clear();
        std::mem::take(&mut self.lanes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn taken(agenda: &mut Agenda) -> Vec<usize> {
        std::iter::from_fn(|| agenda.take()).collect()
    }

    #[test]
    fn a_lane_is_listed_once_until_it_is_taken() {
        let mut agenda = Agenda::default();
        [3, 1, 3].into_iter().for_each(|lane| agenda.list(lane));
        assert_eq!(taken(&mut agenda), [3, 1]);
        agenda.list(3);
        assert_eq!(taken(&mut agenda), [3]);
    }

    #[test]
    fn who_waits_is_told_once() {
        let mut waiting = Waiting::default();
        assert_eq!([3, 1, 3].map(|lane| waiting.add(lane)), [true, true, false]);
        assert_eq!((waiting.take(), waiting.take()), (vec![3, 1], vec![]));
        assert!(waiting.add(3));
    }

    #[test]
    fn the_earliest_time_of_a_lane_counts() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        agenda.list_at(0, at(20));
        agenda.list_at(0, at(10));
        agenda.list_at(0, at(30));
        agenda.list_at(1, at(15));
        assert_eq!(agenda.next_timer(), Some(at(10)));
        agenda.advance(at(9));
        assert!(taken(&mut agenda).is_empty());
        agenda.advance(at(10));
        assert_eq!(taken(&mut agenda), [0]);
        // The later one has been replaced.
        agenda.advance(at(40));
        assert_eq!((taken(&mut agenda), agenda.next_timer()), (vec![1], None));
        agenda.list_at(0, at(50));
        agenda.advance(at(50));
        assert_eq!(taken(&mut agenda), [0]);
    }
}
