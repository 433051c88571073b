//! `wasmill new`, `wasmill build` and `wasmill wit`: from nothing to a component that handles events, and what is said on
//! the way when something is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use wasmill::project::{Lang, wit};
use wasmill_tests::worker::binary;
use wasmill_tests::workspace;

use super::invoke::{Place, code, said};

/// A core module that follows the world, and needs nothing of the host: it acknowledges every event.
const HANDLER: &str = r#"(module
    (memory (export "memory") 2)
    (global $end (mut i32) (i32.const 1024))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $start i32)
        (local.set $start (i32.and (i32.add (global.get $end) (i32.const 7)) (i32.const -8)))
        (global.set $end (i32.add (local.get $start) (local.get 3)))
        (local.get $start))
    (func (export "wasmill:events/handler@0.1.0#handle") (param i32) (result i32) (i32.const 16)))"#;

/// A project in C whose build file does not compile: it takes `core.wasm` as it is.
fn ready_made(core_wat: &str) -> Place {
    let place = Place::new(
        "[handlers.ready]\ncomponent = \"build/ready.wasm\"\nstreams = [\"s\"]\n\
         [handlers.ready.build]\nlang = \"c\"\n",
    );
    place.write("Makefile", b"build/core.wasm: core.wasm\n\tcp core.wasm $@\n");
    place.write("core.wasm", &wat::parse_str(core_wat).unwrap());
    place
}

/// Builds what needs no compiler.
fn build_ready(place: &Place, arguments: &[&str]) -> Output {
    place.command(&[&["build"], arguments].concat()).env("WASMILL_CC", "cc").output().unwrap()
}

fn event(place: &Place) -> PathBuf {
    place.write("event.json", br#"{"specversion": "1.0", "id": "1", "source": "/t", "type": "any", "data": {}}"#)
}

#[test]
fn a_core_module_without_wasi_becomes_a_component() {
    let place = ready_made(HANDLER);
    let output = build_ready(&place, &[]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.starts_with("ready: ") && stdout.contains("build/ready.wasm, ") && stdout.ends_with(" s\n"),
        "{stdout}"
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("ready: $ make CC=cc\n"), "{}", said(&output));
    event(&place);
    let output = place.run(&["invoke", "build/ready.wasm", "--event", "event.json"]);
    assert_eq!((code(&output), output.stdout.starts_with(b"ack")), (0, true), "{}", said(&output));
    assert_eq!(code(&place.run(&["check"])), 0);
}

#[test]
fn results_are_told_as_json_and_written_where_asked() {
    let place = ready_made(HANDLER);
    let output = build_ready(&place, &["ready", "--out", "elsewhere/x.wasm", "--output", "json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let bytes = fs::metadata(place.path().join("elsewhere/x.wasm")).unwrap().len();
    let handler = &told["handlers"][0];
    assert_eq!(
        (&told["ok"], &handler["handler"], &handler["lang"], &handler["component"], &handler["bytes"]),
        (&json!(true), &json!("ready"), &json!("c"), &json!("elsewhere/x.wasm"), &json!(bytes))
    );
    assert!(handler["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{told}");
    assert!(!place.path().join("build/ready.wasm").exists());
}

/// What `wasmill build` says when this is what the tools make; what was there before must stay.
#[track_caller]
fn assert_refused(core_wat: &str, problem: &str) {
    let place = ready_made(core_wat);
    fs::create_dir(place.path().join("build")).unwrap();
    place.write("build/ready.wasm", b"the last one");
    let output = build_ready(&place, &[]);
    assert!(code(&output) == 1 && said(&output).contains(problem), "wanted: {problem}\ngot: {}", said(&output));
    assert_eq!(fs::read(place.path().join("build/ready.wasm")).unwrap(), b"the last one");
}

#[test]
fn what_does_not_fit_the_world_is_refused_with_the_reason() {
    assert_refused("(module)", "build/core.wasm: the module does not follow the world event-handler");
    assert_refused(&HANDLER.replace("(param i32) (result i32) (i32.const 16)", ""), "does not follow the world");
    let imports = HANDLER.replace("(module", "(module (import \"env\" \"clock\" (func))");
    assert_refused(&imports, "does not follow the world");
    assert_refused("(component)", "build/core.wasm: the component does not export wasmill:events/handler@0.1.0");
    assert_refused("(component (import \"a:b/c\" (instance)))", "a:b/c (unknown)");
}

#[test]
fn a_tool_that_fails_is_shown_with_what_it_said() {
    let place = ready_made(HANDLER);
    place.write("Makefile", b"build/core.wasm:\n\t@echo 'handler.c:3: no such thing' >&2; exit 1\n");
    let output = build_ready(&place, &[]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    for part in ["ready: error: `make CC=cc` failed (exit status: 2)", "handler.c:3: no such thing"] {
        assert!(said(&output).contains(part), "wanted: {part}\ngot: {}", said(&output));
    }
    let json = build_ready(&place, &["--output", "json"]);
    let told: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((code(&json), &told["ok"], &told["handlers"][0]["ok"]), (1, &json!(false), &json!(false)));
    assert!(told["handlers"][0]["error"].as_str().unwrap().contains("no such thing"), "{told}");
    // It ends well, and has made nothing.
    place.write("Makefile", b"build/core.wasm:\n\ttrue\n");
    let output = build_ready(&place, &[]);
    assert!(code(&output) == 1 && said(&output).contains("build/core.wasm is missing"), "{}", said(&output));
}

#[test]
fn the_folder_with_the_contract_is_written_once_and_kept() {
    let place = ready_made(HANDLER);
    assert_eq!(code(&build_ready(&place, &[])), 0);
    let contract = place.path().join("wit/events.wit");
    assert_eq!(fs::read_to_string(&contract).unwrap(), wit::FILES[0].1);
    let own = format!("// My own words.\n{}", wit::FILES[0].1);
    fs::write(&contract, &own).unwrap();
    let output = build_ready(&place, &[]);
    assert!(code(&output) == 0 && said(&output).contains("kept as it is"), "{}", said(&output));
    assert_eq!(fs::read_to_string(&contract).unwrap(), own);
    fs::write(&contract, "world nothing {}").unwrap();
    let output = build_ready(&place, &[]);
    assert!(code(&output) == 1 && said(&output).contains("`wasmill wit --out "), "{}", said(&output));
    assert_eq!(code(&place.run(&["wit", "--out", "wit"])), 0);
    assert_eq!(code(&build_ready(&place, &[])), 0);
}

#[test]
fn the_contract_is_printed_as_one_document() {
    let place = Place::new("");
    let output = place.run(&["wit"]);
    assert_eq!((code(&output), String::from_utf8_lossy(&output.stdout).trim_end()), (0, wit::text().trim_end()));
    let told: Value = serde_json::from_slice(&place.run(&["wit", "--output", "json"]).stdout).unwrap();
    assert_eq!((&told["world"], told["wit"].as_str()), (&json!(wit::WORLD), Some(wit::text().as_str())));
    let output = place.run(&["wit", "--out", "a/wit"]);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(stdout.lines().count() == wit::FILES.len() && stdout.starts_with("a/wit/events.wit\n"), "{stdout}");
    assert_eq!(wit::differing(&place.path().join("a/wit")), [""; 0]);
}

#[test]
fn wrong_arguments_are_told_from_failed_builds() {
    let place = ready_made(HANDLER);
    let usage = |place: &Place, arguments: &[&str], problem: &str| {
        let output = build_ready(place, arguments);
        assert!(code(&output) == 2 && said(&output).contains(problem), "wanted: {problem}\ngot: {}", said(&output));
    };
    usage(&place, &["redy"], "no handler `redy` is configured; there are: ready");
    let other = "[handlers.other]\ncomponent = \"o.wasm\"\nstreams = [\"s\"]\n";
    let both = [&fs::read_to_string(place.path().join("wasmill.toml")).unwrap(), other].concat();
    place.write("wasmill.toml", both.as_bytes());
    usage(&place, &["other"], "add a section [handlers.other.build] with `lang`");
    usage(&place, &["ready", "ready", "--out", "x"], "--out is for one handler");
    usage(&Place::new(other), &[], "add a section [handlers.NAME.build] with `lang`");
    let nothing = Place::new("");
    fs::remove_file(nothing.path().join("wasmill.toml")).unwrap();
    usage(&nothing, &[], "begin with `wasmill new NAME --lang LANG`");
}

/// A project as `wasmill new` writes it.
fn new_project(name: &str, lang: Lang) -> (Place, PathBuf) {
    let place = Place::new("");
    let output = place.run(&["new", name, "--lang", lang.as_str()]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let commands: Vec<&str> = stdout.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(commands.len() == 3 && commands[0] == format!("cd {name}"), "{stdout}");
    let directory = place.path().join(name);
    (place, directory)
}

/// Runs the binary in a folder, with only these programs on its `PATH`: names, and what they do in shell.
fn run_with(directory: &Path, programs: &[(&str, &str)], arguments: &[&str]) -> Output {
    let path = tempfile::tempdir().unwrap();
    for (name, script) in programs {
        let file = path.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(binary());
    for variable in ["WASMILL_ZIG", "WASMILL_CC", "WASMILL_CXX", "WASMILL_COMPONENTIZE_PY"] {
        command.env_remove(variable);
    }
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).env("PATH", path.path()).output().unwrap()
}

#[test]
fn a_missing_tool_is_named_with_what_it_is_for_and_how_to_get_it() {
    const NO_PYTHON: (&str, &str) = ("python3", "exit 1");
    let make = ("make", "exit 0");
    // On rustc's word that the target would lie where nothing is.
    let rust: [(&str, &str); 2] = [("cargo", "exit 9"), ("rustc", "echo /nowhere/lib")];
    let zig = ["zig is missing, which is needed to compile", "pip install ziglang=="];
    for (lang, programs, parts) in [
        (Lang::Rust, &[][..], ["cargo is missing, which is needed to compile Rust", "https://sh.rustup.rs"]),
        (Lang::Rust, &rust, ["the target wasm32-wasip2 is missing", "rustup target add wasm32-wasip2"]),
        (Lang::Rust, &[rust[0], ("rustc", "exit 1")], ["the target wasm32-wasip2 is missing", "rustup update"]),
        (Lang::Js, &[], ["npm is missing, which is needed to bundle", "Install it: "]),
        (Lang::Ts, &[], ["npm is missing, which is needed to bundle", "Install it: "]),
        (Lang::Python, &[], ["python3 is missing, which is needed to run componentize-py", "Install it: "]),
        (Lang::Go, &[], ["go is missing, which is needed to compile Go", "Install it: "]),
        (Lang::C, &[], ["make is missing, which is needed to run the Makefile", "Install it: "]),
        (Lang::C, &[make, NO_PYTHON], zig),
        (Lang::Cpp, &[make], zig),
        (Lang::Zig, &[NO_PYTHON], zig),
    ] {
        let (_place, directory) = new_project("shop", lang);
        let output = run_with(&directory, programs, &["build"]);
        for part in parts {
            assert!(code(&output) == 1 && said(&output).contains(part), "{lang}: wanted {part}\ngot {}", said(&output));
        }
        assert!(!directory.join("build/shop.wasm").exists());
    }
}

#[test]
fn a_folder_in_use_and_a_wrong_name_are_refused() {
    let (place, directory) = new_project("shop", Lang::Zig);
    let before = fs::read(directory.join("handler.zig")).unwrap();
    let refused = |arguments: &[&str], problem: &str| {
        let output = place.run(&[&["new"], arguments].concat());
        assert!(code(&output) == 2 && said(&output).contains(problem), "wanted: {problem}\ngot: {}", said(&output));
    };
    refused(&["shop", "--lang", "c"], "shop is there already, and not empty");
    refused(&["other", "--lang", "c", "--dir", "shop"], "shop is there already, and not empty");
    refused(&["Shop", "--lang", "c"], "`Shop` cannot be the name of a handler");
    refused(&["other", "--lang", "cobol"], "rust, js, ts, python, go, c, cpp, zig");
    assert_eq!(fs::read(directory.join("handler.zig")).unwrap(), before);
    assert!(!place.path().join("Shop").exists() && !place.path().join("other").exists());
    // An empty one is fine.
    fs::create_dir(place.path().join("empty")).unwrap();
    let output = place.run(&["new", "other", "--lang", "c", "--dir", "empty", "--output", "json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!((&told["handler"], &told["lang"], &told["directory"]), (&json!("other"), &json!("c"), &json!("empty")));
    assert!(told["files"].as_array().unwrap().contains(&json!("empty/handler.c")), "{told}");
}

/// Builds a new project and runs its sample events.
fn assert_handles_its_events(directory: &Path, name: &str, build: &mut Command) {
    let output = build.arg("build").current_dir(directory).stdin(Stdio::null()).output().unwrap();
    assert_eq!(code(&output), 0, "{}", said(&output));
    let component = format!("build/{name}.wasm");
    for (event, exit, first) in [
        ("order", 0, "ack"),
        ("flaky", 10, "retry: the price list is busy"),
        ("malformed", 11, "reject: malformed order: "),
    ] {
        let event = format!("events/{event}.json");
        let mut invoke = Command::new(binary());
        invoke.args(["invoke", &component, "--handler", name, "--event", &event]).current_dir(directory);
        let output = invoke.stdin(Stdio::null()).output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(code(&output) == exit && stdout.starts_with(first), "{event}: {}", said(&output));
        if exit == 0 {
            assert!(stdout.contains("\"item_count\":3") && stdout.contains("order_enriched"), "{stdout}");
            assert!(stdout.contains("enriched order o-1"), "{stdout}");
        }
    }
}

#[test]
fn a_new_project_in_rust_builds_and_handles_its_events() {
    let (_place, directory) = new_project("my-handler", Lang::Rust);
    // Below the own target directory: what it needs is compiled once.
    let target = workspace().join("target/new-projects");
    let mut build = Command::new(binary());
    build.env("CARGO_TARGET_DIR", target).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    assert_handles_its_events(&directory, "my-handler", &mut build);
}

#[test]
fn a_new_project_in_c_builds_and_handles_its_events() {
    let (_place, directory) = new_project("shop", Lang::C);
    let mut build = Command::new(binary());
    // Where `cargo xtask guests` installs it.
    let zig = workspace().join("target/tools/guests-py/bin/python-zig");
    if zig.exists() && std::env::var_os("WASMILL_ZIG").is_none() {
        build.env("WASMILL_ZIG", zig);
    } else if std::env::var_os("CI").is_none() && !has_zig() {
        eprintln!("skipped: zig is missing");
        return;
    }
    assert_handles_its_events(&directory, "shop", &mut build);
}

fn has_zig() -> bool {
    let works = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    std::env::var_os("WASMILL_ZIG").is_some()
        || works("zig", &["version"])
        || works("python-zig", &["version"])
        || works("python3", &["-m", "ziglang", "version"])
}
