//! The work of the benchmark, without bindings, so that a native program can do the same.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Text is borrowed from the input unless it holds escapes.
#[derive(Deserialize, Serialize)]
struct Order<'a> {
    #[serde(borrow)]
    order_id: Cow<'a, str>,
    #[serde(borrow)]
    customer: Cow<'a, str>,
    amount: u64,
    #[serde(borrow)]
    note: Cow<'a, str>,
    #[serde(skip_deserializing)]
    checked: bool,
}

/// Parses an order, marks it as checked and serialises it again.
pub fn work(input: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut order: Order<'_> = serde_json::from_slice(input)?;
    order.checked = true;
    let mut output = Vec::with_capacity(input.len() + r#","checked":true"#.len());
    serde_json::to_writer(&mut output, &order)?;
    Ok(output)
}
