//! The tenants of a thread: what each one holds on it, and what it may begin and read there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::super::budget::{Budget, Quota, counted};
use super::super::courtesy::{Courtesy, MAX_COURTESY};
use super::super::lane::Lane;
use super::agenda::Waiting;
use crate::wasm::Throttled;

/// The most entries of a tenant that are read and not begun, or asked for, on a thread: a flood stays in Redis.
const MAX_AHEAD: usize = 1000;
/// The most bytes of those that are read before more is asked for. What is on its way then comes on top.
const MAX_BYTES_AHEAD: usize = 16 << 20;

/// Who waits for a quota comes back up to so much later: threads that wait for the same one would all be busy at the same
/// moment, and none free for others.
const MAX_LATE: Duration = Duration::from_millis(5);

/// When to come back for something that is there then.
pub(super) fn a_little_later(until: Instant) -> Instant {
    until + MAX_LATE.mul_f64(rand::random())
}

/// What a tenant holds on the thread.
pub(super) struct Tenant {
    pub(super) budget: Arc<Budget>,
    lanes: usize,
    /// Deliveries begun and not finished.
    running: usize,
    /// The most of them.
    share: usize,
    /// Entries read and not begun, and entries asked for.
    ahead: usize,
    /// Bytes of those that were read.
    bytes_ahead: usize,
    /// Lanes that could begin a delivery if another one had finished.
    crowded: Waiting,
    /// Lanes that would read if less were waiting.
    sated: Waiting,
    /// It waits for CPU time that its quota allows.
    waits_for_cpu: Option<WaitsForCpu>,
    /// It has waited so, and has the turn.
    has_turn: bool,
    /// For how long it has waited so.
    pub(super) throttled: Arc<Throttled>,
}

/// Why a delivery is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Until one of the same tenant has finished.
    ForOwn,
    /// Until one of any tenant has finished.
    ForAny,
    /// Until there is room for its decision.
    ToWrite,
    /// Until its quota of published events allows more.
    ToPublish(Instant),
}

/// A tenant waits for CPU time.
#[derive(Debug)]
struct WaitsForCpu {
    since: Instant,
    /// When its quota allows some.
    until: Instant,
    /// When it waits no longer for a good moment; known when its quota has allowed some, which other threads may have used
    /// since.
    latest: Option<Instant>,
}

/// A tenant may not use the thread yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotYet {
    /// When to ask again.
    pub(super) until: Instant,
    /// Or when nothing is on its way any more, if that is sooner.
    pub(super) or_answered: bool,
}

/// The tenants of the lanes, by the numbers that the schedule knows them by.
pub(super) struct Tenants {
    by_name: HashMap<Arc<str>, usize>,
    tenants: Slab<Tenant>,
    /// Shared by all threads.
    courtesy: Arc<Courtesy>,
}

impl std::ops::Index<usize> for Tenants {
    type Output = Tenant;

    fn index(&self, at: usize) -> &Tenant {
        &self.tenants[at]
    }
}

impl std::ops::IndexMut<usize> for Tenants {
    fn index_mut(&mut self, at: usize) -> &mut Tenant {
        &mut self.tenants[at]
    }
}

impl Tenants {
    /// None yet.
    pub(super) fn new(courtesy: Arc<Courtesy>) -> Tenants {
        Tenants { by_name: HashMap::new(), tenants: Slab::new(), courtesy }
    }

    /// The number of the tenant, for one more lane of it.
    pub(super) fn enter(&mut self, name: &Arc<str>, budget: &Arc<Budget>) -> usize {
        let Tenants { by_name, tenants, .. } = self;
        let at = *by_name.entry(name.clone()).or_insert_with(|| tenants.insert(Tenant::new(budget.clone())));
        tenants[at].lanes += 1;
        at
    }

    /// Whether decisions of the lane, if they are as light or heavy as the last one, are not to wait for others: it is not
    /// behind, and its tenant is not alone here. Else large batches are worth more than early answers.
    pub(super) fn is_prompt(&self, lane: &Lane) -> bool {
        self.tenants.len() > 1 && !lane.is_heavy && lane.has_little_to_do()
    }

    /// One lane less. Says whether that was the last one: then the number is free for another tenant.
    pub(super) fn leave(&mut self, name: &str) -> bool {
        let Some(&at) = self.by_name.get(name) else { return false };
        self.tenants[at].lanes -= 1;
        let is_last = self.tenants[at].lanes == 0;
        if is_last {
            self.tenants.remove(at);
            self.by_name.remove(name);
        }
        is_last
    }

    /// Whether the deliveries of the tenant may use the thread, those that have been begun too: its quota of CPU time is not used
    /// up, and if it was, this is a good moment ([`Courtesy`]). That they wait is counted once, for all lanes. `is_expecting`: what
    /// the thread reads or writes is on its way, or likely soon is.
    pub(super) fn may_go_on(
        &mut self,
        at: usize,
        now: Instant,
        is_expecting: bool,
        is_draining: bool,
    ) -> Result<(), NotYet> {
        if is_draining {
            return Ok(());
        }
        let tenant = &mut self.tenants[at];
        if let Err(until) = tenant.budget.may_use_cpu(now) {
            match &mut tenant.waits_for_cpu {
                Some(waits) => waits.until = until,
                none => {
                    *none = Some(WaitsForCpu { since: now, until, latest: None });
                    tenant.budget.count_wait(Quota::CpuPerMinute);
                }
            }
            return Err(NotYet { until: a_little_later(until), or_answered: false });
        }
        let Some(waits) = &mut tenant.waits_for_cpu else { return Ok(()) };
        // Not all threads at the same moment.
        let latest = *waits.latest.get_or_insert_with(|| waits.until + MAX_COURTESY - MAX_LATE.mul_f64(rand::random()));
        if now >= latest {
            Ok(())
        } else if is_expecting {
            Err(NotYet { until: latest, or_answered: true })
        } else if !self.courtesy.is_free(now) {
            Err(NotYet { until: a_little_later(now).min(latest), or_answered: false })
        } else {
            Ok(())
        }
    }

    /// Deliveries of the tenant use the thread from now on. If it has waited for that, it has the turn until
    /// [`Tenants::used_cpu`].
    pub(super) fn goes_on(&mut self, at: usize, now: Instant) {
        let tenant = &mut self.tenants[at];
        let Some(WaitsForCpu { since, until, .. }) = tenant.waits_for_cpu.take() else { return };
        tenant.has_turn = true;
        self.courtesy.begin(now);
        // If nothing was to be run then, that was no reason to wait any longer.
        tenant.throttled.add(now.min(until + MAX_COURTESY).saturating_duration_since(since));
    }

    /// Deliveries of the tenant have used the thread from then until now.
    pub(super) fn used_cpu(&mut self, at: usize, since: Instant, now: Instant) {
        let tenant = &mut self.tenants[at];
        tenant.budget.used_cpu(now - since, now);
        if std::mem::take(&mut tenant.has_turn) {
            self.courtesy.end(since, now);
        }
    }

    /// Whether the tenant may begin a delivery, if it may use the thread ([`Tenants::may_go_on`]). `crowd`: so many of at most so
    /// many run on the thread, if the handlers could run more. `is_draining`: what has been read is finished, whatever may be used.
    pub(super) fn may_begin(
        &self,
        at: usize,
        crowd: Option<(usize, usize)>,
        now: Instant,
        is_draining: bool,
    ) -> Result<(), Wait> {
        let tenant = &self.tenants[at];
        if tenant.running >= tenant.share {
            return Err(Wait::ForOwn);
        }
        // The second half of the thread's instances is divided up: nobody can take all of them from the others.
        if let Some((running, most)) = crowd
            && running >= most / 2
            && tenant.running >= (most / 2 / self.tenants.len()).max(1)
        {
            return Err(Wait::ForAny);
        }
        match is_draining {
            true => Ok(()),
            false => tenant.budget.may_publish(now).map_err(Wait::ToPublish),
        }
    }
}

impl Tenant {
    fn new(budget: Arc<Budget>) -> Tenant {
        Tenant {
            budget,
            lanes: 0,
            running: 0,
            share: 1,
            ahead: 0,
            bytes_ahead: 0,
            crowded: Waiting::default(),
            sated: Waiting::default(),
            waits_for_cpu: None,
            has_turn: false,
            throttled: Arc::default(),
        }
    }

    /// It may run so many deliveries from now on.
    pub(super) fn set_share(&mut self, share: usize) {
        self.share = share.max(1);
    }

    /// A delivery has been begun.
    pub(super) fn begun(&mut self) {
        self.running += 1;
    }

    /// A delivery has finished: the lanes that waited for that.
    pub(super) fn finished(&mut self) -> Vec<usize> {
        self.running -= 1;
        self.crowded.take()
    }

    /// The lane could begin a delivery, and waits until another one has finished.
    pub(super) fn wait_for_own(&mut self, lane: usize) {
        if self.crowded.add(lane) {
            self.budget.count_wait(Quota::Concurrency);
        }
    }

    /// Sets entries aside that a lane asks for, at most `count`. None if enough of them wait: the lane is told when there is
    /// room. Or when it may ask again, as the quota says. `is_idle`: the lane has nothing to run, and gets at least one,
    /// since those of the others may wait for long.
    pub(super) fn ask(
        &mut self,
        (lane, is_idle): (usize, bool),
        count: usize,
        now: Instant,
    ) -> Result<usize, Option<Instant>> {
        let has_room = self.bytes_ahead < MAX_BYTES_AHEAD;
        let room = if has_room { MAX_AHEAD.saturating_sub(self.ahead) } else { 0 };
        let room = room.max(usize::from(is_idle));
        if room == 0 {
            self.sated.add(lane);
            return Err(None);
        }
        let count = self.budget.reserve_in(count.min(room), now).map_err(|until| {
            self.budget.count_wait(Quota::EventsIn);
            Some(until)
        })?;
        self.ahead += count;
        Ok(count)
    }

    /// What was asked for has come, or has not: entries of these sizes in bytes. Says which lanes may read again.
    pub(super) fn answered(&mut self, asked: usize, entries: impl ExactSizeIterator<Item = usize>) -> Vec<usize> {
        self.ahead = (self.ahead + entries.len()).saturating_sub(asked);
        let (mut bytes_come, mut events_come) = (0, 0);
        for bytes in entries {
            bytes_come += bytes;
            events_come += counted(bytes);
        }
        self.bytes_ahead += bytes_come;
        self.budget.came_in(asked, events_come);
        self.hungry()
    }

    /// An entry waits no longer: the lanes that may read again.
    pub(super) fn taken(&mut self, bytes: usize) -> Vec<usize> {
        self.ahead = self.ahead.saturating_sub(1);
        self.bytes_ahead = self.bytes_ahead.saturating_sub(bytes);
        self.hungry()
    }

    fn hungry(&mut self) -> Vec<usize> {
        let has_room = self.ahead <= MAX_AHEAD / 2 && self.bytes_ahead <= MAX_BYTES_AHEAD / 2;
        if has_room { self.sated.take() } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TenantQuotas;

    fn two() -> Tenants {
        let mut tenants = Tenants::new(Arc::new(Courtesy::new(Instant::now())));
        for name in ["one", "two"] {
            let at = tenants.enter(&name.into(), &Arc::default());
            tenants[at].set_share(100);
        }
        tenants
    }

    #[test]
    fn what_waits_is_bounded_by_number_and_bytes() {
        let (mut tenants, now) = (two(), Instant::now());
        let tenant = &mut tenants[0];
        assert_eq!(tenant.ask((0, false), MAX_AHEAD - 10, now), Ok(MAX_AHEAD - 10));
        assert_eq!(tenant.ask((0, false), 100, now), Ok(10));
        assert_eq!(tenant.ask((7, false), 100, now), Err(None));
        // One that has nothing to run does not depend on the others.
        assert_eq!(tenant.ask((9, true), 100, now), Ok(1));
        tenant.answered(1, [].into_iter());
        // The one that waits is told when half of it is gone.
        assert!(tenant.answered(MAX_AHEAD, [1; MAX_AHEAD].into_iter()).is_empty());
        let told: Vec<Vec<usize>> = (0..MAX_AHEAD / 2).map(|_| tenant.taken(1)).collect();
        assert_eq!((told.concat(), told[told.len() - 1].clone()), (vec![7], vec![7]));
        // What has not come takes no room.
        assert_eq!(tenant.ask((0, false), MAX_AHEAD, now), Ok(MAX_AHEAD / 2));
        assert_eq!(tenant.ask((7, false), 1, now), Err(None));
        assert_eq!(tenant.answered(MAX_AHEAD / 2, [].into_iter()), [7]);
        // The same by bytes.
        let tenant = &mut tenants[1];
        assert_eq!(tenant.ask((0, false), 2, now), Ok(2));
        tenant.answered(2, [1, MAX_BYTES_AHEAD - 2].into_iter());
        assert_eq!(tenant.ask((0, false), 1, now), Ok(1));
        tenant.answered(1, [1].into_iter());
        assert_eq!(tenant.ask((8, false), 1, now), Err(None));
        assert_eq!(tenant.taken(MAX_BYTES_AHEAD / 2), [8]);
    }

    #[test]
    fn no_tenant_takes_all_instances_of_a_thread() {
        let (mut tenants, now) = (two(), Instant::now());
        let may_begin = |tenants: &Tenants, at, running| tenants.may_begin(at, Some((running, 8)), now, false);
        for running in 0..4 {
            assert_eq!(may_begin(&tenants, 0, running), Ok(()));
            tenants[0].begun();
        }
        assert_eq!(may_begin(&tenants, 0, 4), Err(Wait::ForAny));
        for running in 4..6 {
            assert_eq!(may_begin(&tenants, 1, running), Ok(()));
            tenants[1].begun();
        }
        assert_eq!(may_begin(&tenants, 1, 6), Err(Wait::ForAny));
    }

    /// With six seconds of CPU time a minute each: six tenths of a second are saved up, and a tenth comes in a second.
    fn two_with_six_seconds(now: Instant) -> Tenants {
        let cpu_per_minute = Some(Duration::from_secs(6));
        let (tenants, quotas) = (two(), TenantQuotas { cpu_per_minute, ..TenantQuotas::default() });
        [0, 1].iter().for_each(|&at| tenants[at].budget.renew(Some(&quotas), now));
        tenants
    }

    /// The tenant waits; until when.
    fn waits(tenants: &mut Tenants, at: usize, now: Instant) -> Instant {
        assert!(tenants.may_go_on(at, now, false, false).is_err());
        tenants[at].waits_for_cpu.as_ref().expect("it waits").until
    }

    /// It may go on, and does, and has used the thread since a second ago.
    fn runs_for_a_second(tenants: &mut Tenants, at: usize, now: Instant) {
        assert_eq!(tenants.may_go_on(at, now, false, false), Ok(()));
        tenants.goes_on(at, now);
        tenants.used_cpu(at, now - Duration::from_secs(1), now);
    }

    #[test]
    fn what_waits_for_cpu_time_is_throttled_for_so_long() {
        let now = Instant::now();
        let mut tenants = two_with_six_seconds(now);
        runs_for_a_second(&mut tenants, 0, now);
        let until = waits(&mut tenants, 0, now);
        let late = until.saturating_duration_since(now + Duration::from_millis(4010));
        assert!(until >= now + Duration::from_millis(4010) && late < Duration::from_millis(1));
        assert_eq!(waits(&mut tenants, 0, now + Duration::from_secs(1)), until);
        assert_eq!(tenants[0].throttled.total(), Duration::ZERO);
        assert_eq!(tenants[0].budget.waits(Quota::CpuPerMinute), 1);
        runs_for_a_second(&mut tenants, 0, until + Duration::from_millis(1));
        assert_eq!(tenants[0].throttled.total(), until + Duration::from_millis(1) - now);
        // Nothing of it was to be run when its time came: that it waited until somebody asked is no matter of the quota.
        let (before, since) = (tenants[0].throttled.total(), until + Duration::from_millis(1));
        let ready = waits(&mut tenants, 0, since);
        runs_for_a_second(&mut tenants, 0, ready + Duration::from_secs(60));
        assert_eq!(tenants[0].throttled.total(), before + (ready - since) + MAX_COURTESY);
        // Who drains finishes what it has.
        tenants.used_cpu(0, now - Duration::from_secs(10), now);
        assert_eq!(tenants.may_go_on(0, now, true, true), Ok(()));
        assert!(tenants.may_go_on(0, now, false, false).is_err());
    }

    #[test]
    fn who_waited_for_cpu_time_goes_on_at_a_good_moment() {
        let now = Instant::now();
        let mut tenants = two_with_six_seconds(now);
        [0, 1].iter().for_each(|&at| runs_for_a_second(&mut tenants, at, now));
        let until = [0, 1].map(|at| waits(&mut tenants, at, now))[1] + Duration::from_millis(1);
        let at = |ms| until + Duration::from_millis(ms);
        let is_soon = |result: Result<(), NotYet>, now| {
            result.is_err_and(|NotYet { until, or_answered }| until <= now + MAX_LATE && !or_answered)
        };
        // Something is on its way.
        assert!(tenants.may_go_on(0, at(0), true, false).is_err_and(|not_yet| not_yet.or_answered));
        // Who may go on and does not takes no turn.
        assert_eq!(tenants.may_go_on(0, at(1), false, false), Ok(()));
        assert_eq!(tenants.may_go_on(1, at(1), false, false), Ok(()));
        tenants.goes_on(0, at(1));
        // The other one has the turn, and had it for 2 ms.
        assert!(is_soon(tenants.may_go_on(1, at(2), false, false), at(2)));
        tenants.used_cpu(0, at(1), at(3));
        assert!(is_soon(tenants.may_go_on(1, at(4), false, false), at(4)));
        assert_eq!(tenants.may_go_on(1, at(5), false, false), Ok(()));
    }

    #[test]
    fn nobody_waits_long_for_a_good_moment() {
        let now = Instant::now();
        let mut tenants = two_with_six_seconds(now);
        runs_for_a_second(&mut tenants, 0, now);
        let until = waits(&mut tenants, 0, now);
        let (first, last) = (until + MAX_COURTESY - MAX_LATE, until + MAX_COURTESY);
        let NotYet { until, .. } = tenants.may_go_on(0, first - Duration::from_nanos(1), true, false).unwrap_err();
        assert!(first <= until && until <= last);
        assert!(tenants.may_go_on(0, until - Duration::from_nanos(1), true, false).is_err());
        assert_eq!(tenants.may_go_on(0, until, true, false), Ok(()));
        // Another thread of the tenant was faster: this one has waited long enough when there is some again.
        tenants.used_cpu(0, until - Duration::from_secs(1), until);
        let again = waits(&mut tenants, 0, until);
        assert_eq!(tenants.may_go_on(0, again, true, false), Ok(()));
        // Who drains does not wait at all.
        runs_for_a_second(&mut tenants, 0, again);
        let until = waits(&mut tenants, 0, again);
        assert!(tenants.may_go_on(0, until, true, false).is_err());
        assert_eq!(tenants.may_go_on(0, until, true, true), Ok(()));
    }

    #[test]
    fn a_tenant_runs_no_more_than_its_share() {
        let (mut tenants, now) = (two(), Instant::now());
        tenants[0].set_share(1);
        tenants[0].begun();
        assert_eq!(tenants.may_begin(0, None, now, false), Err(Wait::ForOwn));
        tenants[0].wait_for_own(3);
        assert_eq!(tenants[0].finished(), [3]);
        assert_eq!(tenants.may_begin(0, None, now, false), Ok(()));
        assert_eq!(tenants[0].budget.waits(Quota::Concurrency), 1);
    }
}
