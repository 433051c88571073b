//! Rebuilds what is known of each order, from the events alone.
//!
//! Reads everything that happens to orders, keeps the state of each order in memory, and publishes `order_snapshot` to
//! the stream `orders.snapshots`: for every order that has changed, when [`CHANGED`] of them have, or when an event of
//! type `snapshot_requested` comes by. Made for `wasmill replay`, with `isolation = "reuse"` and `concurrency = 1`: see
//! docs/snapshots.md.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use guest::{Delivery, Draft, Event, Failure};
use serde::{Deserialize, Serialize};

guest::export_handler!(handle);

/// Orders that change between two snapshots. Below `limits.publishes`, which is 64 unless configured otherwise.
const CHANGED: usize = 50;
const STREAM: &str = "orders.snapshots";

thread_local! {
    /// Lives as long as the instance, and goes with it. A replay adds up by itself, beside what happens meanwhile.
    static LIVE: RefCell<Orders> = RefCell::default();
    static REPLAYED: RefCell<Orders> = RefCell::default();
}

/// What is known of an order. What no event has told is left out: the event may be in another stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Order {
    order_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// What the order costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// What was paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    paid: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracking: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notified: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled: Option<String>,
    /// The events that this was made of. A smaller number than before tells that the replay began later.
    events: u32,
}

/// The parts of an event's data that say something about an order.
#[derive(Deserialize)]
struct Fact {
    order_id: String,
    customer: Option<String>,
    total: Option<u64>,
    amount: Option<u64>,
    tracking: Option<String>,
    reason: Option<String>,
}

#[derive(Default)]
struct Orders {
    all: HashMap<String, Order>,
    /// Changed since they were last published.
    changed: BTreeSet<String>,
    /// The entry of each stream that was applied last.
    applied: HashMap<String, (u64, u64)>,
}

fn handle(event: &Event, delivery: &Delivery) -> Result<(), Failure> {
    let orders = if delivery.replay { &REPLAYED } else { &LIVE };
    orders.with_borrow_mut(|orders| {
        let is_due = orders.apply(event, delivery)?;
        if is_due { orders.publish() } else { Ok(()) }
    })
}

impl Orders {
    /// Takes the event in; whether it is time for a snapshot.
    fn apply(&mut self, event: &Event, delivery: &Delivery) -> Result<bool, Failure> {
        if event.type_ == "snapshot_requested" {
            return Ok(true);
        }
        const KNOWN: [&str; 5] =
            ["order_placed", "order_cancelled", "payment_processed", "shipment_created", "customer_notified"];
        if KNOWN.contains(&event.type_.as_str()) && self.is_new(delivery) {
            let fact: Fact = guest::parse(event, &event.type_)?;
            self.note(&event.type_, fact);
        }
        Ok(self.changed.len() >= CHANGED)
    }

    /// Whether the entry is to be applied. Another attempt at an earlier one is not; the first attempt at an earlier one
    /// tells that another replay has begun, and with it everything.
    fn is_new(&mut self, delivery: &Delivery) -> bool {
        let entry = delivery.entry_id.split_once('-');
        let entry = entry.and_then(|(ms, seq)| Some((ms.parse().ok()?, seq.parse().ok()?)));
        let Some(entry): Option<(u64, u64)> = entry else { return true };
        let is_earlier = self.applied.get(&delivery.stream).is_some_and(|last| entry <= *last);
        if is_earlier && delivery.attempt > 1 {
            return false;
        }
        if is_earlier {
            *self = Orders::default();
        }
        self.applied.insert(delivery.stream.clone(), entry);
        true
    }

    fn note(&mut self, kind: &str, fact: Fact) {
        let order = self.all.entry(fact.order_id.clone()).or_default();
        order.order_id.clone_from(&fact.order_id);
        order.events += 1;
        order.customer = fact.customer.or(order.customer.take());
        match kind {
            "order_placed" => order.total = fact.total,
            "order_cancelled" => order.cancelled = Some(fact.reason.unwrap_or_default()),
            "payment_processed" => order.paid = fact.amount,
            "shipment_created" => order.tracking = fact.tracking,
            _ => order.notified = Some(true),
        }
        self.changed.insert(fact.order_id);
    }

    /// One event for each order that has changed: all of them or none.
    fn publish(&mut self) -> Result<(), Failure> {
        let changed = self.changed.iter().filter_map(|id| self.all.get(id));
        let data: Result<Vec<(&str, Vec<u8>)>, serde_json::Error> =
            changed.map(|order| Ok((order.order_id.as_str(), serde_json::to_vec(order)?))).collect();
        let data = data.map_err(|error| Failure::Reject(format!("a snapshot cannot be written: {error}")))?;
        let drafts: Vec<Draft<'_>> = data
            .iter()
            .map(|(id, data)| Draft { subject: Some(id), ..Draft::json(STREAM, "order_snapshot", data) })
            .collect();
        guest::publish_batch(&drafts)?;
        self.changed.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, data: &str) -> Event {
        Event {
            id: "1".into(),
            source: "/tests".into(),
            type_: kind.into(),
            time: 0,
            subject: None,
            schema_version: None,
            partition_key: None,
            content_type: "application/json".into(),
            attributes: Vec::new(),
            data: data.into(),
        }
    }

    fn delivery(stream: &str, entry: u64) -> Delivery {
        Delivery {
            tenant: "default".into(),
            handler: "snapshot".into(),
            stream: stream.into(),
            entry_id: format!("{entry}-0"),
            attempt: 1,
            max_attempts: 5,
            deadline_ms: 5000,
            replay: true,
        }
    }

    #[test]
    fn an_order_is_what_its_events_say_in_whichever_order_they_come() {
        let story = [
            ("orders", "order_placed", r#"{"order_id":"o-1","customer":"c-1","items":[],"total":1900}"#),
            ("payments", "payment_processed", r#"{"order_id":"o-1","customer":"c-1","amount":1900,"items":[]}"#),
            ("shipments", "shipment_created", r#"{"order_id":"o-1","customer":"c-1","tracking":"WM7","pieces":2}"#),
        ];
        let told = |story: &mut dyn Iterator<Item = &(&str, &str, &str)>| {
            let mut orders = Orders::default();
            for (at, (stream, kind, data)) in story.enumerate() {
                assert!(matches!(orders.apply(&event(kind, data), &delivery(stream, at as u64 + 1)), Ok(false)));
            }
            orders.all.remove("o-1").unwrap_or_default()
        };
        let order = told(&mut story.iter());
        let expected = r#"{"order_id":"o-1","customer":"c-1","total":1900,"paid":1900,"tracking":"WM7","events":3}"#;
        assert_eq!(serde_json::to_string(&order).ok().as_deref(), Some(expected));
        assert_eq!(told(&mut story.iter().rev()), order);
    }

    #[test]
    fn another_attempt_at_an_entry_counts_once() {
        let mut orders = Orders::default();
        let placed = event("order_placed", r#"{"order_id":"o-1","total":5}"#);
        for (stream, entry, attempt) in [("a", 1, 1), ("a", 1, 2), ("b", 1, 1), ("a", 2, 3), ("a", 1, 2)] {
            assert!(orders.apply(&placed, &Delivery { attempt, ..delivery(stream, entry) }).is_ok());
        }
        assert_eq!(orders.all["o-1"].events, 3);
    }

    #[test]
    fn another_replay_begins_with_nothing() {
        let mut orders = Orders::default();
        let placed = |id: &str| event("order_placed", &format!(r#"{{"order_id":"{id}","total":5}}"#));
        for (id, entry) in [("o-1", 1), ("o-2", 2), ("o-2", 1)] {
            assert!(orders.apply(&placed(id), &delivery("orders", entry)).is_ok());
        }
        assert_eq!((orders.all.len(), orders.all["o-2"].events), (1, 1));
    }

    #[test]
    fn a_snapshot_is_due_after_enough_changes_or_on_request() {
        let mut orders = Orders::default();
        for number in 1..=CHANGED {
            let data = format!(r#"{{"order_id":"o-{number}","total":5}}"#);
            let due = orders.apply(&event("order_placed", &data), &delivery("orders", number as u64));
            assert_eq!(due.ok(), Some(number == CHANGED));
        }
        let mut orders = Orders::default();
        assert!(matches!(orders.apply(&event("cart_updated", "{}"), &delivery("orders", 1)), Ok(false)));
        assert!(matches!(orders.apply(&event("snapshot_requested", ""), &delivery("orders", 2)), Ok(true)));
    }

    #[test]
    fn data_that_makes_no_sense_is_refused() {
        let refused = Orders::default().apply(&event("order_placed", "{}"), &delivery("orders", 1));
        assert!(matches!(refused, Err(Failure::Reject(_))));
    }
}
