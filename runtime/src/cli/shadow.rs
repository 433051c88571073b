//! `wasmill shadow`: a candidate beside the version that serves, on events that come or that are past. Both run in this
//! process, and nothing of what they ask for is done.

mod compare;
mod feed;
mod side;
mod tally;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use indicatif::ProgressBar;
use wasmill::app;
use wasmill::config::units::parse_duration;
use wasmill::config::{Config, ResolvedHandler};
use wasmill::deploy::PublicKeys;
use wasmill::deploy::canary::{NotAPercentage, Percent};
use wasmill::deploy::expected::Expectation;
use wasmill::deploy::signature::Signature;
use wasmill::deploy::source::Fetched;
use wasmill::event::Event;
use wasmill::ops::{VersionsReport, check_reads};
use wasmill::wasm::{
    CompiledCache, Component, Digest, Engine, EngineSettings, GuestDelivery, GuestEvent, Handler, Policy,
};

use self::feed::{Feed, Found, Range};
use self::side::Side;
use self::tally::{Named, Tally};
use super::report::FAILURE;
use super::target::Target;
use super::{Context, Report, block_on, engine_with, invoke, print_json, progress, sources};

/// Instances at a time: one of each version that waits for its next event, and one that is begun.
const INSTANCES: u32 = 4;

/// Arguments of `shadow`.
#[derive(Parser)]
#[command(
    after_help = "FROM and TO are entry ids (1700000000000-0), times (2026-01-31T12:00:00Z), or how long ago (10m, 2h).
Clocks and randomness of both versions depend on the event alone, and their HTTP requests are refused, so that what differs
is the candidate's doing. Ctrl-C ends with the report."
)]
pub struct Args {
    /// The handler
    handler: String,
    /// The candidate: a component's file, or a reference to a registry as of `deploy`
    component: PathBuf,
    /// This share of the events that come from now on, such as 10%; with --replay, of the past ones
    #[arg(long, value_name = "SHARE", value_parser = parse_share, required_unless_present = "replay")]
    sample: Option<Percent>,
    /// Past events; FROM.. for those up to now
    #[arg(long, value_name = "FROM..TO", value_parser = Range::parse)]
    replay: Option<Range>,
    /// End after this time [default: at Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, conflicts_with = "replay")]
    time: Option<Duration>,
    /// End when so many events were compared
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
    /// The events of this stream alone [default: of all that the handler reads]
    #[arg(long)]
    stream: Option<String>,
    /// The signature of the component, if public keys are configured [default: COMPONENT.sig beside it]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Exit code 1 if anything differs, or nothing was compared
    #[arg(long)]
    fail_on_diff: bool,
}

/// A part that is not nothing.
fn parse_share(text: &str) -> Result<Percent, String> {
    let share: Percent = text.parse().map_err(|error: NotAPercentage| error.to_string())?;
    if share.is_zero() { Err("it must be a percentage over 0%".to_owned()) } else { Ok(share) }
}

/// Whether an event is in the sample: always the same ones, whoever asks.
fn is_chosen(event: &Event, share: Percent) -> bool {
    share.takes(&event.source, &event.id)
}

/// Compares.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let resolved = config.handler(&args.handler).ok_or_else(|| sources::unknown(&config, &args.handler))?;
    if let Some(stream) = &args.stream {
        check_reads(&resolved, stream)?;
    }
    let candidate = sources::fetch(&args.component, args.signature.as_deref())?;
    block_on(async {
        let target = context.target(&config).await?;
        let mut shadow = Shadow::load(&config, resolved, &target, args, candidate).await?;
        let ended = shadow.follow(&target).await;
        shadow.print(context);
        ended?;
        Ok(shadow.exit_code())
    })
}

/// Two versions of a handler beside each other.
struct Shadow<'a> {
    args: &'a Args,
    resolved: ResolvedHandler,
    check_schemas: bool,
    current: Side,
    candidate: Side,
    tally: Tally,
    notes: Vec<String>,
}

impl<'a> Shadow<'a> {
    /// Gets, compiles and checks both versions.
    async fn load(
        config: &Config,
        resolved: ResolvedHandler,
        target: &Target,
        args: &'a Args,
        candidate: Fetched,
    ) -> Result<Shadow<'a>, Report> {
        let loader = Loader::new(config, &resolved)?;
        let versions = target.versions(&resolved.name).await?;
        let current = loader.current(&resolved, target, &versions).await?;
        let candidate = loader.side(&candidate, "the candidate")?;
        let mut notes = Vec::new();
        let serves = current.handler.component.digest.hex();
        if let Some(other) = versions.workers.iter().find(|worker| worker.serves != serves) {
            notes.push(format!("{} serves sha256:{}, which is not what was compared with", other.worker, other.serves));
        }
        if resolved.http.is_some() {
            notes.push(
                "HTTP requests of both versions were refused: what depends on their answers was not compared"
                    .to_owned(),
            );
        }
        let check_schemas = config.schemas.on_read;
        Ok(Shadow { args, resolved, check_schemas, current, candidate, tally: Tally::default(), notes })
    }

    /// Compares until the events are over, the time is, or it is interrupted.
    async fn follow(&mut self, target: &Target) -> Result<(), Report> {
        let streams = match &self.args.stream {
            Some(stream) => vec![stream.clone()],
            None => self.resolved.streams.clone(),
        };
        let mut feed = match &self.args.replay {
            Some(range) => Feed::past(streams, range),
            None => Feed::live(target, streams).await?,
        };
        if feed.is_live {
            eprintln!("following {}; Ctrl-C ends with the report", self.args.handler);
        }
        let progress = progress::counting("events compared");
        let time = self.args.time;
        let over = async move {
            match time {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = self.compare_all(target, &mut feed, &progress) => ended,
            () = over => Ok(()),
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
        progress.finish_and_clear();
        self.tally.is_behind = feed.is_behind();
        ended
    }

    async fn compare_all(&mut self, target: &Target, feed: &mut Feed, progress: &ProgressBar) -> Result<(), Report> {
        let delivery = GuestDelivery { replay: !feed.is_live, ..invoke::delivery(&self.resolved, 1) };
        while let Some(page) = feed.page(target).await? {
            for found in page {
                self.look_at(found, &delivery).await;
                progress.set_position(self.tally.compared());
                if self.args.events.is_some_and(|most| self.tally.compared() >= most) {
                    return Ok(());
                }
                // A page whose events are all passed over leaves room for the signal, too.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Compares on one entry, if it is an event that the handler would run.
    async fn look_at(&mut self, found: Found, delivery: &GuestDelivery) {
        self.tally.seen += 1;
        let Ok(event) = found.event else {
            self.tally.refused += 1;
            return;
        };
        if !self.resolved.types.matches(&event.r#type) {
            self.tally.skipped += 1;
        } else if !is_chosen(&event, self.args.sample.unwrap_or(Percent::ALL)) {
            self.tally.left_out += 1;
        } else if self.current.handler.policy.refusal(&event, self.check_schemas).is_some() {
            self.tally.refused += 1;
        } else {
            let delivery =
                GuestDelivery { stream: found.stream.clone(), entry_id: found.entry.clone(), ..delivery.clone() };
            self.compare(&found.stream, &found.entry, event, &delivery).await;
        }
    }

    async fn compare(&mut self, stream: &str, entry: &str, event: Event, delivery: &GuestDelivery) {
        let event = Arc::new(GuestEvent::from(event));
        // Who runs first may pay for what the second finds done, so they take turns.
        let (current, candidate) = if self.tally.compared().is_multiple_of(2) {
            let current = self.current.run(&event, delivery).await;
            (current, self.candidate.run(&event, delivery).await)
        } else {
            let candidate = self.candidate.run(&event, delivery).await;
            (self.current.run(&event, delivery).await, candidate)
        };
        let key = event.partition_key.as_deref();
        let named = Named { stream, entry, id: &event.id, r#type: &event.type_ };
        self.tally.note(&named, &Expectation::of(&current, key), &Expectation::of(&candidate, key));
    }

    fn print(&self, context: &Context) {
        let (handler, current, candidate) = (&self.resolved.name, &self.current, &self.candidate);
        match context.is_json() {
            true => print_json(&self.tally.as_json(handler, current, candidate, &self.notes)),
            false => self.tally.print(handler, current, candidate, &self.notes),
        }
    }

    fn exit_code(&self) -> ExitCode {
        let is_fine = self.tally.differences() == 0 && self.tally.compared() > 0;
        if self.args.fail_on_diff && !is_fine { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS }
    }
}

/// What versions are made with.
struct Loader {
    engine: Engine,
    cache: Option<CompiledCache>,
    policy: Policy,
    isolation: wasmill::wasm::Isolation,
    keys: PublicKeys,
}

impl Loader {
    fn new(config: &Config, resolved: &ResolvedHandler) -> Result<Loader, Report> {
        let settings = EngineSettings { instances: INSTANCES, max_memory: resolved.limits.memory };
        let schemas = app::schemas(config).map_err(Report::usage)?;
        let policy = app::policy(resolved, &config.tenant.namespace, &app::envelopes(config), schemas);
        let mut policy = policy.map_err(Report::usage)?;
        // Nothing may happen: requests are denied, as if no host were allowed. And what differs is to be the candidate's doing.
        policy.interfaces.http = None;
        policy.interfaces.deterministic = true;
        Ok(Loader {
            engine: engine_with(config, settings)?,
            cache: app::cache(config).map_err(Report::usage)?,
            policy,
            isolation: app::isolation(resolved.isolation),
            keys: app::public_keys(config).map_err(Report::usage)?,
        })
    }

    /// The version that serves: the one that was deployed, else that of the configuration.
    async fn current(
        &self,
        resolved: &ResolvedHandler,
        target: &Target,
        versions: &VersionsReport,
    ) -> Result<Side, Report> {
        let Some(digest) = &versions.current else {
            let fetched = sources::fetch(&resolved.component, None)?;
            let source = format!("{} of the configuration", fetched.source);
            return self.side(&Fetched { source, ..fetched }, "the version of the configuration");
        };
        let bytes = target.component(digest).await?;
        let found = Digest::of(&bytes);
        if found.hex() != *digest {
            return Err(Report::failure(format!(
                "the bytes of sha256:{digest} were changed where they are kept: {found}"
            )));
        }
        let known = versions.versions.iter().find(|known| known.version.digest == *digest);
        let signature = known.and_then(|known| known.version.signature.as_deref());
        let signature =
            signature.map(|text| Signature::parse(text, "the record")).transpose().map_err(Report::failure)?;
        let source = "deployed".to_owned();
        self.side(&Fetched { bytes, source, signature }, "the version that serves")
    }

    fn side(&self, fetched: &Fetched, what: &str) -> Result<Side, Report> {
        let Fetched { bytes, source: from, signature } = fetched;
        let unsigned = |error| Report::usage(format!("{what}, {from}: {error}"));
        self.keys.verify(bytes, signature.as_ref()).map_err(unsigned)?;
        let handler = Component::new(&self.engine, self.cache.as_ref(), bytes)
            .and_then(|component| Handler::new(component, self.policy.clone(), self.isolation))
            .map_err(|error| Report::usage(format!("{what}, {from}: {error}")))?;
        Ok(Side::new(handler, from.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_always_the_same_part_and_never_nothing() {
        let share = |text| parse_share(text).expect("a share");
        let events: Vec<Event> =
            (0..10_000).map(|id| Event { id: id.to_string(), source: "/s".into(), ..Event::default() }).collect();
        let sample = |share| events.iter().filter(move |event| is_chosen(event, share)).map(|event| &event.id);
        let tenth: Vec<_> = sample(share("10%")).collect();
        assert!((850..1150).contains(&tenth.len()), "{}", tenth.len());
        assert_eq!(tenth, sample(share("10%")).collect::<Vec<_>>());
        assert_eq!(sample(share("100%")).count(), events.len());
        assert!(parse_share("0%").is_err() && parse_share("0.01%").is_ok() && parse_share("101%").is_err());
    }
}
