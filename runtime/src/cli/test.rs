//! `wasmill test`: the event fixtures of a project through its handlers.

pub mod fixtures;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};
use wasmill::app;
use wasmill::config::{Config, ResolvedHandler};
use wasmill::deploy::expected::Expectation;
use wasmill::deploy::{PublicKeys, source};
use wasmill::event::Event;
use wasmill::schema::Schemas;
use wasmill::state::unpack;
use wasmill::wasm::{CompiledCache, Engine, Execution, GuestDelivery, GuestEvent, Handler, Isolation, Surroundings};

use self::fixtures::{Choice, Fixture};
use super::execution::{as_json, log_text};
use super::paint::Paint;
use super::report::FAILURE;
use super::table::{counted, plain, plain_lines};
use super::{Context, Report, block_on, invoke, print_json, sources};

/// Arguments of `test`.
#[derive(Parser)]
pub struct Args {
    /// The handlers to test [default: all]
    #[arg(value_name = "HANDLER")]
    handlers: Vec<String>,
    /// Where the events are [default: events, beside the configuration]
    #[arg(long, value_name = "DIR")]
    events: Option<PathBuf>,
    /// Write what comes out as what is expected
    #[arg(long)]
    update: bool,
    /// Test the components as they are
    #[arg(long)]
    no_build: bool,
    /// Show logs of what went well, too
    #[arg(long, short)]
    verbose: bool,
}

/// A handler under test, and what its fixtures need.
struct Subject {
    resolved: ResolvedHandler,
    handler: Handler,
}

/// What came of a fixture.
struct Finding {
    name: String,
    handler: Option<String>,
    file: PathBuf,
    execution: Option<Execution>,
    verdict: Verdict,
}

/// Whether that is right.
enum Verdict {
    Ok,
    /// What is expected has been written.
    Written,
    /// Another thing was expected.
    Differs {
        expected: Expectation,
        actual: Expectation,
    },
    /// It could not be compared. What came out is there if it was run.
    Unfit {
        problem: String,
        actual: Option<Expectation>,
    },
}

/// Runs the fixtures; exit code 1 if one fails, 2 if there is nothing to test.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let handlers = sources::named(context, &config, &args.handlers)?;
    let directory = args.events.clone().unwrap_or_else(|| sources::beside(context, "events"));
    let fixtures = fixtures::find(&directory, &config)?;
    if !args.no_build {
        sources::build_all(&handlers, &mut |line| eprintln!("{}", plain(line)))?;
    }
    let bench = Bench::new(&config, handlers, args.update)?;
    let paint = Paint::for_stdout(context);
    let findings: Vec<Finding> = block_on(async {
        let mut findings = Vec::new();
        for fixture in fixtures {
            let Some(finding) = bench.test(fixture).await else { continue };
            if !context.is_json() {
                finding.print(paint, args.verbose);
            }
            findings.push(finding);
        }
        Ok(findings)
    })?;
    if findings.is_empty() {
        let names = args.handlers.join(", ");
        return Err(Report::usage(format!("{}: no event is for {names}", directory.display())));
    }
    let failed = findings.iter().filter(|finding| !finding.is_ok()).count();
    if context.is_json() {
        let fixtures: Value = findings.iter().map(Finding::as_json).collect();
        print_json(&json!({"ok": failed == 0, "failed": failed, "fixtures": fixtures}));
    } else {
        let total = counted(findings.len(), "fixture");
        match failed {
            0 => say!("{total}: {}", paint.good("ok")),
            _ => say!("{total}: {}", paint.bad(format!("{failed} FAILED"))),
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

/// Everything that the fixtures have in common.
struct Bench {
    subjects: BTreeMap<String, Subject>,
    /// All handlers of the configuration.
    all: Vec<ResolvedHandler>,
    /// Events must follow their schema before they are run.
    on_read: bool,
    update: bool,
}

impl Bench {
    fn new(config: &Config, handlers: Vec<ResolvedHandler>, update: bool) -> Result<Bench, Report> {
        let engine = super::engine(config)?;
        let cache = app::cache(config).map_err(Report::usage)?;
        let schemas = app::schemas(config).map_err(Report::usage)?;
        let subjects = handlers.into_iter().map(|resolved| {
            let handler = load(config, &resolved, &engine, cache.as_ref(), schemas.clone())?;
            Ok((resolved.name.clone(), Subject { resolved, handler }))
        });
        Ok(Bench {
            subjects: subjects.collect::<Result<_, Report>>()?,
            all: config.handlers(),
            on_read: config.schemas.on_read,
            update,
        })
    }

    /// Runs a fixture; `None` if it is for a handler that is not under test.
    async fn test(&self, fixture: Fixture) -> Option<Finding> {
        let mut finding = Finding {
            name: fixture.name.clone(),
            handler: None,
            file: fixture.file.clone(),
            execution: None,
            verdict: Verdict::Ok,
        };
        finding.verdict = match self.try_test(&fixture, &mut finding).await {
            Ok(Some(verdict)) => verdict,
            Ok(None) => return None,
            Err(problem) => Verdict::Unfit { problem, actual: None },
        };
        Some(finding)
    }

    async fn try_test(&self, fixture: &Fixture, finding: &mut Finding) -> Result<Option<Verdict>, String> {
        let event = fixture.event()?;
        let selected: Vec<&str> = self.subjects.keys().map(String::as_str).collect();
        let name = match fixture.choose(&event, &self.all, &selected)? {
            Choice::Handler(name) => name,
            Choice::NotSelected => return Ok(None),
        };
        finding.handler = Some(name.clone());
        let Some(subject) = self.subjects.get(&name) else { return Ok(None) };
        if let Some((_, why)) = subject.handler.policy.refusal(&event, self.on_read) {
            return Err(format!("not run: {why}"));
        }
        let partition_key = event.partition_key.clone();
        let execution = subject.run(event, unpack(&fixture.state()?)?).await;
        let actual = Expectation::of(&execution, partition_key.as_deref());
        finding.execution = Some(execution);
        let compared = self.compare(fixture, &actual);
        Ok(Some(compared.unwrap_or_else(|problem| Verdict::Unfit { problem, actual: Some(actual) })))
    }

    fn compare(&self, fixture: &Fixture, actual: &Expectation) -> Result<Verdict, String> {
        let path = fixture.expected_file();
        let text = match std::fs::read(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        let expected = text.as_deref().map(Expectation::parse);
        match expected {
            Some(Ok(expected)) if expected == *actual => Ok(Verdict::Ok),
            _ if self.update => {
                let written = std::fs::write(&path, actual.to_text());
                written.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
                Ok(Verdict::Written)
            }
            Some(Ok(expected)) => Ok(Verdict::Differs { expected, actual: actual.clone() }),
            Some(Err(error)) => Err(format!("{}: {error}", path.display())),
            None => {
                let path = path.display();
                Err(format!(
                    "{path} is missing: if this is what should come out, write it with `wasmill test --update`"
                ))
            }
        }
    }
}

fn load(
    config: &Config,
    resolved: &ResolvedHandler,
    engine: &Engine,
    cache: Option<&CompiledCache>,
    schemas: Arc<Schemas>,
) -> Result<Handler, Report> {
    let policy = app::policy(resolved, &config.tenant.namespace, &app::envelopes(config), schemas);
    let policy = policy.map_err(Report::usage)?;
    // No fixture sees what another one has left behind.
    let handler = source::load(engine, cache, &PublicKeys::default(), &resolved.component)
        .and_then(|component| Ok(Handler::new(component, policy, Isolation::Fresh)?));
    handler.map_err(|error| {
        let (handler, path) = (&resolved.name, resolved.component.display());
        Report::usage(format!("handlers.{handler}.component: {path}: {error}"))
    })
}

impl Subject {
    /// Runs the event, beginning with this state.
    async fn run(&self, event: Event, state: BTreeMap<String, Vec<u8>>) -> Execution {
        // Not by the clock: a handler that puts it into a follow-up has the same follow-up each time.
        let entry_id = format!("{}-0", event.time);
        let delivery = GuestDelivery { entry_id, ..invoke::delivery(&self.resolved, 1) };
        let event = Arc::new(GuestEvent::from(event));
        self.handler.run(None, event, delivery, Surroundings::here(Some(Arc::new(state)))).await.0
    }
}

impl Finding {
    fn is_ok(&self) -> bool {
        matches!(self.verdict, Verdict::Ok | Verdict::Written)
    }

    fn print(&self, paint: Paint, verbose: bool) {
        let word = match &self.verdict {
            Verdict::Ok => paint.good("ok"),
            Verdict::Written => paint.odd("written"),
            Verdict::Differs { .. } | Verdict::Unfit { .. } => paint.bad("FAILED"),
        };
        let time = self.execution.as_ref().map_or_else(String::new, |execution| {
            paint.faint(format!(" {:.1} ms", execution.wall.as_secs_f64() * 1000.0))
        });
        say!("{word} {}{time}", plain(&self.name));
        match &self.verdict {
            Verdict::Differs { expected, actual } => {
                say!("    {} {}", paint.bad("- expected"), paint.good("+ came out"));
                print_diff(paint, &expected.to_text(), &actual.to_text());
            }
            Verdict::Unfit { problem, actual } => {
                say!("{}", plain_lines(problem, "    "));
                actual.iter().for_each(|actual| print_diff(paint, "", &actual.to_text()));
            }
            Verdict::Ok | Verdict::Written => {}
        }
        if (verbose || !self.is_ok())
            && let Some(execution) = &self.execution
        {
            execution.logs.iter().for_each(|line| say!("    {}", paint.faint(log_text(line))));
            if let wasmill::outcome::Verdict::Fault { message, .. } = &execution.verdict {
                say!("{}", plain_lines(message, "    "));
            }
        }
    }

    fn as_json(&self) -> Value {
        let (expected, actual, problem) = match &self.verdict {
            Verdict::Ok | Verdict::Written => (None, None, None),
            Verdict::Differs { expected, actual } => (Some(expected), Some(actual), None),
            Verdict::Unfit { problem, actual } => (None, actual.as_ref(), Some(problem)),
        };
        json!({
            "name": self.name,
            "handler": self.handler,
            "file": self.file,
            "ok": self.is_ok(),
            "written": matches!(self.verdict, Verdict::Written),
            "expected": expected,
            "actual": actual,
            "problem": problem,
            "execution": self.execution.as_ref().map(as_json),
        })
    }
}

fn print_diff(paint: Paint, expected: &str, actual: &str) {
    for change in TextDiff::from_lines(expected, actual).iter_all_changes() {
        let line = plain(change.value().trim_end_matches('\n'));
        match change.tag() {
            ChangeTag::Equal => say!("      {line}"),
            ChangeTag::Delete => say!("    {}", paint.bad(format!("- {line}"))),
            ChangeTag::Insert => say!("    {}", paint.good(format!("+ {line}"))),
        }
    }
}
