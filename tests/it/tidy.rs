//! The rules of the source tree that no compiler keeps: see the invariants in ARCHITECTURE.md.

use std::fs;
use std::path::{Path, PathBuf};

use wasmill_tests::workspace;

/// The greatest length of a file in runtime/src.
const MAX_LINES: usize = 600;

/// A Rust file of the product.
struct SourceFile {
    /// Relative to the root of the repository, with `/`.
    path: String,
    lines: Vec<String>,
    /// The line at which `#[cfg(test)]` begins what is not part of the product; the number of lines if nowhere.
    product_end: usize,
}

impl SourceFile {
    fn read(path: &Path) -> SourceFile {
        let text = fs::read_to_string(path).expect("a source file is UTF-8");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let is_test_module =
            |pair: &[String]| pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ");
        let product_end = lines.windows(2).position(is_test_module).unwrap_or(lines.len());
        let relative = path.strip_prefix(workspace()).expect("the file lies in the workspace");
        let path = relative.to_str().expect("paths in the repository are UTF-8").replace('\\', "/");
        SourceFile { path, lines, product_end }
    }

    /// `PATH:LINE: TEXT` of every line of code in the product that breaks a rule. Comments are not code.
    fn offences(&self, is_offence: impl Fn(&str) -> bool) -> Vec<String> {
        let code = self.lines[..self.product_end].iter().enumerate();
        code.map(|(at, line)| (at, without_comment(line)))
            .filter(|(_, line)| is_offence(line))
            .map(|(at, line)| format!("{}:{}: {}", self.path, at + 1, line.trim()))
            .collect()
    }
}

/// The line up to `//`, unless that stands in a text such as a URL.
fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with("//") {
        return "";
    }
    line.find(" // ").map_or(line, |at| &line[..at])
}

/// All Rust files under a directory of the repository, in order.
fn sources(dir: &str) -> Vec<SourceFile> {
    let mut paths = Vec::new();
    collect(&workspace().join(dir), &mut paths);
    assert!(!paths.is_empty(), "{dir} has no Rust files");
    paths.sort();
    paths.iter().map(|path| SourceFile::read(path)).collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source directory can be listed") {
        let path = entry.expect("a source directory can be listed").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

#[track_caller]
fn assert_none(rule: &str, offences: impl IntoIterator<Item = String>) {
    let offences: Vec<String> = offences.into_iter().collect();
    assert!(offences.is_empty(), "{rule}:\n{}", offences.join("\n"));
}

/// Whether a file belongs to a module: `runtime/src/NAME.rs` or below `runtime/src/NAME/`.
fn belongs_to(file: &SourceFile, module: &str) -> bool {
    let inside = file.path.strip_prefix("runtime/src/").unwrap_or_default();
    inside.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// Whether the code names a module by a path, whole or in a group (`use crate::{a, module}`), which may go over lines.
fn mentions(line: &str, module: &str) -> bool {
    let in_group = line.trim_start().strip_prefix(module);
    if in_group.is_some_and(|rest| rest.starts_with("::") || rest.starts_with(',')) {
        return true;
    }
    if line.split("super::").skip(1).any(|rest| rest.strip_prefix(module).is_some_and(|rest| rest.starts_with("::"))) {
        return true;
    }
    let names = |rest: &str| {
        let words = rest.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.into_iter().any(|word| word == module)
    };
    let first_segment = |rest: &str| rest.split("::").next().is_some_and(names);
    line.split("crate::").skip(1).any(|rest| match rest.strip_prefix('{') {
        Some(group) => group.split(',').any(first_segment),
        None => first_segment(rest),
    })
}

#[test]
fn broker_and_wasm_do_not_know_each_other() {
    let files = sources("runtime/src");
    for (module, other) in [("broker", "wasm"), ("wasm", "broker")] {
        let own = files.iter().filter(|file| belongs_to(file, module));
        let offences = own.flat_map(|file| file.offences(|line| mentions(line, other)));
        assert_none(&format!("`{module}` must not mention `crate::{other}`: they meet in the pipeline"), offences);
    }
}

#[test]
fn pure_modules_know_no_io_and_no_clock() {
    const PURE: [&str; 13] = [
        "access",
        "audit",
        "event",
        "envelope",
        "schema",
        "generate",
        "route",
        "schedule",
        "outcome",
        "deploy/canary",
        "deploy/record",
        "config/changes",
        "text",
    ];
    const IMPURE: [&str; 9] = [
        "tokio",
        "redis::",
        "wasmtime",
        "Instant::now",
        "SystemTime::now",
        "Timestamp::now",
        "clock::",
        "std::fs",
        "std::net",
    ];
    let files = sources("runtime/src");
    for module in PURE {
        assert!(files.iter().any(|file| belongs_to(file, module)), "the pure module `{module}` is gone");
    }
    let pure = files.iter().filter(|file| PURE.iter().any(|module| belongs_to(file, module)));
    let offences = pure.flat_map(|file| file.offences(|line| IMPURE.iter().any(|word| line.contains(word))));
    assert_none("pure modules may not touch the world", offences);
}

/// The tests that a claim of security stands on: `name`, `module::name` or `module::` in backquotes.
#[test]
fn the_tests_that_the_page_on_security_names_are_there() {
    let path = workspace().join("docs/security.md");
    let text = fs::read_to_string(path).expect("docs/security.md says what is defended");
    let all: String = sources("tests/it").iter().flat_map(|file| file.lines.clone()).collect();
    let words = text.split('`').skip(1).step_by(2).filter(|word| {
        let is_plain = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':');
        is_plain && (word.contains("::") || word.matches('_').count() >= 4)
    });
    let mut found = 0;
    for word in words {
        let (module, name) = word.rsplit_once("::").unwrap_or(("", word));
        let module = module.rsplit("::").next().unwrap_or_default();
        assert!(module.is_empty() || all.contains(&format!("mod {module};")), "`{word}`: no such module");
        assert!(name.is_empty() || all.contains(&format!("fn {name}(")), "`{word}`: no such test");
        found += 1;
    }
    assert!(found > 10, "{found}");
}

/// What an engine compiles with when it is set up: nothing but `cli.rs` sets one up, in a child process.
#[test]
fn the_command_line_compiles_in_a_child_process() {
    let verbs = sources("runtime/src/cli");
    let sets_up = |line: &str| line.contains("app::engine(") || line.contains("Engine::new(");
    let offences = verbs.iter().flat_map(|file| file.offences(sets_up));
    assert_none("verbs have their engine from `cli::engine` or `cli::engine_with`", offences);
}

#[test]
fn files_can_be_read_in_one_go() {
    let long = sources("runtime/src").into_iter().filter(|file| file.lines.len() > MAX_LINES);
    let rule = format!("files in runtime/src have at most {MAX_LINES} lines");
    assert_none(&rule, long.map(|file| format!("{}: {} lines", file.path, file.lines.len())));
}

#[test]
fn nothing_is_unwrapped_outside_of_tests() {
    let files = ["runtime/src", "xtask/src"].into_iter().flat_map(sources);
    let offences = files.flat_map(|file| file.offences(|line| line.contains(".unwrap()")));
    assert_none("`unwrap()` says nothing when it fails: return an error, or `expect` with the reason", offences);
}

#[test]
fn unsafe_code_is_in_one_place() {
    let is_unsafe = |line: &str| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| word == "unsafe")
    };
    let files = ["runtime/src", "xtask/src"].into_iter().flat_map(sources);
    let others = files.filter(|file| file.path != "runtime/src/wasm/cache.rs");
    assert_none("only runtime/src/wasm/cache.rs has unsafe code", others.flat_map(|file| file.offences(is_unsafe)));
}

/// The code map of ARCHITECTURE.md names files and directories as `runtime/src/...` in backquotes, or below
/// `runtime/src/` as the first word of a line in an indented or fenced tree.
#[test]
fn the_code_map_names_what_exists_and_leaves_nothing_out() {
    let path = workspace().join("ARCHITECTURE.md");
    let text = fs::read_to_string(path).expect("ARCHITECTURE.md explains the code");
    let map = section(&text, "code map").expect("ARCHITECTURE.md has a section `Code map`");
    let is_path = |word: &str| word.ends_with(".rs") || word.ends_with('/');
    let words = map.split(|c: char| c.is_whitespace() || "`|,()[]".contains(c)).filter(|word| is_path(word));
    let root = workspace();
    let exists = |word: &str| root.join(word).exists() || root.join("runtime/src").join(word).exists();
    let gone = words.clone().filter(|word| !exists(word)).map(str::to_owned);
    assert_none("the code map of ARCHITECTURE.md names what does not exist", gone);

    let named: Vec<&str> = words.map(|word| word.strip_prefix("runtime/src/").unwrap_or(word)).collect();
    let modules = fs::read_dir(root.join("runtime/src")).expect("the sources can be listed").filter_map(|entry| {
        let name = entry.expect("the sources can be listed").file_name().into_string().expect("a UTF-8 name");
        Some(name.strip_suffix(".rs")?.to_owned())
    });
    let missing = modules.filter(|module| {
        let [file, dir] = [format!("{module}.rs"), format!("{module}/")];
        !named.iter().any(|&word| word == file || word == dir)
    });
    assert_none("the code map of ARCHITECTURE.md leaves out modules", missing);
}

/// The text below the heading that contains `title`, up to the next heading of the same or a higher level.
fn section<'a>(text: &'a str, title: &str) -> Option<&'a str> {
    let level = |line: &str| line.bytes().take_while(|&byte| byte == b'#').count();
    let heading = text.lines().find(|line| level(line) > 0 && line.to_lowercase().contains(title))?;
    let start = text.find(heading)? + heading.len();
    let body = &text[start..];
    let ends = |line: &&str| (1..=level(heading)).contains(&level(line)) && line.contains("# ");
    let end = body.lines().find(ends).and_then(|line| body.find(line)).unwrap_or(body.len());
    Some(&body[..end])
}

#[test]
fn mentions_are_found_in_paths_and_groups() {
    assert!(mentions("use crate::wasm::Engine;", "wasm"));
    assert!(mentions("use crate::{event, wasm};", "wasm"));
    assert!(mentions("use crate::{event::Event, wasm::Engine};", "wasm"));
    assert!(mentions("    wasm::Engine,", "wasm"));
    assert!(mentions("use super::super::wasm::Engine;", "wasm"));
    assert!(!mentions("use crate::outcome::wasm;", "wasm"));
    assert!(!mentions("use wasmtime::Engine;", "wasm"));
    assert_eq!(without_comment("    // crate::wasm"), "");
    assert_eq!(section("# A\n## Code map\nx\n### y\n## Z\n", "code map"), Some("\nx\n### y\n"));
}
