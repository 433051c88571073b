//! Whose delivery is next: deficit round robin over lanes by the time that their deliveries took. Pure.
//!
//! A lane that was served pays for the time it took. A lane in debt waits until the others have had as much. Nobody
//! waits while a thread is free.

use std::collections::VecDeque;

/// What a lane may use before the next one's turn, in nanoseconds: some hundred quick deliveries, or one slow one.
const QUANTUM: i64 = 1_000_000;
/// The most debt that a lane keeps: a single very long delivery does not shut it out for as long.
const MAX_DEBT: i64 = 50 * QUANTUM;

/// A fair queue of lanes, which are numbers from 0.
#[derive(Debug, Default)]
pub struct Schedule {
    lanes: Vec<Share>,
    turns: VecDeque<usize>,
}

#[derive(Clone, Debug, Default)]
struct Share {
    /// What the lane may still use; negative is debt.
    credit: i64,
    waiting: bool,
}

impl Schedule {
    /// Makes room for a lane. It owes nothing, whoever had its number before.
    pub fn admit(&mut self, lane: usize) {
        if self.lanes.len() <= lane {
            self.lanes.resize(lane + 1, Share::default());
        }
        self.lanes[lane].credit = 0;
    }

    /// The lane has something to run. May be said again.
    pub fn activate(&mut self, lane: usize) {
        if !std::mem::replace(&mut self.lanes[lane].waiting, true) {
            self.turns.push_back(lane);
        }
    }

    /// The lane to serve next, among those that can run. A lane that cannot leaves the queue until it is activated
    /// again.
    pub fn next(&mut self, mut can_run: impl FnMut(usize) -> bool) -> Option<usize> {
        loop {
            let lane = *self.turns.front()?;
            if !can_run(lane) {
                self.turns.pop_front();
                // An idle lane saves nothing up; its debt it keeps.
                let share = &mut self.lanes[lane];
                share.waiting = false;
                share.credit = share.credit.min(0);
                continue;
            }
            if self.lanes[lane].credit > 0 || self.turns.len() == 1 {
                return Some(lane);
            }
            self.lanes[lane].credit += QUANTUM;
            self.turns.rotate_left(1);
        }
    }

    /// The lane has used this much time, in nanoseconds.
    pub fn charge(&mut self, lane: usize, nanos: u64) {
        let share = &mut self.lanes[lane];
        share.credit = share.credit.saturating_sub(i64::try_from(nanos).unwrap_or(i64::MAX)).max(-MAX_DEBT);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(lanes: usize) -> Schedule {
        let mut schedule = Schedule::default();
        (0..lanes).for_each(|lane| schedule.admit(lane));
        schedule
    }

    /// The time that each lane gets in `steps` turns, if each of its deliveries costs the given time.
    fn run(costs: &[u64], steps: usize) -> Vec<u64> {
        let mut schedule = schedule(costs.len());
        (0..costs.len()).for_each(|lane| schedule.activate(lane));
        let mut used = vec![0; costs.len()];
        for _ in 0..steps {
            let lane = schedule.next(|_| true).expect("all lanes can run");
            schedule.charge(lane, costs[lane]);
            used[lane] += costs[lane];
        }
        used
    }

    proptest! {
        #[test]
        fn all_lanes_get_the_same_time_whatever_their_deliveries_cost(
            costs in proptest::collection::vec(1_000u64..2_000_000, 2..6),
        ) {
            let used = run(&costs, 200_000);
            let (least, most) = (used.iter().min().unwrap(), used.iter().max().unwrap());
            prop_assert!(most - least <= 2 * (QUANTUM as u64 + 2_000_000), "{used:?}");
        }

        #[test]
        fn somebody_is_served_while_anybody_can_run(able in proptest::collection::vec(any::<bool>(), 1..9)) {
            let mut schedule = schedule(able.len());
            (0..able.len()).for_each(|lane| schedule.activate(lane));
            let next = schedule.next(|lane| able[lane]);
            prop_assert_eq!(next.is_some(), able.contains(&true));
            prop_assert!(next.is_none_or(|lane| able[lane]));
        }
    }

    #[test]
    fn a_lane_that_was_idle_has_saved_nothing_up() {
        let mut schedule = schedule(2);
        schedule.activate(0);
        for _ in 0..1000 {
            assert_eq!(schedule.next(|_| true), Some(0));
            schedule.charge(0, 1000);
        }
        schedule.activate(1);
        let mut second = 0;
        for _ in 0..10_000 {
            let lane = schedule.next(|_| true).expect("both can run");
            schedule.charge(lane, 10_000);
            second += lane;
        }
        assert!((4500..=5600).contains(&second), "{second}");
    }

    #[test]
    fn a_number_that_is_used_again_owes_nothing() {
        let mut schedule = schedule(2);
        schedule.activate(1);
        assert_eq!(schedule.next(|_| true), Some(1));
        schedule.charge(1, 1_000_000_000);
        // Lane 1 goes while it is still in the queue, and another one gets its number.
        assert_eq!(schedule.next(|_| false), None);
        schedule.admit(1);
        (0..2).for_each(|lane| schedule.activate(lane));
        let mut served = [0; 2];
        for _ in 0..100 {
            let lane = schedule.next(|_| true).expect("both can run");
            schedule.charge(lane, 1_000_000);
            served[lane] += 1;
        }
        assert!(served.iter().all(|&times| times >= 45), "{served:?}");
    }
}
