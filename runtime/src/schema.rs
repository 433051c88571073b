//! Schemas: what the data of an event must look like, per event type and version. Pure.
//!
//! [`Schemas`] is built once from the texts of all schema files ([`crate::app`] reads them) and then asked before each
//! publish. JSON Schema 2020-12; formats are checked; patterns have no look-around and no back-references, so that
//! matching takes linear time. A `$ref` leads to another file of the folder or to nowhere.

mod data;
mod version;
mod violation;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jsonschema::{Draft, PatternOptions, Retrieve, Uri, Validator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use version::compare_versions;
pub use violation::{DataFault, SchemaViolation};

use crate::event::Event;

/// The most bytes of a schema file: it is held in memory, compiled.
pub const MAX_SCHEMA_BYTES: usize = 1 << 20;
/// The most schemas of a folder, over all types and versions.
pub const MAX_SCHEMAS: usize = 4096;
/// The most faults that are told of one event.
pub const MAX_FAULTS: usize = 5;
/// Of data beyond this many bytes only the first fault is looked for: the engine collects all others at once, and they
/// could take far more memory than the data.
pub const MAX_BYTES_IN_DETAIL: usize = 64 << 10;
/// The deepest nesting of data that is checked, in JSON and in MsgPack.
pub const MAX_DEPTH: usize = 128;
/// The most bytes of a compiled pattern.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// The only dialect.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// What becomes of events whose type has no schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownTypes {
    /// They pass unchecked.
    #[default]
    Allow,
    /// They are refused.
    Refuse,
}

/// The text of one schema file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaFile {
    /// The event type: the name of the directory.
    pub r#type: String,
    /// The version: the name of the file without `.json`.
    pub version: String,
    /// What is in it.
    pub text: String,
}

/// A schema file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}/{version}.json: {problem}", r#type)]
pub struct SchemaFault {
    /// The event type.
    pub r#type: String,
    /// The version.
    pub version: String,
    /// What is wrong, and what to do about it.
    pub problem: String,
}

/// One schema.
pub struct Schema {
    /// Its version.
    pub version: String,
    /// Its `title`.
    pub title: Option<String>,
    /// The whole document.
    pub document: Arc<Value>,
    validator: Validator,
}

impl PartialEq for Schema {
    fn eq(&self, other: &Schema) -> bool {
        (&self.version, &self.document) == (&other.version, &other.document)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").field("version", &self.version).finish_non_exhaustive()
    }
}

/// All schemas by event type. The default has none and lets everything pass.
#[derive(Debug, Default, PartialEq)]
pub struct Schemas {
    /// Of each type its schemas in the order of their versions; at least one.
    types: BTreeMap<String, Vec<Schema>>,
    unknown: UnknownTypes,
}

impl Schemas {
    /// Compiles schemas. Every file that cannot be used is reported.
    pub fn build(files: Vec<SchemaFile>, unknown: UnknownTypes) -> Result<Schemas, Vec<SchemaFault>> {
        let mut faults = Vec::new();
        let mut documents = Vec::with_capacity(files.len());
        for SchemaFile { r#type, version, text } in files {
            match parse(&text) {
                Ok(document) => documents.push((r#type, version, Arc::new(document))),
                Err(problem) => faults.push(SchemaFault { r#type, version, problem }),
            }
        }
        let folder = Folder::new(&documents);
        let mut types: BTreeMap<String, Vec<Schema>> = BTreeMap::new();
        for (r#type, version, document) in documents {
            match compile(&folder, &uri(&r#type, &version), &document) {
                Ok(validator) => {
                    let title = document.get("title").and_then(Value::as_str).map(str::to_owned);
                    types.entry(r#type).or_default().push(Schema { version, title, document, validator });
                }
                Err(problem) => faults.push(SchemaFault { r#type, version, problem }),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        for schemas in types.values_mut() {
            schemas.sort_by(|a, b| compare_versions(&a.version, &b.version));
        }
        Ok(Schemas { types, unknown })
    }

    /// The types with their schemas, in the order of names and versions.
    pub fn types(&self) -> impl Iterator<Item = (&str, &[Schema])> {
        self.types.iter().map(|(r#type, schemas)| (r#type.as_str(), schemas.as_slice()))
    }

    /// The schema of a type in a version, or in its greatest one. `None` if the type has no schemas and that is allowed.
    pub fn find(&self, r#type: &str, version: Option<&str>) -> Result<Option<&Schema>, SchemaViolation> {
        let Some(schemas) = self.types.get(r#type) else {
            return match self.unknown {
                UnknownTypes::Allow => Ok(None),
                UnknownTypes::Refuse => Err(SchemaViolation::UnknownType { r#type: r#type.to_owned() }),
            };
        };
        let found = match version {
            None => schemas.last(),
            Some(version) => schemas.iter().find(|schema| schema.version == version),
        };
        found.map(Some).ok_or_else(|| SchemaViolation::UnknownVersion {
            r#type: r#type.to_owned(),
            version: version.unwrap_or_default().to_owned(),
            known: schemas.iter().map(|schema| schema.version.clone()).collect(),
        })
    }

    /// Checks the data of an event by the schema of its type and version, or of the greatest version if the event names
    /// none.
    pub fn check(&self, event: &Event) -> Result<(), SchemaViolation> {
        self.checked(event).map(drop)
    }

    /// The same for an event that is about to be published: it then names the version by which it was checked.
    pub fn admit(&self, event: &mut Event) -> Result<(), SchemaViolation> {
        let version = self.checked(event)?.map(|schema| schema.version.clone());
        if event.schema_version.is_none() {
            event.schema_version = version;
        }
        Ok(())
    }

    fn checked(&self, event: &Event) -> Result<Option<&Schema>, SchemaViolation> {
        let Some(schema) = self.find(&event.r#type, event.schema_version.as_deref())? else { return Ok(None) };
        let violation = |faults, more| SchemaViolation::Data {
            r#type: event.r#type.clone(),
            version: schema.version.clone(),
            faults,
            more,
        };
        let value = data::parse(&event.content_type, &event.data)
            .map_err(|problem| violation(vec![DataFault { path: String::new(), problem }], false))?;
        if schema.validator.is_valid(&value) {
            return Ok(Some(schema));
        }
        let (faults, more) = violation::faults(&schema.validator, &value, event.data.len() <= MAX_BYTES_IN_DETAIL);
        Err(violation(faults, more))
    }
}

/// Reads a schema file.
fn parse(text: &str) -> Result<Value, String> {
    if text.len() > MAX_SCHEMA_BYTES {
        return Err(format!("has {} bytes; the limit is {MAX_SCHEMA_BYTES}", text.len()));
    }
    let document: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    match document.get("$schema") {
        None => {}
        Some(Value::String(dialect)) if dialect.trim_end_matches('#') == DIALECT => {}
        Some(other) => return Err(format!("`$schema` is {other}; leave it out, or write \"{DIALECT}\"")),
    }
    Ok(document)
}

fn compile(folder: &Folder, uri: &str, document: &Value) -> Result<Validator, String> {
    let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
    let built = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_base_uri(uri)
        .with_retriever(folder.clone())
        .with_pattern_options(patterns)
        .should_validate_formats(true)
        .build(document);
    built.map_err(|error| {
        let place = error.instance_path().as_str();
        let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
        match error.kind() {
            jsonschema::error::ValidationErrorKind::Format { format } if format == "regex" => {
                format!("{place}{error}; patterns have no look-around and no back-references")
            }
            _ => format!("{place}not a JSON Schema: {error}"),
        }
    })
}

/// The documents that a `$ref` can lead to: by their place in the folder, and by their own `$id`.
#[derive(Clone)]
struct Folder(Arc<BTreeMap<String, Arc<Value>>>);

impl Folder {
    fn new(documents: &[(String, String, Arc<Value>)]) -> Folder {
        let by_place = documents.iter().map(|(r#type, version, document)| (uri(r#type, version), document.clone()));
        let by_id = documents.iter().filter_map(|(_, _, document)| {
            let id = document.get("$id")?.as_str()?;
            Some((id.trim_end_matches('#').to_owned(), document.clone()))
        });
        Folder(Arc::new(by_id.chain(by_place).collect()))
    }
}

impl Retrieve for Folder {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        match self.0.get(uri.as_str()) {
            Some(document) => Ok(Value::clone(document)),
            None => Err("there is no such file in the schema folder, and nothing outside of it is read".into()),
        }
    }
}

/// The address of a schema file, against which its `$ref`s are resolved: `../address/1.json` works.
fn uri(r#type: &str, version: &str) -> String {
    format!("schemas:///{}/{}.json", escaped(r#type), escaped(version))
}

/// The text with everything percent-encoded that may not stand in a segment of a path.
fn escaped(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if text.bytes().all(plain) {
        return text.into();
    }
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect::<String>().into()
}

#[cfg(test)]
mod tests;
