//! Environment variables that override keys of the file: `WASMILL_`, then the path in upper case, joined by `__`.

use super::errors::{ConfigError, nearest};
use super::parse::{Document, KeyPath, dotted, quoted_list};

/// What the names of all variables that concern wasmill begin with.
pub const PREFIX: &str = "WASMILL_";

/// The variables of the process that [`super::Config::load`] looks at. Bytes that are no text become replacement
/// characters, so that such a value is refused where it is used instead of being skipped in silence.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(PREFIX))
}

/// Puts the variables into the document, and reports those that have no place in it.
pub(super) fn apply<'t>(document: &mut Document<'t>, env: &'t [(String, String)]) -> Vec<ConfigError> {
    let mut variables: Vec<(&str, &str, &str)> = env
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), name.strip_prefix(PREFIX)?, value.as_str())))
        .filter(|(_, rest, value)| !is_foreign(rest, value))
        .collect();
    variables.sort_unstable();
    let secrets = [("REDIS__PASSWORD_ENV", ["redis", "password_env"]), ("ADMIN__TOKEN_ENV", ["admin", "token_env"])];
    let secrets = secrets.map(|(variable, path)| {
        let set = variables.iter().find(|(_, rest, _)| rest.eq_ignore_ascii_case(variable));
        set.map(|(_, _, value)| (*value).to_owned()).or_else(|| document.text_at(&path).map(str::to_owned))
    });
    let named = document.variables_named();
    let mut faults = Vec::new();
    for (name, rest, value) in variables {
        let mut secrets = secrets.iter().flatten().chain(&named);
        if secrets.any(|secret| secret == name) {
            continue;
        }
        let set = path_of(document, name, rest).and_then(|path| {
            let text_only = path.len() > 2 && path[0] == "handlers" && path[2] == "config";
            document.set(name, value, path, text_only)
        });
        faults.extend(set.err());
    }
    faults
}

/// Variables with our prefix that are not overrides: those of the command line and of tests, and those that Kubernetes
/// sets for services called `wasmill` or `wasmill-*`.
fn is_foreign(rest: &str, value: &str) -> bool {
    let of_kubernetes = !rest.contains("__")
        && (rest.ends_with("SERVICE_HOST")
            || rest.contains("SERVICE_PORT")
            || rest.contains("PORT_")
            || (rest.ends_with("PORT") && value.contains("://")));
    let of_verbs = ["CONFIG", "LOG", "ADMIN_URL", "ADMIN_TOKEN", "TENANT", "ZIG", "CC", "CXX", "COMPONENTIZE_PY"];
    of_verbs.contains(&rest) || rest.starts_with("TEST") || of_kubernetes
}

/// The path that a variable means. All keys are in lower case; only the names of handlers and the keys of their own
/// configuration are chosen by the user, and those are looked up in the document.
fn path_of(document: &Document<'_>, name: &str, rest: &str) -> Result<KeyPath, ConfigError> {
    let lower = rest.to_ascii_lowercase();
    let Some(below) = lower.strip_prefix("handlers__") else {
        return Ok(lower.split("__").map(str::to_owned).collect());
    };
    let handlers = document.keys_at(&["handlers"]);
    let Some((handler, key)) = split_handler(&handlers, below) else {
        return Err(unknown_handler(name, below, &handlers));
    };
    let mut path = vec!["handlers".to_owned(), handler.to_owned()];
    match key.strip_prefix("config__") {
        Some(own) => {
            let known = document.keys_at(&["handlers", handler, "config"]);
            let key = known.into_iter().find(|known| known.eq_ignore_ascii_case(own)).unwrap_or_else(|| own.to_owned());
            path.extend(["config".to_owned(), key]);
        }
        None => path.extend(key.split("__").map(str::to_owned)),
    }
    Ok(path)
}

/// Splits `payment__limits__memory` after the name of a handler. A name may itself hold `__`, and its `-` may be
/// written as `_`, since shells know no `-` in variables; the longest name wins, and of two equal ones the exact one.
fn split_handler<'a, 'b>(handlers: &'a [String], below: &'b str) -> Option<(&'a str, &'b str)> {
    let fits = |handler: &str, form: &str| {
        let key = below.strip_prefix(form).and_then(|key| key.strip_prefix("__"))?;
        Some((handler.len(), form == handler, key))
    };
    handlers
        .iter()
        .flat_map(|handler| {
            let exact = handler.to_ascii_lowercase();
            [fits(handler, &exact), fits(handler, &exact.replace('-', "_"))].map(|fit| (handler.as_str(), fit))
        })
        .filter_map(|(handler, fit)| fit.map(|fit| (fit, handler)))
        .max()
        .map(|((_, _, key), handler)| (handler, key))
}

fn unknown_handler(name: &str, below: &str, handlers: &[String]) -> ConfigError {
    let (handler, key) = below.split_once("__").unwrap_or((below, ""));
    let remedy = match nearest(handler, handlers.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{}`?", variable_name(&["handlers", meant, key])),
        None => "variables change the handlers of the file, they do not make new ones".into(),
    };
    ConfigError {
        variable: Some(name.to_owned()),
        field: dotted(&["handlers", handler]),
        problem: "the file has no such handler".into(),
        remedy: Some(remedy),
        ..ConfigError::default()
    }
}

fn variable_name(path: &[impl AsRef<str>]) -> String {
    let path: Vec<String> = path.iter().map(|key| key.as_ref().to_ascii_uppercase()).collect();
    format!("{PREFIX}{}", path.join("__").trim_end_matches('_'))
}

/// What to do about a variable whose path has an unknown key as its last segment; the variable may go on below it.
pub(super) fn remedy(name: &str, path: &[String], meant: Option<&str>, names: &[&str]) -> String {
    let segments: Vec<String> =
        name.trim_start_matches(PREFIX).to_ascii_lowercase().split("__").map(str::to_owned).collect();
    let own = path.last().map_or("", String::as_str);
    // `WASMILL_REDIS_URL`: one underscore where two are needed.
    let joined = names.iter().find_map(|section| Some((section, own.strip_prefix(section)?.strip_prefix('_')?)));
    let better: Option<Vec<String>> = match (joined, meant) {
        (Some((section, key)), _) if path.len() == 1 => Some(vec![(*section).to_owned(), key.to_owned()]),
        (_, Some(meant)) => Some(meant.to_owned()).map(|meant| {
            let replaced = |segment: &String| if segment == own { meant.clone() } else { segment.clone() };
            segments.iter().map(replaced).collect()
        }),
        _ => None,
    };
    match better {
        Some(better) => format!("did you mean `{}`?", variable_name(&better)),
        None if own == "password" => {
            format!("name another variable that holds the password in `{PREFIX}REDIS__PASSWORD_ENV`")
        }
        None => format!("known here: {}", quoted_list(names)),
    }
}
