//! Preparing a version: its component from the store, checked, compiled, tried out. Beside the work of the worker.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::broker::Operate;
use crate::deploy::signature::Signature;
use crate::deploy::smoke::SmokeTests;
use crate::deploy::{PublicKeys, Version};
use crate::pipeline::Deployment;
use crate::wasm::compile;
use crate::wasm::{CompiledCache, Digest, Engine, GuestDelivery};

/// What a version is prepared from.
pub(super) struct Recipe {
    pub(super) store: Arc<dyn Operate>,
    pub(super) cache: Option<CompiledCache>,
    /// By whom its component must be signed.
    pub(super) keys: PublicKeys,
    pub(super) engine: Engine,
    /// What it is to take the place of.
    pub(super) current: Arc<Version>,
    pub(super) digest: String,
    pub(super) size: u64,
    /// Of its component, as the record has it.
    pub(super) signature: Option<String>,
}

/// The smoke tests that a version has to pass.
pub(super) struct Exam {
    /// Their digest.
    tests: String,
    /// What the deliveries have in common.
    delivery: GuestDelivery,
    check_schemas: bool,
}

impl Exam {
    pub(super) fn new(tests: String, deployment: &Deployment) -> Exam {
        let stream = deployment.sources.iter().find(|source| !source.is_inbox);
        let deadline = deployment.slot.current().handler.policy.deadline;
        let delivery = GuestDelivery {
            tenant: deployment.tenant.to_string(),
            handler: deployment.name.to_string(),
            stream: stream.map_or_else(String::new, |stream| stream.stream.clone()),
            entry_id: String::new(),
            attempt: 1,
            max_attempts: deployment.retry.max_attempts,
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            replay: false,
        };
        Exam { tests, delivery, check_schemas: deployment.reading.check_schemas }
    }

    /// Runs the tests. An instance yields, so that the thread can do other things meanwhile.
    async fn take(&self, store: &dyn Operate, version: &Version) -> Result<(), String> {
        let document = store.component(&self.tests).await.map_err(|error| error.to_string())?;
        let document = document.filter(|document| Digest::of(document).hex() == self.tests);
        let document = document.ok_or("its smoke tests are not kept any more")?;
        let tests = SmokeTests::parse(&document).map_err(|error| error.to_string())?;
        tests.run(version, &self.delivery, self.check_schemas).await
    }
}

/// Gets a component, compiles and checks it: beside the work, and from the compiled cache if it is there. Before it may serve
/// for the first time, an instance of it has to start, and to pass its exam.
pub(super) async fn prepare(recipe: Recipe, is_new: bool, exam: Option<Exam>) -> Result<Version, String> {
    let store = recipe.store.clone();
    let version = make(recipe).await?;
    if is_new {
        version.handler.try_start().await?;
    }
    if let Some(exam) = exam {
        exam.take(&*store, &version).await?;
    }
    Ok(version)
}

/// Where components must be signed, the cache alone is not enough: the bytes are what is signed.
async fn make(recipe: Recipe) -> Result<Version, String> {
    let Recipe { store, cache, keys, engine, current, digest, size, signature } = recipe;
    if keys.is_empty() {
        let (like, wanted, known) = (current.clone(), digest.clone(), cache.clone());
        if let Some(version) = beside(&engine, move || like.from_cache(known.as_ref(), &wanted, size)).await? {
            return version.map_err(|error| error.to_string());
        }
    }
    let bytes = store.component(&digest).await.map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or("its component is not kept any more")?;
    let compiler = engine.clone();
    let work = move || {
        if !keys.is_empty() {
            let signature = signature.map(|text| Signature::parse(&text, "the record of the handler")).transpose();
            let verified = signature.and_then(|signature| keys.verify(&bytes, signature.as_ref()));
            verified.map_err(|error| error.to_string())?;
        }
        let version = current.successor(&compiler, cache.as_ref(), &digest, &bytes);
        version.map_err(|error| error.to_string())
    };
    beside(&engine, work).await?
}

/// The result of work on a thread of its own. When the future is dropped, compiling ends, and with it the thread.
pub(crate) async fn beside<T: Send + 'static>(
    engine: &Engine,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, done) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("prepare".to_owned());
    let thread = thread.spawn(move || {
        // Reading and checking a large component is work, too. If it cannot be, it is done all the same.
        let _ = compile::yield_to_events();
        // Nobody may be waiting any more.
        let _ = sender.send(work());
    });
    let thread = thread.map_err(|error| format!("no thread to prepare it: {error}"))?;
    let mut preparer = Preparer { engine, thread: Some(thread), is_done: false };
    let result = done.await;
    preparer.is_done = true;
    result.map_err(|_| "preparing it ended by a panic: a fault of wasmill".to_owned())
}

/// The thread that prepares; joined on drop.
struct Preparer<'a> {
    engine: &'a Engine,
    thread: Option<JoinHandle<()>>,
    /// It has nothing left to do.
    is_done: bool,
}

impl Drop for Preparer<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.engine.stop_compiling();
        }
        if let Some(thread) = self.thread.take() {
            // One that panicked has left no result, which was noticed.
            let _ = thread.join();
        }
    }
}
