//! `cargo xtask bench languages`: what a handler costs in each language, by `wasmill build` and `wasmill inspect`, on the
//! example `enrich`. The full run writes its table into docs/languages.md.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::{median, rounded};
use crate::cmd::{self, Result};
use crate::guests::Language;

/// Payloads of the events that show what copying costs, in bytes.
const SMALL: usize = 1 << 10;
const LARGE: usize = 64 << 10;
/// A fresh instance that costs more than this for an event is worth avoiding, in microseconds: below, a thread still
/// handles 4,000 events a second with nothing surviving from one to the next.
const DEAR: f64 = 250.0;
/// What the table stands between.
const MARKS: [&str; 2] = ["<!-- written by cargo xtask bench languages -->", "<!-- end -->"];

/// Measures; the report as JSON. A full run measures building as well, and writes the table.
pub fn run(root: &Path, quick: bool) -> Result<Value> {
    let directory = tempfile::tempdir()?;
    let events = Events::new(root, directory.path())?;
    let config = directory.path().join("wasmill.toml");
    // Room for what an 18 MB component needs on a busy machine.
    fs::write(&config, "[limits]\nmemory = \"256 MiB\"\ndeadline = \"30s\"\n")?;
    let mut languages: BTreeMap<&str, Value> = BTreeMap::new();
    for language in Language::ALL {
        let component = root.join(format!("target/guests/enrich-{}.wasm", language.name()));
        if !component.is_file() {
            eprintln!("{}: skipped: it was not built", language.name());
            continue;
        }
        eprintln!("{}: running", language.name());
        let mut figures = measure(root, &config, &component, &events, language, quick)?;
        if !quick {
            eprintln!("{}: building", language.name());
            let (first, again) = build(root, directory.path(), language)?;
            figures["build_first_s"] = json!(rounded(first));
            figures["build_again_s"] = json!(rounded(again));
        }
        languages.insert(language.name(), figures);
    }
    let copies = languages.values().filter_map(|figures| figures["copy_ratio"].as_f64());
    let report = json!({
        "ratios": { "copy_64k": copies.fold(f64::NAN, f64::max) },
        "machine": machine(),
        "languages": languages,
    });
    if !quick {
        write(&root.join("docs/languages.md"), &report)?;
    }
    Ok(report)
}

/// The events that are run.
struct Events {
    order: PathBuf,
    small: PathBuf,
    large: PathBuf,
}

impl Events {
    fn new(root: &Path, directory: &Path) -> Result<Events> {
        let refused = |name: &str, size: usize| -> Result<PathBuf> {
            let path = directory.join(name);
            // No handler looks further than the first byte: what is left is getting the event across.
            let event = json!({
                "specversion": "1.0", "id": "1", "source": "/bench", "type": "order_placed",
                "datacontenttype": "text/plain", "data": "x".repeat(size),
            });
            fs::write(&path, event.to_string())?;
            Ok(path)
        };
        Ok(Events {
            order: root.join("guest-examples/rust/enrich/events/order.json"),
            small: refused("small.json", SMALL)?,
            large: refused("large.json", LARGE)?,
        })
    }
}

/// Whether the handler is machine code of its own, not a program that an interpreter in the component runs.
fn is_compiled(language: Language) -> bool {
    !matches!(language, Language::Js | Language::Ts | Language::Python)
}

fn measure(
    root: &Path,
    config: &Path,
    component: &Path,
    events: &Events,
    language: Language,
    quick: bool,
) -> Result<Value> {
    // Compiling what has an interpreter in it takes long, and its figures are large beside the noise.
    let rounds = if is_compiled(language) && !quick { 5 } else { 1 };
    let orders = rounds_of(root, config, component, &events.order, rounds)?;
    let of = |pick: fn(&Value) -> f64| rounded(median(orders.iter().map(pick)));
    let mut figures = json!({
        "tools": tools(root, language),
        "size_bytes": orders[0]["bytes"],
        "compile_ms": of(|seen| number(&seen["loading"]["cold_us"]) / 1e3),
        "cached_load_ms": of(|seen| number(&seen["loading"]["cached_us"]) / 1e3),
        "fresh_us": of(|seen| number(&seen["cost"]["fresh"]["median_us"])),
        "reused_us": of(|seen| number(&seen["cost"]["reused"]["median_us"])),
        "memory_bytes": of(|seen| number(&seen["memory_bytes"])),
    });
    if is_compiled(language) {
        let of = |event| -> Result<f64> {
            let seen = rounds_of(root, config, component, event, rounds)?;
            Ok(median(seen.iter().map(|seen| number(&seen["cost"]["reused"]["median_us"]))))
        };
        let (small, large) = (of(&events.small)?, of(&events.large)?);
        figures["refused_1k_us"] = json!(rounded(small));
        figures["refused_64k_us"] = json!(rounded(large));
        figures["copy_ratio"] = json!(rounded(large / small));
    }
    Ok(figures)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// What `wasmill inspect` says, so many times.
fn rounds_of(root: &Path, config: &Path, component: &Path, event: &Path, rounds: usize) -> Result<Vec<Value>> {
    (0..rounds)
        .map(|_| {
            let mut inspect = Command::new(root.join("target/release/wasmill"));
            inspect.arg("inspect").arg(component).arg("--event").arg(event).arg("--config").arg(config);
            let output = inspect.args(["--output", "json"]).stderr(Stdio::inherit()).output()?;
            let seen: Value = serde_json::from_slice(&output.stdout)?;
            let problem = &seen["problem"];
            if problem.is_null() { Ok(seen) } else { Err(format!("{}: {problem}", component.display()).into()) }
        })
        .collect()
}

/// How long the first build of a new project takes, and one after a change, in seconds. The first one fetches what the
/// language needs, unless its package manager has it already.
fn build(root: &Path, directory: &Path, language: Language) -> Result<(f64, f64)> {
    let wasmill = root.join("target/release/wasmill");
    let project = directory.join(language.name());
    let mut new = cmd::program(&wasmill, directory);
    cmd::run(new.args(["new", "enrich", "--lang", language.name(), "--dir"]).arg(&project))?;
    let tools = root.join("target/tools/guests-py/bin");
    let build = || -> Result<f64> {
        let mut build = cmd::program(&wasmill, &project);
        build.arg("build").env("WASMILL_ZIG", tools.join("python-zig"));
        build.env("WASMILL_COMPONENTIZE_PY", tools.join("componentize-py"));
        let start = Instant::now();
        cmd::run(&mut build)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let first = build()?;
    let (source, comment) = match language {
        Language::Rust => ("src/lib.rs", "//"),
        Language::Js => ("handler.js", "//"),
        Language::Ts => ("handler.ts", "//"),
        Language::Python => ("app.py", "#"),
        Language::Go => ("main.go", "//"),
        Language::C => ("handler.c", "//"),
        Language::Cpp => ("handler.cpp", "//"),
        Language::Zig => ("handler.zig", "//"),
    };
    let mut source = OpenOptions::new().append(true).open(project.join(source))?;
    writeln!(source, "{comment} changed")?;
    Ok((first, build()?))
}

/// The versions of what a language is built with.
fn tools(root: &Path, language: Language) -> String {
    let first_line = |program: &str, arguments: &[&str]| {
        let output = cmd::output(program, arguments).unwrap_or_default();
        output.lines().next().unwrap_or("?").trim().to_owned()
    };
    let package = |path: &str, name: &str| {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        let line = text.lines().find(|line| line.contains(name)).unwrap_or_default();
        line.chars().filter(|character| !"\", ".contains(*character)).collect::<String>()
    };
    let python = |name| package("guest-examples/requirements.txt", name).replace("==", " ");
    let npm = |project: &str, name: &str| {
        let line = package(&format!("guest-examples/{project}/enrich/package.json"), &format!("\"{name}\":"));
        line.replace("@bytecodealliance/", "").replace(':', " ")
    };
    let bundler = |project| npm(project, "@bytecodealliance/componentize-js");
    match language {
        Language::Rust => first_line("rustc", &["--version"]).split(' ').take(2).collect::<Vec<_>>().join(" "),
        Language::Js => format!("node {}, {}", first_line("node", &["--version"]), bundler("js")),
        Language::Ts => format!("{}, {}", npm("ts", "typescript"), bundler("ts")),
        Language::Python => python("componentize-py"),
        Language::Go => first_line("go", &["version"]).split(' ').nth(2).unwrap_or("?").replace("go", "go "),
        Language::C | Language::Cpp | Language::Zig => python("ziglang"),
    }
}

/// What was measured on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unnamed processor", |(_, model)| model.trim());
    format!("{model}, {cores} cores, {}", std::env::consts::OS)
}

/// What is known to be other than one might think.
fn known_limits(name: &str) -> &'static str {
    match name {
        "rust" => "none",
        "js" | "ts" => "no Node modules that need Node; an exception of another kind than a failure is a trap",
        "python" => {
            "packages in pure Python only; an exception of another kind than a failure is a trap; data nested \
                     over 100 levels is refused by the example"
        }
        "go" => {
            "a goroutine that is left behind does not run between events; events up to 2 MiB, by the arena of the package"
        }
        "c" => "a stack of 128 KiB; the example's JSON reader stops at 64 levels",
        "cpp" => "no exceptions; a stack of 128 KiB; the example's JSON reader stops at 64 levels",
        "zig" => "none",
        _ => "",
    }
}

/// Writes the table between the marks of the page.
fn write(path: &Path, report: &Value) -> Result<()> {
    let page = fs::read_to_string(path)?;
    let marks = MARKS.map(|mark| page.find(mark).ok_or_else(|| format!("{}: `{mark}` is missing", path.display())));
    let [start, end] = marks;
    let (start, end) = (start? + MARKS[0].len(), end?);
    Ok(fs::write(path, format!("{}\n\n{}\n{}", &page[..start], table(report), &page[end..]))?)
}

fn table(report: &Value) -> String {
    let mut rows = vec![
        "| language | tools | size | build: first, after a change | compile, cached load | fresh, reused per event | memory \
         | recommended isolation | known limits |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    for (name, figures) in report["languages"].as_object().into_iter().flatten() {
        let of = |key: &str| number(&figures[key]);
        rows.push(format!(
            "| {name} | {} | {} | {:.1} s, {:.1} s | {}, {:.1} ms | {:.0} us, {:.0} us | {:.1} MiB | `{}` | {} |",
            figures["tools"].as_str().unwrap_or_default(),
            size(of("size_bytes")),
            of("build_first_s"),
            of("build_again_s"),
            time(of("compile_ms")),
            of("cached_load_ms"),
            of("fresh_us"),
            of("reused_us"),
            of("memory_bytes") / f64::from(1 << 20),
            isolation(of("fresh_us")),
            known_limits(name),
        ));
    }
    let machine = report["machine"].as_str().unwrap_or_default();
    format!("Measured on {machine}.\n\n{}\n", rows.join("\n"))
}

fn isolation(fresh_us: f64) -> &'static str {
    if fresh_us > DEAR { "reuse" } else { "fresh" }
}

fn size(bytes: f64) -> String {
    if bytes < 1e6 { format!("{:.0} kB", bytes / 1e3) } else { format!("{:.1} MB", bytes / 1e6) }
}

fn time(ms: f64) -> String {
    if ms < 1e3 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) }
}

/// Prints the report for people.
pub fn print_text(report: &Value) {
    println!("{}", table(report));
    println!("64 KiB against 1 KiB, refused at the first byte: {} at most", report["ratios"]["copy_64k"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_between_the_marks_and_nothing_else_changes() {
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("page.md");
        fs::write(&page, format!("before\n{}\nold\n{}\nafter\n", MARKS[0], MARKS[1])).unwrap();
        let report = json!({"machine": "a machine", "languages": {"zig": {"fresh_us": 12.0, "size_bytes": 179_139}}});
        write(&page, &report).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.starts_with("before\n") && text.ends_with("-->\nafter\n") && !text.contains("old"), "{text}");
        assert!(text.contains("a machine") && text.contains("| zig |") && text.contains("179 kB"), "{text}");
        fs::write(&page, "no marks").unwrap();
        assert!(write(&page, &report).unwrap_err().to_string().contains("is missing"));
    }

    #[test]
    fn the_recommendation_changes_at_its_edge() {
        assert_eq!((isolation(DEAR), isolation(DEAR + 0.1)), ("fresh", "reuse"));
    }

    #[test]
    fn the_page_has_its_marks() {
        let page = fs::read_to_string(crate::root().join("docs/languages.md")).unwrap();
        assert!(MARKS.iter().all(|mark| page.matches(mark).count() == 1));
    }
}
