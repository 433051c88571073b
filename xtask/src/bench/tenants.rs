//! `cargo xtask bench tenants`: what tenants of one worker feel of each other. Each part measures one promise, and stands
//! alone: `--only PART`.

mod hostile;
mod neighbour;
mod scale;
mod shares;
mod worker;

use std::path::Path;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::cmd::Result;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The shares of three tenants that all want more than there is, and how long one that wakes up waits for its own
    Shares,
    /// What a quiet tenant feels of hostile ones
    Neighbour,
    /// What an event costs with a thousand tenants, against one tenant at the same total rate
    Scale,
}

impl Part {
    fn run(self, root: &Path, quick: bool) -> Result<Value> {
        match self {
            Part::Shares => shares::run(root, quick),
            Part::Neighbour => neighbour::run(root, quick),
            Part::Scale => scale::run(root, quick),
        }
    }
}

/// Measures all parts, or one; the report as JSON. A part gives its ratios, its other figures for the top of the report as
/// they are, and the rest under its own name.
pub fn run(root: &Path, quick: bool, only: Option<Part>) -> Result<Value> {
    let mut report = json!({ "ratios": {} });
    for part in Part::value_variants().iter().filter(|part| only.is_none_or(|only| only == **part)) {
        let Value::Object(mut figures) = part.run(root, quick)? else { continue };
        let ratios = figures.remove("ratios");
        extend(&mut report["ratios"], ratios.unwrap_or_default());
        extend(&mut report, Value::Object(figures));
    }
    Ok(report)
}

fn extend(to: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (to, from) {
        to.extend(from);
    }
}

/// For people.
pub fn print_text(report: &Value) {
    for (name, value) in report.as_object().unwrap_or(&Map::new()) {
        match value {
            Value::Object(figures) => {
                println!("{name}:");
                figures.iter().for_each(|(name, value)| println!("  {name:<28} {value}"));
            }
            value => println!("{name}: {value}"),
        }
    }
}
