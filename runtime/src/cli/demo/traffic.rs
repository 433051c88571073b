//! Orders as a shop gets them: returning customers, small carts, some faults. The same seed makes the same orders.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use wasmill::clock::now_ms;
use wasmill::event::Event;

/// Products: name and price in cents.
const PRODUCTS: [(&str, u64); 8] = [
    ("mug-blue", 1290),
    ("tea-assam-250", 990),
    ("lamp-desk", 4900),
    ("notebook-a5", 650),
    ("pen-gel-black", 220),
    ("chair-oak", 18900),
    ("poster-sea", 1500),
    ("bag-linen", 2400),
];
/// Customers of the shop.
const CUSTOMERS: u32 = 500;
/// Orders whose payment fails at the first attempt, in a thousand.
const FLAKY: u32 = 20;
/// Orders whose total is wrong, and which can never be paid, in a thousand.
const WRONG: u32 = 5;

/// The id of the order with that number.
pub fn order_id(number: u64) -> String {
    format!("order-{number:08}")
}

/// A stream of orders.
pub struct Traffic {
    random: SmallRng,
    number: u64,
}

impl Traffic {
    /// The orders that belong to a seed.
    pub fn new(seed: u64) -> Traffic {
        Traffic { random: SmallRng::seed_from_u64(seed), number: 0 }
    }

    /// The next order.
    pub fn next_order(&mut self) -> Event {
        let order = order_id(self.number);
        self.number += 1;
        let customer = format!("customer-{:04}", self.random.random_range(0..CUSTOMERS));
        let mut total = 0;
        let items: Vec<Value> = (0..self.random.random_range(1..=4))
            .map(|_| {
                let (sku, price) = PRODUCTS[self.random.random_range(0..PRODUCTS.len())];
                let quantity = self.random.random_range(1..=3u64);
                total += quantity * price;
                json!({"sku": sku, "quantity": quantity, "price": price})
            })
            .collect();
        if self.random.random_range(0..1000) < WRONG {
            total += 1;
        }
        let mut data = json!({"order_id": order, "customer": customer, "items": items, "total": total});
        if self.random.random_range(0..1000) < FLAKY {
            data["flaky"] = json!(true);
        }
        Event {
            id: format!("{order}-placed"),
            source: "/shop/checkout".to_owned(),
            r#type: "order_placed".to_owned(),
            time: now_ms(),
            subject: Some(order),
            partition_key: Some(customer),
            content_type: "application/json".to_owned(),
            data: data.to_string().into_bytes(),
            ..Event::default()
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
            (0..100).map(|_| traffic.next_order().data).collect::<Vec<_>>()
        };
        assert_eq!(orders(1), orders(1));
        assert_ne!(orders(1), orders(2));
    }
}
