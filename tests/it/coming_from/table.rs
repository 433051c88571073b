//! docs/coming-from.md and the tests name each other.

use std::collections::BTreeSet;
use std::fs;

use wasmill_tests::workspace;

/// The tests that the table names: `MODULE::TEST` in backquotes, in its last column.
fn named() -> BTreeSet<String> {
    let text = fs::read_to_string(workspace().join("docs/coming-from.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && line.contains("::"));
    let cells = rows.map(|row| row.trim_end_matches('|').rsplit('|').next().unwrap());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// Whether tests/it has a file for the module with a test of that name, or one for the module around it, in which a macro
/// makes the module and its tests (`TEST: ...`).
fn exists(name: &str) -> bool {
    let Some((module, test)) = name.rsplit_once("::") else { return false };
    let text = |module: &str| {
        let file = workspace().join("tests/it").join(format!("{}.rs", module.replace("::", "/")));
        fs::read_to_string(file).unwrap_or_default()
    };
    let is_made = || {
        let Some((around, inner)) = module.rsplit_once("::") else { return false };
        let (text, made, begin) = (text(around), format!("mod {inner} {{"), format!("{test}:"));
        text.contains(&made) && text.lines().any(|line| line.trim_start().starts_with(&begin))
    };
    tests(&text(module)).any(|other| other == test) || is_made()
}

/// The functions of a file that are tests: by attribute, or of a [`wasmill_tests::mill::Way`].
fn tests(text: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs: Vec<(&str, &str)> = std::iter::once("").chain(lines.clone()).zip(lines).collect();
    pairs.into_iter().filter_map(|(before, line)| {
        let signature = line.strip_prefix("pub ").unwrap_or(line);
        let (name, rest) =
            signature.strip_prefix("async ").unwrap_or(signature).strip_prefix("fn ")?.split_once('(')?;
        let is_test = before.ends_with("test]") || rest.starts_with("way: Way)");
        is_test.then_some(name)
    })
}

#[test]
fn every_row_names_a_test_that_exists() {
    let named = named();
    assert!(named.len() > 30, "{named:?}");
    let gone: Vec<&String> = named.iter().filter(|name| !exists(name)).collect();
    assert!(gone.is_empty(), "docs/coming-from.md names tests that do not exist: {gone:?}");
}

#[test]
fn every_test_here_is_named_by_a_row() {
    let named = named();
    let mut missing = Vec::new();
    for entry in fs::read_dir(workspace().join("tests/it/coming_from")).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if module == "table" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let all = tests(&text).map(|test| format!("coming_from::{module}::{test}"));
        missing.extend(all.filter(|test| !named.contains(test)));
    }
    assert!(missing.is_empty(), "docs/coming-from.md has no row for {missing:?}");
}
