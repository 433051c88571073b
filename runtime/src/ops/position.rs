//! Places in a stream as people write them: an entry id, a time, or some time ago.

use crate::broker::EntryId;
use crate::envelope::parse_time;

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// At this entry.
    Entry(EntryId),
    /// At this millisecond since the Unix epoch.
    Time(u64),
}

/// A text is no place in a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no place in a stream: write an entry id (1700000000000-0), a time (2026-01-31T12:00:00Z), or how long ago \
     (10m, 2h, 1d)"
)]
pub struct InvalidPosition(pub String);

impl Position {
    /// Reads an entry id (the number of milliseconds alone will do), `-` for the oldest and `+` for the newest, an
    /// RFC 3339 time, `now`, or a duration before `now_ms`.
    pub fn parse(text: &str, now_ms: u64) -> Result<Position, InvalidPosition> {
        let text = text.trim();
        match text {
            "-" => return Ok(Position::Entry(EntryId::MIN)),
            "+" => return Ok(Position::Entry(EntryId::MAX)),
            "now" => return Ok(Position::Time(now_ms)),
            _ => {}
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Position::Time).map_err(|_| InvalidPosition(text.to_owned()));
        }
        if let Ok(id) = text.parse() {
            return Ok(Position::Entry(id));
        }
        if let Some(ms) = parse_time(text) {
            return Ok(Position::Time(ms));
        }
        let ago = humantime::parse_duration(text).map_err(|_| InvalidPosition(text.to_owned()))?;
        Ok(Position::Time(now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))))
    }

    /// The first entry that can be there.
    pub fn first(self) -> EntryId {
        match self {
            Position::Entry(id) => id,
            Position::Time(ms) => EntryId { ms, seq: 0 },
        }
    }

    /// The last entry that can be there.
    pub fn last(self) -> EntryId {
        match self {
            Position::Entry(id) => id,
            Position::Time(ms) => EntryId { ms, seq: u64::MAX },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn all_forms_are_read() {
        let time = |ms| Ok(Position::Time(ms));
        let entry = |ms, seq| Ok(Position::Entry(EntryId { ms, seq }));
        assert_eq!(Position::parse("1700000000000-7", NOW), entry(NOW, 7));
        assert_eq!(Position::parse("1700000000000", 5), time(NOW));
        assert_eq!(Position::parse("2023-11-14T22:13:20Z", 5), time(NOW));
        assert_eq!(Position::parse(" 10m ", NOW), time(NOW - 600_000));
        assert_eq!(Position::parse("now", NOW), time(NOW));
        assert_eq!(Position::parse("-", NOW), Ok(Position::Entry(EntryId::MIN)));
        assert_eq!(Position::parse("+", NOW), Ok(Position::Entry(EntryId::MAX)));
        assert_eq!(Position::parse("900y", NOW), time(0));
    }

    #[test]
    fn a_time_takes_in_its_whole_millisecond() {
        let time = Position::Time(7);
        assert_eq!((time.first(), time.last()), (EntryId { ms: 7, seq: 0 }, EntryId { ms: 7, seq: u64::MAX }));
        let entry = Position::Entry(EntryId { ms: 7, seq: 3 });
        assert_eq!((entry.first(), entry.last()), (EntryId { ms: 7, seq: 3 }, EntryId { ms: 7, seq: 3 }));
    }

    #[test]
    fn other_texts_are_refused_with_a_remedy() {
        for text in ["", "yesterday", "1-2-3", "10 parsecs", "99999999999999999999", "2026-13-01T00:00:00Z"] {
            let error = Position::parse(text, NOW).expect_err(text);
            assert!(error.to_string().contains("an entry id"), "{error}");
        }
    }
}
