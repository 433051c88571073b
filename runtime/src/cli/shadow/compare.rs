//! What two versions made of the same event, and what differs.

use serde::Serialize;
use serde_json::{Value, json};
use wasmill::deploy::expected::Expectation;

/// The most changes of one event that are shown.
pub const MAX_CHANGES: usize = 20;
/// The longest value of a change that is shown whole, in bytes of JSON.
const MAX_VALUE: usize = 500;

/// By what two versions differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Acknowledged, tried again or given up; or by what was said of it.
    Outcome,
    /// Acknowledged by both, with other follow-ups.
    FollowUps,
}

/// One step from what the current version makes to what the candidate makes: an operation of RFC 6902, with what was
/// there before. Long values are cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `add`, `remove` or `replace`.
    pub op: &'static str,
    /// Where: a JSON pointer, such as `/published/0/data/total`.
    pub path: String,
    /// What the current version has there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What the candidate has there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// By what they differ, if they do. Ids, time and what else the host derives are not compared; JSON by what it means, other
/// data by its bytes.
pub fn differ(current: &Expectation, candidate: &Expectation) -> Option<Kind> {
    if (&current.outcome, &current.class, &current.message, current.after_ms)
        != (&candidate.outcome, &candidate.class, &candidate.message, candidate.after_ms)
    {
        return Some(Kind::Outcome);
    }
    (current.published != candidate.published).then_some(Kind::FollowUps)
}

/// The first [`MAX_CHANGES`] changes, and how many there are in all.
pub fn changes(current: &Expectation, candidate: &Expectation) -> (Vec<Change>, usize) {
    let (mut document, after) = (json!(current), json!(candidate));
    let operations = json_patch::diff(&document, &after).0;
    let mut changes = Vec::new();
    for operation in operations.iter().take(MAX_CHANGES) {
        let path = operation.path().to_string();
        let before = document.pointer(&path).map(shortened);
        let (op, after) = match operation {
            json_patch::PatchOperation::Add(add) => ("add", Some(shortened(&add.value))),
            json_patch::PatchOperation::Replace(replace) => ("replace", Some(shortened(&replace.value))),
            // No other operation is made by a diff.
            _ => ("remove", None),
        };
        // Adding to an array moves what is there.
        let before = before.filter(|_| op != "add");
        changes.push(Change { op, path, before, after });
        // Later paths are those of the document as it is by then.
        if json_patch::patch(&mut document, std::slice::from_ref(operation)).is_err() {
            break;
        }
    }
    (changes, operations.len())
}

/// The value, or how it begins.
fn shortened(value: &Value) -> Value {
    let text = value.to_string();
    if text.len() <= MAX_VALUE {
        return value.clone();
    }
    let start: String = text.chars().take(MAX_VALUE / 4).collect();
    json!(format!("{start}... ({} bytes)", text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str) -> Expectation {
        Expectation::parse(text.as_bytes()).expect("a valid expectation")
    }

    fn ack(data: &str) -> Expectation {
        made(&format!(r#"{{"outcome": "ack", "published": [{{"stream": "s", "type": "t", "data": {data}}}]}}"#))
    }

    #[test]
    fn json_is_compared_by_what_it_means() {
        assert_eq!(differ(&ack(r#"{"a": 1, "b": [1, 2]}"#), &ack(r#"{ "b":[1,2],"a":1 }"#)), None);
        assert_eq!(differ(&ack("1"), &ack("2")), Some(Kind::FollowUps));
        assert_eq!(differ(&ack("null"), &ack("0")), Some(Kind::FollowUps));
        let reject = made(r#"{"outcome": "reject", "message": "no"}"#);
        assert_eq!(differ(&ack("1"), &reject), Some(Kind::Outcome));
        assert_eq!(differ(&reject, &made(r#"{"outcome": "reject", "message": "never"}"#)), Some(Kind::Outcome));
        assert_eq!(differ(&reject, &reject.clone()), None);
    }

    #[test]
    fn changes_say_where_and_what_was_there() {
        let (changes, all) =
            changes(&ack(r#"{"a": [1, 2, 3], "b": "x", "d~/": 1}"#), &ack(r#"{"a": [1, 3], "c": null, "d~/": 2}"#));
        assert_eq!(all, changes.len());
        let find = |path: &str| changes.iter().find(|change| change.path == path).expect(path);
        let change = |op, path: &str, before, after| Change { op, path: path.to_owned(), before, after };
        let path = "/published/0/data/b";
        assert_eq!(find(path), &change("remove", path, Some(json!("x")), None));
        let path = "/published/0/data/c";
        assert_eq!(find(path), &change("add", path, None, Some(Value::Null)));
        let path = "/published/0/data/d~0~1";
        assert_eq!(find(path), &change("replace", path, Some(json!(1)), Some(json!(2))));
    }

    #[test]
    fn there_are_never_more_changes_than_can_be_read_nor_longer_ones() {
        let numbers = |first: usize, count: usize| json!((first..first + count).collect::<Vec<_>>()).to_string();
        let (edge, all) = changes(&ack(&numbers(0, MAX_CHANGES)), &ack(&numbers(100, MAX_CHANGES)));
        assert_eq!((edge.len(), all), (MAX_CHANGES, MAX_CHANGES));
        let (over, all) = changes(&ack(&numbers(0, MAX_CHANGES + 1)), &ack(&numbers(100, MAX_CHANGES + 1)));
        assert_eq!((over.len(), all), (MAX_CHANGES, MAX_CHANGES + 1));
        let text = |length: usize| json!("x".repeat(length - 2));
        assert_eq!(shortened(&text(MAX_VALUE)), text(MAX_VALUE));
        let short = shortened(&text(MAX_VALUE + 1)).to_string();
        assert!(short.len() < MAX_VALUE && short.contains("... (501 bytes)"), "{short}");
    }
}
