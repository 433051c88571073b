//! When events happen: a rate, and how it goes up and down around its mean.

use std::time::Duration;

/// How the rate goes. The mean over a period is the same for all patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Always the same.
    Steady,
    /// Ten times as fast as otherwise, for a tenth of the time.
    Burst,
    /// As a shop has it from midnight to midnight: quiet at night, busy in the evening.
    Daily,
}

impl Pattern {
    /// The rates of the equal parts of a period, in relation to each other.
    fn weights(self) -> &'static [f64] {
        match self {
            Pattern::Steady => &[1.0],
            Pattern::Burst => &[1.0, 1.0, 1.0, 1.0, 1.0, 10.0, 1.0, 1.0, 1.0, 1.0],
            // By the hour.
            Pattern::Daily => &[
                3.0, 2.0, 1.0, 1.0, 1.0, 2.0, 4.0, 7.0, 10.0, 12.0, 13.0, 14.0, 15.0, 14.0, 13.0, 13.0, 14.0, 16.0,
                19.0, 22.0, 23.0, 19.0, 12.0, 6.0,
            ],
        }
    }

    /// The longest time in which the pattern comes round once.
    fn period(self) -> Duration {
        match self {
            Pattern::Steady => Duration::from_secs(1),
            Pattern::Burst => Duration::from_secs(10),
            Pattern::Daily => Duration::from_secs(60),
        }
    }
}

/// The time of each event, counted from the start.
#[derive(Clone, Debug)]
pub struct Timing {
    /// In seconds.
    period: f64,
    /// Events in a period.
    events: f64,
    /// The share of a period's events that has happened at the end of each part of it; the last is 1.
    shares: Vec<f64>,
}

impl Timing {
    /// `rate` events a second on the whole; it must be positive. A `duration` holds a whole number of periods: a burst
    /// every 10 seconds or less, a day in the duration as a whole. Without one, a day takes 60 seconds.
    pub fn new(pattern: Pattern, rate: f64, duration: Option<Duration>) -> Timing {
        let longest = pattern.period().as_secs_f64();
        let period = match duration.map(|duration| duration.as_secs_f64()) {
            Some(duration) if pattern == Pattern::Daily => duration,
            Some(duration) => duration / (duration / longest).ceil(),
            None => longest,
        };
        let weights = pattern.weights();
        let all: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let shares = weights.iter().map(|weight| {
            sum += weight;
            sum / all
        });
        Timing { period, events: rate * period, shares: shares.collect() }
    }

    /// When event number `position` (from 0) is due. Between two whole numbers lie the events of other sources.
    pub fn due(&self, position: f64) -> Duration {
        let periods = (position / self.events).floor();
        let share = (position / self.events - periods).clamp(0.0, 1.0);
        let part = self.shares.partition_point(|&end| end <= share).min(self.shares.len() - 1);
        let (start, end) = (if part == 0 { 0.0 } else { self.shares[part - 1] }, self.shares[part]);
        let within = (part as f64 + (share - start) / (end - start)) / self.shares.len() as f64;
        Duration::try_from_secs_f64((periods + within) * self.period).unwrap_or(Duration::MAX)
    }
}
