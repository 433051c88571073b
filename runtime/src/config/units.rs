//! Durations as `"1h30m"` and sizes as `"64 MiB"`: reading them from configuration and writing them back.

use std::time::Duration;

use bytesize::ByteSize;

/// The longest duration that a configuration may hold: beyond it adding to a point in time could overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Reads `"30s"`, `"500ms"`, `"1h30m"`; at most [`MAX_DURATION`].
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text.trim()).map_err(|error| match text.trim().parse::<f64>() {
        Ok(_) => format!("`{text}` has no unit, write it as \"500ms\", \"30s\", \"5m\" or \"1h30m\""),
        Err(_) => format!("`{text}` is not a duration such as \"500ms\", \"30s\", \"5m\" or \"1h30m\" ({error})"),
    })?;
    if duration > MAX_DURATION {
        return Err(format!("`{text}` is longer than a year"));
    }
    Ok(duration)
}

/// Writes a duration in the form that [`parse_duration`] reads, without spaces.
pub fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// Reads `"64 MiB"`, `"16 KiB"`, `"1 MB"` or a plain number of bytes.
pub fn parse_size(text: &str) -> Result<ByteSize, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("`{text}` is not a size such as \"64 MiB\", \"16 KiB\" or a plain number of bytes"))
}

/// Writes a size with the largest binary unit that keeps it a whole number, so that nothing is rounded.
pub fn format_size(size: ByteSize) -> String {
    let bytes = size.as_u64();
    let units = [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1u64 << shift)) {
        Some((unit, shift)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

/// For `#[serde(with = "duration")]`.
pub mod duration {
    use super::*;
    use serde::{Deserializer, Serializer, de};

    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = Duration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a duration in quotes such as \"500ms\", \"30s\", \"5m\" or \"1h30m\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).map_err(E::custom)
        }
    }

    /// Reads a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_str(Visitor)
    }

    /// Writes a duration.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*duration))
    }
}

/// For `#[serde(with = "size")]`.
pub mod size {
    use super::*;
    use serde::{Deserializer, Serializer, de};

    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = ByteSize;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a size such as \"64 MiB\", \"16 KiB\" or a plain number of bytes")
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
            Ok(ByteSize(bytes))
        }

        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
            u64::try_from(bytes).map(ByteSize).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
            parse_size(text).map_err(E::custom)
        }
    }

    /// Reads a size.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        deserializer.deserialize_any(Visitor)
    }

    /// Writes a size.
    pub fn serialize<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_size(*size))
    }
}

/// For `#[serde(with = "duration_option")]`, together with `default` and `skip_serializing_if`.
pub mod duration_option {
    use super::*;
    use serde::{Deserializer, Serializer};

    /// Reads a duration that is there.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        duration::deserialize(deserializer).map(Some)
    }

    /// Writes a duration, if there is one.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => duration::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }
}

/// For `#[serde(with = "size_option")]`, together with `default` and `skip_serializing_if`.
pub mod size_option {
    use super::*;
    use serde::{Deserializer, Serializer};

    /// Reads a size that is there.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
        size::deserialize(deserializer).map(Some)
    }

    /// Writes a size, if there is one.
    pub fn serialize<S: Serializer>(value: &Option<ByteSize>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => size::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_read_as_people_write_them() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_size("64 MiB"), Ok(ByteSize::mib(64)));
        assert_eq!(parse_size("16KiB"), Ok(ByteSize::kib(16)));
        assert_eq!(parse_size("1000"), Ok(ByteSize(1000)));
        assert_eq!(parse_size("1.5 KiB"), Ok(ByteSize(1536)));
    }

    #[test]
    fn faulty_units_say_what_is_wrong() {
        assert!(parse_duration("30").is_err_and(|message| message.contains("no unit")));
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("366days").is_err_and(|message| message.contains("longer than a year")));
        assert!(parse_duration("365days").is_ok());
        assert!(parse_duration("").is_err());
        assert!(parse_size("much").is_err_and(|message| message.contains("64 MiB")));
        assert!(parse_size("-1").is_err());
    }

    #[test]
    fn sizes_are_written_without_rounding() {
        for (bytes, text) in [(0, "0 B"), (1500, "1500 B"), (1536, "1536 B"), (1 << 14, "16 KiB"), (3 << 30, "3 GiB")] {
            assert_eq!(format_size(ByteSize(bytes)), text);
        }
    }

    proptest! {
        #[test]
        fn durations_round_trip(millis in 0u64..365 * 24 * 60 * 60 * 1000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_round_trip(bytes: u64, shift in 0u32..64) {
            let size = ByteSize(bytes >> shift);
            prop_assert_eq!(parse_size(&format_size(size)), Ok(size));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,20}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
