//! What happens in a shop, and the event that tells it.

use serde::Serialize;

use crate::event::Event;

/// A line of a cart or an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The article.
    pub sku: &'static str,
    /// Pieces; at least 1.
    pub quantity: u64,
    /// Of one piece, in the smallest unit of the currency.
    pub price: u64,
}

/// The data of `order_placed`, in the form that the example handlers read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderPlaced {
    /// Unique among all shops and seeds.
    pub order_id: String,
    /// The id of the customer.
    pub customer: String,
    /// The name of the customer.
    pub customer_name: String,
    /// 1 to [`super::MAX_ITEMS`] lines with different articles.
    pub items: Vec<Item>,
    /// The sum of the items.
    pub total: u64,
    /// ISO 4217.
    pub currency: &'static str,
    /// Asks the example handler `payment` to fail at the first attempt. Shops make no such orders by themselves.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub flaky: bool,
}

/// What has become of a cart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CartState {
    /// The customer is still there.
    Open,
    /// The customer has left; the goods went back.
    Abandoned,
}

/// Why there is another number of pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StockChange {
    /// The last piece was taken.
    SoldOut,
    /// New pieces came in.
    Restocked,
    /// Pieces of a sold-out article came back.
    Returned,
}

/// Something that happened; serialised, the data of its event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Fact {
    /// `cart_updated`: something was put into a cart, or its customer left.
    CartUpdated {
        cart_id: String,
        customer: String,
        state: CartState,
        items: Vec<Item>,
        total: u64,
        currency: &'static str,
    },
    /// `order_placed`: a cart was ordered.
    OrderPlaced(OrderPlaced),
    /// `order_cancelled`: the customer has called it off.
    OrderCancelled { order_id: String, customer: String, total: u64, currency: &'static str, reason: &'static str },
    /// `stock_changed`: an article ran out, or can be bought again.
    StockChanged { sku: &'static str, change: StockChange, stock: u64 },
}

impl Fact {
    /// The type of the event; one of [`super::TYPES`].
    pub fn kind(&self) -> &'static str {
        match self {
            Fact::CartUpdated { .. } => "cart_updated",
            Fact::OrderPlaced(_) => "order_placed",
            Fact::OrderCancelled { .. } => "order_cancelled",
            Fact::StockChanged { .. } => "stock_changed",
        }
    }

    /// Events with the same key belong together: those of a customer, those of an article.
    fn partition_key(&self) -> &str {
        match self {
            Fact::CartUpdated { customer, .. } | Fact::OrderCancelled { customer, .. } => customer,
            Fact::OrderPlaced(order) => &order.customer,
            Fact::StockChanged { sku, .. } => sku,
        }
    }
}

/// A fact with all of its event but the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// Unique among all shops and seeds; rises within a shop.
    pub id: String,
    /// The shop.
    pub source: String,
    /// The cart, order or article.
    pub subject: String,
    /// What happened.
    pub fact: Fact,
}

impl Occurrence {
    /// The event; `time` in milliseconds since the Unix epoch.
    pub fn into_event(self, time: u64) -> Event {
        let data = serde_json::to_vec(&self.fact).expect("texts and numbers can be written as JSON");
        Event {
            id: self.id,
            source: self.source,
            r#type: self.fact.kind().to_owned(),
            time,
            subject: Some(self.subject),
            partition_key: Some(self.fact.partition_key().to_owned()),
            content_type: "application/json".to_owned(),
            data,
            ..Event::default()
        }
    }
}
