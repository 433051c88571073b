//! The handlers of a project, and building those that are built here.

use std::path::{Path, PathBuf};

use wasmill::config::{Config, ResolvedHandler};
use wasmill::deploy::SourceError;
use wasmill::deploy::source::{self, Fetched};
use wasmill::oci::OciError;
use wasmill::project;

use super::{Context, Report};

/// A path beside the configuration file; in the current folder if there is no file.
pub fn beside(context: &Context, name: &str) -> PathBuf {
    context.file.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).join(name)
}

/// The handlers of these names; without names, all.
pub fn named(context: &Context, config: &Config, names: &[String]) -> Result<Vec<ResolvedHandler>, Report> {
    if config.handlers.is_empty() {
        let problem = match &context.file {
            Some(file) => format!("{}: no handlers are configured: add a [handlers.NAME] section", file.display()),
            None => "there is no wasmill.toml here: `wasmill new` makes a project, --config names a file".to_owned(),
        };
        return Err(Report::usage(problem));
    }
    if let Some(name) = names.iter().find(|name| !config.handlers.contains_key(name.as_str())) {
        return Err(unknown(config, name));
    }
    let handlers = config.handlers().into_iter();
    Ok(handlers.filter(|handler| names.is_empty() || names.contains(&handler.name)).collect())
}

/// The fault that no handler has this name.
pub fn unknown(config: &Config, name: &str) -> Report {
    let known: Vec<&str> = config.handlers.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "there is none".to_owned() } else { format!("there are: {}", known.join(", ")) };
    Report::usage(format!("no handler `{name}` is configured; {known}"))
}

/// Builds those handlers that have sources. `progress` is told each step.
pub fn build_all(handlers: &[ResolvedHandler], progress: &mut dyn FnMut(&str)) -> Result<(), Report> {
    for (handler, plan) in handlers.iter().filter_map(|handler| Some((handler, handler.build.as_ref()?))) {
        project::build(plan, progress).map_err(|error| Report::failure(format!("{}: {error}", handler.name)))?;
    }
    Ok(())
}

/// Gets a component that was named on the command line: a file, or one in a registry; with its signature, perhaps from a file.
pub fn fetch(component: &Path, signature: Option<&Path>) -> Result<Fetched, Report> {
    source::fetch(component, signature).map_err(|error| match error {
        SourceError::Load(error) => Report::usage(format!("{}: {error}", component.display())),
        SourceError::Signature(error) => Report::usage(error),
        SourceError::Registry(error @ (OciError::Malformed(_) | OciError::Unpinned { .. })) => Report::usage(error),
        SourceError::Registry(error) => Report::failure(error),
    })
}
