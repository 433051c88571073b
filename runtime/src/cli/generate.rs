//! `wasmill generate`: publish made-up events at a rate.

use std::collections::BTreeMap;
use std::io::{BufWriter, ErrorKind, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use futures::future::join_all;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use wasmill::clock::now_ms;
use wasmill::config::units::parse_duration;
use wasmill::envelope::structured;
use wasmill::event::Event;
use wasmill::generate::{Pattern, Shop, TYPES, Timing};

use wasmill::outcome::Due;

use super::target::Target;
use super::{Context, Report, block_on, print_json, progress};

/// Events that a source publishes in one step at most. Each source has one step on its way: a broker that is slower
/// than the rate slows the sources down, and nothing piles up.
const CHUNK: usize = 500;
/// How long events are made if neither a duration nor a count is given.
const USUAL_DURATION: Duration = Duration::from_secs(60);

/// Arguments of `generate`.
#[derive(Parser)]
pub struct Args {
    /// What the events are about
    #[arg(value_enum)]
    domain: Domain,
    /// Events a second, of all sources together
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Sources that publish at the same time, each with a source attribute of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    sources: u32,
    /// For how long, such as 30s or 5m [default: 1m, unless --count is given]
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// How many events, of all sources together
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// The same seed makes the same events [default: a random one, which is printed at the end]
    #[arg(long)]
    seed: Option<u64>,
    /// How the rate goes up and down; its mean stays
    #[arg(long, value_enum, default_value_t = PatternName::Steady)]
    pattern: PatternName,
    /// The stream to publish to
    #[arg(long, default_value = "orders")]
    stream: String,
    /// Print the events at once instead of publishing them: NDJSON, a CloudEvent a line
    #[arg(long)]
    dry_run: bool,
}

/// What events can be about.
#[derive(Clone, Copy, ValueEnum)]
enum Domain {
    /// A shop: carts, orders, cancelled orders, stock
    Ecommerce,
}

/// The patterns as they are called on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum PatternName {
    /// Always the same
    Steady,
    /// Ten times as fast for a tenth of the time
    Burst,
    /// A day from midnight to midnight, in the duration or in 60 seconds
    Daily,
}

impl From<PatternName> for Pattern {
    fn from(name: PatternName) -> Pattern {
        match name {
            PatternName::Steady => Pattern::Steady,
            PatternName::Burst => Pattern::Burst,
            PatternName::Daily => Pattern::Daily,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

/// Publishes, or prints, and tells what was published.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    if args.stream.is_empty() {
        return Err(Report::usage("--stream must not be empty"));
    }
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let sources = sources(args, seed);
    if args.dry_run {
        return print(sources).map(|()| ExitCode::SUCCESS);
    }
    let outcome = block_on(async {
        let target = context.target(&config).await?;
        publish(target, args, sources).await
    })?;
    report(context, args, seed, &outcome);
    Ok(ExitCode::SUCCESS)
}

/// A shop, and when its events are due.
struct Source {
    shop: Shop,
    timing: Timing,
    /// How far it is behind the first source, in events: so the sources take turns.
    offset: f64,
    /// Events that it may make.
    count: u64,
    /// For how long it may make them.
    duration: Duration,
    /// Events made so far.
    made: u64,
    /// Events published so far, by type in the order of [`TYPES`].
    published: [u64; TYPES.len()],
}

fn sources(args: &Args, seed: u64) -> Vec<Source> {
    let of_all = u64::from(args.sources);
    let duration = args.duration.or(args.count.is_none().then_some(USUAL_DURATION));
    let rate = args.rate as f64 / of_all as f64;
    let timing = Timing::new(args.pattern.into(), rate, duration);
    let source = |number: u32| Source {
        shop: Shop::new(seed, number),
        timing: timing.clone(),
        offset: f64::from(number) / of_all as f64,
        count: args.count.map_or(u64::MAX, |all| all / of_all + u64::from(u64::from(number) < all % of_all)),
        duration: duration.unwrap_or(Duration::MAX),
        made: 0,
        published: [0; TYPES.len()],
    };
    (0..args.sources).map(source).collect()
}

impl Source {
    /// When the next event is due, counted from the start; `None` at the end.
    fn due(&self) -> Option<Duration> {
        let due = self.timing.due(self.made as f64 + self.offset);
        (self.made < self.count && due < self.duration).then_some(due)
    }

    /// Makes the event that is due now.
    fn next_event(&mut self, start_ms: u64, due: Duration) -> Event {
        self.made += 1;
        let since_start = u64::try_from(due.as_millis()).unwrap_or(u64::MAX);
        self.shop.next_occurrence().into_event(start_ms.saturating_add(since_start))
    }

    /// Publishes all events when they are due, until the end or until it is told to stop.
    async fn publish(&mut self, run: &Run<'_>) -> Result<(), Report> {
        let mut stopped = run.stop.subscribe();
        while let Some(due) = self.due() {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => return Ok(()),
                () = tokio::time::sleep_until((run.start + due).into()) => {}
            }
            let now = run.start.elapsed();
            let mut chunk = Vec::new();
            while let Some(due) = self.due().filter(|&due| due <= now && chunk.len() < CHUNK) {
                chunk.push(self.next_event(run.start_ms, due));
            }
            let mut counts = [0; TYPES.len()];
            for event in &chunk {
                if let Some(at) = TYPES.iter().position(|&kind| kind == event.r#type) {
                    counts[at] += 1;
                }
            }
            let published = chunk.len() as u64;
            if let Err(error) = run.target.publish(run.stream, Due::Now, chunk).await {
                // The others finish the step that is on its way.
                run.stop.send_replace(true);
                return Err(error);
            }
            self.published.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            run.progress.inc(published);
        }
        Ok(())
    }
}

/// What the sources have in common while they publish.
struct Run<'a> {
    target: Target,
    stream: &'a str,
    start: Instant,
    /// The time of the start, in milliseconds since the Unix epoch.
    start_ms: u64,
    stop: watch::Sender<bool>,
    progress: ProgressBar,
}

/// What came of it.
struct Outcome {
    sources: Vec<Source>,
    elapsed: Duration,
    interrupted: bool,
}

impl Outcome {
    fn published(&self) -> u64 {
        self.sources.iter().flat_map(|source| source.published).sum()
    }
}

async fn publish(target: Target, args: &Args, mut sources: Vec<Source>) -> Result<Outcome, Report> {
    let run = Run {
        target,
        stream: &args.stream,
        start: Instant::now(),
        start_ms: now_ms(),
        stop: watch::Sender::new(false),
        progress: progress(args),
    };
    let (results, interrupted) = drive(&run, &mut sources).await?;
    let elapsed = run.start.elapsed();
    run.progress.finish_and_clear();
    let outcome = Outcome { sources, elapsed, interrupted };
    match results.into_iter().find_map(Result::err) {
        None => Ok(outcome),
        Some(error) => Err(Report::failure(format!("{} events were published, then: {error}", outcome.published()))),
    }
}

/// Lets all sources publish at the same time; how each of them ended, and whether a signal ended them. What is on its
/// way when a signal comes is waited for.
async fn drive(run: &Run<'_>, sources: &mut [Source]) -> Result<(Vec<Result<(), Report>>, bool), Report> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Report::failure)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Report::failure)?;
    let mut work = std::pin::pin!(join_all(sources.iter_mut().map(|source| source.publish(run))));
    tokio::select! {
        results = &mut work => return Ok((results, false)),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    run.stop.send_replace(true);
    Ok((work.await, true))
}

fn progress(args: &Args) -> ProgressBar {
    let by_duration = args.duration.map(|duration| (duration.as_secs_f64() * args.rate as f64) as u64);
    let expected = match (args.count, by_duration) {
        (None, None) => USUAL_DURATION.as_secs() * args.rate,
        (count, by_duration) => count.unwrap_or(u64::MAX).min(by_duration.unwrap_or(u64::MAX)),
    };
    progress::towards(expected, "events")
}

/// Prints the events of all sources in the order in which they would happen.
fn print(mut sources: Vec<Source>) -> Result<(), Report> {
    let start_ms = now_ms();
    let mut out = BufWriter::new(std::io::stdout().lock());
    let next = |sources: &[Source]| {
        let due = sources.iter().enumerate().filter_map(|(at, source)| Some((source.due()?, at)));
        due.min()
    };
    while let Some((due, at)) = next(&sources) {
        let event = sources[at].next_event(start_ms, due);
        match writeln!(out, "{}", structured::to_json(&event)) {
            Ok(()) => {}
            // `wasmill generate ... | head` wants no more.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Report::failure(format!("stdout: {error}"))),
        }
    }
    match out.flush() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Report::failure(format!("stdout: {error}"))),
        _ => Ok(()),
    }
}

fn report(context: &Context, args: &Args, seed: u64, outcome: &Outcome) {
    let published = outcome.published();
    let seconds = outcome.elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { published as f64 / seconds } else { 0.0 };
    let by_type = |at: usize| outcome.sources.iter().map(|source| source.published[at]).sum::<u64>();
    let per_type: BTreeMap<&str, u64> = TYPES.into_iter().enumerate().map(|(at, kind)| (kind, by_type(at))).collect();
    let per_source: BTreeMap<&str, u64> =
        outcome.sources.iter().map(|source| (source.shop.source(), source.published.iter().sum())).collect();
    if context.is_json() {
        print_json(&json!({
            "stream": args.stream,
            "seed": seed,
            "published": published,
            "per_type": per_type,
            "per_source": per_source,
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "rate": (rate * 10.0).round() / 10.0,
            "asked_rate": args.rate,
            "interrupted": outcome.interrupted,
        }));
        return;
    }
    let end = if outcome.interrupted { ", interrupted" } else { "" };
    say!("{published} events in {seconds:.1} s: {rate:.0} a second, {} asked for (seed {seed}{end})", args.rate);
    for (name, count) in per_type.iter().chain(&per_source) {
        say!("  {name:<18} {count:>10}");
    }
}
