//! `wasmill demo`: the example shop at work, and a count that nothing was lost or doubled.

mod traffic;

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::{Table, presets};
use serde_json::{Map, json};
use wasmill::broker::keys::{DEFAULT_TENANT, Namespace};
use wasmill::broker::memory::MemoryBroker;
use wasmill::broker::redis::{RedisBroker, RedisSettings};
use wasmill::broker::{Broker, EntryId, Inspect, dead_letter};
use wasmill::config::{Config, environment};
use wasmill::outcome::Publication;
use wasmill::pipeline::{self, Backend, Deployment, Stats};
use wasmill::readiness::Readiness;
use wasmill::stats::HandlerStats;
use wasmill::{app, envelope};

use super::{Context, Report, block_on, print_json, progress};

/// The configuration of the demo: the one that users find in `config/`.
const CONFIG: &str = include_str!("../../../config/ecommerce.toml");
/// Where orders enter, and where they come out.
const FIRST_STREAM: &str = "orders";
const LAST_STREAM: &str = "notifications";
/// Orders that are published in one step.
const CHUNK: usize = 200;
/// Without any progress for this long, something is wrong, and the count says what.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Entries that are counted at a time.
const PAGE: usize = 1000;

/// Arguments of `demo`.
#[derive(Parser)]
pub struct Args {
    /// Where the components of the example handlers are
    #[arg(long, value_name = "DIR", default_value = "target/guests")]
    guests: PathBuf,
    /// Use this Redis instead of a broker in this process; what the demo writes there is removed at the end
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Orders to publish
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    events: u64,
    /// Orders a second [default: as fast as they go]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// Makes the traffic repeatable
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What the shop's streams say in the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    lost: u64,
    doubled: u64,
}

/// Runs the demo; exit code 1 if an order was lost or doubled.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = Config::parse(None, CONFIG, environment()).map_err(Report::usage)?;
    wasmill::telemetry::init(&quiet(&config), std::io::stderr().is_terminal()).map_err(Report::usage)?;
    let mut config = with_components(config, args)?;
    // Keys of its own: the demo counts what is in the streams, and must not touch those of others.
    if args.redis.is_some() {
        let prefix = format!("wasmill-demo-{:08x}:", rand::random::<u32>());
        config.tenant.namespace = Namespace::new(DEFAULT_TENANT, prefix);
    }
    let engine = super::engine(&config)?;
    let cache = app::cache(&config).map_err(Report::usage)?;
    let deployments = app::deployments(&config, &engine, cache.as_ref()).map_err(Report::usage)?;
    block_on(async {
        match &args.redis {
            Some(url) => {
                let settings = RedisSettings::new(url).map_err(Report::usage)?;
                let broker = Arc::new(RedisBroker::connect(settings.clone()).await?);
                let shop = Shop { config, deployments, backend: Backend::redis(settings), broker };
                let result = shop.open(context, args).await;
                shop.remove_streams().await?;
                result
            }
            None => {
                let broker = Arc::new(MemoryBroker::new());
                let backend = Backend::Memory(MemoryBroker::clone(&broker));
                Shop { config, deployments, backend, broker }.open(context, args).await
            }
        }
    })
}

/// The log of the demo: orders that are meant to fail would drown the result in warnings.
fn quiet(config: &Config) -> wasmill::config::LogConfig {
    wasmill::config::LogConfig { level: "error".to_owned(), ..config.log.clone() }
}

fn with_components(mut config: Config, args: &Args) -> Result<Config, Report> {
    for handler in config.handlers.values_mut() {
        let Some(file) = handler.component.file_name() else { continue };
        handler.component = args.guests.join(file);
        if !handler.component.exists() {
            let path = handler.component.display();
            return Err(Report::usage(format!("{path} does not exist: run `cargo xtask demo`, which builds it")));
        }
    }
    // The traffic has passing faults in it; nobody wants to wait half a minute for their retries.
    config.retry.base = Duration::from_millis(50);
    config.retry.cap = Duration::from_secs(1);
    Ok(config)
}

/// The shop with its streams.
struct Shop<B> {
    config: Config,
    deployments: Vec<Arc<Deployment>>,
    backend: Backend,
    broker: Arc<B>,
}

impl<B: Broker + Inspect + 'static> Shop<B> {
    async fn open(&self, context: &Context, args: &Args) -> Result<ExitCode, Report> {
        let (roster, orders) = app::roster(&self.config, self.deployments.clone());
        let stats = roster.now().stats.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shutdown = async {
            // A dropped sender is a stop, too.
            let _ = stopped.await;
        };
        let worker = app::worker(&self.config);
        let readiness = Readiness::default();
        let serve = pipeline::serve(worker, self.backend.clone(), orders, &readiness, shutdown);
        let drive = async {
            let elapsed = self.drive(&stats, args).await;
            drop(stop);
            elapsed
        };
        let (served, elapsed) = tokio::join!(serve, drive);
        served.map_err(Report::failure)?;
        let elapsed = elapsed?;
        let tally = self.count(args).await?;
        report(context, args.events, elapsed, &stats, &tally);
        Ok(ExitCode::from(u8::from(tally != Tally::default())))
    }

    /// Publishes the traffic and waits until all of it has come out; the time that it took.
    async fn drive(&self, stats: &Stats, args: &Args) -> Result<Duration, Report> {
        let start = Instant::now();
        let progress = progress::towards(args.events, "orders");
        let publish = self.publish(args);
        let watch = async {
            let (mut last, mut since) = (0, Instant::now());
            loop {
                let finished = finished(stats);
                progress.set_position(finished);
                if finished >= args.events {
                    return;
                }
                if finished != last {
                    (last, since) = (finished, Instant::now());
                }
                if since.elapsed() > PATIENCE {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let (published, ()) = tokio::join!(publish, watch);
        progress.finish_and_clear();
        published?;
        Ok(start.elapsed())
    }

    async fn publish(&self, args: &Args) -> Result<(), Report> {
        let key = self.config.tenant.namespace.stream(FIRST_STREAM);
        let mut traffic = traffic::Traffic::new(args.seed);
        let start = Instant::now();
        let mut sent = 0;
        while sent < args.events {
            let wanted = match args.rate {
                // A hundred steps a second are smooth enough.
                Some(rate) => (rate / 100).clamp(1, CHUNK as u64),
                None => CHUNK as u64,
            };
            let chunk: Vec<Publication> = (0..wanted.min(args.events - sent))
                .map(|_| Publication::now(key.clone(), traffic.next_order()))
                .collect();
            sent += chunk.len() as u64;
            self.broker.publish(&chunk).await?;
            match args.rate {
                Some(rate) => {
                    let due = start + Duration::from_secs_f64(sent as f64 / rate as f64);
                    tokio::time::sleep_until(due.into()).await;
                }
                None => tokio::task::yield_now().await,
            }
        }
        Ok(())
    }

    /// Counts every order where it came out: as a notification or as a dead letter, once in all.
    async fn count(&self, args: &Args) -> Result<Tally, Report> {
        let mut seen: HashMap<String, u64> = HashMap::new();
        let mut streams = vec![(LAST_STREAM.to_owned(), false)];
        streams.extend(self.config.handlers().into_iter().map(|handler| (handler.dead_letter, true)));
        for (stream, is_dead) in streams {
            let key = self.config.tenant.namespace.stream(&stream);
            let mut from = EntryId::MIN;
            loop {
                let page = self.broker.range(&key, from, EntryId::MAX, PAGE).await?;
                let Some(last) = page.last() else { break };
                from = last.id.next();
                for entry in page {
                    let event = match is_dead {
                        true => dead_letter::parse(entry).and_then(|letter| letter.event()),
                        false => envelope::decode(entry.fields, entry.id.ms).ok(),
                    };
                    let order = event.and_then(|event| event.subject).unwrap_or_default();
                    *seen.entry(order).or_default() += 1;
                }
            }
        }
        let orders = traffic::Traffic::order_ids(args.seed, args.events);
        let lost = orders.filter(|order| !seen.contains_key(order)).count() as u64;
        let doubled = seen.values().map(|count| count - 1).sum();
        Ok(Tally { lost, doubled })
    }

    async fn remove_streams(&self) -> Result<(), Report> {
        let mut keys: Vec<Arc<str>> = vec![self.config.tenant.namespace.stream(LAST_STREAM)];
        for deployment in &self.deployments {
            keys.push(deployment.dead_key.clone());
            for source in &deployment.sources {
                keys.push(source.key.clone());
                keys.push(source.due_key.clone());
            }
        }
        let keys: Vec<&str> = keys.iter().map(AsRef::as_ref).collect();
        Ok(self.broker.remove_streams(&keys).await?)
    }
}

/// Orders that have come out.
fn finished(stats: &Stats) -> u64 {
    let dead: u64 = stats.values().map(|stats| stats.dead.get()).sum();
    let last = stats.get("notification").map_or(0, |stats| stats.acked.get());
    last + dead
}

/// A quantile of the handler's durations in microseconds, rounded up.
fn quantile_us(stats: &HandlerStats, quantile: f64) -> u64 {
    stats.durations().value_at_quantile(quantile).div_ceil(1000)
}

fn report(context: &Context, events: u64, elapsed: Duration, stats: &Stats, tally: &Tally) {
    let per_second = |count: u64| (count as f64 / elapsed.as_secs_f64()).round();
    if context.is_json() {
        let handlers: Map<_, _> = stats
            .iter()
            .map(|(name, stats)| {
                let values = json!({
                    "acked": stats.acked.get(),
                    "retried": stats.retried.get(),
                    "dead": stats.dead.get(),
                    "published": stats.published.get(),
                    "p50_us": quantile_us(stats, 0.5),
                    "p99_us": quantile_us(stats, 0.99),
                });
                (name.clone(), values)
            })
            .collect();
        print_json(&json!({
            "events": events,
            "lost": tally.lost,
            "doubled": tally.doubled,
            "events_per_second": per_second(events),
            "handlers": handlers,
        }));
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["HANDLER", "EVENTS", "FOLLOW-UPS", "RETRIES", "DEAD LETTERS", "EVENTS/S", "P50", "P99"]);
    for (name, stats) in stats {
        let handled = stats.acked.get() + stats.dead.get();
        table.add_row([
            name.clone(),
            handled.to_string(),
            stats.published.get().to_string(),
            stats.retried.get().to_string(),
            stats.dead.get().to_string(),
            per_second(handled).to_string(),
            format!("{} us", quantile_us(stats, 0.5)),
            format!("{} us", quantile_us(stats, 0.99)),
        ]);
    }
    say!("{table}");
    let seconds = elapsed.as_secs_f64();
    say!("\n{events} orders in {seconds:.1} s, {} a second", per_second(events));
    match (tally.lost, tally.doubled) {
        (0, 0) => say!("counted in the streams: every order came out once, none was lost, none was doubled"),
        (lost, doubled) => say!("counted in the streams: {lost} orders were LOST, {doubled} were DOUBLED"),
    }
}
