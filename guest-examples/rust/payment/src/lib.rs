//! Takes the money for an order.
//!
//! Reads `order_placed`, checks that the total is the sum of the items, and publishes `payment_processed` to the
//! stream `payments`. All amounts are in cents.

use guest::{Delivery, Event, Failure};
use serde::{Deserialize, Serialize};

guest::export_handler!(handle);

#[derive(Deserialize)]
struct Order {
    order_id: String,
    customer: String,
    items: Vec<Item>,
    total: u64,
    /// The payment provider is busy when this order comes by for the first time. Shows what a retry looks like.
    #[serde(default)]
    flaky: bool,
}

#[derive(Deserialize)]
struct Item {
    sku: String,
    quantity: u32,
    price: u64,
}

#[derive(Serialize)]
struct Payment<'a> {
    order_id: &'a str,
    customer: &'a str,
    amount: u64,
    items: Vec<Paid<'a>>,
}

#[derive(Serialize)]
struct Paid<'a> {
    sku: &'a str,
    quantity: u32,
}

fn handle(event: &Event, delivery: &Delivery) -> Result<(), Failure> {
    let order: Order = guest::parse(event, "order_placed")?;
    if order.flaky && delivery.attempt == 1 {
        return Err(Failure::Retry("payment provider is busy".into()));
    }
    let payment = pay(&order).map_err(Failure::Reject)?;
    guest::follow_up("payments", "payment_processed", &order.order_id, &payment)
}

/// Charges what the items cost, which must be what the customer was told.
fn pay(order: &Order) -> Result<Payment<'_>, String> {
    let due = order
        .items
        .iter()
        .try_fold(0, |sum: u64, item| sum.checked_add(item.price.checked_mul(item.quantity.into())?))
        .ok_or("the items cost more than can be counted")?;
    if due != order.total {
        return Err(format!("the total is {}, but the items cost {due}", order.total));
    }
    Ok(Payment {
        order_id: &order.order_id,
        customer: &order.customer,
        amount: due,
        items: order.items.iter().map(|item| Paid { sku: &item.sku, quantity: item.quantity }).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(price: u64, total: u64) -> Order {
        let items = vec![Item { sku: "mug".into(), quantity: 2, price }];
        Order { order_id: "o-1".into(), customer: "c-1".into(), items, total, flaky: false }
    }

    #[test]
    fn charges_what_the_items_cost() {
        assert_eq!(pay(&order(950, 1900)).map(|payment| payment.amount), Ok(1900));
    }

    #[test]
    fn refuses_a_total_that_does_not_add_up() {
        let refused = pay(&order(950, 1800)).map(|payment| payment.amount);
        assert_eq!(refused, Err("the total is 1800, but the items cost 1900".into()));
    }

    #[test]
    fn refuses_a_sum_that_overflows() {
        assert!(pay(&order(u64::MAX, 0)).is_err());
    }
}
