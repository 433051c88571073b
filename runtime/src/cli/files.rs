//! What lies in a project, and when that changes: the configuration, the sources of its handlers, components that are not
//! built here, and events. For `wasmill dev`, and for `wasmill run --watch`, which looks at what it serves alone.
//!
//! The operating system only says that something has changed; what it was, two looks at the files say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use wasmill::config::Config;
use wasmill::config::ResolvedHandler;
use wasmill::deploy::{signature, source};

use super::Report;
use super::test::fixtures::is_event;

/// Folders in which tools keep what they made or fetched. Those with a leading dot are left out as well.
const LEFT_OUT: [&str; 7] = ["build", "target", "node_modules", "dist", "zig-out", "zig-cache", "__pycache__"];
/// What a build may write into a project for the first time without that being a change: the WIT, and files that pin versions.
const WRITTEN_BY_BUILDS: [&str; 4] = ["Cargo.lock", "package-lock.json", "go.sum", "wit"];
/// What is saved together is taken together.
pub const QUIET: Duration = Duration::from_millis(100);
/// The longest that changes are waited for to end.
pub const MAX_QUIET: Duration = Duration::from_secs(2);
/// The most files of a project, those left out not counted.
const MAX_FILES: usize = 20_000;

/// What tells one state of a file from another.
type Stamp = (u64, Option<SystemTime>);
/// The files below some place.
pub type Files = BTreeMap<PathBuf, Stamp>;

/// The state of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The configuration, and the schemas.
    pub settings: Files,
    /// What each handler is made of: its sources, or its component if that is not built here.
    pub handlers: BTreeMap<String, Files>,
    /// Events that can be sent.
    pub events: Files,
    folders: BTreeSet<PathBuf>,
}

impl Look {
    /// Looks at a project.
    pub fn new(file: &Path, events: &Path, config: &Config) -> Result<Look, String> {
        let mut look = Look::default();
        look.add_file(file, |look| &mut look.settings);
        if let Some(schemas) = &config.schemas.directory {
            look.settings.extend(look_below(schemas, &mut look.folders)?);
        }
        let handlers = config.handlers();
        let components: BTreeSet<&Path> = handlers.iter().map(|handler| handler.component.as_path()).collect();
        for handler in &handlers {
            let files = handler_files(handler, &components, &mut look.folders)?;
            // The settings have a way of their own, and events are no part of the code.
            let files = files.into_iter().filter(|(path, _)| path != file && !path.starts_with(events));
            look.handlers.insert(handler.name.clone(), files.collect());
            look.add_events(&events.join(&handler.name));
        }
        look.add_events(events);
        Ok(look)
    }

    /// Looks at what a worker serves: the configuration, the files of tenants, the schemas, the components and their
    /// signatures.
    pub fn served(file: &Path, config: &Config) -> Result<Look, String> {
        let mut look = Look::default();
        look.add_file(file, |look| &mut look.settings);
        if let Some(tenants) = &config.tenants_dir {
            look.settings.extend(look_below(tenants, &mut look.folders)?);
        }
        if let Some(schemas) = &config.schemas.directory {
            look.settings.extend(look_below(schemas, &mut look.folders)?);
        }
        // What is pinned in a registry does not change.
        let of_tenants = config.tenants.values().flat_map(|tenant| tenant.handlers.values());
        let components: BTreeSet<&Path> =
            config.handlers.values().chain(of_tenants).map(|handler| handler.component.as_path()).collect();
        for component in components.into_iter().filter(|component| source::reference(component).is_none()) {
            let mut signed = component.as_os_str().to_owned();
            signed.push(signature::ENDING);
            for file in [component, Path::new(&signed)] {
                let name = component.to_string_lossy().into_owned();
                look.add_file(file, |look| look.handlers.entry(name.clone()).or_default());
            }
        }
        Ok(look)
    }

    fn add_file(&mut self, file: &Path, of: impl Fn(&mut Look) -> &mut Files) {
        self.folders.insert(folder_of(file));
        if let Some(stamp) = stamp(file) {
            of(self).insert(file.to_owned(), stamp);
        }
    }

    fn add_events(&mut self, folder: &Path) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        self.folders.insert(folder.to_owned());
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| is_event(path)) {
            if let Some(stamp) = stamp(&path) {
                self.events.insert(path, stamp);
            }
        }
    }

    /// The events that are new or other than before.
    pub fn new_events(&self, before: &Look) -> Vec<PathBuf> {
        let is_new = |(path, stamp): &(&PathBuf, &Stamp)| before.events.get(*path) != Some(stamp);
        self.events.iter().filter(is_new).map(|(path, _)| path.clone()).collect()
    }
}

/// What a handler is made of, without what building it wrote there for the first time since `before`.
pub fn without_results(mut now: Files, before: &Files) -> Files {
    now.retain(|path, _| {
        let is_result = path
            .components()
            .any(|part| part.as_os_str().to_str().is_some_and(|name| WRITTEN_BY_BUILDS.contains(&name)));
        before.contains_key(path) || !is_result
    });
    now
}

/// What a handler is made of: its sources, or its component if that is not built here.
fn handler_files(
    handler: &ResolvedHandler,
    components: &BTreeSet<&Path>,
    folders: &mut BTreeSet<PathBuf>,
) -> Result<Files, String> {
    match &handler.build {
        Some(plan) => {
            let mut files = look_below(&plan.directory, folders)?;
            // What one build makes is no source of another.
            files.retain(|path, _| !components.contains(path.as_path()));
            Ok(files)
        }
        // What is pinned in a registry does not change.
        None if source::reference(&handler.component).is_some() => Ok(Files::new()),
        None => {
            folders.insert(folder_of(&handler.component));
            let stamp = stamp(&handler.component);
            Ok(stamp.map(|stamp| (handler.component.clone(), stamp)).into_iter().collect())
        }
    }
}

/// The files below a folder.
fn look_below(folder: &Path, folders: &mut BTreeSet<PathBuf>) -> Result<Files, String> {
    let mut files = Files::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        // A folder that is gone by now is a change that will be told.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if kind.is_dir() && !name.starts_with('.') && !LEFT_OUT.contains(&&*name) {
                waiting.push(path);
            } else if !kind.is_dir() && !is_scratch(&name) {
                files.extend(stamp(&path).map(|stamp| (path, stamp)));
            }
        }
        folders.insert(folder);
        if files.len() > MAX_FILES {
            let remedy = "put the sources of handlers into folders of their own (handlers.NAME.build.directory)";
            return Err(format!("the project has more than {MAX_FILES} files: {remedy}"));
        }
    }
    Ok(files)
}

/// What editors and `wasmill dev` keep beside the files proper.
fn is_scratch(name: &str) -> bool {
    name.starts_with('.')
        || name.starts_with('#')
        || name.ends_with(['~', '#'])
        || name.ends_with(".swp")
        || name == "4913"
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
    Some((metadata.len(), metadata.modified().ok()))
}

/// Says that something has changed in the folders of a project.
pub struct Watcher {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
}

impl Watcher {
    /// Calls `wake` whenever something has changed in a folder that is watched.
    pub fn new(wake: impl Fn() + Send + 'static) -> Result<Watcher, Report> {
        let told = move |event: notify::Result<notify::Event>| {
            // Whoever only reads changes nothing. What cannot be told may be a change.
            if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
                wake();
            }
        };
        let watcher = notify::recommended_watcher(told).map_err(|error| Report::failure(cannot_watch(&error)))?;
        Ok(Watcher { watcher, watched: BTreeSet::new() })
    }

    /// Looks at a project and watches its folders; what changes after the look is told.
    pub fn look(&mut self, look: impl Fn() -> Result<Look, String>) -> Result<Look, String> {
        loop {
            let seen = look()?;
            let mut is_new = false;
            for folder in &seen.folders {
                // One that was removed and made again has the same name, and is not watched: that is asked for each time.
                match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
                    Ok(()) => is_new |= self.watched.insert(folder.clone()),
                    Err(_) if !folder.exists() => {}
                    Err(error) => return Err(cannot_watch(&error)),
                }
            }
            self.watched.retain(|folder| {
                let is_there = seen.folders.contains(folder);
                if !is_there {
                    // It may be gone.
                    let _ = self.watcher.unwatch(folder);
                }
                is_there
            });
            if !is_new {
                return Ok(seen);
            }
        }
    }
}

fn cannot_watch(error: &notify::Error) -> String {
    let remedy = "on Linux, the number of watches is bounded by fs.inotify.max_user_watches";
    format!("changes cannot be watched: {error} ({remedy})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn sources_are_told_from_what_tools_keep() {
        let project = tempfile::tempdir().unwrap();
        let folder = project.path();
        let text = "[handlers.a]\ncomponent = \"build/a.wasm\"\nstreams = [\"s\"]\n[handlers.a.build]\nlang = \"rust\"\n\
                    [handlers.b]\ncomponent = \"b.wasm\"\nstreams = [\"s\"]\n";
        write(folder, "wasmill.toml", text);
        for name in ["src/lib.rs", "src/deep/x.rs", "Cargo.toml", "wit/w.wit", "build/a.wasm", "target/x", ".git/HEAD"]
        {
            write(folder, name, "");
        }
        for name in
            ["b.wasm", "src/.lib.rs.swp", "src/lib.rs~", "node_modules/x/y.js", ".venv/x.py", "app.py", ".wasmill-dev"]
        {
            write(folder, name, "");
        }
        for name in ["events/one.json", "events/one.expected.json", "events/b/two.json", "events/c/three.json"] {
            write(folder, name, "{}");
        }
        let file = folder.join("wasmill.toml");
        let look = || {
            let config = Config::load(&file, []).unwrap();
            Look::new(&file, &folder.join("events"), &config).unwrap()
        };
        let names = |files: &Files| -> Vec<String> {
            files.keys().map(|path| path.strip_prefix(folder).unwrap().display().to_string()).collect()
        };
        let first = look();
        let sources = ["Cargo.toml", "app.py", "src/deep/x.rs", "src/lib.rs", "wit/w.wit"];
        assert_eq!(names(&first.handlers["a"]), sources, "neither components nor what tools keep");
        assert_eq!(names(&first.handlers["b"]), ["b.wasm"]);
        assert_eq!(names(&first.events), ["events/b/two.json", "events/one.json"]);
        assert_eq!(names(&first.settings), ["wasmill.toml"]);
        write(folder, "events/one.json", "{ }");
        write(folder, "events/new.json", "{}");
        write(folder, "src/lib.rs", "new");
        let second = look();
        assert_eq!(second.new_events(&first), [folder.join("events/new.json"), folder.join("events/one.json")]);
        assert_ne!(second.handlers["a"], first.handlers["a"]);
        assert_eq!(second.handlers["b"], first.handlers["b"]);
    }

    #[test]
    fn what_a_build_writes_first_is_no_change() {
        let stamp = (1, None);
        let files = |names: &[&str]| -> Files { names.iter().map(|name| (PathBuf::from(name), stamp)).collect() };
        let before = files(&["p/src/lib.rs", "p/wit/old.wit"]);
        let after = files(&["p/src/lib.rs", "p/wit/old.wit", "p/wit/deps/new.wit", "p/Cargo.lock"]);
        assert_eq!(without_results(after, &before), before);
        let by_hand = files(&["p/src/lib.rs", "p/wit/old.wit", "p/src/new.rs"]);
        assert_eq!(without_results(by_hand.clone(), &before), by_hand);
    }
}
