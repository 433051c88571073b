//! Sends the reserved goods off.
//!
//! Reads `inventory_updated`, gives the parcel a tracking number, and publishes `shipment_created` to the stream
//! `shipments`.

use guest::{Delivery, Event, Failure};
use serde::{Deserialize, Serialize};

guest::export_handler!(handle);

#[derive(Deserialize)]
struct Inventory {
    order_id: String,
    customer: String,
    reserved: Vec<Reservation>,
}

#[derive(Deserialize)]
struct Reservation {
    quantity: u32,
}

#[derive(Serialize)]
struct Shipment<'a> {
    order_id: &'a str,
    customer: &'a str,
    tracking: String,
    pieces: u64,
}

fn handle(event: &Event, _: &Delivery) -> Result<(), Failure> {
    let inventory: Inventory = guest::parse(event, "inventory_updated")?;
    if inventory.reserved.is_empty() {
        return Err(Failure::Reject("nothing is reserved, so there is nothing to send".into()));
    }
    let shipment = Shipment {
        order_id: &inventory.order_id,
        customer: &inventory.customer,
        tracking: tracking_number(&inventory.order_id),
        pieces: inventory.reserved.iter().map(|reservation| u64::from(reservation.quantity)).sum(),
    };
    guest::follow_up("shipments", "shipment_created", &inventory.order_id, &shipment)
}

/// `WM`, twelve digits and a check digit. Made from the order alone: another attempt gets the same number.
fn tracking_number(order_id: &str) -> String {
    // FNV-1a
    let hash = order_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let number = hash % 1_000_000_000_000;
    format!("WM{number:012}{}", number % 7)
}

#[cfg(test)]
mod tests {
    use super::tracking_number;

    #[test]
    fn tracking_numbers_are_stable_and_differ() {
        assert_eq!(tracking_number("o-1"), tracking_number("o-1"));
        assert_ne!(tracking_number("o-1"), tracking_number("o-2"));
        assert_eq!(tracking_number("").len(), 15);
    }
}
