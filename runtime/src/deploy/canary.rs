//! A version that runs a share of the events before it runs all of them: which events, and whether it does well enough.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

/// Deliveries that must have ended on a version before anything is concluded from those that failed.
pub const MIN_DELIVERIES: u64 = 20;
/// Failed deliveries that are allowed, if nothing else is asked for.
pub const MAX_ERROR_RATE: Percent = Percent(100);
/// How long a version runs its share, in milliseconds, if nothing else is asked for.
pub const PROMOTE_AFTER_MS: u64 = 10 * 60 * 1000;
/// The shortest time that may be asked for: workers say once a second how it goes.
pub const MIN_PROMOTE_AFTER_MS: u64 = 1000;
/// The longest: a day. Nothing else of the handler can be deployed meanwhile.
pub const MAX_PROMOTE_AFTER_MS: u64 = 24 * 60 * 60 * 1000;

/// A part of the whole in hundredths of a percent, written as `5%` or `0.25%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "5%")]
pub struct Percent(u16);

/// A text is no percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a percentage from 0% to 100% with at most two decimals, such as 5% or 0.25%")]
pub struct NotAPercentage(String);

impl Percent {
    /// The whole.
    pub const ALL: Percent = Percent(10_000);

    /// So many of so many, rounded up.
    pub fn of(part: u64, whole: u64) -> Percent {
        let hundredths = (u128::from(part) * 10_000).div_ceil(u128::from(whole.max(1)));
        Percent(u16::try_from(hundredths).map_or(10_000, |hundredths| hundredths.min(10_000)))
    }

    /// Nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether something that is known by `key` belongs to this part. What is chosen depends on `salt` and `key` alone, and
    /// what belongs to a part belongs to every larger one with the same salt.
    pub fn takes(self, salt: &str, key: &str) -> bool {
        let mut hasher = Sha256::new();
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hasher.update((salt.len() as u64).to_be_bytes());
        hasher.update(salt.as_bytes());
        hasher.update(key.as_bytes());
        let hash: [u8; 32] = hasher.finalize().into();
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        // Evenly spread over 0..10,000.
        let place = (u128::from(u64::from_be_bytes(first)) * 10_000) >> 64;
        place < u128::from(self.0)
    }
}

impl FromStr for Percent {
    type Err = NotAPercentage;

    fn from_str(text: &str) -> Result<Percent, NotAPercentage> {
        let no = || NotAPercentage(text.to_owned());
        let number = text.trim();
        let number = number.strip_suffix('%').unwrap_or(number).trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) || decimals.len() > 2 {
            return Err(no());
        }
        let whole: u16 = whole.parse().map_err(|_| no())?;
        let hundredths: u16 = format!("{decimals:0<2}").parse().map_err(|_| no())?;
        let sum = whole.checked_mul(100).and_then(|whole| whole.checked_add(hundredths)).map(Percent);
        sum.filter(|sum| *sum <= Percent::ALL).ok_or_else(no)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, hundredths) = (self.0 / 100, self.0 % 100);
        match (hundredths, hundredths % 10) {
            (0, _) => write!(f, "{whole}%"),
            (_, 0) => write!(f, "{whole}.{}%", hundredths / 10),
            _ => write!(f, "{whole}.{hundredths:02}%"),
        }
    }
}

impl TryFrom<String> for Percent {
    type Error = NotAPercentage;

    fn try_from(text: String) -> Result<Percent, NotAPercentage> {
        text.parse()
    }
}

impl From<Percent> for String {
    fn from(percent: Percent) -> String {
        percent.to_string()
    }
}

/// How a version has to prove itself before it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Canary {
    /// The part of the events that it runs.
    pub share: Percent,
    /// How long it runs them, in milliseconds.
    pub promote_after_ms: u64,
    /// The part of its deliveries that may fail.
    pub max_error_rate: Percent,
    /// When it began to run them, in milliseconds since the Unix epoch; `None` while workers prepare it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

/// What became of the deliveries that ran on a version. A delivery is one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Tally {
    /// Acknowledged.
    pub acked: u64,
    /// To be tried again, or dead letters.
    pub failed: u64,
}

impl Tally {
    /// All of them.
    pub fn total(self) -> u64 {
        self.acked.saturating_add(self.failed)
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Tally>>(tallies: I) -> Tally {
        let add = |sum: Tally, next: Tally| Tally {
            acked: sum.acked.saturating_add(next.acked),
            failed: sum.failed.saturating_add(next.failed),
        };
        tallies.fold(Tally::default(), add)
    }
}

/// What follows from how a version does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It is too early to tell.
    Wait,
    /// It did well.
    Promote,
    /// It does not serve, and why.
    GiveUp(String),
}

impl Canary {
    /// When it has run long enough; `None` while workers prepare it.
    pub fn ends_ms(&self) -> Option<u64> {
        self.since_ms.map(|since| since.saturating_add(self.promote_after_ms))
    }

    /// What follows from what became of its deliveries by now.
    pub(super) fn judge(&self, tally: Tally, now_ms: u64) -> Judgement {
        let Some(ends) = self.ends_ms() else { return Judgement::Wait };
        let total = tally.total();
        let is_enough = total >= MIN_DELIVERIES;
        let is_bad = u128::from(tally.failed) * 10_000 > u128::from(total) * u128::from(self.max_error_rate.0);
        match (is_enough, is_bad) {
            (true, true) => {
                let rate = Percent::of(tally.failed, total);
                Judgement::GiveUp(format!("{rate} of {total} deliveries failed, {} is allowed", self.max_error_rate))
            }
            _ if now_ms < ends => Judgement::Wait,
            (true, false) => Judgement::Promote,
            (false, _) => Judgement::GiveUp(format!(
                "only {total} deliveries ran on it in {} s, {MIN_DELIVERIES} are needed to tell how it does; ask for a \
                 larger share or a longer time",
                self.promote_after_ms / 1000
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percent(text: &str) -> Percent {
        text.parse().expect("a percentage")
    }

    fn canary() -> Canary {
        let (share, max_error_rate) = (percent("5%"), percent("1%"));
        Canary { share, promote_after_ms: 1000, max_error_rate, since_ms: Some(100) }
    }

    #[test]
    fn percentages_are_read_and_written() {
        for (text, written) in [("5%", "5%"), ("5", "5%"), (" 0.5 % ", "0.5%"), ("0.25%", "0.25%"), ("1.05", "1.05%")] {
            assert_eq!(percent(text).to_string(), written);
        }
        assert_eq!((percent("0%").is_zero(), percent("100.00%")), (true, Percent::ALL));
        for text in ["", "%", "-1%", "100.01%", "0.125%", "1.%", ".5%", "5 %%", "1e1%", "65536%", "99999999%", "+5%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
        let json = serde_json::to_string(&percent("2.5%")).expect("JSON");
        assert_eq!(json, "\"2.5%\"");
        assert_eq!(serde_json::from_str::<Percent>(&json).ok(), Some(percent("2.5%")));
        assert!(serde_json::from_str::<Percent>("\"101%\"").is_err());
    }

    #[test]
    fn nothing_is_concluded_from_too_few_deliveries() {
        let all_failed = |failed| Tally { acked: 0, failed };
        assert_eq!(canary().judge(all_failed(MIN_DELIVERIES - 1), 1099), Judgement::Wait);
        let bad = Judgement::GiveUp("100% of 20 deliveries failed, 1% is allowed".to_owned());
        assert_eq!(canary().judge(all_failed(MIN_DELIVERIES), 101), bad);
        assert_eq!(Canary { since_ms: None, ..canary() }.judge(all_failed(1000), 5000), Judgement::Wait);
        let Judgement::GiveUp(why) = canary().judge(Tally { acked: 3, failed: 0 }, 1100) else { panic!("given up") };
        assert!(why.starts_with("only 3 deliveries ran on it in 1 s, 20 are needed"), "{why}");
    }

    #[test]
    fn it_is_promoted_at_its_time_with_no_more_failures_than_allowed() {
        let allowed = Tally { acked: 99, failed: 1 };
        assert_eq!(canary().judge(allowed, 1099), Judgement::Wait);
        assert_eq!(canary().judge(allowed, 1100), Judgement::Promote);
        let more = Tally { acked: 620, failed: 20 };
        let why = Judgement::GiveUp("3.13% of 640 deliveries failed, 1% is allowed".to_owned());
        assert_eq!((canary().judge(more, 200), canary().judge(more, 1100)), (why.clone(), why));
        let none = Canary { max_error_rate: percent("0%"), ..canary() };
        assert_eq!(none.judge(Tally { acked: 100, failed: 0 }, 1100), Judgement::Promote);
        assert!(matches!(none.judge(Tally { acked: 1_000_000, failed: 1 }, 200), Judgement::GiveUp(_)));
        let all = Canary { max_error_rate: Percent::ALL, ..canary() };
        assert_eq!(all.judge(Tally { acked: 0, failed: 100 }, 1100), Judgement::Promote);
    }

    proptest! {
        #[test]
        fn a_share_of_the_keys_is_taken(hundredths in 1u16..=10_000, salt in "[0-9a-f]{64}") {
            let share = Percent(hundredths);
            let keys = 4000;
            let taken = (0..keys).filter(|key| share.takes(&salt, &format!("customer-{key}"))).count() as f64;
            let part = f64::from(hundredths) / 10_000.0;
            // Six standard deviations: not to be seen in a lifetime of tests.
            let bound = 6.0 * (f64::from(keys) * part * (1.0 - part)).sqrt() + 1e-9;
            prop_assert!((taken - f64::from(keys) * part).abs() <= bound.max(6.0), "{taken} of {keys} for {share}");
        }

        #[test]
        fn who_belongs_to_a_share_belongs_to_larger_ones(
            small in 0u16..=10_000, more in 0u16..=10_000, salt in ".{0,70}", key in ".{0,40}",
        ) {
            let large = Percent((small + more).min(10_000));
            prop_assert!(!Percent(small).takes(&salt, &key) || large.takes(&salt, &key));
            prop_assert!(Percent::ALL.takes(&salt, &key) && !Percent(0).takes(&salt, &key));
        }

        #[test]
        fn percentages_survive_their_text(hundredths in 0u16..=10_000) {
            prop_assert_eq!(Percent(hundredths).to_string().parse(), Ok(Percent(hundredths)));
        }
    }

    /// The choice is part of how versions of wasmill work together: all workers must make the same.
    #[test]
    fn the_choice_does_not_change() {
        let taken: Vec<u32> = (0..100).filter(|key| percent("5%").takes("abc", &key.to_string())).collect();
        assert_eq!(taken, [38, 81]);
    }
}
