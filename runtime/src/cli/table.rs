//! Tables and figures for people.

use std::time::Duration;

use comfy_table::{Table, presets};
use wasmill::text::is_acted_on;

/// A table without lines.
pub fn new<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table
}

/// A number with its thousands apart.
pub fn count(number: usize) -> String {
    indicatif::HumanCount(number as u64).to_string()
}

/// A time span in its two greatest units.
pub fn age(ms: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(ms / 1000)).to_string();
    match ms {
        0..1000 => format!("{ms}ms"),
        _ => text.split(' ').take(2).collect::<Vec<_>>().join(" "),
    }
}

/// The text without characters that a terminal acts on, or that turn its direction: names and events may come from
/// anybody.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            _ if is_acted_on(character) => plain.extend(character.escape_debug()),
            _ => plain.push(character),
        }
    }
    plain
}

/// The same of a text of several lines, each behind an indentation.
pub fn plain_lines(text: &str, indentation: &str) -> String {
    let lines = text.lines().map(|line| format!("{indentation}{}", plain(line)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A number and what it counts.
pub fn counted(number: usize, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {one}{plural}", count(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!((count(1_234_567).as_str(), age(999).as_str()), ("1,234,567", "999ms"));
        assert_eq!((counted(1, "event").as_str(), counted(1000, "event").as_str()), ("1 event", "1,000 events"));
        assert_eq!((age(1000).as_str(), age(3_725_000).as_str()), ("1s", "1h 2m"));
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(plain("a\u{1b}[2J\n\"b\" é"), "a\\u{1b}[2J\\n\"b\" é");
        assert_eq!(plain("\u{202e}x\u{200e}\u{2028}"), "\\u{202e}x\\u{200e}\\u{2028}");
    }
}
