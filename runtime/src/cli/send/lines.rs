//! Lines of an input: reading them, and naming some of them.

use std::fmt;
use std::io::{BufRead, Read as _};
use std::str::FromStr;

/// What ends a line at most: `\r\n`.
const END: u64 = 2;

/// The lines of an input, without their ends. Lines of any length take no more memory than lines of `limit` bytes.
pub(super) struct Lines<R> {
    input: R,
    limit: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R, limit: u64) -> Lines<R> {
        Lines { input, limit }
    }

    /// Reads the next line into `line`; `false` at the end. The last one may lack its end. Of a line that is longer than
    /// the limit a few bytes more than the limit are given, and the rest is passed over.
    pub(super) fn read(&mut self, line: &mut Vec<u8>) -> std::io::Result<bool> {
        line.clear();
        let most = self.limit.saturating_add(END + 1);
        if self.input.by_ref().take(most).read_until(b'\n', line)? == 0 {
            return Ok(false);
        }
        if line.len() as u64 == most && line.last() != Some(&b'\n') {
            self.input.skip_until(b'\n')?;
        } else if line.pop_if(|last| *last == b'\n').is_some() {
            line.pop_if(|last| *last == b'\r');
        }
        Ok(true)
    }
}

/// Lines from one number to another, both included, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    /// `u64::MAX`: up to the end.
    pub(super) last: u64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Range { first, last: u64::MAX } => write!(f, "{first}-"),
            Range { first, last } if first == last => write!(f, "{first}"),
            Range { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let number = |text: &str| text.trim().parse::<u64>().ok().filter(|&number| number > 0);
        let (first, last) = match text.split_once('-') {
            None => (number(text), number(text)),
            Some((first, "")) => (number(first), Some(u64::MAX)),
            Some((first, last)) => (number(first), number(last)),
        };
        match (first, last) {
            (Some(first), Some(last)) if first <= last => Ok(Range { first, last }),
            _ => Err(format!("`{text}` has not the form 7, 500-999 or 1000-; lines are counted from 1")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_their_text() {
        for text in ["7", "1-2", "500-"] {
            assert_eq!(text.parse::<Range>().map(|range| range.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "-", "0", "0-3", "3-2", "-5", "a", "1-b", "1--"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let mut lines = Lines::new(&b"a\r\n\n b \nlast\r"[..], 5);
        let mut line = Vec::new();
        for wanted in ["a", "", " b ", "last\r"] {
            assert!(lines.read(&mut line).unwrap());
            assert_eq!(line, wanted.as_bytes());
        }
        assert!(!lines.read(&mut line).unwrap());
    }

    #[test]
    fn of_lines_that_are_too_long_only_so_much_is_kept() {
        let mut lines = Lines::new(&b"abc\r\nabcd\r\nabcdefghij\nabc\nabcdef\n\nabcdefg"[..], 3);
        let mut line = Vec::new();
        for wanted in ["abc", "abcd", "abcdef", "abc", "abcdef", "", "abcdef"] {
            assert!(lines.read(&mut line).unwrap());
            assert_eq!(line, wanted.as_bytes());
        }
        assert!(!lines.read(&mut line).unwrap());
    }
}
