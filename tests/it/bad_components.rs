//! Components that are no good, or were made to do harm: each is refused or stopped with a reason, within a limit that is
//! told, and the program goes on.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmill_tests::worker::{Signal, Worker, binary};
use wasmill_tests::{eventually, guests};

use super::invoke::{Place, code, said};

/// The most bytes that a component may have.
const MAX_BYTES: usize = 64 << 20;
const EVENT: &[u8] = br#"{"specversion":"1.0","id":"1","source":"/t","type":"ok"}"#;

/// Loads and runs a component of these bytes.
fn invoke(place: &Place, component: &[u8]) -> Output {
    place.write("event.json", EVENT);
    place.write("handler.wasm", component);
    place.run(&["invoke", "handler.wasm", "--event", "event.json"])
}

/// Asserts that a component is refused for this reason, with its file and without a panic.
#[track_caller]
fn assert_refused(output: &Output, reason: &str) {
    let said = said(output);
    assert_eq!(code(output), 2, "{said}");
    assert!(said.contains("handler.wasm: ") && said.contains(reason), "`{reason}` is not in: {said}");
    assert!(!said.contains("panicked") && said.len() < 2048, "{said}");
}

/// A number as WebAssembly writes it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(content.len()), content].concat()
}

/// A component of these sections.
fn component(sections: &[Vec<u8>]) -> Vec<u8> {
    [&b"\0asm\x0d\0\x01\0"[..], &sections.concat()].concat()
}

/// A component around a core module of `functions` functions, each with `blocks` conditions one after the other.
pub fn module_of(functions: usize, blocks: usize) -> Vec<u8> {
    // if (argument) { argument = argument + 1 }
    const BLOCK: [u8; 12] = [0x20, 0, 0x04, 0x40, 0x20, 0, 0x41, 1, 0x6a, 0x21, 0, 0x0b];
    let body = [&[0][..], &BLOCK.repeat(blocks), &[0x20, 0, 0x0b]].concat();
    let function = [leb(body.len()), body].concat();
    let count = leb(functions);
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 1, 0x7f, 1, 0x7f]),
        section(3, &[&count[..], &vec![0; functions]].concat()),
        section(10, &[&count[..], &function.repeat(functions)].concat()),
    ];
    component(&[section(1, &module.concat())])
}

/// The bytes of a component with a custom section that brings them to this length.
fn padded(component: &[u8], length: usize) -> Vec<u8> {
    let name = [&leb(3)[..], b"pad"].concat();
    // Lengths of this size take four bytes.
    let rest = length - component.len() - 1 - 4 - name.len();
    let bytes = [component, &section(0, &[&name[..], &vec![0; rest]].concat())].concat();
    assert_eq!(bytes.len(), length);
    bytes
}

/// A handler whose core module has this in it beside what a handler needs.
pub fn handler_with(core: &str) -> Vec<u8> {
    let text = include_str!("bad_components/handler.wat").replace(";; HERE", core);
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// A handler that consists of this core module, which exports `handle`, beside a memory and what allocates in it.
pub fn handler_of(core: &str) -> Vec<u8> {
    let simple = r#"(func (export "handle") (param i32) (result i32) (i32.const 0))"#;
    let text = include_str!("bad_components/handler.wat").replace(simple, "").replace(";; HERE", core);
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn sixty_four_mebibytes_are_the_most() {
    let place = Place::new("");
    let fits = std::fs::read(guests::component("faults")).unwrap();
    let output = invoke(&place, &padded(&fits, MAX_BYTES));
    assert_eq!(code(&output), 0, "{}", said(&output));
    let start = Instant::now();
    assert_refused(&invoke(&place, &padded(&fits, MAX_BYTES + 1)), "67108865 bytes; 67108864 are allowed");
    // Hardly more than writing it: it is not even read.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn ten_thousand_functions_compile() {
    assert_refused(&invoke(&Place::new(""), &module_of(10_000, 1)), "does not export wasmill:events/handler");
}

#[test]
fn a_component_that_takes_too_much_to_compile_is_stopped_and_told_which_limit_to_raise() {
    // Some minutes and gigabytes if it could.
    let bomb = module_of(1, 600_000);
    let limited = |settings: &str, reasons: [&str; 2]| {
        let place = Place::new(&format!("[compile]\n{settings}\n"));
        let start = Instant::now();
        let output = invoke(&place, &bomb);
        reasons.iter().for_each(|reason| assert_refused(&output, reason));
        start.elapsed()
    };
    limited("memory = \"64 MiB\"", ["more than 64.0 MiB of memory", "compile.memory"]);
    limited("cpu_time = \"1s\"", ["more than 1s of CPU time", "compile.cpu_time"]);
    // On an idle machine the two come at the same time.
    let took = limited("cpu_time = \"1s\"\nwall_time = \"1s\"", ["compiling takes ", "_time"]);
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn the_process_that_compiles_ends_with_the_one_that_started_it() {
    let place = Place::new("");
    let bomb = place.write("bomb.wasm", &module_of(1, 600_000));
    let config = format!("[handlers.bomb]\ncomponent = \"{}\"\nstreams = [\"s\"]\n", bomb.display());
    for signal in [Signal::TERM, Signal::KILL] {
        let mut worker = Worker::spawn_with(&config, |command| {
            command.arg("--embedded");
        });
        let compiler = eventually("a compiler", Duration::from_secs(30), || child_of(worker.pid()));
        assert!(is_alive(compiler));
        worker.signal(signal);
        worker.wait_exit(Duration::from_secs(10));
        eventually("the compiler to end", Duration::from_secs(10), || (!is_alive(compiler)).then_some(()));
    }
}

/// The process that compiles for a worker.
pub fn child_of(worker: u32) -> Option<u32> {
    let threads = std::fs::read_dir(format!("/proc/{worker}/task")).ok()?;
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let ids: Vec<u32> =
        children.flat_map(|ids| ids.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect();
    ids.into_iter().find(|child| command_line(*child).contains("compile-component"))
}

fn command_line(process: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether it runs; one that has ended and that nobody has waited for yet has no command line any more.
pub fn is_alive(process: u32) -> bool {
    !command_line(process).is_empty()
}

#[test]
fn the_process_that_compiles_is_told_nothing_and_may_do_nothing_for_long() {
    let place = Place::new("");
    place.write("event.json", EVENT);
    place.write("handler.wasm", &module_of(1, 600_000));
    let mut command = place.command(&["invoke", "handler.wasm", "--event", "event.json"]);
    let mut child = command.env("WASMILL_TEST_SECRET", "secret").spawn().unwrap();
    let compiler = eventually("a compiler", Duration::from_secs(30), || child_of(child.id()));
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{compiler}/{file}")).unwrap();
    let limits = eventually("its limits", Duration::from_secs(10), || {
        Some(of("limits")).filter(|limits| {
            limits.lines().any(|line| line.starts_with("Max cpu time  ") && !line.contains("unlimited"))
        })
    });
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap().strip_prefix(name).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!((limit("Max cpu time").as_str(), limit("Max file size").as_str()), ("120", "2147483648"));
    let space: u64 = eventually("a limit on memory", Duration::from_secs(10), || {
        let line = of("limits").lines().find(|line| line.starts_with("Max address space")).map(str::to_owned)?;
        line.split_whitespace().nth(3)?.parse().ok()
    });
    assert!((2 << 30..3 << 30).contains(&space), "{space}");
    assert_eq!(of("environ"), "MIMALLOC_ARENA_RESERVE=0\0");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the compiler to end", Duration::from_secs(10), || (!is_alive(compiler)).then_some(()));
}

#[test]
fn a_start_function_that_spins_is_stopped_at_the_deadline() {
    let place = Place::new("[limits]\ndeadline = \"300ms\"\n");
    // Building it is not what is measured.
    binary();
    let start = Instant::now();
    let output = invoke(&place, &handler_with("(func $spin (loop (br 0))) (start $spin)"));
    assert_eq!(code(&output), 13, "{}", said(&output));
    assert!(said(&output).contains("timeout: the handler did not return within 300ms"), "{}", said(&output));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_start_function_that_panics_is_a_trap_of_the_delivery() {
    let place = Place::new("");
    let output = invoke(&place, &handler_with("(func $panic unreachable) (start $panic)"));
    assert!(code(&output) == 12 && said(&output).starts_with("trap: "), "{}", said(&output));
    assert!(said(&output).contains("unreachable"), "{}", said(&output));
    // The same handler without one does what a handler does.
    assert_eq!(code(&invoke(&place, &handler_with(""))), 0);
}

#[test]
fn a_start_function_that_wants_too_much_memory_is_stopped() {
    let place = Place::new("[limits]\nmemory = \"1 MiB\"\n");
    let hog =
        "(func $hog (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable) (start $hog)";
    let output = invoke(&place, &handler_with(hog));
    assert!(
        code(&output) == 12 && said(&output).contains("more than its 1048576 bytes of memory"),
        "{}",
        said(&output)
    );
}

#[test]
fn imports_that_do_not_exist_are_named() {
    let place = Place::new("");
    let imports = |names: &[&str]| {
        let list: String = names.iter().map(|name| format!("(import \"{name}\" (instance))")).collect();
        wat::parse_str(format!("(component {list})")).unwrap()
    };
    let output = invoke(&place, &imports(&["acme:billing/ledger@2.0.0", "wasi:nn/tensor@0.2.0"]));
    assert_refused(&output, "acme:billing/ledger@2.0.0 (unknown)");
    assert_refused(&output, "wasi:nn/tensor@0.2.0 (denied");
    // An interface that is there, with a function that is not.
    let text = r#"(component (import "wasmill:events/publisher@0.1.0" (instance (export "steal" (func)))))"#;
    let output = invoke(&place, &wat::parse_str(text).unwrap());
    assert_refused(&output, "wasmill:events");
}

#[test]
fn a_world_of_another_version_is_named_with_the_one_that_is_needed() {
    let place = Place::new("");
    let text =
        include_str!("bad_components/handler.wat").replace("handler@0.1.0", "handler@0.2.0").replace(";; HERE", "");
    let output = invoke(&place, &wat::parse_str(text).unwrap());
    assert_refused(
        &output,
        "exports wasmill:events/handler@0.2.0; this version of wasmill needs wasmill:events/handler@0.1.0",
    );
    // Another version of an interface that it imports.
    let text = include_str!("bad_components/handler.wat").replace("types@0.1.0", "types@9.0.0").replace(";; HERE", "");
    let output = invoke(&place, &wat::parse_str(text).unwrap());
    assert_refused(&output, "wasmill:events/types@9.0.0");
}

#[test]
fn what_is_no_component_is_named_for_what_it_is() {
    let place = Place::new("");
    let fits = std::fs::read(guests::component("faults")).unwrap();
    let mut wrong_version = fits.clone();
    wrong_version[4] = 0x7f;
    let mut flipped = fits.clone();
    flipped[200..260].fill(0xff);
    for (bytes, reason) in [
        (b"".to_vec(), "not a WebAssembly file"),
        (b"\x7fELF\x02\x01\x01\0".to_vec(), "not a WebAssembly file"),
        (b"(component)".to_vec(), "not a WebAssembly file"),
        (wat::parse_str("(module)").unwrap(), "a core module, not a component"),
        (fits[..fits.len() - 1].to_vec(), "not valid"),
        (fits[..9].to_vec(), "not valid"),
        (wrong_version, "not valid"),
        (flipped, "not valid"),
    ] {
        assert_refused(&invoke(&place, &bytes), reason);
    }
}

#[test]
fn names_in_a_component_cannot_pass_for_output_of_wasmill_nor_fill_the_log() {
    let place = Place::new("");
    let twice = |name: &str| {
        let text = format!("(core module (func) (export \"{name}\" (func 0)) (export \"{name}\" (func 0)))");
        wat::parse_str(format!("(component {text})")).unwrap()
    };
    let output = invoke(&place, &twice("\\1b[2J\\0aok: all is well"));
    assert_refused(&output, "duplicate export name");
    assert!(!said(&output).contains('\u{1b}') && !said(&output).contains("\nok:"), "{:?}", said(&output));
    assert_refused(&invoke(&place, &twice(&"x".repeat(90_000))), "duplicate export name");
    let list: String = (0..1000).map(|at| format!("(import \"acme:billing/ledger{at}\" (instance))")).collect();
    let output = invoke(&place, &wat::parse_str(format!("(component {list})")).unwrap());
    assert_refused(&output, "acme:billing/ledger0 (unknown)");
    assert!(said(&output).contains("and 980 more"), "{}", said(&output));
    let list: String = (0..400)
        .map(|at| format!("(instance $i{at}) (export \"acme:billing/ledger{at}\" (instance $i{at}))"))
        .collect();
    let output = invoke(&place, &wat::parse_str(format!("(component {list})")).unwrap());
    assert_refused(&output, "it exports acme:billing/ledger0, ");
    assert!(said(&output).contains("and 380 more"), "{}", said(&output));
}

#[test]
fn deep_nesting_breaks_nothing() {
    let place = Place::new("[compile]\nmemory = \"512 MiB\"\ncpu_time = \"2s\"\n");
    // Components in components.
    let nested = |depth| (0..depth).fold(component(&[]), |inner, _| component(&[section(4, &inner)]));
    assert_refused(&invoke(&place, &nested(100)), "does not export wasmill:events/handler");
    assert_refused(&invoke(&place, &nested(10_000)), "compile.memory");
    // Blocks in blocks: the time that they take grows faster than their number.
    let blocks = |depth| {
        let body = [&[0][..], &[0x02, 0x40].repeat(depth), &vec![0x0b; depth + 1]].concat();
        let module = [
            b"\0asm\x01\0\0\0".to_vec(),
            section(1, &[1, 0x60, 0, 0]),
            section(3, &[1, 0]),
            section(10, &[&[1][..], &leb(body.len()), &body].concat()),
        ];
        component(&[section(1, &module.concat())])
    };
    assert_refused(&invoke(&place, &blocks(1_000)), "does not export wasmill:events/handler");
    assert_refused(&invoke(&place, &blocks(200_000)), "compile.cpu_time");
    // Types in types: each is a pair of the one before, and the last would have 2 to the power of 200 parts.
    let pairs = (1..200).map(|at| format!("(type $t{at} (tuple $t{} $t{}))", at - 1, at - 1)).collect::<String>();
    let output = invoke(&place, &wat::parse_str(format!("(component (type $t0 (list u8)) {pairs})")).unwrap());
    assert_refused(&output, "not valid");
}

#[test]
fn check_names_every_bad_component_and_goes_on_to_the_next() {
    let place = Place::new("");
    let file = |name: &str, bytes: &[u8]| -> String { place.write(name, bytes).display().to_string() };
    let section = |name: &str, path: &str| format!("[handlers.{name}]\ncomponent = \"{path}\"\nstreams = [\"s\"]\n");
    let mut config = "[compile]\ncpu_time = \"1s\"\n".to_owned();
    config += &section("bomb", &file("bomb.wasm", &module_of(1, 600_000)));
    config += &section("good", &guests::component("faults").display().to_string());
    config += &section("large", &file("large.wasm", &vec![0; MAX_BYTES + 1]));
    place.write("wasmill.toml", config.as_bytes());
    let output = place.run(&["check", "--output", "json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let faults = found["faults"].as_array().unwrap();
    assert_eq!((code(&output), &found["handlers"], faults.len()), (2, &json!(3), 2), "{found:#}");
    assert!(faults[0].as_str().unwrap().contains("compile.cpu_time"), "{found:#}");
    assert!(faults[1].as_str().unwrap().contains("67108864 are allowed"), "{found:#}");
}

#[test]
fn a_component_that_was_compiled_once_is_loaded_from_the_cache() {
    let place = Place::new("");
    let cache = place.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::set_permissions(&cache, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let config = format!(
        "[worker]\ncache_dir = \"cache\"\n[handlers.a]\ncomponent = \"{}\"\nstreams = [\"s\"]\n",
        guests::component("faults").display()
    );
    place.write("wasmill.toml", config.as_bytes());
    assert_eq!(code(&place.run(&["check"])), 0);
    let entries = |cache: &Path| std::fs::read_dir(cache).unwrap().count();
    assert_eq!(entries(&cache), 1);
    let before = std::fs::metadata(std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path()).unwrap();
    assert_eq!(code(&place.run(&["check"])), 0);
    let after = std::fs::metadata(std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path()).unwrap();
    assert_eq!((entries(&cache), before.modified().unwrap()), (1, after.modified().unwrap()));
}
