//! New projects. The templates are the examples in `guest-examples/LANG/enrich`: what is tested there is what users get.

use std::fs;
use std::path::{Path, PathBuf};

use super::{BuildError, Lang, wit};
use crate::config::is_handler_name;

/// The name of the project in the templates; as a whole word it is used for nothing else there.
const NAME: &str = "enrich";
/// Files of the examples whose name begins so, and lines with this word, are for our own tests.
const TESTS_ONLY: &str = "drill";

/// Why there is no new project.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// Handlers cannot have this name.
    #[error(
        "`{0}` cannot be the name of a handler: use lower-case letters, digits, `_` and `-`, beginning with a letter or \
         digit, 63 at most"
    )]
    Name(String),
    /// Packages of this language cannot have this name.
    #[error("`{0}` cannot be the name of a package in {1}: let it begin with a letter")]
    PackageName(String, Lang),
    /// The folder is in use.
    #[error("{} is there already, and not empty: choose another name, or another folder with --dir", .0.display())]
    NotEmpty(PathBuf),
    /// The folder cannot be looked into.
    #[error("{}: {cause}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// The files cannot be written.
    #[error(transparent)]
    Files(#[from] BuildError),
}

/// Writes a project with a handler of this name to a folder, which must be empty or not be there. Returns the files.
pub fn create(name: &str, lang: Lang, directory: &Path) -> Result<Vec<PathBuf>, NewError> {
    if !is_handler_name(name) {
        return Err(NewError::Name(name.to_owned()));
    }
    if lang == Lang::Rust && name.starts_with(|first: char| !first.is_ascii_alphabetic()) {
        return Err(NewError::PackageName(name.to_owned(), lang));
    }
    match fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Ok(false) => return Err(NewError::NotEmpty(directory.to_owned())),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
        Err(cause) => return Err(NewError::Folder { path: directory.to_owned(), cause }),
    }
    let mut written = Vec::new();
    for (file, text) in files(lang) {
        let path = directory.join(file);
        wit::write_file(&path, instantiate(text, name).as_bytes())?;
        written.push(path);
    }
    wit::write(&directory.join("wit"))?;
    Ok(written)
}

/// The text of a file of a project with this name.
fn instantiate(template: &str, name: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let (mut after_blank, mut after_removed) = (false, false);
    for line in template.split_inclusive('\n') {
        let is_blank = line.trim().is_empty();
        if words(line).any(|word| word == TESTS_ONLY) {
            after_removed = true;
            continue;
        }
        // What stood alone between two blank lines leaves only one of them.
        if !(is_blank && after_blank && after_removed) {
            words(line).for_each(|word| text.push_str(if word == NAME { name } else { word }));
        }
        (after_blank, after_removed) = (is_blank, false);
    }
    text
}

/// A text in pieces: words of letters, digits and `_`, and what stands between them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.split_inclusive(move |c: char| !is_word(c)).flat_map(move |piece| {
        let (word, between) = piece.split_at(piece.find(|c: char| !is_word(c)).unwrap_or(piece.len()));
        [word, between]
    })
}

/// The files of an example, by their names in its folder.
macro_rules! example {
    ($lang:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../../../guest-examples/", $lang, "/enrich/", $file)))),+]
    };
}

/// The files of the template.
fn files(lang: Lang) -> &'static [(&'static str, &'static str)] {
    match lang {
        Lang::Rust => example! {
            "rust":
            ".gitignore",
            "Cargo.lock",
            "Cargo.toml",
            "README.md",
            "events/flaky.expected.json",
            "events/flaky.json",
            "events/malformed.expected.json",
            "events/malformed.json",
            "events/order.expected.json",
            "events/order.json",
            "src/lib.rs",
            "wasmill.toml",
        },
        Lang::Js => example! {
            "js":
            ".gitignore",
            "README.md",
            "events/flaky.expected.json",
            "events/flaky.json",
            "events/malformed.expected.json",
            "events/malformed.json",
            "events/order.expected.json",
            "events/order.json",
            "handler.js",
            "package-lock.json",
            "package.json",
            "wasmill.toml",
        },
        Lang::Ts => example! {
            "ts":
            ".gitignore",
            "README.md",
            "events/flaky.expected.json",
            "events/flaky.json",
            "events/malformed.expected.json",
            "events/malformed.json",
            "events/order.expected.json",
            "events/order.json",
            "handler.ts",
            "package-lock.json",
            "package.json",
            "tsconfig.json",
            "wasmill.d.ts",
            "wasmill.toml",
        },
        Lang::Python => example! {
            "python":
            ".gitignore",
            "README.md",
            "app.py",
            "events/flaky.expected.json",
            "events/flaky.json",
            "events/malformed.expected.json",
            "events/malformed.json",
            "events/order.expected.json",
            "events/order.json",
            "requirements.txt",
            "wasmill.toml",
        },
        Lang::Go => example! {
            "go":
            ".gitignore",
            "README.md",
            "events/flaky.expected.json",
            "events/flaky.json",
            "events/malformed.expected.json",
            "events/malformed.json",
            "events/order.expected.json",
            "events/order.json",
            "go.mod",
            "main.go",
            "wasmill.toml",
            "wasmill/abi.go",
            "wasmill/wasmill.go",
        },
        Lang::C => example! {
            "c":
            ".gitignore",
            "Makefile",
            "README.md",
            "events/flaky.expected.json",
            "events/flaky.json",
            "events/malformed.expected.json",
            "events/malformed.json",
            "events/order.expected.json",
            "events/order.json",
            "handler.c",
            "json.c",
            "json.h",
            "wasmill.toml",
        },
        Lang::Cpp => example! {
            "cpp":
            ".gitignore",
            "Makefile",
            "README.md",
            "events/flaky.expected.json",
            "events/flaky.json",
            "events/malformed.expected.json",
            "events/malformed.json",
            "events/order.expected.json",
            "events/order.json",
            "handler.cpp",
            "json.cpp",
            "json.hpp",
            "wasmill.toml",
        },
        Lang::Zig => example! {
            "zig":
            ".gitignore",
            "README.md",
            "build.zig",
            "events/flaky.expected.json",
            "events/flaky.json",
            "events/malformed.expected.json",
            "events/malformed.json",
            "events/order.expected.json",
            "events/order.json",
            "handler.zig",
            "wasmill.toml",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(lang: Lang) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-examples").join(lang.as_str()).join(NAME)
    }

    /// The files below a folder that belong into the template, relative to `root`.
    fn collect(root: &Path, folder: &Path, ignored: &[String], found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("it is a folder") {
            let path = entry.expect("it can be listed").path();
            let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
            let is_cache = path.is_dir() && name.starts_with('.');
            if is_cache || name.starts_with(TESTS_ONLY) || ignored.contains(&name) {
                continue;
            }
            if path.is_dir() {
                collect(root, &path, ignored, found);
            } else {
                found.push(path.strip_prefix(root).expect("it lies in it").to_string_lossy().into_owned());
            }
        }
    }

    #[test]
    fn templates_are_the_examples() {
        for lang in Lang::ALL {
            let root = example(lang);
            let ignored = fs::read_to_string(root.join(".gitignore")).expect("each example has one");
            let ignored: Vec<String> = ignored.lines().map(|line| line.trim_matches('/').to_owned()).collect();
            let mut found = Vec::new();
            collect(&root, &root, &ignored, &mut found);
            let mut known: Vec<String> = files(lang).iter().map(|(file, _)| (*file).to_owned()).collect();
            found.sort();
            known.sort();
            assert_eq!(known, found, "`files` must list guest-examples/{lang}/{NAME}");
        }
    }

    #[test]
    fn projects_know_neither_the_example_nor_its_tests() {
        for lang in Lang::ALL {
            for (file, text) in files(lang) {
                let text = instantiate(text, "my-handler");
                for left in [NAME, TESTS_ONLY] {
                    assert!(words(&text).all(|word| word != left), "{lang}: {file} still says {left}\n{text}");
                }
                let is_tidy = lang == Lang::Python || !text.contains("\n\n\n");
                assert!(is_tidy, "{lang}: {file} has two blank lines\n{text}");
            }
            let own =
                instantiate(files(lang).iter().find(|(file, _)| *file == "wasmill.toml").expect("it has one").1, "x9");
            let config =
                crate::config::Config::parse(None, &own, []).unwrap_or_else(|errors| panic!("{lang}: {errors}"));
            assert_eq!(config.handler("x9").and_then(|handler| handler.build).map(|plan| plan.lang), Some(lang));
        }
    }

    #[test]
    fn words_are_replaced_whole_and_lines_of_tests_left_out() {
        let template = "a\n\nmod drill;\n\nenrich(enriched, un_enrich, \"enrich\")\n  drill(event);\nü enrich";
        assert_eq!(instantiate(template, "my-h"), "a\n\nmy-h(enriched, un_enrich, \"my-h\")\nü my-h");
    }

    #[test]
    fn only_new_folders_and_right_names_are_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().join("deep/shop");
        let written = create("shop", Lang::C, &at).expect("it is new");
        assert!(written.contains(&at.join("handler.c")) && at.join("wit/events.wit").is_file());
        assert!(!at.join("drill.c").exists());
        let error = create("shop", Lang::C, &at).expect_err("it is there now");
        assert!(matches!(&error, NewError::NotEmpty(path) if *path == at), "{error}");
        assert!(matches!(create("Shop", Lang::C, folder.path()), Err(NewError::Name(_))));
        assert!(matches!(create("", Lang::C, folder.path()), Err(NewError::Name(_))));
        assert!(matches!(create("1st", Lang::Rust, folder.path()), Err(NewError::PackageName(..))));
        let file = folder.path().join("file");
        fs::write(&file, "").expect("it can be written");
        assert!(matches!(create("shop", Lang::C, &file), Err(NewError::Folder { .. })));
    }
}
