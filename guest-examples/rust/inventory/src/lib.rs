//! Reserves the goods of a paid order.
//!
//! Reads `payment_processed`, reserves each article, and publishes `inventory_updated` to the stream `inventory`.

use std::collections::BTreeMap;

use guest::{Delivery, Event, Failure};
use serde::{Deserialize, Serialize};

guest::export_handler!(handle);

#[derive(Deserialize)]
struct Payment {
    order_id: String,
    customer: String,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    sku: String,
    quantity: u32,
}

#[derive(Serialize)]
struct Inventory<'a> {
    order_id: &'a str,
    customer: &'a str,
    reserved: Vec<Reservation<'a>>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Reservation<'a> {
    /// The same on every attempt, so that reserving twice would be seen as one reservation.
    id: String,
    sku: &'a str,
    quantity: u32,
}

fn handle(event: &Event, _: &Delivery) -> Result<(), Failure> {
    let payment: Payment = guest::parse(event, "payment_processed")?;
    let reserved = reserve(&payment).map_err(Failure::Reject)?;
    let inventory = Inventory { order_id: &payment.order_id, customer: &payment.customer, reserved };
    guest::follow_up("inventory", "inventory_updated", &payment.order_id, &inventory)
}

/// One reservation per article, however often the order names it.
fn reserve(payment: &Payment) -> Result<Vec<Reservation<'_>>, String> {
    let mut quantities = BTreeMap::<&str, u32>::new();
    for item in &payment.items {
        let quantity = quantities.entry(&item.sku).or_default();
        *quantity =
            quantity.checked_add(item.quantity).ok_or_else(|| format!("nobody has that many of {}", item.sku))?;
    }
    if let Some((sku, _)) = quantities.iter().find(|(_, quantity)| **quantity == 0) {
        return Err(format!("the quantity of {sku} is zero"));
    }
    let reservation = |(sku, quantity)| Reservation { id: format!("{}/{sku}", payment.order_id), sku, quantity };
    Ok(quantities.into_iter().map(reservation).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paid(items: &[(&str, u32)]) -> Payment {
        let items = items.iter().map(|&(sku, quantity)| Item { sku: sku.into(), quantity }).collect();
        Payment { order_id: "o-1".into(), customer: "c-1".into(), items }
    }

    #[test]
    fn reserves_each_article_once() {
        let payment = paid(&[("mug", 1), ("cap", 1), ("mug", 2)]);
        let expected = vec![
            Reservation { id: "o-1/cap".into(), sku: "cap", quantity: 1 },
            Reservation { id: "o-1/mug".into(), sku: "mug", quantity: 3 },
        ];
        assert_eq!(reserve(&payment), Ok(expected));
    }

    #[test]
    fn refuses_quantities_that_make_no_sense() {
        assert_eq!(reserve(&paid(&[("mug", 0)])), Err("the quantity of mug is zero".into()));
        assert!(reserve(&paid(&[("mug", u32::MAX), ("mug", 1)])).is_err());
    }
}
