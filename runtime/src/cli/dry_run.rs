//! `wasmill replay --dry-run`: past events through a component in this process; nothing is written.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use wasmill::app;
use wasmill::clock::now_ms;
use wasmill::config::{Config, ResolvedHandler};
use wasmill::deploy::source;
use wasmill::event::Event;
use wasmill::ops::{HistoryQuery, MAX_HISTORY_PAGE, check_reads};
use wasmill::outcome::FaultClass;
use wasmill::state;
use wasmill::wasm::{GuestDelivery, GuestEvent, Handler, Surroundings, WarmInstance};

use super::execution::{as_json, outcome, print_text};
use super::progress;
use super::replay::Args;
use super::table::{counted, plain};
use super::target::Target;
use super::{Context, Report, invoke};

/// What came of all events.
#[derive(Default)]
struct Totals {
    events: u64,
    follow_ups: u64,
    outcomes: BTreeMap<&'static str, u64>,
}

/// Runs the events and shows what comes of each.
pub async fn run(context: &Context, config: &Config, target: &Target, args: &Args) -> Result<ExitCode, Report> {
    let resolved = config.handler(&args.handler).ok_or_else(|| {
        let handler = &args.handler;
        Report::usage(format!("--dry-run runs the component here: [handlers.{handler}] must be in the configuration"))
    })?;
    check_reads(&resolved, &args.stream)?;
    let mut runner =
        Runner { context, args, handler: load(config, &resolved)?, resolved, warm: None, run: run_id(args) };
    let progress = progress::counting("events");
    let mut totals = Totals::default();
    let mut from = Some(args.from.clone());
    let now = now_ms();
    // What comes meanwhile is not past.
    let to = args.to.clone().unwrap_or_else(|| now.to_string());
    loop {
        let left = args.count.map_or(u64::MAX, |count| count - totals.events);
        if left == 0 {
            break;
        }
        let count = MAX_HISTORY_PAGE.min(usize::try_from(left).unwrap_or(usize::MAX));
        let query =
            HistoryQuery { from: from.clone(), to: Some(to.clone()), count: Some(count), ..HistoryQuery::default() };
        let page = target.past(&args.stream, &query).await?;
        for (entry, event) in page.entries {
            totals.events += 1;
            match event {
                Ok(event) if !runner.resolved.types.matches(&event.r#type) => totals.note("skipped"),
                Ok(event) => match runner.handler.policy.refusal(&event, config.schemas.on_read) {
                    Some((class, message)) => runner.refuse(&entry, class, &message, &mut totals),
                    None => runner.run_one(&entry, event, &mut totals).await,
                },
                Err(error) => runner.refuse(&entry, FaultClass::Malformed, &error, &mut totals),
            }
        }
        progress.set_position(totals.events);
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    progress.finish_and_clear();
    totals.print(context);
    Ok(ExitCode::SUCCESS)
}

fn load(config: &Config, resolved: &ResolvedHandler) -> Result<Handler, Report> {
    let engine = super::engine(config)?;
    let cache = app::cache(config).map_err(Report::usage)?;
    let keys = app::public_keys(config).map_err(Report::usage)?;
    let schemas = app::schemas(config).map_err(Report::usage)?;
    let policy = app::policy(resolved, &config.tenant.namespace, &app::envelopes(config), schemas);
    let mut policy = policy.map_err(Report::usage)?;
    // Nothing may happen: requests are denied, as if no host were allowed.
    policy.interfaces.http = None;
    source::load(&engine, cache.as_ref(), &keys, &resolved.component)
        .and_then(|component| Ok(Handler::new(component, policy, app::isolation(resolved.isolation))?))
        .map_err(|error| Report::usage(format!("{}: {error}", resolved.component.display())))
}

/// What makes the ids of follow-ups differ from those of other runs; empty if they are to be the same.
fn run_id(args: &Args) -> Arc<str> {
    match (args.same_ids, &args.run) {
        (true, _) => "".into(),
        (false, Some(run)) => run.as_str().into(),
        (false, None) => uuid::Uuid::now_v7().to_string().into(),
    }
}

/// Runs one event after the other.
struct Runner<'a> {
    context: &'a Context,
    args: &'a Args,
    resolved: ResolvedHandler,
    handler: Handler,
    /// The instance that served the last event, if it may serve another.
    warm: Option<WarmInstance>,
    run: Arc<str>,
}

impl Runner<'_> {
    /// Shows an event that a worker would give up without running it.
    fn refuse(&self, entry: &str, class: FaultClass, message: &str, totals: &mut Totals) {
        let class = class.as_str();
        totals.note(class);
        match self.context.is_json() {
            true => say!("{}", json!({"entry": entry, "outcome": class, "message": message})),
            false => say!("{} {entry}: {class}: {}", self.args.stream, plain(message)),
        }
    }

    async fn run_one(&mut self, entry: &str, event: Event, totals: &mut Totals) {
        let (id, r#type) = (event.id.clone(), event.r#type.clone());
        let (stream, entry_id) = (self.args.stream.clone(), entry.to_owned());
        let delivery = GuestDelivery { stream, entry_id, replay: true, ..invoke::delivery(&self.resolved, 1) };
        let event = Arc::new(GuestEvent::from(event));
        let surroundings = Surroundings { replay_run: self.run.clone(), ..Surroundings::here(Some(state::empty())) };
        let running = self.handler.run(self.warm.take(), event, delivery, surroundings);
        let (execution, warm) = running.await;
        self.warm = warm;
        totals.note(outcome(&execution.verdict).0);
        totals.follow_ups += execution.publishes.len() as u64;
        if self.context.is_json() {
            let mut document = as_json(&execution);
            document["entry"] = json!(entry);
            document["event"] = json!({"id": id, "type": r#type});
            say!("{document}");
            return;
        }
        say!("{entry} {} {}", r#type.escape_debug(), id.escape_debug());
        print_text(&execution);
    }
}

impl Totals {
    fn note(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    fn print(&self, context: &Context) {
        if context.is_json() {
            let outcomes: Map<String, Value> =
                self.outcomes.iter().map(|(outcome, count)| ((*outcome).to_owned(), json!(count))).collect();
            let summary = json!({"events": self.events, "follow_ups": self.follow_ups, "outcomes": outcomes});
            say!("{}", json!({"summary": summary}));
            return;
        }
        let outcomes: Vec<String> = self.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let number = |number: u64, one| counted(usize::try_from(number).unwrap_or(usize::MAX), one);
        let (events, follow_ups) = (number(self.events, "event"), number(self.follow_ups, "follow-up"));
        say!("{events}: {}; {follow_ups}; nothing was written", outcomes.join(", "));
    }
}
