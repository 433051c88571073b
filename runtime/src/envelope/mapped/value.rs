//! Values inside of documents: times, texts, and data that is JSON, MsgPack, text or bytes.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::super::parse_time;
use super::super::settings::TimeFormat;

pub(super) const JSON: &str = "application/json";
pub(super) const MSGPACK: &str = "application/msgpack";
/// The deepest nesting of a MsgPack document.
const MAX_DEPTH: usize = 256;
/// Numbers from here on are milliseconds, not seconds: as seconds they would be times after the year 5000.
const FIRST_MILLISECONDS: f64 = 1e11;
/// The greatest time that can be told in any time zone of the years up to 9999, in milliseconds; [`Timestamp::MAX`].
const LAST_TIME: u64 = 253_402_207_200_999;

/// The time that a value means, in milliseconds since the Unix epoch: RFC 3339, the same without a zone (then it is
/// UTC), or a number: seconds or milliseconds as `format` says, else what is likely.
pub(super) fn time(value: &Value, format: TimeFormat) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_f64().and_then(|number| from_number(number, format)),
        Value::String(text) => time_of_text(text, format),
        _ => None,
    }
}

/// The same for a text.
pub(super) fn time_of_text(text: &str, format: TimeFormat) -> Option<u64> {
    let number = || text.parse().ok().and_then(|number| from_number(number, format));
    let zoneless = || {
        let time: DateTime = text.parse().ok()?;
        u64::try_from(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond()).ok()
    };
    parse_time(text).or_else(number).or_else(zoneless)
}

/// The RFC 3339 form of a time with three digits of the fraction and `+00:00` for UTC.
pub(super) fn iso_format(ms: u64) -> String {
    let timestamp = i64::try_from(ms.min(LAST_TIME)).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    timestamp.unwrap_or(Timestamp::MAX).strftime("%Y-%m-%dT%H:%M:%S.%3f+00:00").to_string()
}

fn from_number(number: f64, format: TimeFormat) -> Option<u64> {
    let is_seconds = match format {
        TimeFormat::Seconds => true,
        TimeFormat::Milliseconds => false,
        TimeFormat::Rfc3339 => number < FIRST_MILLISECONDS,
    };
    let ms = if is_seconds { number * 1000.0 } else { number };
    (0.0..=LAST_TIME as f64).contains(&ms).then(|| ms.round() as u64)
}

/// The same for the timestamp type of MsgPack, extension -1: seconds in 32 bits, or nanoseconds in 30 bits and seconds in
/// 34, or nanoseconds in 32 bits and seconds in 64. `None` if the value is anything else, or before 1970.
pub(super) fn time_of_msgpack(value: &rmpv::Value) -> Option<u64> {
    let rmpv::Value::Ext(-1, bytes) = value else { return None };
    let (seconds, nanoseconds) = match bytes.len() {
        4 => (u32::from_be_bytes(bytes[..].try_into().ok()?).into(), 0),
        8 => {
            let both = u64::from_be_bytes(bytes[..].try_into().ok()?);
            (both & ((1 << 34) - 1), both >> 34)
        }
        12 => {
            let (nanoseconds, seconds) = bytes.split_at(4);
            let seconds = i64::from_be_bytes(seconds.try_into().ok()?);
            (u64::try_from(seconds).ok()?, u32::from_be_bytes(nanoseconds.try_into().ok()?).into())
        }
        _ => return None,
    };
    let ms = seconds.checked_mul(1000)?.checked_add(nanoseconds / 1_000_000)?;
    (ms <= LAST_TIME).then_some(ms)
}

/// The text of a value that is text, number or boolean; `None` if it is anything else.
pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// Whether this media type is that of MsgPack.
pub(super) fn is_msgpack(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    matches!(media_type, "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack")
}

/// Reads one MsgPack value that fills the bytes.
pub(super) fn read_msgpack(mut bytes: &[u8]) -> Option<rmpv::Value> {
    let value = rmpv::decode::read_value_with_max_depth(&mut bytes, MAX_DEPTH).ok()?;
    bytes.is_empty().then_some(value)
}

/// Writes one MsgPack value.
pub(super) fn write_msgpack(value: &rmpv::Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("memory can be written");
    bytes
}

/// The same value as JSON; `None` if JSON has no such value (bytes, extensions, keys that are no text, not-a-number).
pub(super) fn to_json(value: &rmpv::Value) -> Option<Value> {
    Some(match value {
        rmpv::Value::Nil => Value::Null,
        rmpv::Value::Boolean(boolean) => (*boolean).into(),
        rmpv::Value::Integer(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, number) => number?.into(),
        },
        rmpv::Value::F32(number) => Value::Number(serde_json::Number::from_f64((*number).into())?),
        rmpv::Value::F64(number) => Value::Number(serde_json::Number::from_f64(*number)?),
        rmpv::Value::String(text) => text.as_str()?.into(),
        rmpv::Value::Array(items) => Value::Array(items.iter().map(to_json).collect::<Option<_>>()?),
        rmpv::Value::Map(pairs) => {
            let mut members = serde_json::Map::with_capacity(pairs.len());
            for (key, value) in pairs {
                // A key that is there twice would be lost.
                if members.insert(key.as_str()?.to_owned(), to_json(value)?).is_some() {
                    return None;
                }
            }
            Value::Object(members)
        }
        rmpv::Value::Binary(_) | rmpv::Value::Ext(..) => return None,
    })
}

/// The same value as MsgPack.
pub(super) fn from_json(value: &Value) -> rmpv::Value {
    match value {
        Value::Null => rmpv::Value::Nil,
        Value::Bool(boolean) => (*boolean).into(),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => rmpv::Value::Array(items.iter().map(from_json).collect()),
        Value::Object(members) => {
            rmpv::Value::Map(members.iter().map(|(name, value)| (name.as_str().into(), from_json(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_read_in_all_forms() {
        for value in [
            json!("2023-11-14T22:13:20.5Z"),
            json!("2023-11-14T23:13:20.5+01:00"),
            json!("2023-11-14T22:13:20.500000"),
            json!("2023-11-14 22:13:20.5"),
            json!(1_700_000_000.5),
            json!(1_700_000_000_500u64),
            json!("1700000000.5"),
            json!("1700000000500"),
        ] {
            assert_eq!(time(&value, TimeFormat::Rfc3339), Some(1_700_000_000_500), "{value}");
        }
        for value in [json!("yesterday"), json!(-1), json!("nan"), json!("inf"), json!(1e300), json!(true), json!(null)]
        {
            assert_eq!(time(&value, TimeFormat::Rfc3339), None, "{value}");
        }
    }

    #[test]
    fn the_format_decides_what_a_number_means() {
        assert_eq!(time(&json!(5), TimeFormat::Milliseconds), Some(5));
        assert_eq!(time(&json!("5"), TimeFormat::Seconds), Some(5000));
        assert_eq!(time(&json!(200_000_000_000u64), TimeFormat::Seconds), Some(200_000_000_000_000));
    }

    #[test]
    fn times_are_written_as_python_reads_them() {
        assert_eq!(iso_format(1_700_000_000_500), "2023-11-14T22:13:20.500+00:00");
        assert_eq!(iso_format(1_700_000_000_000), "2023-11-14T22:13:20.000+00:00");
        assert_eq!(iso_format(u64::MAX), "9999-12-30T22:00:00.999+00:00");
    }

    #[test]
    fn timestamps_of_msgpack_are_read_in_all_sizes() {
        let time = |bytes: &[u8]| time_of_msgpack(&rmpv::Value::Ext(-1, bytes.to_vec()));
        assert_eq!(time(&1_700_000_000_u32.to_be_bytes()), Some(1_700_000_000_000));
        assert_eq!(time(&(500_000_000_u64 << 34 | 1_700_000_000).to_be_bytes()), Some(1_700_000_000_500));
        let long = |seconds: i64| [&500_000_000_u32.to_be_bytes()[..], &seconds.to_be_bytes()].concat();
        assert_eq!(time(&long(1_700_000_000)), Some(1_700_000_000_500));
        assert_eq!(time(&long(253_402_207_200)), Some(253_402_207_200_500));
        for bytes in [long(-1), long(253_402_207_201), long(i64::MAX), vec![], vec![0; 5]] {
            assert_eq!(time(&bytes), None, "{bytes:?}");
        }
        assert_eq!(time_of_msgpack(&rmpv::Value::Ext(1, vec![0; 4])), None);
    }

    #[test]
    fn the_last_time_is_that_of_rfc_3339() {
        assert_eq!(u64::try_from(Timestamp::MAX.as_millisecond()), Ok(LAST_TIME));
        assert_eq!(time(&json!(LAST_TIME), TimeFormat::Milliseconds), Some(LAST_TIME));
        assert_eq!(time(&json!(LAST_TIME + 1), TimeFormat::Milliseconds), None);
    }

    #[test]
    fn what_json_lacks_is_told_apart() {
        for value in [
            rmpv::Value::Binary(vec![1]),
            rmpv::Value::F64(f64::NAN),
            rmpv::Value::Map(vec![(1.into(), 2.into())]),
            rmpv::Value::Map(vec![("a".into(), 1.into()), ("a".into(), 2.into())]),
            rmpv::Value::Array(vec![rmpv::Value::Ext(1, vec![])]),
        ] {
            assert_eq!(to_json(&value), None, "{value}");
        }
        let value = json!({"a": [1, -2, 0.5, "é", null, true], "b": {"c": u64::MAX}});
        assert_eq!(to_json(&from_json(&value)), Some(value));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
        assert!(read_msgpack(&nested(100)).is_some());
        assert!(read_msgpack(&nested(100_000)).is_none());
        assert!(read_msgpack(&[0xc0, 0xc0]).is_none(), "one value and no more");
    }
}
