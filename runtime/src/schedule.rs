//! Whose turn it is: deficit round robin over tenants, and within a tenant over its lanes, by the time that their
//! deliveries took. Pure.
//!
//! Time goes in rounds. In each one everybody may use as much as its weight says, and whoever has used that up waits for
//! the next round; what somebody used beyond it is paid for in the rounds that follow. A round ends when nobody who has
//! something to run has time left in it, so that no thread is idle for the sake of fairness. Within a round the turns are
//! short, and whoever was idle comes before those who had turns already: who uses less than its share waits for hardly
//! more than the delivery that runs. A step is O(1) on average: a turn that is passed over was paid for by a quantum of
//! somebody's time.

use std::collections::VecDeque;

/// What a tenant of weight 1, or a lane, may use in a round, and anybody in a turn, in nanoseconds: some dozens of quick
/// deliveries, or two stretches of a guest that never waits.
const QUANTUM: i64 = 1_000_000;
/// The most debt that is kept, in rounds: a single very long delivery does not shut its tenant out for as long.
const MAX_DEBT: i64 = 50;

/// A fair queue of lanes, which belong to tenants. Both are numbers from 0, given by the caller and used again after a lane
/// has left.
#[derive(Debug, Default)]
pub struct Schedule {
    /// By number of the tenant.
    tenants: Vec<Share>,
    turns: Turns,
    /// The turns of each tenant's lanes.
    turns_within: Vec<Turns>,
    /// By number of the lane.
    lanes: Vec<Share>,
    /// The tenant of each lane.
    owners: Vec<usize>,
}

/// What somebody may use.
#[derive(Debug)]
struct Share {
    weight: i64,
    /// Of this round, in nanoseconds; negative is debt.
    credit: i64,
    /// Of this turn.
    turn: i64,
    /// The round that the credit is for.
    round: u64,
    /// It has a place among the turns.
    is_waiting: bool,
}

/// Those who have something to run, in the order of their turns.
#[derive(Debug, Default)]
struct Turns {
    round: u64,
    /// Those who had nothing to run, and have time left in this round: they come first.
    woken: VecDeque<usize>,
    /// Those who take turns.
    turning: VecDeque<usize>,
    /// Those who wait for the next round.
    spent: VecDeque<usize>,
    /// How many have changed their place.
    #[cfg(test)]
    moves: u64,
}

impl Share {
    fn new(weight: u32) -> Share {
        let weight = i64::from(weight.max(1));
        Share { weight, credit: QUANTUM * weight, turn: QUANTUM, round: 0, is_waiting: false }
    }

    fn charge(&mut self, nanos: i64) {
        self.credit = self.credit.saturating_sub(nanos).max(-MAX_DEBT * QUANTUM * self.weight);
        self.turn = self.turn.saturating_sub(nanos);
    }

    /// Has what each round since the last one gives. Nothing is saved up, and debt is paid off.
    fn refresh(&mut self, round: u64) {
        let rounds = i64::try_from(round - self.round).unwrap_or(i64::MAX).min(MAX_DEBT + 1);
        if rounds > 0 {
            let most = QUANTUM * self.weight;
            self.credit = (self.credit + rounds * most).min(most);
            self.round = round;
        }
    }
}

impl Turns {
    /// This one has something to run.
    fn wake(&mut self, at: usize, shares: &mut [Share]) {
        let share = &mut shares[at];
        if std::mem::replace(&mut share.is_waiting, true) {
            return;
        }
        share.refresh(self.round);
        share.turn = QUANTUM;
        if share.credit > 0 { self.woken.push_back(at) } else { self.spent.push_back(at) }
    }

    /// Whose turn it is.
    fn front(&mut self, shares: &mut [Share]) -> Option<usize> {
        loop {
            let queue = if self.woken.is_empty() { &mut self.turning } else { &mut self.woken };
            let Some(&at) = queue.front() else {
                if self.spent.is_empty() {
                    return None;
                }
                self.round += 1;
                std::mem::swap(&mut self.turning, &mut self.spent);
                continue;
            };
            let share = &mut shares[at];
            share.refresh(self.round);
            if share.credit > 0 && share.turn > 0 {
                return Some(at);
            }
            queue.pop_front();
            share.turn = QUANTUM;
            if share.credit > 0 {
                self.turning.push_back(at)
            } else {
                self.spent.push_back(at)
            }
            #[cfg(test)]
            (self.moves += 1);
        }
    }

    /// The one whose turn it is has nothing to run.
    fn rest(&mut self, shares: &mut [Share]) {
        let queue = if self.woken.is_empty() { &mut self.turning } else { &mut self.woken };
        if let Some(at) = queue.pop_front() {
            shares[at].is_waiting = false;
        }
    }

    /// This one gives up its place, wherever it is.
    fn remove(&mut self, at: usize) {
        for queue in [&mut self.woken, &mut self.turning, &mut self.spent] {
            queue.retain(|waiting| *waiting != at);
        }
    }
}

impl Schedule {
    /// A lane of this tenant is there from now on. `weight` is the tenant's, at least 1: the last one that was said holds.
    pub fn enter(&mut self, lane: usize, tenant: usize, weight: u32) {
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, || Share::new(1));
            self.owners.resize(lane + 1, tenant);
        }
        if self.tenants.len() <= tenant {
            self.tenants.resize_with(tenant + 1, || Share::new(weight));
            self.turns_within.resize_with(tenant + 1, Turns::default);
        }
        self.leave(lane);
        (self.lanes[lane], self.owners[lane]) = (Share::new(1), tenant);
        self.set_weight(lane, weight);
    }

    /// The tenant of this lane has another weight, at least 1.
    pub fn set_weight(&mut self, lane: usize, weight: u32) {
        self.tenants[self.owners[lane]].weight = i64::from(weight.max(1));
    }

    /// The lane is there no more; its number may be used for another one. Costs as much as its tenant has waiting lanes.
    pub fn leave(&mut self, lane: usize) {
        let Some(share) = self.lanes.get_mut(lane) else { return };
        if std::mem::take(&mut share.is_waiting) {
            // An empty tenant leaves when its turn comes.
            self.turns_within[self.owners[lane]].remove(lane);
        }
    }

    /// The tenant has no lanes any more, and its number may be used for another one, who owes nothing.
    pub fn forget(&mut self, tenant: usize) {
        if let Some(share) = self.tenants.get_mut(tenant) {
            share.credit = QUANTUM * share.weight;
        }
    }

    /// The lane has something to run. May be said again.
    pub fn activate(&mut self, lane: usize) {
        let tenant = self.owners[lane];
        self.turns_within[tenant].wake(lane, &mut self.lanes);
        self.turns.wake(tenant, &mut self.tenants);
    }

    /// The lane to serve next, among those that can run. A lane that cannot leaves the queue until it is activated
    /// again. Says the same again until somebody was charged, activated or left.
    pub fn next(&mut self, mut can_run: impl FnMut(usize) -> bool) -> Option<usize> {
        while let Some(tenant) = self.turns.front(&mut self.tenants) {
            let turns = &mut self.turns_within[tenant];
            while let Some(lane) = turns.front(&mut self.lanes) {
                if can_run(lane) {
                    return Some(lane);
                }
                turns.rest(&mut self.lanes);
            }
            self.turns.rest(&mut self.tenants);
        }
        None
    }

    /// The lane has used this much time, in nanoseconds.
    pub fn charge(&mut self, lane: usize, nanos: u64) {
        let nanos = i64::try_from(nanos).unwrap_or(i64::MAX);
        self.lanes[lane].charge(nanos);
        self.tenants[self.owners[lane]].charge(nanos);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The longest stretch of a guest, in nanoseconds, with something to spare.
    const LONGEST: u64 = 4_000_000;

    #[test]
    fn who_gets_the_number_of_another_tenant_owes_nothing() {
        let mut schedule = Schedule::default();
        for lane in [0, 1] {
            schedule.enter(lane, lane, 1);
            schedule.activate(lane);
        }
        schedule.charge(0, 100 * LONGEST);
        schedule.leave(0);
        schedule.forget(0);
        schedule.enter(0, 0, 1);
        schedule.activate(0);
        let mut turns = [0; 2];
        for _ in 0..4 {
            let lane = schedule.next(|_| true).expect("both can run");
            schedule.charge(lane, 1_000_000);
            turns[lane] += 1;
        }
        assert_eq!(turns, [2, 2]);
    }

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

        /// One lane for each tenant, with what its deliveries cost.
        fn tenants(tenants: &[(u32, u64)]) -> Saturated {
            let weights: Vec<u32> = tenants.iter().map(|(weight, _)| *weight).collect();
            let lanes: Vec<(usize, u64)> = tenants.iter().enumerate().map(|(at, (_, cost))| (at, *cost)).collect();
            Saturated::new(&weights, &lanes)
        }

        /// Serves one lane; which.
        fn step(&mut self) -> usize {
            let lane = self.schedule.next(|_| true).expect("all lanes can run");
            let cost = self.lanes[lane].1;
            self.schedule.charge(lane, cost);
            self.used[lane] += cost;
            lane
        }

        fn of_tenant(&self, tenant: usize) -> u64 {
            let of = self.lanes.iter().zip(&self.used).filter(|((owner, _), _)| *owner == tenant);
            of.map(|(_, used)| used).sum()
        }

        fn moves(&self) -> u64 {
            self.schedule.turns.moves + self.schedule.turns_within.iter().map(|turns| turns.moves).sum::<u64>()
        }
    }

    /// Tenants by weight, and what their deliveries cost.
    fn tenants(most: usize) -> impl Strategy<Value = Vec<(u32, u64)>> {
        proptest::collection::vec((1u32..=8, 1_000u64..LONGEST), 2..most)
    }

    proptest! {
        #[test]
        fn tenants_share_time_by_weight_whatever_their_deliveries_cost(tenants in tenants(6)) {
            let mut all = Saturated::tenants(&tenants);
            (0..30_000).for_each(|_| _ = all.step());
            let shares: Vec<u64> =
                tenants.iter().enumerate().map(|(at, (weight, _))| all.of_tenant(at) / u64::from(*weight)).collect();
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            // A round more or less, and the delivery that was begun with the last of the credit.
            prop_assert!(most - least <= 2 * (QUANTUM as u64 + LONGEST), "{shares:?}");
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
        fn nobody_waits_longer_than_the_rounds_in_which_its_own_delivery_is_paid_off(tenants in tenants(9)) {
            let mut all = Saturated::tenants(&tenants);
            let longest = tenants.iter().map(|(_, cost)| *cost).max().unwrap();
            let round: u64 = tenants.iter().map(|(weight, _)| u64::from(*weight) * QUANTUM as u64 + longest).sum();
            let mut waited = vec![0; tenants.len()];
            for _ in 0..5_000 {
                let served = all.step();
                waited.iter_mut().for_each(|waited| *waited += tenants[served].1);
                waited[served] = 0;
                for (waited, (weight, cost)) in waited.iter().zip(&tenants) {
                    let rounds = cost / (u64::from(*weight) * QUANTUM as u64) + 2;
                    prop_assert!(*waited <= rounds * round, "{waited} of {rounds} times {round}");
                }
            }
        }

        /// However many others want more than they get: who stays below its share waits for the one that runs.
        #[test]
        fn who_uses_less_than_its_share_is_next(
            tenants in tenants(9),
            pauses in proptest::collection::vec(1usize..30, 50),
        ) {
            let mut all = Saturated::tenants(&tenants);
            let quiet = tenants.len();
            // None of them has just woken up.
            (0..10_000).for_each(|_| _ = all.step());
            all.schedule.enter(quiet, quiet, 1);
            for pause in pauses {
                let served: Vec<usize> = (0..pause).map(|_| all.step()).collect();
                let others: u64 = served.into_iter().map(|lane| tenants[lane].1).sum();
                let of_one = others / tenants.iter().map(|(weight, _)| u64::from(*weight)).sum::<u64>();
                all.schedule.activate(quiet);
                prop_assert_eq!(all.schedule.next(|_| true), Some(quiet));
                // Less than the others have had of theirs since, by weight.
                all.schedule.charge(quiet, of_one.min(QUANTUM as u64) / 8);
                // It has nothing more to run.
                prop_assert_ne!(all.schedule.next(|lane| lane != quiet), Some(quiet));
            }
        }

        #[test]
        fn a_step_costs_a_constant_on_average_however_many_there_are(
            count in 1usize..300,
            cost in 1_000u64..LONGEST,
            weight in 1u32..=100,
        ) {
            let mut all = Saturated::tenants(&vec![(weight, cost); count]);
            let steps = 3_000;
            (0..steps).for_each(|_| _ = all.step());
            // Both levels: a move when a turn is over, and one for each quantum that was used.
            let paid_for = all.used.iter().sum::<u64>() / QUANTUM as u64;
            prop_assert!(all.moves() <= 4 * (steps + paid_for + count as u64), "{}", all.moves());
        }

        #[test]
        fn somebody_is_served_while_anybody_can_run(
            able in proptest::collection::vec((0usize..4, any::<bool>()), 1..9),
            used in proptest::collection::vec(0u64..100_000_000, 9),
        ) {
            let lanes: Vec<(usize, u64)> = able.iter().map(|(tenant, _)| (*tenant, 1)).collect();
            let mut all = Saturated::new(&[1, 2, 3, 4], &lanes);
            (0..able.len()).for_each(|lane| all.schedule.charge(lane, used[lane]));
            let next = all.schedule.next(|lane| able[lane].1);
            prop_assert_eq!(next.is_some(), able.iter().any(|(_, able)| *able));
            prop_assert!(next.is_none_or(|lane| able[lane].1));
            prop_assert_eq!(all.schedule.next(|lane| able[lane].1), next);
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
            prop_assert_eq!(schedule.next(|_| false), None);
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
        }
    }

    /// Two tenants with a lane each, of which only the first has something to run.
    fn two() -> Schedule {
        let mut schedule = Schedule::default();
        (0..2).for_each(|at| schedule.enter(at, at, 1));
        schedule.activate(0);
        schedule
    }

    #[test]
    fn idleness_saves_nothing_up_and_using_what_nobody_wanted_costs_nothing() {
        let mut schedule = two();
        for _ in 0..100_000 {
            assert_eq!(schedule.next(|_| true), Some(0));
            schedule.charge(0, 10_000);
        }
        schedule.activate(1);
        let mut second = 0;
        for _ in 0..2_000 {
            let lane = schedule.next(|_| true).expect("both can run");
            schedule.charge(lane, 10_000);
            second += lane;
        }
        assert!((900..=1_200).contains(&second), "{second}");
    }

    #[test]
    fn the_debt_of_a_long_delivery_is_bounded() {
        let mut schedule = two();
        schedule.activate(1);
        schedule.charge(0, 3_600_000_000_000);
        let waits = (0..).take_while(|_| {
            let lane = schedule.next(|_| true).expect("both can run");
            schedule.charge(lane, QUANTUM as u64);
            lane == 1
        });
        assert!((MAX_DEBT..=MAX_DEBT + 2).contains(&(waits.count() as i64)));
    }

    #[test]
    fn a_change_of_weight_holds_from_the_next_round_on() {
        let mut all = Saturated::tenants(&[(1, 100_000), (1, 100_000)]);
        (0..1_000).for_each(|_| _ = all.step());
        all.schedule.set_weight(1, 3);
        all.used = vec![0; 2];
        (0..4_000).for_each(|_| _ = all.step());
        assert!(all.used[1].abs_diff(3 * all.used[0]) <= 8 * QUANTUM as u64, "{:?}", all.used);
    }
}
