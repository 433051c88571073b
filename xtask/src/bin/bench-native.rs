//! The yardstick of `cargo xtask bench`: what a native program can do with the same work, the same envelope and the same
//! fenced settle, on the redis crate and nothing else.
//!
//! Each thread reads a batch, does the JSON work, and sends the settle of this batch together with the read of the next.

use std::error::Error;

use redis::{Cmd, Connection, Value};
use sha2::{Digest as _, Sha256};

#[path = "../../../guest-examples/bench/src/work.rs"]
mod work;

const SETTLE: &str = include_str!("../../../runtime/src/broker/redis/settle.lua");
/// What wasmill puts behind the first line of it.
const APPENDING: &str = include_str!("../../../runtime/src/broker/redis/appending.lua");
const IN: &str = "bench.in";
const OUT: &str = "bench.out";
const GROUP: &str = "native";
/// The batch at which reading and settling are cheapest.
const BATCH: usize = 100;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, threads] = arguments.as_slice() else { return Err("usage: bench-native URL THREADS".into()) };
    let client = redis::Client::open(url.as_str())?;
    let created: redis::RedisResult<()> =
        redis::cmd("XGROUP").arg(&["CREATE", IN, GROUP, "0", "MKSTREAM"]).query(&mut client.get_connection()?);
    created?;
    let (first, rest) = SETTLE.split_once('\n').ok_or("the script has one line")?;
    let script = format!("{first}\n{APPENDING}{rest}");
    let sha: String = redis::cmd("SCRIPT").arg("LOAD").arg(script).query(&mut client.get_connection()?)?;
    let threads: Vec<_> = (0..threads.parse()?)
        .map(|number: usize| {
            let (connection, sha) = (client.get_connection(), sha.clone());
            std::thread::spawn(move || consume(connection?, &format!("native.{number}"), &sha))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread has panicked")??;
    }
    Ok(())
}

/// Works until the process is killed.
fn consume(mut connection: Connection, consumer: &str, sha: &str) -> Result<()> {
    let mut entries = Vec::new();
    loop {
        let mut pipeline = redis::pipe();
        if !entries.is_empty() {
            pipeline.add_command(settle(consumer, sha, &entries)?).ignore();
        }
        let read = pipeline.cmd("XREADGROUP").arg(&["GROUP", GROUP, consumer, "COUNT"]).arg(BATCH);
        if entries.is_empty() {
            read.arg("BLOCK").arg(100);
        }
        read.arg(&["STREAMS", IN, ">"]);
        let reply: Vec<Value> = pipeline.query(&mut connection)?;
        entries = reply.into_iter().next().map(parse).unwrap_or_default();
    }
}

/// The id and the fields of an entry.
struct Entry {
    id: Vec<u8>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

fn parse(reply: Value) -> Vec<Entry> {
    let list = |value| if let Value::Array(values) = value { values } else { Vec::new() };
    let bytes = |value| if let Value::BulkString(bytes) = value { bytes } else { Vec::new() };
    let Some(stream) = list(reply).into_iter().next() else { return Vec::new() };
    let Some(entries) = list(stream).into_iter().nth(1) else { return Vec::new() };
    list(entries)
        .into_iter()
        .map(|entry| {
            let mut parts = list(entry).into_iter();
            let id = parts.next().map(bytes).unwrap_or_default();
            let mut items = parts.next().map(list).unwrap_or_default().into_iter();
            let mut fields = Vec::with_capacity(items.len() / 2);
            while let (Some(name), Some(value)) = (items.next(), items.next()) {
                fields.push((bytes(name), bytes(value)));
            }
            Entry { id, fields }
        })
        .collect()
}

/// The same call that wasmill makes: acknowledge each entry, and publish its follow-up.
fn settle(consumer: &str, sha: &str, entries: &[Entry]) -> Result<Cmd> {
    let mut command = redis::cmd("EVALSHA");
    command.arg(sha).arg(2).arg(IN).arg(OUT).arg(consumer);
    let now = format_now();
    for entry in entries {
        let field = |name: &str| {
            let found = entry.fields.iter().find(|(field, _)| field == name.as_bytes());
            found.map(|(_, value)| value.as_slice()).ok_or_else(|| format!("no field {name}"))
        };
        let (id, source) = (field("ce_id")?, field("ce_source")?);
        let data = work::work(field("data")?)?;
        let hash: [u8; 32] = Sha256::new().chain_update(source).chain_update(id).finalize().into();
        let mut follow_up = [0; 16];
        follow_up.copy_from_slice(&hash[..16]);
        let follow_up = uuid::Builder::from_custom_bytes(follow_up).into_uuid().to_string();
        command.arg("A").arg(1).arg(GROUP).arg(&entry.id).arg(0).arg(1).arg(2).arg("").arg(18);
        let fields: [(&str, &[u8]); 9] = [
            ("ce_specversion", b"1.0"),
            ("ce_id", follow_up.as_bytes()),
            ("ce_source", b"/native"),
            ("ce_type", b"order_checked"),
            ("ce_time", now.as_bytes()),
            ("ce_causationid", id),
            ("ce_correlationid", id),
            ("content-type", b"application/json"),
            ("data", &data),
        ];
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        // No state.
        command.arg(0);
    }
    Ok(command)
}

fn format_now() -> String {
    jiff::Timestamp::now().to_string()
}
