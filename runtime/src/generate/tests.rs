//! What a shop and its timing promise.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn occurrences(seed: u64, number: u32, count: usize) -> Vec<Occurrence> {
    let mut shop = Shop::new(seed, number);
    (0..count).map(|_| shop.next_occurrence()).collect()
}

fn sum(items: &[Item]) -> u64 {
    items.iter().map(|item| item.quantity * item.price).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_same_seed_makes_the_same_events_and_another_one_others(seed: u64, number in 0..20u32) {
        let events = occurrences(seed, number, 300);
        prop_assert_eq!(&events, &occurrences(seed, number, 300));
        let others = [occurrences(seed ^ 1, number, 300), occurrences(seed, number + 1, 300)];
        let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
        for other in others.iter().flatten() {
            prop_assert!(!ids.contains(other.id.as_str()), "{} occurs twice", other.id);
        }
        prop_assert_eq!(ids.len(), events.len());
    }

    #[test]
    fn totals_sum_up_and_prices_are_stable(seed: u64, number in 0..20u32) {
        let mut prices = HashMap::new();
        for occurrence in occurrences(seed, number, 2000) {
            let (items, total) = match occurrence.fact {
                Fact::OrderPlaced(order) => (order.items, order.total),
                Fact::CartUpdated { items, total, .. } => (items, total),
                _ => continue,
            };
            prop_assert!((1..=MAX_ITEMS).contains(&items.len()));
            prop_assert_eq!(sum(&items), total);
            let skus: BTreeSet<_> = items.iter().map(|item| item.sku).collect();
            prop_assert_eq!(skus.len(), items.len());
            for item in items {
                prop_assert!(item.quantity > 0 && item.price > 0);
                prop_assert_eq!(*prices.entry(item.sku).or_insert(item.price), item.price);
            }
        }
    }

    /// Counts the goods again from the events alone: what is in carts and orders was there.
    #[test]
    fn nothing_is_sold_that_is_not_there(seed: u64, number in 0..20u32) {
        let mut sold_out = BTreeSet::new();
        let mut lines = HashMap::new();
        for occurrence in occurrences(seed, number, 5000) {
            match occurrence.fact {
                Fact::StockChanged { sku, change: StockChange::SoldOut, stock } => {
                    prop_assert_eq!(stock, 0);
                    prop_assert!(sold_out.insert(sku), "{} has run out already", sku);
                }
                Fact::StockChanged { sku, change, stock } => {
                    prop_assert!(stock > 0);
                    prop_assert!(change == StockChange::Restocked || sold_out.contains(sku));
                    sold_out.remove(sku);
                }
                Fact::CartUpdated { cart_id, state: CartState::Open, items, .. } => {
                    let added = items.last().expect("a cart is told of when something is in it");
                    prop_assert!(!sold_out.contains(added.sku), "{} is sold out", added.sku);
                    prop_assert_eq!(items.len(), lines.insert(cart_id, items.len()).unwrap_or(0) + 1);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn every_pattern_keeps_its_rate_and_its_order(
        rate in 1.0..5000.0f64,
        seconds in 1..200u64,
        pattern in prop_oneof![Just(Pattern::Steady), Just(Pattern::Burst), Just(Pattern::Daily)],
    ) {
        let duration = Duration::from_secs(seconds);
        let timing = Timing::new(pattern, rate, Some(duration));
        let all = (rate * duration.as_secs_f64()).round();
        // The integral of the rate over the duration is rate * duration, to within an event.
        prop_assert!(timing.due(all + 1.0) >= duration, "too fast");
        prop_assert!(timing.due((all - 1.0).max(0.0)) < duration, "too slow");
        let places = (0..=1000).map(|step| timing.due(all * f64::from(step) / 1000.0));
        prop_assert!(places.is_sorted(), "time goes forward");
    }
}

#[test]
fn a_shop_has_everything_that_a_shop_has() {
    let mut types: BTreeMap<&str, u32> = BTreeMap::new();
    let [mut abandoned, mut sold_out, mut restocked, mut foreign] = [0u32; 4];
    let mut customers: HashMap<String, u32> = HashMap::new();
    let mut sizes = BTreeSet::new();
    for Occurrence { fact, .. } in occurrences(1, 0, 30_000) {
        *types.entry(fact.kind()).or_default() += 1;
        match fact {
            Fact::CartUpdated { state: CartState::Abandoned, .. } => abandoned += 1,
            Fact::StockChanged { change: StockChange::SoldOut, .. } => sold_out += 1,
            Fact::StockChanged { change: StockChange::Restocked, .. } => restocked += 1,
            Fact::OrderPlaced(order) => {
                foreign += u32::from(!order.customer_name.is_ascii());
                *customers.entry(order.customer).or_default() += 1;
                sizes.insert(order.items.len());
            }
            _ => {}
        }
    }
    assert_eq!(types.keys().copied().collect::<Vec<_>>(), TYPES);
    assert!(types["order_placed"] > 3000 && types["order_cancelled"] < types["order_placed"], "{types:?}");
    assert!(abandoned > 100 && sold_out > 100 && restocked > 100, "{abandoned} {sold_out} {restocked}");
    assert!(foreign * 2 > types["order_placed"], "most names are not ASCII: {foreign}");
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), (1..=MAX_ITEMS).collect::<Vec<_>>());
    // Zipf: a few customers come again and again, and many have come once.
    let orders = types["order_placed"];
    assert!(customers["customer-0000"] * 20 > orders, "the best customer makes more than a twentieth of all orders");
    assert!(customers.len() > 500 && customers.values().filter(|&&count| count == 1).count() > 100);
}

/// Ids and order ids stay as they are: users compare runs by them.
#[test]
fn orders_are_numbered() {
    let shop = Shop::new(255, 9);
    assert_eq!((shop.source(), shop.order_id(7).as_str()), ("/shop/london-2", "order-ff-9-00000007"));
    let orders = occurrences(3, 0, 500).into_iter().filter_map(|occurrence| match occurrence.fact {
        Fact::OrderPlaced(order) => Some(order.order_id),
        _ => None,
    });
    let shop = Shop::new(3, 0);
    for (place, id) in orders.enumerate() {
        assert_eq!(id, shop.order_id(place as u64));
    }
}

#[test]
fn events_carry_what_the_fact_says() {
    let occurrence = occurrences(1, 1, 100).into_iter().find(|one| one.fact.kind() == "order_placed");
    let occurrence = occurrence.expect("an order among a hundred events");
    let event = occurrence.clone().into_event(1500);
    let data: serde_json::Value = serde_json::from_slice(&event.data).expect("the data is JSON");
    assert_eq!((event.r#type.as_str(), event.time), ("order_placed", 1500));
    assert_eq!(event.subject.as_deref(), data["order_id"].as_str());
    assert_eq!(event.partition_key.as_deref(), data["customer"].as_str());
    assert_eq!((data["currency"].as_str(), data.get("flaky")), (Some("GBP"), None));
}

#[test]
fn a_burst_is_ten_times_as_fast_for_a_tenth_of_the_time() {
    let timing = Timing::new(Pattern::Burst, 190.0, Some(Duration::from_secs(10)));
    let due = |position: f64| timing.due(position).as_secs_f64();
    // 100 a second for five seconds, then 1000 a second for one.
    let near = |seconds: f64, wanted: f64| (seconds - wanted).abs() < 1e-6;
    assert!(near(due(100.0), 1.0) && near(due(500.0), 5.0) && near(due(1500.0), 6.0) && near(due(1600.0), 7.0));
    assert!(near(due(1900.0), 10.0) && near(due(2000.0), 11.0));
}

#[test]
fn a_day_fits_into_the_duration_and_its_evening_is_busier_than_its_night() {
    let timing = Timing::new(Pattern::Daily, 100.0, Some(Duration::from_secs(240)));
    let hour = |at: u32| (timing.due(f64::from(at)).as_secs_f64() / 10.0) as u32;
    let events = |wanted: u32| (0..24_000).filter(|&at| hour(at) == wanted).count();
    assert!(events(20) > 10 * events(3));
    let without = Timing::new(Pattern::Daily, 100.0, None);
    assert!((without.due(6000.0).as_secs_f64() - 60.0).abs() < 1e-6);
}
