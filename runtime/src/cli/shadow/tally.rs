//! What came of all events, and the report of it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;
use serde_json::{Value, json};

use super::compare::{self, Change, Kind};
use super::side::Side;
use crate::cli::table::{self, counted, plain};
use wasmill::deploy::expected::Expectation;

/// The most examples of each kind of difference; there are two kinds.
const MAX_EXAMPLES: usize = 5;

/// What came of all events.
#[derive(Default)]
pub struct Tally {
    /// Entries that were looked at.
    pub seen: u64,
    /// Of a type that the handler does not want.
    pub skipped: u64,
    /// Not in the sample.
    pub left_out: u64,
    /// Given up without running any version: no event, too large, or against its schema.
    pub refused: u64,
    /// Both versions made the same of it.
    pub same: u64,
    /// Differences by what the versions made of the event, such as `ack -> retry`.
    outcomes: BTreeMap<String, u64>,
    differ_by_outcome: u64,
    differ_by_follow_ups: u64,
    examples: Vec<Example>,
    /// Events came faster than they were compared.
    pub is_behind: bool,
}

/// An event that the versions make different things of.
#[derive(Serialize)]
struct Example {
    kind: Kind,
    stream: String,
    entry: String,
    id: String,
    r#type: String,
    current: Value,
    candidate: Value,
    /// How to get from the one to the other.
    diff: Vec<Change>,
    /// Changes that are not shown.
    changes_left_out: usize,
}

/// Names of an event.
pub struct Named<'a> {
    pub stream: &'a str,
    pub entry: &'a str,
    pub id: &'a str,
    pub r#type: &'a str,
}

impl Tally {
    /// Events that both versions have run.
    pub fn compared(&self) -> u64 {
        self.same + self.differences()
    }

    /// Events that they make different things of.
    pub fn differences(&self) -> u64 {
        self.differ_by_outcome + self.differ_by_follow_ups
    }

    /// Notes what came of one event.
    pub fn note(&mut self, named: &Named<'_>, current: &Expectation, candidate: &Expectation) {
        let Some(kind) = compare::differ(current, candidate) else {
            self.same += 1;
            return;
        };
        match kind {
            Kind::Outcome => {
                self.differ_by_outcome += 1;
                *self.outcomes.entry(format!("{} -> {}", word(current), word(candidate))).or_default() += 1;
            }
            Kind::FollowUps => self.differ_by_follow_ups += 1,
        }
        if self.examples.iter().filter(|example| example.kind == kind).count() < MAX_EXAMPLES {
            let (diff, all) = compare::changes(current, candidate);
            let said = |made: &Expectation| json!({"outcome": word(made), "message": made.message, "follow_ups": made.published.len()});
            self.examples.push(Example {
                kind,
                stream: named.stream.to_owned(),
                entry: named.entry.to_owned(),
                id: named.id.to_owned(),
                r#type: named.r#type.to_owned(),
                current: said(current),
                candidate: said(candidate),
                changes_left_out: all - diff.len(),
                diff,
            });
        }
    }

    /// All of it, for programs.
    pub fn as_json(&self, handler: &str, current: &Side, candidate: &Side, notes: &[String]) -> Value {
        json!({
            "handler": handler,
            "events": {
                "seen": self.seen,
                "not_wanted": self.skipped,
                "not_sampled": self.left_out,
                "refused": self.refused,
                "compared": self.compared(),
            },
            "same": self.same,
            "differ": {"outcome": self.differ_by_outcome, "follow_ups": self.differ_by_follow_ups},
            "outcomes": self.outcomes,
            "current": current.as_json(),
            "candidate": candidate.as_json(),
            "examples": self.examples,
            "behind": self.is_behind,
            "notes": notes,
        })
    }

    /// All of it, for people.
    pub fn print(&self, handler: &str, current: &Side, candidate: &Side, notes: &[String]) {
        say!("{handler}: current   {} ({})", current.digest(), plain(&current.from));
        say!("{:width$}  candidate {} ({})", "", candidate.digest(), plain(&candidate.from), width = handler.len());
        let number = |number: u64, one| counted(usize::try_from(number).unwrap_or(usize::MAX), one);
        let compared = number(self.compared(), "event");
        say!("{compared} of {} compared; nothing was written", table::count(self.seen as usize));
        match self.differences() {
            0 => say!("all came to the same"),
            _ => say!(
                "{} the same; {} by outcome, {} by follow-ups",
                table::count(self.same as usize),
                number(self.differ_by_outcome, "difference"),
                number(self.differ_by_follow_ups, "difference")
            ),
        }
        self.outcomes.iter().for_each(|(change, count)| say!("  {change}: {}", table::count(*count as usize)));
        if self.compared() > 0 {
            say!("{}", figures(current, candidate));
        }
        self.examples.iter().for_each(print_example);
        if self.is_behind {
            say!("events came faster than they were compared: some are not in this report; take a smaller sample");
        }
        notes.iter().for_each(|note| say!("{note}"));
    }
}

/// Time and memory side by side.
fn figures(current: &Side, candidate: &Side) -> comfy_table::Table {
    let mut table = table::new(["", "CURRENT", "CANDIDATE"]);
    let nanos = |nanos| format!("{:.1?}", Duration::from_nanos(nanos));
    for (name, percent) in [("time p50", 50.0), ("time p99", 99.0)] {
        table.add_row([name.to_owned(), nanos(current.duration(percent)), nanos(candidate.duration(percent))]);
    }
    let bytes = |side: &Side| ByteSize(side.memory() as u64).to_string();
    table.add_row(["most memory".to_owned(), bytes(current), bytes(candidate)]);
    table
}

fn print_example(example: &Example) {
    let Example { stream, entry, r#type, id, .. } = example;
    say!("{stream} {entry} {} {}", plain(r#type), plain(id));
    for (who, said) in [("current", &example.current), ("candidate", &example.candidate)] {
        let text = |name: &str| said[name].as_str().map(plain).unwrap_or_default();
        match text("message").as_str() {
            "" => say!("  {who}: {}", text("outcome")),
            message => say!("  {who}: {}: {message}", text("outcome")),
        }
    }
    for Change { op, path, before, after } in &example.diff {
        let value = |value: &Option<Value>| value.as_ref().map(|value| plain(&value.to_string())).unwrap_or_default();
        let values = match (before, after) {
            (Some(_), Some(_)) => format!("{} -> {}", value(before), value(after)),
            _ => format!("{}{}", value(before), value(after)),
        };
        say!("  {op} {}: {values}", plain(path));
    }
    if example.changes_left_out > 0 {
        say!("  and {} more", counted(example.changes_left_out, "change"));
    }
}

/// The outcome in one word; of a trap, which.
fn word(made: &Expectation) -> &str {
    made.class.as_deref().unwrap_or(&made.outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_few_and_of_both_kinds() {
        let made = |text: &str| Expectation::parse(text.as_bytes()).expect("a valid expectation");
        let ack = made(r#"{"outcome": "ack"}"#);
        let more = made(r#"{"outcome": "ack", "published": [{"stream": "s", "type": "t"}]}"#);
        let trap = made(r#"{"outcome": "trap", "class": "out_of_memory"}"#);
        let mut tally = Tally::default();
        let named = Named { stream: "s", entry: "1-0", id: "1", r#type: "t" };
        (0..100).for_each(|_| tally.note(&named, &ack, &more));
        (0..2).for_each(|_| tally.note(&named, &ack, &trap));
        tally.note(&named, &ack, &ack);
        let count = |kind| tally.examples.iter().filter(|example| example.kind == kind).count();
        assert_eq!((count(Kind::FollowUps), count(Kind::Outcome)), (MAX_EXAMPLES, 2));
        assert_eq!((tally.compared(), tally.same, tally.differences()), (103, 1, 102));
        assert_eq!(tally.outcomes, BTreeMap::from([("ack -> out_of_memory".to_owned(), 2)]));
    }
}
