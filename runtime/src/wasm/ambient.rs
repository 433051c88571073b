//! Time and randomness, as guests have them: real and bounded or, if the handler asks for it, a function of the event.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::ChaCha12Rng;
use rand::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use wasmtime::component::Resource;
use wasmtime_wasi::clocks::WasiClocksView as _;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use super::GuestEvent;
use super::host::Host;

/// Bytes of randomness that one call may ask for.
const MAX_PER_CALL: u64 = 64 << 10;
/// Bytes of randomness that one delivery may ask for: some 65,000 UUIDs.
const MAX_PER_DELIVERY: u64 = 1 << 20;
/// How far the monotonic clock of a deterministic handler moves at each look, in nanoseconds: a guest that waits by
/// looking at it gets on.
const STEP: u64 = 1_000;

/// The time and randomness of one delivery, or of the start of an instance.
pub(super) struct Ambient {
    /// Bytes of randomness that may still be asked for.
    random_left: u64,
    /// The zero of the real monotonic clock.
    started: Instant,
    fixed: Option<Box<Fixed>>,
}

/// Time and randomness that depend on the event and the attempt alone.
struct Fixed {
    /// In milliseconds since the Unix epoch.
    time: u64,
    /// The monotonic clock in nanoseconds. Shared with those who sleep: the clock moves when they wake up.
    clock: Arc<AtomicU64>,
    secure: ChaCha12Rng,
    insecure: ChaCha12Rng,
    seed: (u64, u64),
}

impl Fixed {
    fn new(time: u64, hash: Sha256) -> Fixed {
        let stream = |name: &str| {
            let seed = hash.clone().chain_update(name).finalize();
            ChaCha12Rng::from_seed(seed.into())
        };
        let mut seed = stream("seed");
        Fixed {
            time,
            clock: Arc::default(),
            secure: stream("secure"),
            insecure: stream("insecure"),
            seed: (seed.next_u64(), seed.next_u64()),
        }
    }
}

impl Ambient {
    /// For the start of an instance, which is the same whatever event it is started for. `now` becomes the zero of the
    /// real monotonic clock.
    pub(super) fn starting(deterministic: bool, now: Instant) -> Ambient {
        let fixed = deterministic.then(|| Box::new(Fixed::new(0, Sha256::new_with_prefix("start"))));
        Ambient { random_left: MAX_PER_DELIVERY, started: now, fixed }
    }

    /// The next delivery begins.
    pub(super) fn begin(&mut self, event: &GuestEvent, attempt: u32) {
        self.random_left = MAX_PER_DELIVERY;
        if let Some(fixed) = &mut self.fixed {
            let mut hash = Sha256::new_with_prefix("event");
            for part in [&event.source, &event.id] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
            hash.update(attempt.to_le_bytes());
            **fixed = Fixed::new(event.time, hash);
        }
    }

    fn take(&mut self, bytes: u64) -> wasmtime::Result<()> {
        if bytes > MAX_PER_CALL {
            wasmtime::bail!("{bytes} bytes of randomness in one call; {MAX_PER_CALL} are allowed");
        }
        let Some(left) = self.random_left.checked_sub(bytes) else {
            wasmtime::bail!("more than {MAX_PER_DELIVERY} bytes of randomness in one delivery");
        };
        self.random_left = left;
        Ok(())
    }

    fn bytes(&mut self, count: u64, of: fn(&mut Fixed) -> &mut ChaCha12Rng) -> wasmtime::Result<Vec<u8>> {
        self.take(count)?;
        let mut bytes = vec![0; usize::try_from(count)?];
        match &mut self.fixed {
            Some(fixed) => of(fixed).fill_bytes(&mut bytes),
            None => rand::rng().fill_bytes(&mut bytes),
        }
        Ok(bytes)
    }

    fn number(&mut self, of: fn(&mut Fixed) -> &mut ChaCha12Rng) -> wasmtime::Result<u64> {
        self.take(8)?;
        Ok(match &mut self.fixed {
            Some(fixed) => of(fixed).next_u64(),
            None => rand::random(),
        })
    }

    fn now(&self) -> u64 {
        match &self.fixed {
            Some(fixed) => fixed.clock.fetch_add(STEP, Ordering::Relaxed).saturating_add(STEP),
            None => u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

impl random::Host for Host {
    fn get_random_bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        self.ambient.bytes(count, |fixed| &mut fixed.secure)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.ambient.number(|fixed| &mut fixed.secure)
    }
}

impl insecure::Host for Host {
    fn get_insecure_random_bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        self.ambient.bytes(count, |fixed| &mut fixed.insecure)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.ambient.number(|fixed| &mut fixed.insecure)
    }
}

impl insecure_seed::Host for Host {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok(match &self.ambient.fixed {
            Some(fixed) => fixed.seed,
            None => rand::random(),
        })
    }
}

impl wall_clock::Host for Host {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        let since_epoch = match &self.ambient.fixed {
            Some(fixed) => Duration::from_millis(fixed.time),
            // A clock that stands before 1970 stands there.
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        Ok(wall_clock::Datetime { seconds: since_epoch.as_secs(), nanoseconds: since_epoch.subsec_nanos() })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        let nanoseconds = if self.ambient.fixed.is_some() { 1_000_000 } else { 1 };
        Ok(wall_clock::Datetime { seconds: 0, nanoseconds })
    }
}

impl monotonic_clock::Host for Host {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.ambient.now())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(if self.ambient.fixed.is_some() { STEP } else { 1 })
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let now = self.ambient.now();
        monotonic_clock::Host::subscribe_duration(self, when.saturating_sub(now))
    }

    fn subscribe_duration(&mut self, nanoseconds: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let Some(fixed) = &self.ambient.fixed else {
            return monotonic_clock::Host::subscribe_duration(&mut self.clocks(), nanoseconds);
        };
        let until = fixed.clock.load(Ordering::Relaxed).saturating_add(nanoseconds);
        let end = tokio::time::Instant::now().checked_add(Duration::from_nanos(nanoseconds));
        let sleep = Sleep { clock: fixed.clock.clone(), until, end };
        let view = self.clocks();
        let sleep = view.table.push(sleep)?;
        subscribe(view.table, sleep)
    }
}

/// Sleeps for real, and then moves the clock on as far as was asked for, however long it really was.
struct Sleep {
    clock: Arc<AtomicU64>,
    until: u64,
    /// `None` if it lies too far ahead to be reached.
    end: Option<tokio::time::Instant>,
}

#[async_trait::async_trait]
impl Pollable for Sleep {
    async fn ready(&mut self) {
        match self.end {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
        self.clock.fetch_max(self.until, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ambient(id: &str, attempt: u32) -> Ambient {
        let mut ambient = Ambient::starting(true, Instant::now());
        let event = crate::event::Event { id: id.to_owned(), time: 5, ..Default::default() };
        ambient.begin(&event.into(), attempt);
        ambient
    }

    fn secure(ambient: &mut Ambient) -> Vec<u8> {
        ambient.bytes(32, |fixed| &mut fixed.secure).expect("few bytes")
    }

    #[test]
    fn the_same_event_and_attempt_have_the_same_randomness_and_others_have_not() {
        let mut one = ambient("a", 1);
        let first = secure(&mut one);
        assert_ne!(first, secure(&mut one), "it goes on");
        assert_eq!(first, secure(&mut ambient("a", 1)));
        assert_ne!(first, secure(&mut ambient("a", 2)));
        assert_ne!(first, secure(&mut ambient("b", 1)));
        assert_ne!(first, one.bytes(32, |fixed| &mut fixed.insecure).expect("few bytes"));
    }

    #[test]
    fn randomness_is_bounded_per_call_and_per_delivery() {
        for deterministic in [false, true] {
            let mut ambient = Ambient::starting(deterministic, Instant::now());
            let mut take = |count| ambient.bytes(count, |fixed| &mut fixed.secure).map(|bytes| bytes.len() as u64);
            assert!(take(MAX_PER_CALL + 1).is_err());
            for _ in 0..MAX_PER_DELIVERY / MAX_PER_CALL {
                assert_eq!(take(MAX_PER_CALL).expect("within"), MAX_PER_CALL);
            }
            assert!(take(0).is_ok());
            let error = take(1).expect_err("all has been used").to_string();
            assert!(error.contains("1048576 bytes of randomness in one delivery"), "{error}");
            assert!(ambient.number(|fixed| &mut fixed.secure).is_err());
            ambient.begin(&crate::event::Event::default().into(), 1);
            assert!(ambient.number(|fixed| &mut fixed.secure).is_ok());
        }
    }

    #[test]
    fn the_deterministic_clock_counts_looks() {
        let (one, two) = (ambient("a", 1), ambient("b", 1));
        assert_eq!([one.now(), one.now(), two.now()], [STEP, 2 * STEP, STEP]);
    }
}
