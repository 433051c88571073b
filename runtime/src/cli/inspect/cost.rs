//! What a delivery costs: medians over many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmill::state;
use wasmill::wasm::{Execution, GuestDelivery, GuestEvent, Handler, Isolation, Surroundings};

/// The most deliveries that are measured of each kind, and how long they may take together: enough for a median.
const MAX_RUNS: usize = 201;
const MAX_TIME: Duration = Duration::from_secs(1);

/// What a delivery costs.
pub struct Cost {
    /// The event in words.
    pub event: String,
    /// How the first delivery ended, and the most memory that it had.
    pub execution: Execution,
    /// With a new instance each.
    pub fresh: Sample,
    /// With the same instance; `None` if it cannot be used again, as after a trap.
    pub reused: Option<Sample>,
}

/// Deliveries of one kind.
pub struct Sample {
    /// The median of their wall-clock times.
    pub median: Duration,
    /// How many there were.
    pub runs: usize,
}

/// Runs the event again and again.
pub async fn measure(handler: &Handler, name: String, event: Arc<GuestEvent>, delivery: GuestDelivery) -> Cost {
    let deliver = async |handler: &Handler, warm| {
        let surroundings = Surroundings::here(Some(state::empty()));
        handler.run(warm, event.clone(), delivery.clone(), surroundings).await
    };
    let (execution, _) = deliver(handler, None).await;
    let mut fresh = Vec::new();
    let start = Instant::now();
    while fresh.is_empty() || (fresh.len() < MAX_RUNS && start.elapsed() < MAX_TIME) {
        fresh.push(deliver(handler, None).await.0.wall);
    }
    let endless = Isolation::Reuse { max_events: u32::MAX, max_memory_growth: usize::MAX };
    let handler = Handler { isolation: endless, ..handler.clone() };
    let mut reused = Vec::new();
    let (_, mut warm) = deliver(&handler, None).await;
    let start = Instant::now();
    while warm.is_some() && reused.len() < MAX_RUNS && start.elapsed() < MAX_TIME {
        let (execution, kept) = deliver(&handler, warm).await;
        reused.push(execution.wall);
        warm = kept;
    }
    let reused = warm.and_then(|_| sample(reused));
    Cost { event: name, execution, fresh: sample(fresh).expect("there is one at least"), reused }
}

/// `None` for no deliveries.
fn sample(mut times: Vec<Duration>) -> Option<Sample> {
    times.sort_unstable();
    times.get(times.len() / 2).map(|median| Sample { median: *median, runs: times.len() })
}
