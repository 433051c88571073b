//! A handler for the public draft of `wasi:messaging`, with nothing of wasmill in it: sends a receipt for each order to the
//! topic `receipts`.
//!
//! In wasmill a topic is a stream, and metadata are the attributes of an event; see docs/host-interfaces.md.

use serde::Deserialize;
use serde_json::json;

mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/deps/messaging",
        world: "messaging-core",
        generate_all,
    });
}

use bindings::exports::wasi::messaging::incoming_handler::Guest;
use bindings::wasi::messaging::producer;
use bindings::wasi::messaging::types::{Client, Error, Message};

/// The topic that receipts are sent to.
const RECEIPTS: &str = "receipts";

/// What an order has that a receipt needs.
#[derive(Deserialize)]
struct Order {
    order_id: String,
    total: u64,
}

struct Component;

bindings::export!(Component with_types_in bindings);

impl Guest for Component {
    fn handle(message: Message) -> Result<(), Error> {
        let order: Order = serde_json::from_slice(&message.data())
            .map_err(|error| Error::Other(format!("the message is no order: {error}")))?;
        let receipt = json!({"order_id": order.order_id, "paid": order.total, "topic": message.topic()});
        let answer = Message::new(receipt.to_string().as_bytes());
        answer.set_content_type("application/json").map_err(|()| Error::Other("no content type".into()))?;
        // All that travels with the order travels with its receipt, but for what it is.
        answer.set_metadata(&message.metadata().unwrap_or_default()).map_err(refused)?;
        answer.add_metadata("ce_type", "receipt").map_err(refused)?;
        answer.add_metadata("ce_subject", &order.order_id).map_err(refused)?;
        let client = Client::connect("default")?;
        producer::send(&client, RECEIPTS, answer)
    }
}

fn refused(error: bindings::wasi::messaging::types::MetadataError) -> Error {
    Error::Other(format!("metadata: {error:?}"))
}
