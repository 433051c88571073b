//! How an event breaks its schema, in words that name the place.

use std::fmt::Write as _;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use super::MAX_FAULTS;

/// The most characters of a value, a name or a schema that go into a message.
const MAX_SHOWN: usize = 80;
/// The most versions that go into a message.
const MAX_VERSIONS: usize = 20;
/// The most names that go into a message.
const MAX_NAMES: usize = 5;

/// An event that may not be published, or that is not what it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaViolation {
    /// The type has no schema, and that is not allowed.
    #[error(
        "the type {:?} has no schema, and `schemas.unknown` is \"refuse\"; add TYPE/VERSION.json to the schema folder",
        shown(r#type)
    )]
    UnknownType { r#type: String },
    /// The type has schemas, and none of this version.
    #[error("{:?} has no schema of version {:?}; there are: {}", shown(r#type), shown(version), listed(known))]
    UnknownVersion { r#type: String, version: String, known: Vec<String> },
    /// The data does not follow the schema.
    #[error("the data is no {} of version {version}: {}", r#type, list(faults, *more))]
    Data {
        r#type: String,
        version: String,
        /// At least one, at most [`MAX_FAULTS`].
        faults: Vec<DataFault>,
        /// There are others.
        more: bool,
    },
}

/// One place at which data does not follow its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFault {
    /// The JSON pointer of the place, such as `/items/0/sku`; empty for the data as a whole.
    pub path: String,
    /// What was expected there, and what was found.
    pub problem: String,
}

impl std::fmt::Display for DataFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.problem),
            false => write!(f, "{}: {}", self.path, self.problem),
        }
    }
}

/// The greatest versions.
fn listed(known: &[String]) -> String {
    let skipped = known.len().saturating_sub(MAX_VERSIONS);
    let more = if skipped > 0 { format!("{skipped} others, ") } else { String::new() };
    more + &known[skipped..].join(", ")
}

fn list(faults: &[DataFault], more: bool) -> String {
    let mut text = faults.iter().map(DataFault::to_string).collect::<Vec<_>>().join("; ");
    if more {
        text.push_str("; and more");
    }
    text
}

/// The first faults of data that does not follow the schema, and whether there are others. Without `detail` only one is
/// looked for.
pub(super) fn faults(validator: &Validator, value: &Value, detail: bool) -> (Vec<DataFault>, bool) {
    if !detail {
        let first = validator.validate(value).err().map(|error| fault(&error));
        return (first.into_iter().collect(), true);
    }
    let mut errors = validator.iter_errors(value);
    let faults = errors.by_ref().take(MAX_FAULTS).map(|error| fault(&error)).collect();
    (faults, errors.next().is_some())
}

fn fault(error: &ValidationError<'_>) -> DataFault {
    let mut path = error.instance_path().as_str().to_owned();
    let found = error.instance().as_ref();
    let problem = match error.kind() {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            // JSON pointers write these two characters in another way.
            let _ = write!(path, "/{}", shown(name).replace('~', "~0").replace('/', "~1"));
            "is missing".to_owned()
        }
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(one) => one.to_string(),
                TypeKind::Multiple(many) => many.iter().map(|one| one.to_string()).collect::<Vec<_>>().join(" or "),
            };
            format!("expected {expected}, found {}", described(found))
        }
        ValidationErrorKind::Enum { options } => {
            format!("expected one of {}, found {}", shown(&options.to_string()), described(found))
        }
        ValidationErrorKind::Constant { expected_value } => {
            format!("expected {}, found {}", shown(&expected_value.to_string()), described(found))
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            format!("has keys that the schema does not know: {}", names(unexpected))
        }
        ValidationErrorKind::Pattern { pattern } => {
            format!("expected a text that matches {}, found {}", shown(pattern), described(found))
        }
        ValidationErrorKind::FalseSchema => format!("the schema allows nothing here; found {}", described(found)),
        ValidationErrorKind::Format { format } => format!("expected a {format}, found {}", described(found)),
        _ => {
            let problem = error.masked_with("the value").to_string();
            format!("{}; found {}", shortened(&problem, 4 * MAX_SHOWN), described(found))
        }
    };
    DataFault { path, problem }
}

fn names(all: &[String]) -> String {
    let mut names = all.iter().take(MAX_NAMES).map(|name| format!("{:?}", shown(name))).collect::<Vec<_>>().join(", ");
    if all.len() > MAX_NAMES {
        let _ = write!(names, " and {} more", all.len() - MAX_NAMES);
    }
    names
}

/// A value in a few words, however large it is.
fn described(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("the text {:?}", shown(text)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(keys) => format!("an object with {} keys", keys.len()),
    }
}

fn shown(text: &str) -> String {
    shortened(text, MAX_SHOWN)
}

fn shortened(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
