//! Keeps what each customer has paid, and says it after each payment.
//!
//! Reads `payment_processed`, adds the amount to the customer's total in the state of this handler, and publishes
//! `customer_total` to the stream `totals`. The total, the follow-up and the ack are written in one step: no payment is
//! counted twice. Needs the grant "state"; see docs/state.md.

use guest::{Delivery, Event, Failure};
use serde::{Deserialize, Serialize};

guest::export_handler!(handle);

/// What `wit-bindgen` makes of `wasi:keyvalue`.
mod keyvalue {
    wit_bindgen::generate!({
        path: "../../../wit/deps/keyvalue",
        world: "imports",
        generate_all,
    });
}

use keyvalue::wasi::keyvalue::store;

#[derive(Deserialize)]
struct Payment {
    order_id: String,
    customer: String,
    amount: u64,
}

#[derive(Serialize)]
struct Total<'a> {
    customer: &'a str,
    total: u64,
}

fn handle(event: &Event, _: &Delivery) -> Result<(), Failure> {
    let payment: Payment = guest::parse(event, "payment_processed")?;
    let bucket = store::open("default").map_err(broken)?;
    let before = bucket.get(&payment.customer).map_err(broken)?;
    let total = add(before.as_deref(), payment.amount).map_err(Failure::Reject)?;
    bucket.set(&payment.customer, total.to_string().as_bytes()).map_err(broken)?;
    let message = Total { customer: &payment.customer, total };
    guest::follow_up("totals", "customer_total", &payment.order_id, &message)
}

/// The total after one more payment. It is kept as text, which `wasmill state get` shows as it is.
fn add(before: Option<&[u8]>, amount: u64) -> Result<u64, String> {
    let before = match before {
        None => 0,
        Some(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or("the total that was kept is no number")?,
    };
    amount.checked_add(before).ok_or_else(|| "the total is more than can be counted".to_string())
}

/// A key or a value that the state does not take: it will not take it the next time either.
fn broken(error: store::Error) -> Failure {
    Failure::Reject(format!("state: {error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_begins_with_nothing_and_grows() {
        assert_eq!(add(None, 5), Ok(5));
        assert_eq!(add(Some(b"5"), 7), Ok(12));
    }

    #[test]
    fn a_total_that_cannot_be_is_refused() {
        assert!(add(Some(b"five"), 1).is_err() && add(Some(b"1"), u64::MAX).is_err());
    }
}
