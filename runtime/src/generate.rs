//! Events as a shop makes them, for trying things out, for the demo and for measuring. Pure: it knows no clock and no
//! broker, and the same seed makes the same events.
//!
//! A [`Shop`] is one source of events: customers open carts and fill them, carts become orders or are abandoned, some
//! orders are cancelled, goods run out and are restocked. [`Timing`] says when each event is due.

mod catalogue;
mod customers;
mod facts;
mod timing;

use std::collections::VecDeque;

use rand::rngs::ChaCha12Rng;
use rand::{RngExt as _, SeedableRng as _};

use self::catalogue::{Catalogue, PRODUCTS};
use self::customers::Customers;
pub use self::facts::{CartState, Fact, Item, Occurrence, OrderPlaced, StockChange};
pub use self::timing::{Pattern, Timing};

/// The types of the events that a [`Shop`] makes.
pub const TYPES: [&str; 4] = ["cart_updated", "order_cancelled", "order_placed", "stock_changed"];

/// Lines that a cart has at most.
pub const MAX_ITEMS: usize = 6;
/// Pieces of one article that a customer takes at most.
const MAX_QUANTITY: u64 = 3;
/// Carts that are open at the same time.
const OPEN_CARTS: usize = 12;
/// The latest orders, which may still be cancelled.
const RECENT_ORDERS: usize = 64;
/// Steps of the shop until a sold-out article comes in again.
const RESTOCK_AFTER: std::ops::RangeInclusive<u64> = 40..=200;

/// Where a shop is and what it is paid in: the source attribute and an ISO 4217 currency.
const PLACES: [(&str, &str); 8] = [
    ("/shop/berlin", "EUR"),
    ("/shop/london", "GBP"),
    ("/shop/new-york", "USD"),
    ("/shop/tokyo", "JPY"),
    ("/shop/zurich", "CHF"),
    ("/shop/warsaw", "PLN"),
    ("/shop/stockholm", "SEK"),
    ("/shop/sao-paulo", "BRL"),
];

/// A cart that is neither ordered nor abandoned yet. What lies in it is taken out of the stock.
struct Cart {
    number: u64,
    customer: u32,
    items: Vec<Item>,
}

/// An order that may still be cancelled.
struct Order {
    order_id: String,
    customer: u32,
    items: Vec<Item>,
    total: u64,
}

/// The id of an order by its place among the orders of its shop, from 0.
fn order_id(prefix: &str, place: u64) -> String {
    format!("order-{prefix}-{place:08}")
}

/// One source of events, without an end.
pub struct Shop {
    random: ChaCha12Rng,
    /// What all ids of this shop begin with: they belong to the seed and the number of the shop.
    prefix: String,
    source: String,
    currency: &'static str,
    catalogue: Catalogue,
    customers: Customers,
    carts: Vec<Cart>,
    recent: VecDeque<Order>,
    /// Steps so far.
    step: u64,
    carts_opened: u64,
    orders_placed: u64,
    events_made: u64,
    /// What has happened and was not handed out yet, oldest first.
    happened: VecDeque<(String, Fact)>,
}

impl Shop {
    /// The shop with this number, from 0. Shops with the same seed and different numbers are independent sources.
    pub fn new(seed: u64, number: u32) -> Shop {
        let (place, currency) = PLACES[number as usize % PLACES.len()];
        let source = match number as usize / PLACES.len() {
            0 => place.to_owned(),
            round => format!("{place}-{}", round + 1),
        };
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..12].copy_from_slice(&number.to_le_bytes());
        Shop {
            random: ChaCha12Rng::from_seed(key),
            prefix: format!("{seed:x}-{number}"),
            source,
            currency,
            catalogue: Catalogue::new(currency),
            customers: Customers::new(),
            carts: Vec::with_capacity(OPEN_CARTS),
            recent: VecDeque::with_capacity(RECENT_ORDERS),
            step: 0,
            carts_opened: 0,
            orders_placed: 0,
            events_made: 0,
            happened: VecDeque::new(),
        }
    }

    /// The `source` attribute of its events.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The id of the order that is placed as number `place` in this shop, from 0.
    pub fn order_id(&self, place: u64) -> String {
        order_id(&self.prefix, place)
    }

    /// What happens next.
    pub fn next_occurrence(&mut self) -> Occurrence {
        loop {
            if let Some((subject, fact)) = self.happened.pop_front() {
                let id = format!("{}-{:08}", self.prefix, self.events_made);
                self.events_made += 1;
                return Occurrence { id, source: self.source.clone(), subject, fact };
            }
            self.advance();
        }
    }

    /// One step: something happens to the stock, to an order or to a cart; perhaps nothing that is worth an event.
    fn advance(&mut self) {
        self.step += 1;
        for (at, stock) in self.catalogue.restock(self.step) {
            self.stock_changed(at, StockChange::Restocked, stock);
        }
        let chance = self.random.random_range(0..100u32);
        let is_full = self.carts.len() == OPEN_CARTS;
        match chance {
            0..2 => self.cancel_order(),
            2..25 if !is_full => self.open_cart(),
            _ if self.carts.is_empty() => self.open_cart(),
            _ => {
                let at = self.below(self.carts.len());
                match chance {
                    ..70 => self.add_item(at),
                    70..92 => self.place_order(at),
                    _ => self.abandon_cart(at),
                }
            }
        }
    }

    fn below(&mut self, length: usize) -> usize {
        // By way of u64, so that a seed means the same on every machine.
        self.random.random_range(0..length as u64) as usize
    }

    fn open_cart(&mut self) {
        let customer = self.customers.pick(&mut self.random);
        self.carts.push(Cart { number: self.carts_opened, customer, items: Vec::new() });
        self.carts_opened += 1;
        self.add_item(self.carts.len() - 1);
    }

    /// Puts an article into the cart, if there is room for another line and the article is there.
    fn add_item(&mut self, cart: usize) {
        let product = self.below(PRODUCTS.len());
        let wanted = self.random.random_range(1..=MAX_QUANTITY);
        let sku = PRODUCTS[product].sku;
        let items = &self.carts[cart].items;
        if items.len() == MAX_ITEMS || items.iter().any(|item| item.sku == sku) {
            return;
        }
        let quantity = self.catalogue.take(product, wanted);
        if quantity == 0 {
            return;
        }
        self.carts[cart].items.push(Item { sku, quantity, price: self.catalogue.price(product) });
        let Cart { number, customer, items } = &self.carts[cart];
        let fact = self.cart_updated(*number, *customer, items.clone(), CartState::Open);
        self.happened.push_back(fact);
        if self.catalogue.stock(product) == 0 {
            let due = self.step + self.random.random_range(RESTOCK_AFTER);
            self.catalogue.order(product, due);
            self.stock_changed(product, StockChange::SoldOut, 0);
        }
    }

    fn place_order(&mut self, cart: usize) {
        // A cart stays empty if everything that the customer wanted was sold out.
        let Cart { customer, items, .. } = self.carts.swap_remove(cart);
        if items.is_empty() {
            return;
        }
        let order_id = order_id(&self.prefix, self.orders_placed);
        self.orders_placed += 1;
        let total = items.iter().map(|item| item.quantity * item.price).sum();
        let order = OrderPlaced {
            order_id: order_id.clone(),
            customer: customers::id(customer),
            customer_name: customers::name(customer),
            items: items.clone(),
            total,
            currency: self.currency,
            flaky: false,
        };
        self.happened.push_back((order_id.clone(), Fact::OrderPlaced(order)));
        if self.recent.len() == RECENT_ORDERS {
            self.recent.pop_front();
        }
        self.recent.push_back(Order { order_id, customer, items, total });
    }

    fn cancel_order(&mut self) {
        if self.recent.is_empty() {
            return;
        }
        let at = self.below(self.recent.len());
        let Some(order) = self.recent.remove(at) else { return };
        const REASONS: [&str; 4] = ["changed mind", "ordered twice", "too slow", "found it cheaper"];
        let reason = REASONS[self.below(REASONS.len())];
        let fact = Fact::OrderCancelled {
            order_id: order.order_id.clone(),
            customer: customers::id(order.customer),
            total: order.total,
            currency: self.currency,
            reason,
        };
        self.happened.push_back((order.order_id, fact));
        self.give_back(&order.items);
    }

    fn abandon_cart(&mut self, cart: usize) {
        let Cart { number, customer, items } = self.carts.swap_remove(cart);
        if items.is_empty() {
            return;
        }
        let fact = self.cart_updated(number, customer, items.clone(), CartState::Abandoned);
        self.happened.push_back(fact);
        self.give_back(&items);
    }

    /// Puts goods back. Only articles that had run out are worth an event: they can be bought again.
    fn give_back(&mut self, items: &[Item]) {
        for item in items {
            let Some(at) = PRODUCTS.iter().position(|product| product.sku == item.sku) else { continue };
            let had_run_out = self.catalogue.stock(at) == 0;
            self.catalogue.put_back(at, item.quantity);
            if had_run_out {
                self.stock_changed(at, StockChange::Returned, self.catalogue.stock(at));
            }
        }
    }

    fn cart_updated(&self, number: u64, customer: u32, items: Vec<Item>, state: CartState) -> (String, Fact) {
        let cart_id = format!("cart-{}-{number:08}", self.prefix);
        let total = items.iter().map(|item| item.quantity * item.price).sum();
        let customer = customers::id(customer);
        (cart_id.clone(), Fact::CartUpdated { cart_id, customer, state, items, total, currency: self.currency })
    }

    fn stock_changed(&mut self, product: usize, change: StockChange, stock: u64) {
        let sku = PRODUCTS[product].sku;
        self.happened.push_back((sku.to_owned(), Fact::StockChanged { sku, change, stock }));
    }
}

#[cfg(test)]
mod tests;
