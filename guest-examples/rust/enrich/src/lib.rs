//! Enriches orders.
//!
//! Reads `order_placed`, checks the order, adds `item_count`, and publishes the result as `order_enriched` to the stream
//! `orders.enriched`. All amounts are in cents.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use exports::wasmill::events::handler::Guest;
use wasi::logging::logging::{Level, log};
use wasmill::events::publisher::{PublishError, publish};
use wasmill::events::types::{Delivery, Draft, Event, Failure};

mod drill;

// Makes the modules that are used above of the contract in wit/, which is worth reading.
wit_bindgen::generate!({ path: "wit", world: "event-handler", generate_all });

struct Handler;

export!(Handler);

impl Guest for Handler {
    /// Handles one event. The return value alone decides what becomes of it: after `Ok` it is done, and what was published
    /// is written in the same step; a `Failure` is tried again (`Retry`) or never (`Reject`).
    fn handle(event: Event, delivery: Delivery) -> Result<(), Failure> {
        drill::run(&event);
        // Whatever else is in the order stays as it is.
        let mut fields: BTreeMap<String, &RawValue> = serde_json::from_slice(&event.data).map_err(malformed)?;
        let order: Order = serde_json::from_slice(&event.data).map_err(malformed)?;
        let item_count = order.check().map_err(malformed)?;
        if order.flaky && delivery.attempt == 1 {
            return Err(Failure::Retry("the price list is busy".into()));
        }

        let item_count = to_raw_value(&item_count).map_err(malformed)?;
        fields.insert("item_count".into(), &item_count);
        publish_enriched(&order.order_id, serde_json::to_vec(&fields).map_err(malformed)?)?;
        log(Level::Info, "enrich", &format!("enriched order {}", order.order_id));
        Ok(())
    }
}

/// What the handler needs of an order. It may have further fields, which are passed on.
#[derive(Deserialize)]
struct Order {
    order_id: String,
    #[serde(rename = "customer")]
    _customer: String,
    items: Vec<Item>,
    total: u64,
    /// The price list is busy when this order comes by for the first time. Shows what a retry looks like.
    #[serde(default)]
    flaky: bool,
}

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "sku")]
    _sku: String,
    quantity: u64,
    price: u64,
}

impl Order {
    /// Checks what the types do not say; returns how many things were ordered.
    fn check(&self) -> Result<u64, &'static str> {
        if self.order_id.is_empty() {
            return Err("order_id is empty");
        }
        if self.items.is_empty() {
            return Err("items is empty");
        }
        if self.items.iter().any(|item| item.quantity == 0) {
            return Err("quantity is not at least 1");
        }
        let too_much = "the items are more than can be counted";
        let add = |(count, cost): (u64, u64), item: &Item| {
            let cost = cost.checked_add(item.quantity.checked_mul(item.price)?)?;
            Some((count.checked_add(item.quantity)?, cost))
        };
        let (count, cost) = self.items.iter().try_fold((0, 0), add).ok_or(too_much)?;
        if cost != self.total { Err("total is not the sum of the items") } else { Ok(count) }
    }
}

/// An order like this will never be right, so it is not tried again.
fn malformed(reason: impl std::fmt::Display) -> Failure {
    Failure::Reject(format!("malformed order: {reason}"))
}

/// Asks for the follow-up event. It is written only if the handler returns `Ok`.
fn publish_enriched(order_id: &str, data: Vec<u8>) -> Result<(), Failure> {
    let draft = Draft {
        stream: "orders.enriched".into(),
        type_: "order_enriched".into(),
        subject: Some(order_id.into()),
        schema_version: None,
        partition_key: None,
        content_type: "application/json".into(),
        attributes: Vec::new(),
        data,
        delay_ms: None,
    };
    let refused = |error: PublishError| Failure::Reject(format!("cannot publish: {error}"));
    publish(&draft).map(drop).map_err(refused)
}
