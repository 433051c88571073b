//! A handler that does with its state what the event says, for the tests of the host.
//!
//! `count` adds one to the number under the key that the data is. `steps` takes the steps in its data one after the
//! other; see [`Step`]. What came of it is published to the stream `keeper.out`.

use std::cell::RefCell;
use std::time::Duration;

use guest::{Delivery, Draft, Event, Failure, publish};
use serde::Deserialize;
use serde_json::{Value, json};

guest::export_handler!(handle);

/// What `wit-bindgen` makes of `wasi:keyvalue`.
mod keyvalue {
    wit_bindgen::generate!({
        path: "../../wit/deps/keyvalue",
        world: "imports",
        generate_all,
    });
}

use keyvalue::wasi::keyvalue::batch;
use keyvalue::wasi::keyvalue::store::{self, Bucket, Error};

const OUT: &str = "keeper.out";

/// One thing to do. Values are text.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    Open(String),
    Get(String),
    Set(String, String),
    /// So many bytes.
    Fill(String, usize),
    Delete(String),
    Exists(String),
    List(Option<String>),
    GetMany(Vec<String>),
    SetMany(Vec<(String, String)>),
    DeleteMany(Vec<String>),
    /// Keeps the handle for the next event, if the instance serves it.
    Keep,
    /// In milliseconds.
    Sleep(u64),
    Retry(String),
    Reject(String),
    Exit,
}

thread_local! {
    static KEPT: RefCell<Option<Bucket>> = const { RefCell::new(None) };
}

fn handle(event: &Event, delivery: &Delivery) -> Result<(), Failure> {
    let seen = match event.type_.as_str() {
        "count" => count(&String::from_utf8_lossy(&event.data))?,
        "steps" => {
            let steps: Vec<Step> =
                serde_json::from_slice(&event.data).map_err(|error| Failure::Reject(error.to_string()))?;
            steps.into_iter().map(take).collect::<Result<Value, Failure>>()?
        }
        unknown => return Err(Failure::Reject(format!("cannot do {unknown}"))),
    };
    let seen = json!({"seen": seen, "attempt": delivery.attempt});
    publish(Draft::json(OUT, "seen", seen.to_string().as_bytes()))?;
    Ok(())
}

fn count(key: &str) -> Result<Value, Failure> {
    let broken = |error: Error| Failure::Reject(format!("{error:?}"));
    let bucket = store::open("").map_err(broken)?;
    let text = bucket.get(key).map_err(broken)?.unwrap_or_default();
    let count = String::from_utf8_lossy(&text).parse::<u64>().unwrap_or_default() + 1;
    bucket.set(key, count.to_string().as_bytes()).map_err(broken)?;
    Ok(count.into())
}

/// What came of a step: a value, or the error as `{"error": NAME or TEXT}`.
fn take(step: Step) -> Result<Value, Failure> {
    let result = match step {
        Step::Open(name) => store::open(&name).map(|_| Value::Null),
        Step::Sleep(ms) => {
            std::thread::sleep(Duration::from_millis(ms));
            Ok(Value::Null)
        }
        Step::Retry(message) => return Err(Failure::Retry(message)),
        Step::Reject(message) => return Err(Failure::Reject(message)),
        Step::Exit => std::process::exit(3),
        step => in_bucket(step),
    };
    Ok(result.unwrap_or_else(|error| match error {
        Error::NoSuchStore => json!({"error": "no-such-store"}),
        Error::AccessDenied => json!({"error": "access-denied"}),
        Error::Other(text) => json!({"error": text}),
    }))
}

fn in_bucket(step: Step) -> Result<Value, Error> {
    let bucket = match KEPT.with(RefCell::take) {
        Some(kept) => kept,
        None => store::open("default")?,
    };
    let value = match step {
        Step::Get(key) => json!(bucket.get(&key)?.map(text)),
        Step::Set(key, value) => json!(bucket.set(&key, value.as_bytes())?),
        Step::Fill(key, bytes) => json!(bucket.set(&key, &vec![b'x'; bytes])?),
        Step::Delete(key) => json!(bucket.delete(&key)?),
        Step::Exists(key) => json!(bucket.exists(&key)?),
        Step::List(cursor) => {
            let response = bucket.list_keys(cursor.as_deref())?;
            json!({"keys": response.keys, "cursor": response.cursor})
        }
        Step::GetMany(keys) => {
            let pairs = batch::get_many(&bucket, &keys)?.into_iter();
            pairs.map(|pair| json!(pair.map(|(key, value)| (key, text(value))))).collect()
        }
        Step::SetMany(pairs) => {
            let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| (key, value.into_bytes())).collect();
            json!(batch::set_many(&bucket, &pairs)?)
        }
        Step::DeleteMany(keys) => json!(batch::delete_many(&bucket, &keys)?),
        _ => {
            KEPT.with(|kept| kept.replace(Some(bucket)));
            return Ok(Value::Null);
        }
    };
    Ok(value)
}

/// A value as text; of long ones, how many bytes.
fn text(value: Vec<u8>) -> Value {
    match value.len() {
        0..=100 => String::from_utf8_lossy(&value).into(),
        length => length.into(),
    }
}
