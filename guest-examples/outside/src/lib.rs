//! A handler that uses the host interfaces which are granted by name, for the tests of the host and as an example.
//!
//! The type of the event picks what happens; see [`handle`]. What was seen is published to the stream `outside.out`.

mod web;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guest::{Delivery, Draft, Event, Failure, publish};
use serde_json::{Value, json};
use wasip2::random::{insecure, insecure_seed, random};

use config::wasi::config::store;

guest::export_handler!(handle);

/// What `wit-bindgen` makes of `wasi:config`.
mod config {
    wit_bindgen::generate!({
        path: "../../wit/deps/config",
        world: "imports",
        generate_all,
    });
}

const OUT: &str = "outside.out";

fn handle(event: &Event, _: &Delivery) -> Result<(), Failure> {
    let seen = match event.type_.as_str() {
        "config" => configuration(event)?,
        "ambient" => ambient(),
        "random" => randomness(event)?,
        "http" => web::ask(event)?,
        unknown => return Err(Failure::Reject(format!("cannot do {unknown}"))),
    };
    publish(Draft::json(OUT, "seen", seen.to_string().as_bytes()))?;
    Ok(())
}

/// The value of the key that the data names, and the names of all keys.
fn configuration(event: &Event) -> Result<Value, Failure> {
    let broken = |error: store::Error| Failure::Retry(format!("no configuration: {error:?}"));
    let value = store::get(&String::from_utf8_lossy(&event.data)).map_err(broken)?;
    let mut keys: Vec<String> = store::get_all().map_err(broken)?.into_iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    Ok(json!({"value": value, "keys": keys}))
}

/// Everything that differs from one run to the next in an ordinary program.
fn ambient() -> Value {
    let start = Instant::now();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    std::thread::sleep(Duration::from_millis(20));
    let slept = start.elapsed().as_nanos() as u64;
    json!({
        "wall": wall,
        "slept": slept,
        "secure": random::get_random_bytes(16),
        "number": random::get_random_u64().to_string(),
        "insecure": insecure::get_insecure_random_u64().to_string(),
        "seed": format!("{:?}", insecure_seed::insecure_seed()),
    })
}

/// Asks for randomness as often and as much as the data says, `TIMES BYTES`.
fn randomness(event: &Event) -> Result<Value, Failure> {
    let text = String::from_utf8_lossy(&event.data);
    let mut numbers = text.split(' ').filter_map(|number| number.parse::<u64>().ok());
    let (Some(times), Some(bytes)) = (numbers.next(), numbers.next()) else {
        return Err(Failure::Reject("the data is not `TIMES BYTES`".into()));
    };
    let got: usize = (0..times).map(|_| random::get_random_bytes(bytes).len()).sum();
    Ok(json!({ "got": got }))
}
