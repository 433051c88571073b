//! The events of a project: `events/NAME.json`, or `events/HANDLER/NAME.json` where several handlers want the same types.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use wasmill::clock::now_ms;
use wasmill::config::{Config, ResolvedHandler};
use wasmill::deploy::expected::Expectation;
use wasmill::envelope::structured;
use wasmill::event::Event;
use wasmill::state::{Kept, unpack};

use crate::cli::Report;

/// What the name of an event's file ends with.
const EVENT: &str = ".json";
/// What the name of the file with the state that it begins with ends with.
const STATE: &str = ".state.json";
/// What the name of the file with its expectation ends with.
const EXPECTED: &str = ".expected.json";

/// An event in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixture {
    /// Its file without the ending; within the folder of a handler, that comes first.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// The handler whose folder it is in.
    folder: Option<String>,
}

/// Which handler an event is for.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Handler(String),
    /// One that is not under test.
    NotSelected,
}

/// Whether a file is an event by its name.
pub fn is_event(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(EVENT) && !name.ends_with(EXPECTED) && !name.ends_with(STATE) && !name.starts_with('.')
}

/// The events in a folder and in the folders of handlers in it, by name.
pub fn find(directory: &Path, config: &Config) -> Result<Vec<Fixture>, Report> {
    let mut fixtures = in_folder(directory, None)?;
    for handler in config.handlers.keys() {
        if directory.join(handler).is_dir() {
            fixtures.extend(in_folder(&directory.join(handler), Some(handler))?);
        }
    }
    if fixtures.is_empty() {
        let problem = "there are no events: write one as NAME.json, a CloudEvents document";
        return Err(Report::usage(format!("{}: {problem}", directory.display())));
    }
    fixtures.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(fixtures)
}

fn in_folder(directory: &Path, folder: Option<&str>) -> Result<Vec<Fixture>, Report> {
    let fault = |error: std::io::Error| {
        let remedy = "it holds events as NAME.json; another folder is named with --events";
        Report::usage(format!("{} cannot be read: {error}; {remedy}", directory.display()))
    };
    let mut fixtures = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fault)? {
        let file = entry.map_err(fault)?.path();
        if is_event(&file) && file.is_file() {
            fixtures.push(Fixture::new(file, folder));
        }
    }
    Ok(fixtures)
}

impl Fixture {
    /// The event in a file, in the folder of a handler if one is named.
    pub fn new(file: PathBuf, folder: Option<&str>) -> Fixture {
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = folder.map_or_else(|| stem.clone(), |folder| format!("{folder}/{stem}"));
        Fixture { name, file, folder: folder.map(str::to_owned) }
    }

    /// The file with what is expected of it.
    pub fn expected_file(&self) -> PathBuf {
        self.file.with_extension(&EXPECTED[1..])
    }

    /// The state that the handler begins with: that in `NAME.state.json`, or nothing.
    pub fn state(&self) -> Result<BTreeMap<String, Kept>, String> {
        let path = self.file.with_extension(&STATE[1..]);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        let problem = |what: String| format!("{}: {what}", path.display());
        let kept: BTreeMap<String, Kept> = serde_json::from_slice(&text)
            .map_err(|error| problem(format!("not keys with texts, or {{\"base64\": ...}} for bytes: {error}")))?;
        unpack(&kept).map_err(problem)?;
        Ok(kept)
    }

    /// Reads the event.
    pub fn event(&self) -> Result<Event, String> {
        let path = self.file.display();
        let text = std::fs::read(&self.file).map_err(|error| format!("{path} cannot be read: {error}"))?;
        structured::parse(&text, now_ms()).map_err(|error| format!("{path}: not a CloudEvent in JSON: {error}"))
    }

    /// Reads what is expected of it, if that is written.
    pub fn expected(&self) -> Result<Option<Expectation>, String> {
        let path = self.expected_file();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        Expectation::parse(&text).map(Some).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The handler that it is sent to, and with it to all others that read the same stream.
    pub fn reader<'a>(&self, event: &Event, handlers: &'a [ResolvedHandler]) -> Option<&'a ResolvedHandler> {
        handlers.iter().find(|handler| match &self.folder {
            Some(folder) => handler.name == *folder,
            None => handler.types.matches(&event.r#type),
        })
    }

    /// Which of all handlers its event is for, when those of `selected` are under test.
    pub fn choose(&self, event: &Event, all: &[ResolvedHandler], selected: &[&str]) -> Result<Choice, String> {
        let is_selected = |name: &str| selected.contains(&name);
        if let Some(folder) = &self.folder {
            return Ok(if is_selected(folder) { Choice::Handler(folder.clone()) } else { Choice::NotSelected });
        }
        let wanting = all.iter().filter(|handler| handler.types.matches(&event.r#type));
        let wanting: Vec<&str> = wanting.map(|handler| handler.name.as_str()).collect();
        let candidates: Vec<&str> = wanting.iter().copied().filter(|name| is_selected(name)).collect();
        match (candidates.as_slice(), wanting.is_empty()) {
            ([one], _) => Ok(Choice::Handler((*one).to_owned())),
            ([], false) => Ok(Choice::NotSelected),
            ([], true) => Err(format!("no handler wants events of the type `{}`", event.r#type)),
            (several, _) => {
                let names = several.join(", ");
                Err(format!("several handlers want it ({names}): put it into a folder with the name of one of them"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_from_what_is_expected_of_them() {
        let fixture = Fixture::new(PathBuf::from("events/a.b.json"), None);
        assert_eq!(
            (fixture.name.as_str(), fixture.expected_file()),
            ("a.b", PathBuf::from("events/a.b.expected.json"))
        );
        for (name, expected) in [
            ("a.json", true),
            ("a.expected.json", false),
            ("a.state.json", false),
            (".a.json", false),
            ("a.json~", false),
        ] {
            assert_eq!(is_event(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn the_subscription_or_the_folder_chooses_the_handler() {
        let section = |name: &str, types: &str| {
            format!("[handlers.{name}]\ncomponent = \"c.wasm\"\nstreams = [\"s\"]\ntypes = [\"{types}\"]\n")
        };
        let text = [section("a", "order_*"), section("b", "order_placed"), section("c", "other")].concat();
        let all = Config::parse(None, &text, []).unwrap().handlers();
        let choose = |r#type: &str, folder: Option<&str>, selected: &[&str]| {
            let event = Event { r#type: r#type.to_owned(), ..Event::default() };
            Fixture::new(PathBuf::from("e.json"), folder).choose(&event, &all, selected)
        };
        let all = ["a", "b", "c"];
        let handler = |name: &str| Ok(Choice::Handler(name.to_owned()));
        assert_eq!(choose("other", None, &all), handler("c"));
        assert_eq!(choose("other", None, &["a"]), Ok(Choice::NotSelected));
        assert_eq!(choose("order_placed", None, &["b"]), handler("b"));
        assert!(choose("order_placed", None, &all).unwrap_err().contains("(a, b)"));
        assert!(choose("none", None, &all).unwrap_err().contains("`none`"));
        assert_eq!(choose("none", Some("a"), &all), handler("a"));
        assert_eq!(choose("none", Some("a"), &["b"]), Ok(Choice::NotSelected));
    }
}
