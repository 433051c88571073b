//! From text to [`Config`], collecting every fault on the way instead of stopping at the first.
//!
//! The text is parsed into a tree that knows where each key and value stood; environment variables are put into the
//! tree; then the tree is deserialised again and again, each time without the key that was at fault.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{ConfigError, nearest};
use super::{Config, ConfigErrors, env, validate};

/// The most faults that are looked for; whoever has more begins with these.
const MAX_ROUNDS: usize = 50;

/// The names of the keys from the root to a value; positions in arrays as decimal numbers.
pub(super) type KeyPath = Vec<String>;

/// Reads and validates a configuration.
pub(super) fn read(file: Option<&Path>, text: &str, env: &[(String, String)]) -> Result<Config, ConfigErrors> {
    let mut document = Document::parse(file, text)?;
    let faults = env::apply(&mut document, env);
    document.read(faults, validate::faults)
}

fn syntax_error(file: Option<&Path>, text: &str, error: &toml::de::Error) -> ConfigError {
    let place = error.span().map(|span| line_and_column(text, span.start));
    ConfigError {
        file: file.map(Path::to_owned),
        line: place.map(|(line, _)| line),
        column: place.map(|(_, column)| column),
        problem: format!("not TOML: {}", error.message().replace('\n', ", ")),
        ..ConfigError::default()
    }
}

/// Line and character in it, both from 1, of a byte offset.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let offset = (0..=offset.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// An environment variable that is part of the tree. Its spans lie behind the end of the text.
struct Variable<'t> {
    name: &'t str,
    value: &'t str,
    path: KeyPath,
    span: Range<usize>,
    /// What was wrong with the value as TOML; since then it stands in the tree as a string.
    problem: Option<String>,
}

/// The configuration as a tree that knows where everything came from.
pub(super) struct Document<'t> {
    file: Option<&'t Path>,
    text: &'t str,
    root: DeTable<'t>,
    /// Where the spans of the next variable begin.
    end: usize,
    variables: Vec<Variable<'t>>,
    /// The keys that were taken out because of a fault.
    refused: Vec<KeyPath>,
    /// The keys that got another name because of a fault.
    guessed: Vec<KeyPath>,
}

impl<'t> Document<'t> {
    /// The tree of a text.
    pub(super) fn parse(file: Option<&'t Path>, text: &'t str) -> Result<Document<'t>, ConfigErrors> {
        let root = DeTable::parse(text).map_err(|error| ConfigErrors(vec![syntax_error(file, text, &error)]))?;
        let (root, end) = (root.into_inner(), text.len() + 1);
        Ok(Document { file, text, root, end, variables: Vec::new(), refused: Vec::new(), guessed: Vec::new() })
    }

    /// What it says, if there are no faults, and `check` finds none.
    pub(super) fn read<T: DeserializeOwned>(
        &mut self,
        mut faults: Vec<ConfigError>,
        check: impl FnOnce(&T, &Document<'_>) -> Vec<ConfigError>,
    ) -> Result<T, ConfigErrors> {
        let config = self.deserialize(&mut faults);
        if let Some(config) = &config {
            faults.extend(check(config, self));
        }
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => {
                faults.sort_by(|a, b| (a.line, a.column, &a.variable).cmp(&(b.line, b.column, &b.variable)));
                Err(ConfigErrors(faults))
            }
        }
    }

    /// The value at a path, and where its key (or, in an array, the value itself) stands.
    fn get(&self, path: &[impl AsRef<str>]) -> Option<(Range<usize>, &DeValue<'t>)> {
        let (first, rest) = path.split_first()?;
        let (key, value) = self.root.get_key_value(first.as_ref())?;
        let mut found = (key.span(), value.get_ref());
        for segment in rest {
            found = child(found.1, segment.as_ref())?;
        }
        Some(found)
    }

    /// The text at a path.
    pub(super) fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.get(path).and_then(|(_, value)| value.as_str())
    }

    /// The environment variables that it names: they hold secrets, and values of handlers' own configurations.
    pub(super) fn variables_named(&self) -> Vec<String> {
        fn look(table: &DeTable<'_>, found: &mut Vec<String>) {
            for (key, value) in table {
                match value.get_ref() {
                    DeValue::Table(table) => look(table, found),
                    DeValue::String(name) if *key.get_ref() == "env" || key.get_ref().ends_with("_env") => {
                        found.push(name.to_string());
                    }
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        look(&self.root, &mut found);
        found
    }

    /// The keys of the table at a path; empty if there is none.
    pub(super) fn keys_at(&self, path: &[&str]) -> Vec<String> {
        let table = self.get(path).and_then(|(_, value)| value.as_table());
        table.map(|table| table.keys().map(|key| key.get_ref().to_string()).collect()).unwrap_or_default()
    }

    /// Whether something at or above a path has been taken out, so that its absence means nothing.
    pub(super) fn is_refused(&self, path: &[&str]) -> bool {
        self.refused.iter().any(|refused| refused.len() <= path.len() && refused.iter().zip(path).all(|(a, b)| a == b))
    }

    /// A fault of what stands at a path, or of what would stand there.
    pub(super) fn fault(&self, path: &[&str], problem: String, remedy: Option<String>) -> ConfigError {
        let span = (1..=path.len()).rev().find_map(|depth| self.get(&path[..depth])).map(|(span, _)| span);
        self.fault_at(span, path, problem, remedy)
    }

    fn fault_at(
        &self,
        span: Option<Range<usize>>,
        path: &[impl AsRef<str>],
        problem: String,
        remedy: Option<String>,
    ) -> ConfigError {
        let variable = span.as_ref().and_then(|span| self.variable(span)).map(|at| self.variables[at].name.to_owned());
        let place = match (&span, &variable) {
            (Some(span), None) => Some(line_and_column(self.text, span.start)),
            _ => None,
        };
        ConfigError {
            file: self.file.filter(|_| variable.is_none()).map(Path::to_owned),
            variable,
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            field: dotted(path),
            problem,
            remedy,
        }
    }

    /// The variable that a span belongs to.
    fn variable(&self, span: &Range<usize>) -> Option<usize> {
        self.variables.iter().position(|variable| variable.span.contains(&span.start))
    }

    /// Puts the value of a variable into the tree. `text_only` keeps it from being read as TOML.
    pub(super) fn set(
        &mut self,
        name: &'t str,
        value: &'t str,
        path: KeyPath,
        text_only: bool,
    ) -> Result<(), ConfigError> {
        let Some((last, sections)) = path.split_last() else { return Ok(()) };
        let start = self.end;
        let leaf = start + path.len();
        self.end = leaf + value.len() + 1;
        let parsed = (!text_only).then(|| DeValue::parse(value).ok()).flatten().map(|value| shifted(value, leaf));
        let parsed = parsed.unwrap_or_else(|| Spanned::new(leaf..self.end, DeValue::String(value.into())));
        let mut table = &mut self.root;
        for (depth, section) in sections.iter().enumerate() {
            let span = start + depth..start + depth + 1;
            if !table.contains_key(section.as_str()) {
                let empty = DeValue::Table(DeTable::new());
                table.insert(Spanned::new(span.clone(), section.clone().into()), Spanned::new(span, empty));
            }
            match table.get_mut(section.as_str()).map(Spanned::get_mut) {
                Some(DeValue::Table(inner)) => table = inner,
                _ => return Err(not_a_section(name, &path, depth)),
            }
        }
        table.remove(last.as_str());
        table.insert(Spanned::new(leaf - 1..leaf, last.clone().into()), parsed);
        self.variables.push(Variable { name, value, path, span: start..self.end, problem: None });
        Ok(())
    }

    /// Deserialises the tree; what is at fault is reported and taken out. `None` if no end was found.
    fn deserialize<T: DeserializeOwned>(&mut self, faults: &mut Vec<ConfigError>) -> Option<T> {
        for _ in 0..MAX_ROUNDS {
            let input = Spanned::new(0..self.text.len(), self.root.clone());
            match T::deserialize(toml::de::Deserializer::from(input)) {
                Ok(config) => return Some(config),
                Err(error) => {
                    let span = error.span();
                    let path = span.as_ref().and_then(|span| path_of(&self.root, span));
                    let Some((span, path)) = span.zip(path) else {
                        faults.push(self.fault_at(None, &[""; 0], reworded(error.message()), None));
                        return None;
                    };
                    faults.extend(self.mend(&span, path, error.message()));
                }
            }
        }
        None
    }

    /// Changes the tree so that this fault is gone, and reports it unless it turned out to be none.
    fn mend(&mut self, span: &Range<usize>, path: KeyPath, message: &str) -> Option<ConfigError> {
        let unknown = message.starts_with("unknown field ");
        let variable = self.variable(span);
        if let Some(variable) = variable.map(|at| &mut self.variables[at]).filter(|_| !unknown)
            && variable.problem.is_none()
        {
            // A text such as `1234` or `true` is also a number or a boolean: perhaps the text was meant.
            variable.problem = Some(message.to_owned());
            let text = Spanned::new(variable.span.clone(), DeValue::String(variable.value.into()));
            let slot = table_at(&mut self.root, &variable.path).and_then(|(table, key)| table.get_mut(key));
            slot.into_iter().for_each(|slot| *slot = text.clone());
            return None;
        }
        let message = variable.and_then(|at| self.variables[at].problem.clone()).unwrap_or_else(|| message.to_owned());
        let names = expected_names(&message);
        let own = path.last().map_or("", String::as_str);
        if unknown {
            let meant = nearest(own, names.iter().copied()).filter(|_| own != "password");
            let remedy = match variable {
                Some(at) => env::remedy(self.variables[at].name, &path, meant, &names),
                None => unknown_field_remedy(own, meant, &names),
            };
            let fault = self.fault_at(Some(span.clone()), &path, "unknown field".into(), Some(remedy));
            // The value of a variable is better not shown under a name that it was perhaps not meant for.
            self.rename(path, meant.filter(|_| variable.is_none()));
            return Some(fault);
        }
        if self.guessed.contains(&path) && message.starts_with("invalid type") {
            // The fault is in the guess, and what was guessed about has been reported.
            self.remove(path);
            return None;
        }
        let remedy = unknown_value_remedy(&message, &names);
        let fault = self.fault_at(Some(span.clone()), &path, reworded(&message), remedy);
        self.remove(path);
        Some(fault)
    }

    /// Goes on as if the key had its right name, if that is known and free; else takes the key out.
    fn rename(&mut self, mut path: KeyPath, name: Option<&str>) {
        let Some((table, key)) = table_at(&mut self.root, &path) else { return };
        let Some((key, value)) = table.remove_entry(key) else { return };
        match (name, path.last_mut()) {
            (Some(name), Some(last)) if !table.contains_key(name) => {
                table.insert(Spanned::new(key.span(), Cow::Owned(name.to_owned())), value);
                name.clone_into(last);
                self.guessed.push(path);
            }
            _ => self.refused.push(path),
        }
    }

    /// Takes a value out, or the whole array that it stands in.
    fn remove(&mut self, mut path: KeyPath) {
        while !path.is_empty() {
            if let Some((table, key)) = table_at(&mut self.root, &path) {
                table.remove(key);
                break;
            }
            path.pop();
        }
        self.refused.push(path);
    }
}

fn not_a_section(name: &str, path: &[String], depth: usize) -> ConfigError {
    ConfigError {
        variable: Some(name.to_owned()),
        field: dotted(path),
        problem: format!("`{}` is a single value, there is nothing below it", dotted(&path[..=depth])),
        ..ConfigError::default()
    }
}

/// The member of a table or array, and where it stands.
fn child<'a, 't>(value: &'a DeValue<'t>, segment: &str) -> Option<(Range<usize>, &'a DeValue<'t>)> {
    match value {
        DeValue::Table(table) => table.get_key_value(segment).map(|(key, value)| (key.span(), value.get_ref())),
        DeValue::Array(array) => array.get(segment.parse::<usize>().ok()?).map(|value| (value.span(), value.get_ref())),
        _ => None,
    }
}

/// The table that holds the last key of a path, if that is a key of a table and exists.
fn table_at<'a, 't, 'p>(root: &'a mut DeTable<'t>, path: &'p [String]) -> Option<(&'a mut DeTable<'t>, &'p str)> {
    let (last, sections) = path.split_last()?;
    let mut table = root;
    for section in sections {
        match table.get_mut(section.as_str())?.get_mut() {
            DeValue::Table(inner) => table = inner,
            _ => return None,
        }
    }
    table.contains_key(last.as_str()).then_some((table, last.as_str()))
}

/// The path of the key or value that stands exactly at a span.
fn path_of(table: &DeTable<'_>, span: &Range<usize>) -> Option<KeyPath> {
    table.iter().find_map(|(key, value)| {
        let rest = if key.span() == *span { Some(Vec::new()) } else { path_in(value, span) };
        rest.map(|rest| [vec![key.get_ref().to_string()], rest].concat())
    })
}

fn path_in(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<KeyPath> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => path_of(table, span),
        DeValue::Array(array) => array
            .iter()
            .enumerate()
            .find_map(|(index, value)| path_in(value, span).map(|rest| [vec![index.to_string()], rest].concat())),
        _ => None,
    };
    inner.or_else(|| (value.span() == *span).then(Vec::new))
}

/// Moves all spans of a value.
fn shifted<'t>(value: Spanned<DeValue<'t>>, by: usize) -> Spanned<DeValue<'t>> {
    let moved = |span: Range<usize>| span.start + by..span.end + by;
    let span = moved(value.span());
    let value = match value.into_inner() {
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(|value| shifted(value, by)).collect()),
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| (Spanned::new(moved(key.span()), key.into_inner()), shifted(value, by)))
                .collect(),
        ),
        plain => plain,
    };
    Spanned::new(span, value)
}

/// A path as people write it: `handlers.payment.streams[1]`.
pub(super) fn dotted(path: &[impl AsRef<str>]) -> String {
    let mut text = String::new();
    // What stands below `tenants.NAME` is written as what stands at the top.
    let base = if path.first().is_some_and(|first| first.as_ref() == "tenants") { 2 } else { 0 };
    let name = |depth: usize| path.get(base + depth).map_or("", AsRef::as_ref);
    for (place, segment) in path.iter().map(AsRef::as_ref).enumerate() {
        let depth = place.saturating_sub(base);
        let bare = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        // Lists stand below `handlers.NAME.KEY` and `handlers.NAME.http.allow` only: a number there is a place, except
        // in the handler's own settings.
        let in_list = (depth == 3 && name(2) != "config") || (depth == 4 && name(2) == "http");
        let is_place = in_list && segment.bytes().all(|b| b.is_ascii_digit());
        let dot = if place == 0 { "" } else { "." };
        text += &match (is_place, bare) {
            (true, _) => format!("[{segment}]"),
            (false, true) => format!("{dot}{segment}"),
            (false, false) => format!("{dot}{segment:?}"),
        };
    }
    text
}

/// The names that serde's message says it expected.
fn expected_names(message: &str) -> Vec<&str> {
    let expected = message.rsplit_once("`, expected ").map_or("", |(_, expected)| expected);
    expected.split('`').skip(1).step_by(2).collect()
}

pub(super) fn quoted_list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn unknown_field_remedy(own: &str, meant: Option<&str>, names: &[&str]) -> String {
    match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if own == "password" => {
            "passwords do not belong into this file: name a variable in `password_env` or a file in `password_file`"
                .into()
        }
        None => format!("known here: {}", quoted_list(names)),
    }
}

fn unknown_value_remedy(message: &str, names: &[&str]) -> Option<String> {
    let (value, _) = message.strip_prefix("unknown variant `")?.rsplit_once("`, expected ")?;
    Some(match nearest(value, names.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("possible: {}", quoted_list(names)),
    })
}

/// Serde's message in the words of the file instead of the code's.
fn reworded(message: &str) -> String {
    if let Some((value, _)) =
        message.strip_prefix("unknown variant `").and_then(|rest| rest.rsplit_once("`, expected "))
    {
        return format!("unknown value `{value}`");
    }
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let expected = match expected {
        "u32" => "a whole number from 0 to 4294967295",
        "usize" | "u64" => "a whole number from 0",
        "a string" | "path string" => "a text in quotes",
        "a sequence" => "a list such as [\"a\", \"b\"]",
        "a map" => "a section",
        "string or table" => "a text in quotes",
        expected if expected.starts_with("struct ") => "a section",
        expected => expected,
    };
    // A text in the wrong place may be a secret.
    let found = if found.starts_with("invalid type: string ") { "invalid type: text" } else { found };
    format!("{found}, expected {expected}").replace(": map,", ": section,").replace(": sequence,", ": list,")
}
