//! What a tenant may use of a worker in a time, and how much of it is left. Whoever has used it up waits.
//!
//! What is used is only known afterwards, so that somebody can have used too much: that is paid for by waiting longer. Over
//! some time nobody uses more than its quota and what may be saved up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::TenantQuotas;
use crate::outcome::Publication;
use crate::stats::Counter;

/// For how long unused events are saved up: the quota of a second may be used at once.
const EVENTS_SAVED: Duration = Duration::from_secs(1);
/// The same for CPU time: a tenth of the quota of a minute.
const CPU_SAVED: Duration = Duration::from_secs(6);
/// Who waits for CPU time waits until there is so much, in seconds: not every microsecond is worth waking up.
const LEAST_CPU: f64 = 0.001;

/// Bytes of an event that the quotas of events count as one event. Measured: each such part of a large one keeps Redis busy
/// for as long as a small event does.
const BYTES_COUNTED: usize = 16 << 10;

/// What an event of so many bytes counts in quotas of events.
pub(super) fn counted(bytes: usize) -> usize {
    bytes.div_ceil(BYTES_COUNTED).max(1)
}

/// What somebody had to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// [`TenantQuotas::cpu_per_minute`].
    CpuPerMinute,
    /// [`TenantQuotas::events_in`].
    EventsIn,
    /// [`TenantQuotas::events_out`].
    EventsOut,
    /// [`TenantQuotas::concurrency`].
    Concurrency,
}

impl Quota {
    /// All of them.
    pub const ALL: [Quota; 4] = [Quota::CpuPerMinute, Quota::EventsIn, Quota::EventsOut, Quota::Concurrency];

    /// Its name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Quota::CpuPerMinute => "cpu_per_minute",
            Quota::EventsIn => "events_in",
            Quota::EventsOut => "events_out",
            Quota::Concurrency => "concurrency",
        }
    }
}

/// What a tenant has left on a worker, on all of its threads together.
#[derive(Debug, Default)]
pub struct Budget {
    /// In seconds.
    cpu: Meter,
    events_in: Meter,
    events_out: Meter,
    /// How often a handler had to wait, by [`Quota`].
    waits: [Counter; Quota::ALL.len()],
}

impl Budget {
    /// These quotas hold from now on. What was used before counts on.
    pub(super) fn renew(&self, quotas: Option<&TenantQuotas>, now: Instant) {
        let cpu = quotas
            .and_then(|quotas| quotas.cpu_per_minute)
            .map(|cpu| Bucket::new(cpu.as_secs_f64() / 60.0, CPU_SAVED, LEAST_CPU, now));
        let events = |events: u32| Bucket::new(f64::from(events), EVENTS_SAVED, 1.0, now);
        self.cpu.renew(cpu);
        self.events_in.renew(quotas.and_then(|quotas| quotas.events_in).map(events));
        self.events_out.renew(quotas.and_then(|quotas| quotas.events_out).map(events));
    }

    /// How often a handler of the tenant had to wait on a thread.
    pub fn waits(&self, quota: Quota) -> u64 {
        self.waits[quota as usize].get()
    }

    /// A handler has to wait on a thread.
    pub(super) fn count_wait(&self, quota: Quota) {
        self.waits[quota as usize].add(1);
    }

    /// Whether its deliveries may use more CPU time; else when they may.
    pub(super) fn may_use_cpu(&self, now: Instant) -> Result<(), Instant> {
        self.cpu.is_open(now)
    }

    /// Whether they may publish more; else when they may.
    pub(super) fn may_publish(&self, now: Instant) -> Result<(), Instant> {
        self.events_out.is_open(now)
    }

    /// Its deliveries have used this time.
    pub(super) fn used_cpu(&self, time: Duration, now: Instant) {
        self.cpu.take(time.as_secs_f64(), now);
    }

    /// A delivery has published these events.
    pub(super) fn published(&self, events: &[Publication]) {
        self.take_out(events, 1.0);
    }

    /// These, which were counted as published, have not been written: the delivery is run again.
    pub(super) fn give_back_out(&self, events: &[Publication]) {
        self.take_out(events, -1.0);
    }

    fn take_out(&self, events: &[Publication], sign: f64) {
        if !events.is_empty() && self.events_out.is_set() {
            let count: usize = events.iter().map(|publication| counted(publication.event.size())).sum();
            self.events_out.take(sign * count as f64, Instant::now());
        }
    }

    /// Sets aside events to read, at most `count` and at least one; else when there is one.
    pub(super) fn reserve_in(&self, count: usize, now: Instant) -> Result<usize, Instant> {
        self.events_in.reserve(count, now)
    }

    /// Of those that were set aside so many have come, as they are [`counted`]: fewer, or more if they are large.
    pub(super) fn came_in(&self, reserved: usize, came: usize) {
        if came != reserved && self.events_in.is_set() {
            self.events_in.take(came as f64 - reserved as f64, Instant::now());
        }
    }
}

/// One quota of a time. Without one it costs a look.
#[derive(Debug, Default)]
struct Meter {
    is_set: AtomicBool,
    bucket: Mutex<Option<Bucket>>,
}

impl Meter {
    fn renew(&self, wanted: Option<Bucket>) {
        let mut bucket = self.lock();
        self.is_set.store(wanted.is_some(), Ordering::Relaxed);
        *bucket = match (bucket.take(), wanted) {
            (Some(known), Some(wanted)) => Some(wanted.after(known)),
            (_, wanted) => wanted,
        };
    }

    fn lock(&self) -> MutexGuard<'_, Option<Bucket>> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    fn with<T>(&self, unbounded: T, act: impl FnOnce(&mut Bucket) -> T) -> T {
        if self.is_set() { self.lock().as_mut().map_or(unbounded, act) } else { unbounded }
    }

    fn is_open(&self, now: Instant) -> Result<(), Instant> {
        self.with(Ok(()), |bucket| bucket.is_open(now))
    }

    fn take(&self, amount: f64, now: Instant) {
        self.with((), |bucket| bucket.take(amount, now));
    }

    fn reserve(&self, count: usize, now: Instant) -> Result<usize, Instant> {
        self.with(Ok(count), |bucket| bucket.reserve(count, now))
    }
}

/// A token bucket that can be overdrawn.
#[derive(Clone, Debug)]
struct Bucket {
    /// What comes in a second.
    rate: f64,
    /// What there is at most.
    most: f64,
    /// It is open if there is so much.
    least: f64,
    /// What there is; negative is debt.
    level: f64,
    /// When that was.
    at: Instant,
}

impl Bucket {
    /// A full one. `saved`: what comes in that time is what there is at most, or `least`.
    fn new(rate: f64, saved: Duration, least: f64, now: Instant) -> Bucket {
        let most = (rate * saved.as_secs_f64()).max(least);
        Bucket { rate, most, least, level: most, at: now }
    }

    /// This one with what is left in the one before.
    fn after(mut self, mut before: Bucket) -> Bucket {
        before.refill(self.at);
        self.level = before.level.min(self.most);
        self
    }

    fn refill(&mut self, now: Instant) {
        // Threads do not look at the clock in the order in which they come here.
        let passed = now.saturating_duration_since(self.at);
        self.level = (self.level + self.rate * passed.as_secs_f64()).min(self.most);
        self.at = self.at.max(now);
    }

    /// Whether there is enough; else when there is.
    fn is_open(&mut self, now: Instant) -> Result<(), Instant> {
        self.refill(now);
        if self.level >= self.least {
            return Ok(());
        }
        // Rounded up: it is open then. A time that cannot be told is as good as never.
        let wait = Duration::try_from_secs_f64((self.least - self.level) / self.rate).unwrap_or(Duration::MAX);
        let wait = wait.saturating_add(Duration::from_micros(1)).min(Duration::from_secs(3600));
        Err(now + wait)
    }

    fn take(&mut self, amount: f64, now: Instant) {
        self.refill(now);
        self.level = (self.level - amount).min(self.most);
    }

    /// Takes whole ones, at most `count`, if it is open.
    fn reserve(&mut self, count: usize, now: Instant) -> Result<usize, Instant> {
        self.is_open(now)?;
        let reserved = count.min(self.level as usize);
        self.level -= reserved as f64;
        Ok(reserved)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Event;

    const MS: Duration = Duration::from_millis(1);

    fn events(rate: u32, now: Instant) -> Bucket {
        Bucket::new(f64::from(rate), EVENTS_SAVED, 1.0, now)
    }

    proptest! {
        /// Whoever asks whenever it may never gets more than the quota of the time and of what may be saved up.
        #[test]
        fn nobody_reads_more_than_its_quota(
            rate in 1u32..5_000,
            asks in proptest::collection::vec((0u32..200, 1usize..300, 0usize..300), 1..200),
        ) {
            let start = Instant::now();
            let (mut bucket, mut now, mut read) = (events(rate, start), start, 0);
            for (pause, count, found) in asks {
                now += pause * MS;
                if let Ok(reserved) = bucket.reserve(count, now) {
                    prop_assert!((1..=count).contains(&reserved));
                    let found = found.min(reserved);
                    bucket.take(-((reserved - found) as f64), now);
                    read += found;
                }
                let most = f64::from(rate) * ((now - start).as_secs_f64() + 1.0);
                prop_assert!(read as f64 <= most + 1e-6, "{read} of {most}");
            }
        }

        /// Nobody waits in vain, and nobody waits too long: what it uses whenever it may is its quota.
        #[test]
        fn who_waits_as_told_uses_its_quota(rate in 1u32..1_000, cost in 1u32..3_000) {
            let start = Instant::now();
            let (mut bucket, mut now, mut used) = (events(rate, start), start, 0.0);
            for _ in 0..200 {
                if let Err(until) = bucket.is_open(now) {
                    prop_assert!(until > now);
                    now = until;
                    prop_assert!(bucket.is_open(now).is_ok());
                }
                bucket.take(f64::from(cost), now);
                used += f64::from(cost);
            }
            let due = f64::from(rate) * (now - start).as_secs_f64();
            prop_assert!(used >= due && used <= due + f64::from(rate + cost) + 1.0, "{used} of {due}");
        }
    }

    #[test]
    fn a_quota_is_open_at_its_edge() {
        let now = Instant::now();
        let mut bucket = events(2, now);
        assert_eq!(bucket.reserve(5, now), Ok(2));
        let until = bucket.reserve(5, now).expect_err("it is used up");
        assert!((500 * MS..502 * MS).contains(&(until - now)), "{:?}", until - now);
        assert!(bucket.is_open(until - 2 * MS).is_err());
        assert_eq!(bucket.reserve(5, until), Ok(1));
        // An hour of idleness saves up one second.
        assert_eq!(bucket.reserve(5, until + 3_600_000 * MS), Ok(2));
    }

    #[test]
    fn a_change_of_a_quota_forgives_nothing() {
        let now = Instant::now();
        let budget = Budget::default();
        let of_a_minute =
            |seconds| TenantQuotas { cpu_per_minute: Some(Duration::from_secs(seconds)), ..TenantQuotas::default() };
        budget.renew(Some(&of_a_minute(6)), now);
        budget.used_cpu(Duration::from_secs(1), now);
        let until = budget.may_use_cpu(now).expect_err("more than a tenth of a minute's");
        assert_eq!((until - now).as_millis(), 4010);
        budget.renew(Some(&of_a_minute(60)), now);
        let until = budget.may_use_cpu(now).expect_err("the debt is the same");
        assert_eq!((until - now).as_millis(), 401);
        budget.renew(None, now);
        assert_eq!(budget.may_use_cpu(now), Ok(()));
    }

    /// So many follow-ups with this payload.
    fn follow_ups(count: usize, data: &[u8]) -> Vec<Publication> {
        let event = Event { data: data.to_vec(), ..Event::default() };
        vec![Publication::now("out".into(), event); count]
    }

    #[test]
    fn what_was_not_published_after_all_is_given_back() {
        let (budget, now) = (Budget::default(), Instant::now());
        budget.renew(Some(&TenantQuotas { events_out: Some(1), ..TenantQuotas::default() }), now);
        budget.published(&follow_ups(100, b""));
        assert!(budget.may_publish(now).is_err());
        budget.give_back_out(&follow_ups(100, b""));
        assert_eq!(budget.may_publish(now), Ok(()));
    }

    #[test]
    fn a_large_event_counts_as_several() {
        assert_eq!([0, 1, BYTES_COUNTED, BYTES_COUNTED + 1, 1 << 20].map(counted), [1, 1, 1, 2, 64]);
        let (budget, now) = (Budget::default(), Instant::now());
        let ten = TenantQuotas { events_in: Some(10), events_out: Some(10), ..TenantQuotas::default() };
        budget.renew(Some(&ten), now);
        // 64 of them, of which 10 were there: 54 and the next one take their time, some of which has passed.
        budget.published(&follow_ups(1, &[0; 64 * BYTES_COUNTED - 100]));
        let until = budget.may_publish(now).expect_err("it counts as 64");
        assert!((4500..=5500).contains(&(until - now).as_millis()), "{:?}", until - now);
        // The same for one that was read as one.
        assert_eq!(budget.reserve_in(1, now), Ok(1));
        budget.came_in(1, counted(1 << 20));
        let until = budget.reserve_in(1, now).expect_err("it counts as 64");
        assert!((4500..=5500).contains(&(until - now).as_millis()), "{:?}", until - now);
    }

    #[test]
    fn without_quotas_there_is_no_bound() {
        let (budget, now) = (Budget::default(), Instant::now());
        budget.renew(None, now);
        budget.used_cpu(Duration::from_secs(3600), now);
        budget.published(&follow_ups(1000, b""));
        let may = (budget.may_use_cpu(now), budget.may_publish(now), budget.reserve_in(100, now));
        assert_eq!(may, (Ok(()), Ok(()), Ok(100)));
    }
}
