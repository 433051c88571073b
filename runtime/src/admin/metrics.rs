//! The counters in the Prometheus text format. `docs/metrics.md` lists them.

use std::sync::atomic::Ordering;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::AdminState;
use crate::broker::keys::DEFAULT_TENANT;
use crate::pipeline::{IntakeStats, Quota, Served, Stats};
use crate::stats::{HandlerStats, VersionStats};

/// Upper bounds of the duration histogram, in seconds: from a reused instance to the usual deadline.
const BOUNDS: [f64; 14] =
    [0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0];

/// A counter: its name, what it counts, and where it is.
type CounterSpec = (&'static str, &'static str, fn(&HandlerStats) -> u64);

const COUNTERS: [CounterSpec; 12] = [
    ("wasmill_events_acked_total", "Events handled and acknowledged.", |stats| stats.acked.get()),
    ("wasmill_events_retried_total", "Failed attempts that will be made again.", |stats| stats.retried.get()),
    ("wasmill_events_dead_total", "Events moved to the dead-letter stream.", |stats| stats.dead.get()),
    ("wasmill_events_published_total", "Follow-up events written.", |stats| stats.published.get()),
    ("wasmill_events_skipped_total", "Events of types that the handler does not want.", |stats| stats.skipped.get()),
    ("wasmill_events_duplicate_total", "Events that the handler had handled before.", |stats| stats.duplicate.get()),
    ("wasmill_events_superseded_total", "Deliveries that another worker settled first.", |stats| {
        stats.superseded.get()
    }),
    ("wasmill_stale_runs_total", "Runs that were made again, as the state had changed.", |stats| stats.stale.get()),
    ("wasmill_state_over_quota_total", "Runs that were made again, as the state would be over its quota.", |stats| {
        stats.over_quota.get()
    }),
    ("wasmill_events_trimmed_total", "Pending events whose payload had been trimmed.", |stats| stats.trimmed.get()),
    ("wasmill_guest_log_dropped_bytes_total", "Bytes of guest logs over the limit.", |stats| {
        stats.log_bytes_dropped.get()
    }),
    ("wasmill_http_denied_total", "HTTP requests of the handler that were refused.", |stats| stats.http_denied.get()),
];

/// What became of deliveries: the label, and where it is.
type OutcomeSpec = (&'static str, fn(&VersionStats) -> u64);

const OUTCOMES: [OutcomeSpec; 3] = [
    ("ack", |counts| counts.acked.get()),
    ("retry", |counts| counts.retried.get()),
    ("dead-letter", |counts| counts.dead.get()),
];

/// A metric of an intake: its name, what it says, and where it is.
type IntakeSpec = (&'static str, &'static str, MetricType, fn(&IntakeStats) -> u64);

const INTAKES: [IntakeSpec; 3] = [
    ("wasmill_intake_events_total", "Events made of messages.", MetricType::COUNTER, |stats| stats.written.get()),
    ("wasmill_intake_dropped_total", "Messages lost because too many were waiting.", MetricType::COUNTER, |stats| {
        stats.dropped.get()
    }),
    ("wasmill_intake_holder", "1 while this worker is the one that writes, else 0.", MetricType::GAUGE, |stats| {
        stats.holder.load(Ordering::Relaxed)
    }),
];

/// All metrics as text.
pub(super) fn render(state: &AdminState) -> String {
    let AdminState { stats, retention, intakes, .. } = state;
    let mut families: Vec<MetricFamily> = COUNTERS
        .iter()
        .map(|(name, help, value)| {
            family(name, help, MetricType::COUNTER, stats, |stats, metric| {
                let mut counter = Counter::default();
                counter.set_value(value(stats) as f64);
                metric.set_counter(counter);
            })
        })
        .collect();
    families.push(by_version(stats));
    families.push(cpu(stats));
    families.push(quota_waits(&state.served));
    families.push(serving(&state.served));
    let blocked = "Threads on which the handler stands still because Redis refuses what it did.";
    families.push(family("wasmill_handler_blocked", blocked, MetricType::GAUGE, stats, |stats, metric| {
        let mut gauge = Gauge::default();
        gauge.set_value(stats.blocked.load(Ordering::Relaxed) as f64);
        metric.set_gauge(gauge);
    }));
    let durations = "Time of one run of the handler: instance, call, clean-up, and pauses by a quota.";
    families.push(family(
        "wasmill_handler_duration_seconds",
        durations,
        MetricType::HISTOGRAM,
        stats,
        |stats, metric| {
            metric.set_histogram(histogram(stats));
        },
    ));
    let trimmed = retention.iter().map(|retention| (retention.stream.as_str(), retention.trimmed.get()));
    let help = "Entries that retention removed from the stream.";
    families.push(numbers("wasmill_stream_trimmed_total", help, MetricType::COUNTER, "stream", trimmed));
    for (name, help, kind, value) in INTAKES {
        let values = intakes.iter().map(|intake| (intake.name.as_str(), value(&intake.stats)));
        families.push(numbers(name, help, kind, "intake", values));
    }
    let help = "Requests of the HTTP API that were refused.";
    let refused = state.gate.refused();
    families.push(numbers("wasmill_admin_refused_total", help, MetricType::COUNTER, "reason", refused));
    let mut text = Vec::new();
    // Writing into memory does not fail, and a family without metrics (no handlers, no streams, no intakes) is left out.
    families.retain(|family| !family.get_metric().is_empty());
    let _ = TextEncoder::new().encode(&families, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// Which version of each handler serves; to be joined with what is counted by handler.
fn serving(served: &Served) -> MetricFamily {
    let metrics = served.deployments().map(|deployment| {
        let (digest, mut metric) = (deployment.slot.current().digest.clone(), Metric::default());
        metric.set_label([vec![label("digest", &digest)], of_handler(deployment.id())].concat());
        let mut gauge = Gauge::default();
        gauge.set_value(1.0);
        metric.set_gauge(gauge);
        metric
    });
    let help = "1 for the version of the handler that serves.";
    with_metrics("wasmill_handler_version_info", help, MetricType::GAUGE, metrics.collect())
}

/// The time that handlers have had a thread.
fn cpu(stats: &Stats) -> MetricFamily {
    let help = "Time that deliveries of the handler had a thread, what was waited for left out.";
    family("wasmill_handler_cpu_seconds_total", help, MetricType::COUNTER, stats, |stats, metric| {
        let mut counter = Counter::default();
        counter.set_value(stats.cpu_nanos.get() as f64 / 1e9);
        metric.set_counter(counter);
    })
}

/// How often tenants came to wait, by the quota that they had used up. The tenant `default` has none.
fn quota_waits(served: &Served) -> MetricFamily {
    let bounded = served.budgets().iter().filter(|(tenant, _)| &***tenant != DEFAULT_TENANT);
    let of_worker = bounded
        .flat_map(|(tenant, budget)| Quota::ALL.map(|quota| ((tenant.clone(), quota.name()), budget.waits(quota))));
    let metrics = served.quota_waits.all().into_iter().chain(of_worker).map(|((tenant, quota), waits)| {
        let mut metric = Metric::default();
        metric.set_label(vec![label("quota", quota), label("tenant", &tenant)]);
        let mut counter = Counter::default();
        counter.set_value(waits as f64);
        metric.set_counter(counter);
        metric
    });
    let help = "Times that the handlers of a tenant had to wait, since it had used up a quota.";
    with_metrics("wasmill_quota_waits_total", help, MetricType::COUNTER, metrics.collect())
}

/// Outcomes by version. Only the last versions are counted, so that there are never many.
fn by_version(stats: &Stats) -> MetricFamily {
    let mut metrics = Vec::new();
    for (handler, stats) in stats {
        for (digest, counts) in stats.versions() {
            metrics.extend(OUTCOMES.iter().map(|(outcome, value)| {
                let mut metric = Metric::default();
                let labels = [vec![label("digest", &digest)], of_handler(handler), vec![label("outcome", outcome)]];
                metric.set_label(labels.concat());
                let mut counter = Counter::default();
                counter.set_value(value(&counts) as f64);
                metric.set_counter(counter);
                metric
            }));
        }
    }
    let help = "Deliveries by what became of them and the version that they ran on.";
    with_metrics("wasmill_version_deliveries_total", help, MetricType::COUNTER, metrics)
}

fn family(
    name: &str,
    help: &str,
    kind: MetricType,
    stats: &Stats,
    fill: impl Fn(&HandlerStats, &mut Metric),
) -> MetricFamily {
    let metrics = stats.iter().map(|(handler, stats)| {
        let mut metric = Metric::default();
        metric.set_label(of_handler(handler));
        fill(stats, &mut metric);
        metric
    });
    with_metrics(name, help, kind, metrics.collect())
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

/// The labels of a handler. Of the tenant `default` there is no label for the tenant: Prometheus takes that for an empty one.
fn of_handler(id: &str) -> Vec<LabelPair> {
    match id.split_once('/') {
        None => vec![label("handler", id)],
        Some((tenant, handler)) => vec![label("handler", handler), label("tenant", tenant)],
    }
}

fn labelled(name: &str, value: &str) -> Metric {
    let mut metric = Metric::default();
    metric.set_label(vec![label(name, value)]);
    metric
}

fn with_metrics(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// A family of plain numbers, each with the value of its label.
fn numbers<'a>(
    name: &str,
    help: &str,
    kind: MetricType,
    label: &str,
    values: impl Iterator<Item = (&'a str, u64)>,
) -> MetricFamily {
    let metrics = values.map(|(value, number)| {
        let mut metric = labelled(label, value);
        if kind == MetricType::GAUGE {
            let mut gauge = Gauge::default();
            gauge.set_value(number as f64);
            metric.set_gauge(gauge);
        } else {
            let mut counter = Counter::default();
            counter.set_value(number as f64);
            metric.set_counter(counter);
        }
        metric
    });
    with_metrics(name, help, kind, metrics.collect())
}

fn histogram(stats: &HandlerStats) -> Histogram {
    let durations = stats.durations();
    let buckets = BOUNDS.iter().map(|&bound| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(durations.count_between(0, (bound * 1e9) as u64));
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(durations.len());
    histogram.set_sample_sum(durations.mean() * durations.len() as f64 / 1e9);
    histogram
}
