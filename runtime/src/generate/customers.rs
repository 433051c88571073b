//! Who buys: a few customers often, most of them now and then.

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;

/// Customers that a shop has.
pub(super) const CUSTOMERS: u32 = 2000;

/// Names as they come: accents, other scripts, right to left, an apostrophe.
const FIRST: [&str; 20] = [
    "Zoë",
    "Jürgen",
    "José",
    "美咲",
    "Łukasz",
    "Søren",
    "Айгерим",
    "Chloé",
    "Nguyễn",
    "Siobhán",
    "İpek",
    "Ana",
    "Kwame",
    "Νίκος",
    "Þóra",
    "فاطمة",
    "Olga",
    "John",
    "अनिता",
    "Mateus",
];
const LAST: [&str; 17] = [
    "Müller",
    "O'Brien",
    "García",
    "田中",
    "Wiśniewska",
    "Sørensen",
    "Нурланова",
    "Lefèvre",
    "Trần",
    "Yılmaz",
    "Silva",
    "Mensah",
    "Παπαδόπουλος",
    "Jónsdóttir",
    "حسن",
    "Smith",
    "शर्मा",
];

/// The id of a customer.
pub(super) fn id(customer: u32) -> String {
    format!("customer-{customer:04}")
}

/// The name of a customer; always the same.
pub(super) fn name(customer: u32) -> String {
    // 20 and 17 have no common divisor: 340 customers have names of their own.
    format!("{} {}", FIRST[customer as usize % FIRST.len()], LAST[customer as usize % LAST.len()])
}

/// Picks customers by Zipf's law: the n-th comes 1/n times as often as the first.
pub(super) struct Customers {
    /// The sum of the weights up to each customer. Only divisions and sums, which are the same on every machine.
    cumulative: Vec<f64>,
}

impl Customers {
    pub(super) fn new() -> Customers {
        let weights = (1..=CUSTOMERS).map(|rank| 1.0 / f64::from(rank));
        let sum = |sum: &mut f64, weight: f64| {
            *sum += weight;
            Some(*sum)
        };
        Customers { cumulative: weights.scan(0.0, sum).collect() }
    }

    pub(super) fn pick(&self, random: &mut ChaCha12Rng) -> u32 {
        let all = self.cumulative.last().copied().unwrap_or_default();
        let point = random.random::<f64>() * all;
        let at = self.cumulative.partition_point(|&sum| sum <= point);
        (at as u32).min(CUSTOMERS - 1)
    }
}
