//! The test harness: a private Redis per test, guests and the `wasmill` binary built once, workers as child processes,
//! and waiting for conditions instead of sleeping.
//!
//! What is started here is killed when its handle is dropped, and also when the test process dies without dropping.

mod build;
pub mod clients;
pub mod guests;
pub mod languages;
pub mod mill;
mod process;
pub mod program;
pub mod proxy;
pub mod redis_server;
pub mod registry;
pub mod worker;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long to wait between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// Looks again and again until `probe` has found something, and returns it. `what` finishes the sentence "waited in
/// vain for ...".
///
/// # Panics
/// When the deadline passes first.
#[track_caller]
pub fn eventually<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// The same as [`eventually`] for a probe that is asynchronous.
///
/// # Panics
/// When the deadline passes first.
pub async fn eventually_async<T>(what: &str, deadline: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain for {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The root of the repository.
pub fn workspace() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate lies in the workspace").to_path_buf()
}
