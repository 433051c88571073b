//! Reading what the server answers. Bytes are moved out of the answer, never copied.

use std::fmt::Display;
use std::time::Duration;

use ::redis::Value;

use super::super::pubsub::Lease;
use super::super::{BrokerError, Claimed, Entry, EntryId, Fields, PendingEntry, Trimmed};

/// The answer is none that the command can give.
pub(super) fn unexpected(what: impl Display) -> BrokerError {
    BrokerError::Unexpected { message: what.to_string() }
}

fn array(value: Value) -> Result<Vec<Value>, BrokerError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        other => Err(unexpected(format_args!("a list was expected, not {other:?}"))),
    }
}

fn bytes(value: Value) -> Result<Vec<u8>, BrokerError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        other => Err(unexpected(format_args!("a text was expected, not {other:?}"))),
    }
}

/// A text.
pub(super) fn text(value: Value) -> Result<String, BrokerError> {
    String::from_utf8(bytes(value)?).map_err(unexpected)
}

/// A whole number.
pub(super) fn integer(value: &Value) -> Result<i64, BrokerError> {
    match value {
        Value::Int(number) => Ok(*number),
        other => Err(unexpected(format_args!("a number was expected, not {other:?}"))),
    }
}

fn pair(value: Value) -> Result<(Value, Value), BrokerError> {
    let values: [Value; 2] = array(value)?.try_into().map_err(|_| unexpected("a pair was expected"))?;
    let [first, second] = values;
    Ok((first, second))
}

/// The answer of XREAD and XREADGROUP: keys and their lists of entries.
pub(super) fn streams(value: Value) -> Result<Vec<(Vec<u8>, Value)>, BrokerError> {
    array(value)?
        .into_iter()
        .map(|stream| {
            let (key, list) = pair(stream)?;
            Ok((bytes(key)?, list))
        })
        .collect()
}

/// A list of entries, each handed out for the `attempt`th time.
pub(super) fn entries(value: Value, attempt: u32) -> Result<Vec<Entry>, BrokerError> {
    array(value)?.into_iter().map(|value| entry(value, attempt)).collect()
}

fn entry(value: Value, attempt: u32) -> Result<Entry, BrokerError> {
    let (id, list) = pair(value)?;
    let id: EntryId = text(id)?.parse().map_err(unexpected)?;
    let mut items = array(list)?.into_iter();
    let mut fields = Fields::with_capacity(items.len() / 2);
    while let (Some(name), Some(value)) = (items.next(), items.next()) {
        fields.push((bytes(name)?, bytes(value)?));
    }
    Ok(Entry { id, attempt, fields })
}

/// The answer of claim_due.lua and claim_from.lua.
pub(super) fn claimed(value: Value) -> Result<Claimed, BrokerError> {
    let mut parts = array(value)?.into_iter();
    let mut part = || parts.next().ok_or_else(|| unexpected("an answer in three parts was expected"));
    let entries = array(part()?)?
        .into_iter()
        .map(|item| {
            let (value, attempt) = pair(item)?;
            entry(value, u32::try_from(integer(&attempt)?).unwrap_or(u32::MAX))
        })
        .collect::<Result<_, _>>()?;
    let trimmed = integer(&part()?)?.max(0) as usize;
    let more = integer(&part()?)? == 1;
    let next_due = part().ok().map(|value| integer(&value)).transpose()?;
    let next_due = next_due.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    Ok(Claimed { entries, trimmed, more, next_due })
}

/// The answer of lease.lua.
pub(super) fn lease(value: Value) -> Result<Lease, BrokerError> {
    let (held, position) = pair(value)?;
    let position = Some(text(position)?).filter(|text| !text.is_empty());
    let position = position.map(|text| text.parse().map_err(unexpected)).transpose()?;
    Ok(Lease { held: integer(&held)? == 1, position })
}

/// The answer of trim.lua.
pub(super) fn trimmed(value: Value) -> Result<Trimmed, BrokerError> {
    let parts: [Value; 4] = array(value)?.try_into().map_err(|_| unexpected("an answer in four parts was expected"))?;
    let [removed, length, more, holder] = parts;
    let count = |value: &Value| Ok(integer(value)?.max(0) as usize);
    Ok(Trimmed {
        removed: count(&removed)?,
        length: count(&length)?,
        more: integer(&more)? == 1,
        held_back_by: Some(text(holder)?).filter(|name| !name.is_empty()),
    })
}

/// The answer of due_delayed.lua.
pub(super) struct DueDelayed {
    /// The server's time, in milliseconds since the Unix epoch.
    pub(super) now_ms: u64,
    /// What is due, earliest first.
    pub(super) members: Vec<Vec<u8>>,
    /// The time until the next one is due.
    pub(super) next_due: Option<Duration>,
}

/// Reads the answer of due_delayed.lua.
pub(super) fn due_delayed(value: Value) -> Result<DueDelayed, BrokerError> {
    let parts: [Value; 3] =
        array(value)?.try_into().map_err(|_| unexpected("an answer in three parts was expected"))?;
    let [now, members, next] = parts;
    let next_due = u64::try_from(integer(&next)?).ok().map(Duration::from_millis);
    let members = array(members)?.into_iter().map(bytes).collect::<Result<_, _>>()?;
    Ok(DueDelayed { now_ms: text(now)?.parse().map_err(unexpected)?, members, next_due })
}

/// One flat list of names and values, as XINFO gives them.
pub(super) struct Map(Vec<(String, Value)>);

impl Map {
    /// Reads names and values.
    pub(super) fn new(value: Value) -> Result<Map, BrokerError> {
        let mut items = array(value)?.into_iter();
        let mut pairs = Vec::with_capacity(items.len() / 2);
        while let (Some(name), Some(value)) = (items.next(), items.next()) {
            pairs.push((text(name)?, value));
        }
        Ok(Map(pairs))
    }

    fn get(&self, name: &str) -> Result<&Value, BrokerError> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value).ok_or_else(|| unexpected(format_args!("`{name}` is missing")))
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Result<String, BrokerError> {
        text(self.get(name)?.clone())
    }

    /// A name that another program may have chosen: bytes that are no text become replacement characters.
    pub(super) fn foreign_name(&self, name: &str) -> Result<String, BrokerError> {
        bytes(self.get(name)?.clone()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// An entry id.
    pub(super) fn id(&self, name: &str) -> Result<EntryId, BrokerError> {
        self.text(name)?.parse().map_err(unexpected)
    }

    /// The id of an entry; `None` if there is nothing.
    pub(super) fn entry_id(&self, name: &str) -> Result<Option<EntryId>, BrokerError> {
        match self.get(name)? {
            Value::Nil => Ok(None),
            value => Ok(Some(pair(value.clone()).and_then(|(id, _)| text(id))?.parse().map_err(unexpected)?)),
        }
    }

    /// A number that is not negative.
    pub(super) fn count(&self, name: &str) -> Result<usize, BrokerError> {
        Ok(integer(self.get(name)?)?.max(0) as usize)
    }
}

/// The answer of XPENDING with a range.
pub(super) fn pending(value: Value) -> Result<Vec<PendingEntry>, BrokerError> {
    let entry = |value| {
        let parts: [Value; 4] = array(value)?.try_into().map_err(|_| unexpected("four parts were expected"))?;
        let [id, consumer, idle, attempts] = parts;
        Ok(PendingEntry {
            id: text(id)?.parse().map_err(unexpected)?,
            consumer: String::from_utf8_lossy(&bytes(consumer)?).into_owned(),
            idle: Duration::from_millis(integer(&idle)?.max(0) as u64),
            attempts: u32::try_from(integer(&attempts)?).unwrap_or(u32::MAX),
        })
    };
    array(value)?.into_iter().map(entry).collect()
}

/// The answer of SLOWLOG GET: durations and the beginnings of the commands.
pub(super) fn slow_log(value: Value) -> Result<Vec<(Duration, String)>, BrokerError> {
    let entry = |value| {
        let parts = array(value)?;
        let [_, _, Value::Int(micros), Value::Array(words), ..] = &parts[..] else {
            return Err(unexpected("an entry of the slow log has other parts"));
        };
        let word = |word: &Value| bytes(word.clone()).map(|word| String::from_utf8_lossy(&word).into_owned());
        let words: Vec<String> = words.iter().take(4).map(word).collect::<Result<_, _>>()?;
        let text = words.join(" ").chars().take(120).collect();
        Ok((Duration::from_micros((*micros).max(0) as u64), text))
    };
    array(value)?.into_iter().map(entry).collect()
}

/// A list of maps, as XINFO GROUPS and XINFO CONSUMERS give it.
pub(super) fn maps(value: Value) -> Result<Vec<Map>, BrokerError> {
    array(value)?.into_iter().map(Map::new).collect()
}
