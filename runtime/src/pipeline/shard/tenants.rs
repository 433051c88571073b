//! The tenants of a thread: what each one holds on it, and what it may begin and read there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::super::budget::{Budget, Quota, counted};
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
    /// Since when it waits for CPU time that its quota allows, and until when.
    waits_for_cpu: Option<(Instant, Instant)>,
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

/// The tenants of the lanes, by the numbers that the schedule knows them by.
#[derive(Default)]
pub(super) struct Tenants {
    by_name: HashMap<Arc<str>, usize>,
    tenants: Slab<Tenant>,
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
    /// The number of the tenant, for one more lane of it.
    pub(super) fn enter(&mut self, name: &Arc<str>, budget: &Arc<Budget>) -> usize {
        let Tenants { by_name, tenants } = self;
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

    /// Whether the tenant may begin a delivery, if it may use the thread ([`Tenant::may_go_on`]). `crowd`: so many of at most so many run on the thread, if the handlers could
    /// run more. `is_draining`: what has been read is finished, whatever may be used.
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
            throttled: Arc::default(),
        }
    }

    /// Whether its deliveries may use the thread, those that have been begun too: their quota of CPU time is not used up. Else
    /// when they may; that they wait is counted once, for all lanes.
    pub(super) fn may_go_on(&mut self, now: Instant, is_draining: bool) -> Result<(), Instant> {
        match self.budget.may_use_cpu(now) {
            Err(until) if !is_draining => {
                match &mut self.waits_for_cpu {
                    Some((_, known)) => *known = until,
                    none => {
                        *none = Some((now, until));
                        self.budget.count_wait(Quota::CpuPerMinute);
                    }
                }
                Err(until)
            }
            _ => {
                if let Some((since, until)) = self.waits_for_cpu.take() {
                    // If nothing was to be run then, that was no reason to wait any longer.
                    self.throttled.add(now.min(until + MAX_LATE).saturating_duration_since(since));
                }
                Ok(())
            }
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
        let mut tenants = Tenants::default();
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

    #[test]
    fn what_waits_for_cpu_time_is_throttled_for_so_long() {
        let (mut tenants, now) = (two(), Instant::now());
        let (tenant, cpu) = (&mut tenants[0], Some(Duration::from_secs(6)));
        tenant.budget.renew(Some(&TenantQuotas { cpu_per_minute: cpu, ..TenantQuotas::default() }), now);
        assert_eq!(tenant.may_go_on(now, false), Ok(()));
        // Six tenths of a second are saved up, and a tenth comes in a second.
        tenant.budget.used_cpu(Duration::from_secs(1), now);
        let until = now + Duration::from_millis(4010);
        let waits =
            |result: Result<(), Instant>| result.is_err_and(|at| at >= until && at - until < Duration::from_millis(1));
        assert!(waits(tenant.may_go_on(now, false)));
        assert!(waits(tenant.may_go_on(now + Duration::from_secs(1), false)));
        assert_eq!(tenant.throttled.total(), Duration::ZERO);
        assert_eq!(tenant.budget.waits(Quota::CpuPerMinute), 1);
        assert_eq!(tenant.may_go_on(until + Duration::from_millis(1), false), Ok(()));
        assert_eq!(tenant.throttled.total(), Duration::from_millis(4011));
        // Nothing of it was to be run when its time came: that it waited until somebody asked is no matter of the quota.
        tenant.budget.used_cpu(Duration::from_secs(1), until);
        let ready = tenant.may_go_on(until, false).expect_err("a second is used");
        assert_eq!(tenant.may_go_on(ready + Duration::from_secs(60), false), Ok(()));
        assert_eq!(tenant.throttled.total(), Duration::from_millis(4011) + (ready - until) + MAX_LATE);
        // Who drains finishes what it has.
        tenant.budget.used_cpu(Duration::from_secs(10), now);
        assert_eq!(tenant.may_go_on(now, true), Ok(()));
        assert!(tenant.may_go_on(now, false).is_err());
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
