//! The orders of a generated shop, some of them with faults. The same seed makes the same orders.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use wasmill::clock::now_ms;
use wasmill::event::Event;
use wasmill::generate::{Fact, Shop};

/// Orders whose payment fails at the first attempt, in a thousand.
const FLAKY: u32 = 20;
/// Orders whose total is wrong, and which can never be paid, in a thousand.
const WRONG: u32 = 5;

/// A stream of orders.
pub struct Traffic {
    shop: Shop,
    faults: SmallRng,
}

impl Traffic {
    /// The orders that belong to a seed.
    pub fn new(seed: u64) -> Traffic {
        Traffic { shop: Shop::new(seed, 0), faults: SmallRng::seed_from_u64(seed) }
    }

    /// The ids of the first orders.
    pub fn order_ids(seed: u64, orders: u64) -> impl Iterator<Item = String> {
        let shop = Shop::new(seed, 0);
        (0..orders).map(move |place| shop.order_id(place))
    }

    /// The next order. Nobody in the demo wants the other events of the shop.
    pub fn next_order(&mut self) -> Event {
        loop {
            let mut occurrence = self.shop.next_occurrence();
            if let Fact::OrderPlaced(order) = &mut occurrence.fact {
                order.total += u64::from(self.faults.random_range(0..1000) < WRONG);
                order.flaky = self.faults.random_range(0..1000) < FLAKY;
                return occurrence.into_event(now_ms());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_orders() {
        let orders = |seed| {
            let mut traffic = Traffic::new(seed);
            (0..100).map(|_| traffic.next_order()).collect::<Vec<_>>()
        };
        let data = |seed| orders(seed).into_iter().map(|event| event.data).collect::<Vec<_>>();
        assert_eq!(data(1), data(1));
        assert_ne!(data(1), data(2));
        let subjects = orders(1).into_iter().filter_map(|event| event.subject);
        assert_eq!(subjects.collect::<Vec<_>>(), Traffic::order_ids(1, 100).collect::<Vec<_>>());
    }
}
