//! Whose turn it is: deficit round robin over tenants, and within a tenant over its lanes, by the time that their
//! deliveries took. Pure.
//!
//! Whoever was served pays for the time it took, and whoever is in debt waits until the others have had as much, each
//! according to its weight. Nobody waits while a thread is free. A step is O(1) on average: a turn that is passed over was
//! paid for by a quantum of somebody's time.

use std::collections::VecDeque;

/// What a tenant of weight 1, or a lane, may use before the next one's turn, in nanoseconds: some hundred quick
/// deliveries, or one slow one.
const QUANTUM: i64 = 1_000_000;
/// The most debt that is kept, in quanta: a single very long delivery does not shut its tenant out for as long.
const MAX_DEBT: i64 = 50;

/// A fair queue of lanes, which belong to tenants. Both are numbers from 0, given by the caller and used again after a lane
/// has left.
#[derive(Debug, Default)]
pub struct Schedule {
    tenants: Vec<Tenant>,
    lanes: Vec<Lane>,
    /// Tenants with waiting lanes, in the order of their turns.
    turns: VecDeque<usize>,
}

#[derive(Debug, Default)]
struct Tenant {
    weight: i64,
    share: Share,
    /// Its waiting lanes, in the order of their turns.
    turns: VecDeque<usize>,
}

#[derive(Debug, Default)]
struct Lane {
    tenant: usize,
    share: Share,
}

/// What somebody may still use, and whether it has a place among the turns.
#[derive(Debug, Default)]
struct Share {
    /// In nanoseconds; negative is debt.
    credit: i64,
    waiting: bool,
}

impl Share {
    fn charge(&mut self, nanos: i64, weight: i64) {
        self.credit = self.credit.saturating_sub(nanos).max(-MAX_DEBT * QUANTUM * weight);
    }

    /// Gives up the place. Whoever is idle saves nothing up, and keeps its debt.
    fn rest(&mut self) {
        self.waiting = false;
        self.credit = self.credit.min(0);
    }
}

impl Schedule {
    /// A lane of this tenant is there from now on. `weight` is the tenant's, at least 1: the last one that was said holds.
    pub fn enter(&mut self, lane: usize, tenant: usize, weight: u32) {
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, Lane::default);
        }
        if self.tenants.len() <= tenant {
            self.tenants.resize_with(tenant + 1, Tenant::default);
        }
        self.tenants[tenant].weight = i64::from(weight.max(1));
        self.leave(lane);
        self.lanes[lane] = Lane { tenant, share: Share::default() };
    }

    /// The lane is there no more; its number may be used for another one. Costs as much as its tenant has waiting lanes.
    pub fn leave(&mut self, lane: usize) {
        let Some(Lane { tenant, share }) = self.lanes.get_mut(lane) else { return };
        if std::mem::take(&mut share.waiting) {
            // An empty tenant leaves its turns when they come.
            self.tenants[*tenant].turns.retain(|waiting| *waiting != lane);
        }
    }

    /// The lane has something to run. May be said again.
    pub fn activate(&mut self, lane: usize) {
        let Lane { tenant: at, share } = &mut self.lanes[lane];
        if std::mem::replace(&mut share.waiting, true) {
            return;
        }
        let tenant = &mut self.tenants[*at];
        tenant.turns.push_back(lane);
        if !std::mem::replace(&mut tenant.share.waiting, true) {
            self.turns.push_back(*at);
        }
    }

    /// The lane to serve next, among those that can run. A lane that cannot leaves the queue until it is activated
    /// again.
    pub fn next(&mut self, mut can_run: impl FnMut(usize) -> bool) -> Option<usize> {
        loop {
            let at = *self.turns.front()?;
            let is_alone = self.turns.len() == 1;
            let tenant = &mut self.tenants[at];
            if tenant.share.credit <= 0 && !is_alone {
                tenant.share.credit += QUANTUM * tenant.weight;
                self.turns.rotate_left(1);
                continue;
            }
            match tenant.next(&mut self.lanes, &mut can_run) {
                Some(lane) => return Some(lane),
                None => {
                    tenant.share.rest();
                    self.turns.pop_front();
                }
            }
        }
    }

    /// Whether some lane can run; those that cannot leave the queue.
    pub fn has_next(&mut self, mut can_run: impl FnMut(usize) -> bool) -> bool {
        while let Some(&at) = self.turns.front() {
            let tenant = &mut self.tenants[at];
            while let Some(&lane) = tenant.turns.front() {
                if can_run(lane) {
                    return true;
                }
                tenant.turns.pop_front();
                self.lanes[lane].share.rest();
            }
            tenant.share.rest();
            self.turns.pop_front();
        }
        false
    }

    /// The lane has used this much time, in nanoseconds.
    pub fn charge(&mut self, lane: usize, nanos: u64) {
        let nanos = i64::try_from(nanos).unwrap_or(i64::MAX);
        let Lane { tenant, share } = &mut self.lanes[lane];
        share.charge(nanos, 1);
        let Tenant { weight, share, .. } = &mut self.tenants[*tenant];
        share.charge(nanos, *weight);
    }
}

impl Tenant {
    /// The lane of this tenant to serve next.
    fn next(&mut self, lanes: &mut [Lane], can_run: &mut impl FnMut(usize) -> bool) -> Option<usize> {
        loop {
            let lane = *self.turns.front()?;
            let share = &mut lanes[lane].share;
            if !can_run(lane) {
                share.rest();
                self.turns.pop_front();
            } else if share.credit > 0 || self.turns.len() == 1 {
                return Some(lane);
            } else {
                share.credit += QUANTUM;
                self.turns.rotate_left(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lanes that always have something to run.
    struct Saturated {
        schedule: Schedule,
        /// Of each lane: its tenant, and what one of its deliveries costs in nanoseconds.
        lanes: Vec<(usize, u64)>,
        used: Vec<u64>,
    }

    impl Saturated {
        fn new(weights: &[u32], lanes: &[(usize, u64)]) -> Saturated {
            let mut schedule = Schedule::default();
            for (lane, (tenant, _)) in lanes.iter().enumerate() {
                schedule.enter(lane, *tenant, weights[*tenant]);
                schedule.activate(lane);
            }
            Saturated { schedule, lanes: lanes.to_vec(), used: vec![0; lanes.len()] }
        }

        /// Serves one lane; its tenant.
        fn step(&mut self) -> usize {
            let lane = self.schedule.next(|_| true).expect("all lanes can run");
            let (tenant, cost) = self.lanes[lane];
            self.schedule.charge(lane, cost);
            self.used[lane] += cost;
            tenant
        }

        fn of_tenant(&self, tenant: usize) -> u64 {
            let of = self.lanes.iter().zip(&self.used).filter(|((owner, _), _)| *owner == tenant);
            of.map(|(_, used)| used).sum()
        }
    }

    /// One lane of each tenant, with what its deliveries cost: no longer than what a guest may run at a stretch.
    fn costs(most: usize) -> impl Strategy<Value = Vec<(u32, u64)>> {
        proptest::collection::vec((1u32..=8, 1_000u64..4_000_000), 2..most)
    }

    proptest! {
        #[test]
        fn tenants_share_time_by_weight_whatever_their_deliveries_cost(tenants in costs(6)) {
            let weights: Vec<u32> = tenants.iter().map(|(weight, _)| *weight).collect();
            let lanes: Vec<(usize, u64)> = tenants.iter().enumerate().map(|(at, (_, cost))| (at, *cost)).collect();
            let mut all = Saturated::new(&weights, &lanes);
            (0..30_000).for_each(|_| _ = all.step());
            let shares: Vec<u64> = (0..weights.len()).map(|at| all.of_tenant(at) / u64::from(weights[at])).collect();
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            // A round more or less, and the delivery that was begun with the last of the credit.
            prop_assert!(most - least <= 2 * (QUANTUM as u64 + 4_000_000), "{shares:?}");
        }

        #[test]
        fn many_lanes_give_a_tenant_no_more_time_and_share_it_among_them(
            lanes in 1usize..20,
            cost in 1_000u64..2_000_000,
        ) {
            let owned: Vec<(usize, u64)> = (0..lanes).map(|_| (0, cost)).chain([(1, cost)]).collect();
            let mut all = Saturated::new(&[1, 1], &owned);
            (0..20_000).for_each(|_| _ = all.step());
            let (many, one) = (all.of_tenant(0), all.of_tenant(1));
            prop_assert!(many.abs_diff(one) <= 2 * (QUANTUM as u64 + cost), "{many} {one}");
            let each = &all.used[..lanes];
            let apart = each.iter().max().unwrap() - each.iter().min().unwrap();
            prop_assert!(apart <= 2 * (QUANTUM as u64 + cost), "{each:?}");
        }

        #[test]
        fn nobody_waits_longer_than_a_round_of_all_others(tenants in costs(9)) {
            let weights: Vec<u32> = tenants.iter().map(|(weight, _)| *weight).collect();
            let lanes: Vec<(usize, u64)> = tenants.iter().enumerate().map(|(at, (_, cost))| (at, *cost)).collect();
            let mut all = Saturated::new(&weights, &lanes);
            let longest = *lanes.iter().map(|(_, cost)| cost).max().unwrap();
            // What a round takes at most, and how many rounds the most expensive delivery has to be paid off in.
            let round: u64 = weights.iter().map(|weight| u64::from(*weight) * QUANTUM as u64 + longest).sum();
            let rounds = longest / QUANTUM as u64 + 2;
            let mut waited = vec![0; weights.len()];
            for _ in 0..5_000 {
                let served = all.step();
                waited.iter_mut().for_each(|waited| *waited += lanes[served].1);
                waited[served] = 0;
                prop_assert!(waited.iter().all(|waited| *waited <= rounds * round), "{waited:?} of {round}");
            }
        }

        #[test]
        fn somebody_is_served_while_anybody_can_run(
            able in proptest::collection::vec((0usize..4, any::<bool>()), 1..9),
        ) {
            let lanes: Vec<(usize, u64)> = able.iter().map(|(tenant, _)| (*tenant, 1)).collect();
            let mut all = Saturated::new(&[1, 2, 3, 4], &lanes);
            let next = all.schedule.next(|lane| able[lane].1);
            prop_assert_eq!(next.is_some(), able.iter().any(|(_, able)| *able));
            prop_assert!(next.is_none_or(|lane| able[lane].1));
        }

        /// Whatever happens in whatever order: each lane that has something is served, and none that has left.
        #[test]
        fn no_lane_is_forgotten(steps in proptest::collection::vec((0u8..4, 0usize..6, 0usize..3), 1..200)) {
            let mut schedule = Schedule::default();
            let mut work: Vec<Option<u32>> = vec![None; 6];
            for (step, lane, tenant) in steps {
                match (step, work[lane]) {
                    (0, None) => {
                        schedule.enter(lane, tenant, 1 + tenant as u32);
                        work[lane] = Some(0);
                    }
                    (1, Some(_)) => {
                        schedule.leave(lane);
                        work[lane] = None;
                    }
                    (2, Some(waiting)) => {
                        schedule.activate(lane);
                        work[lane] = Some(waiting + 1);
                    }
                    (3, _) => serve(&mut schedule, &mut work),
                    _ => {}
                }
            }
            while work.iter().flatten().any(|waiting| *waiting > 0) {
                serve(&mut schedule, &mut work);
            }
            prop_assert_eq!(schedule.next(|_| panic!("nothing is left")), None);
        }
    }

    fn serve(schedule: &mut Schedule, work: &mut [Option<u32>]) {
        let has_work = |lane: usize| work[lane].expect("it has not left") > 0;
        let lane = schedule.next(has_work);
        assert_eq!(lane.is_some(), work.iter().flatten().any(|waiting| *waiting > 0), "somebody is forgotten");
        if let Some(lane) = lane {
            work[lane] = work[lane].map(|waiting| waiting - 1);
            schedule.charge(lane, 3 * QUANTUM as u64);
            schedule.next(|lane| work[lane].expect("it has not left") > 0);
        }
    }

    #[test]
    fn a_tenant_that_was_idle_has_saved_nothing_up() {
        let mut schedule = Schedule::default();
        schedule.enter(0, 0, 1);
        schedule.enter(1, 1, 1);
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
    fn the_debt_of_a_long_delivery_is_bounded() {
        let mut schedule = Schedule::default();
        schedule.enter(0, 0, 1);
        schedule.enter(1, 1, 1);
        schedule.activate(0);
        schedule.next(|_| true);
        schedule.charge(0, 3_600_000_000_000);
        schedule.activate(1);
        let waits = (0..).take_while(|_| {
            let lane = schedule.next(|_| true).expect("both can run");
            schedule.charge(lane, QUANTUM as u64);
            lane == 1
        });
        assert!(waits.count() as i64 <= MAX_DEBT + 1);
    }
}
