//! Tells the customer that the parcel is on its way.
//!
//! Reads `shipment_created`, writes the message, and publishes `customer_notified` to the stream `notifications`.

use guest::{Delivery, Event, Failure};
use serde::{Deserialize, Serialize};

guest::export_handler!(handle);

#[derive(Deserialize)]
struct Shipment {
    order_id: String,
    customer: String,
    tracking: String,
    pieces: u64,
}

#[derive(Serialize)]
struct Notification<'a> {
    order_id: &'a str,
    customer: &'a str,
    message: String,
}

fn handle(event: &Event, _: &Delivery) -> Result<(), Failure> {
    let shipment: Shipment = guest::parse(event, "shipment_created")?;
    if shipment.customer.is_empty() {
        return Err(Failure::Reject("`customer` is empty, so there is nobody to tell".into()));
    }
    let notification =
        Notification { order_id: &shipment.order_id, customer: &shipment.customer, message: message(&shipment) };
    guest::follow_up("notifications", "customer_notified", &shipment.order_id, &notification)
}

fn message(Shipment { order_id, customer, tracking, pieces }: &Shipment) -> String {
    let items = if *pieces == 1 { "item" } else { "items" };
    format!("Dear {customer}, your order {order_id} ({pieces} {items}) is on its way. Follow it with {tracking}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_what_the_customer_wants_to_know() {
        let mut shipment =
            Shipment { order_id: "o-1".into(), customer: "Kim".into(), tracking: "WM7".into(), pieces: 2 };
        let expected = "Dear Kim, your order o-1 (2 items) is on its way. Follow it with WM7.";
        assert_eq!(message(&shipment), expected);
        shipment.pieces = 1;
        assert!(message(&shipment).contains("(1 item)"));
    }
}
