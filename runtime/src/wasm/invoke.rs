//! One delivery through one instance, fresh or reused.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use wasmtime::{Store, Trap, UpdateDeadline};

use super::bindings::EventHandler;
use super::bindings::wasmill::events::types::Failure;
use super::component::{Component, Entry, LoadError};
use super::deadline::{Deadline, Throttled};
use super::engine::Clock;
use super::host::{Host, Policy, Scope};
use super::logs::{LogLine, LogSource};
use super::messaging;
use super::messaging_bindings::MessagingCore;
use super::messaging_bindings::wasi::messaging::types::Error as MessagingError;
use super::state::StateScope;
use super::{GuestDelivery, GuestEvent};
use crate::clock::now_ms;
use crate::outcome::{FaultClass, Publication, Verdict, bounded};
use crate::state::{Changes, ReadError, Reader};

/// How much of stderr goes into the message of a trap, in lines. JavaScript names the error four lines before the end.
const STDERR_LINES: usize = 6;
/// How often a new component may fail to start before it is given up.
const START_TRIES: usize = 3;
/// The least that may be copied between host and guest in one call, in bytes: log lines and ids need some.
const MIN_COPY: u64 = 1 << 20;

/// Whether instances serve one delivery or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Each delivery has an instance of its own.
    Fresh,
    /// An instance serves deliveries one after the other, up to these bounds.
    Reuse {
        /// Deliveries that one instance serves.
        max_events: u32,
        /// Bytes that its memory may grow over what it had after its first delivery.
        max_memory_growth: usize,
    },
}

/// A component together with what it may do.
#[derive(Clone)]
pub struct Handler {
    /// The code.
    pub component: Component,
    /// Grants and limits.
    pub policy: Arc<Policy>,
    /// Whether instances are reused.
    pub isolation: Isolation,
}

/// An instance that waits for its next delivery. Belongs to one handler; dropping it frees its memory.
pub struct WarmInstance {
    store: Store<Host>,
    instance: Instance,
    served: u32,
    /// Bytes of memory after the first delivery.
    settled_memory: usize,
}

/// An instance, by what it exports.
enum Instance {
    Events(EventHandler),
    Messaging(MessagingCore),
}

/// What a delivery is run with besides its event.
pub struct Surroundings {
    /// The time that follow-ups carry, in milliseconds since the Unix epoch.
    pub now: u64,
    /// Unless it is empty, makes the ids of follow-ups differ from those of other runs.
    pub replay_run: Arc<str>,
    /// Where it reads the handler's state.
    pub state: Option<Arc<dyn Reader>>,
    /// For how long it is kept from running.
    pub throttled: Arc<Throttled>,
}

impl Surroundings {
    /// Those of a single run, now.
    pub fn here(state: Option<Arc<dyn Reader>>) -> Surroundings {
        Surroundings { now: now_ms(), replay_run: "".into(), state, throttled: Arc::default() }
    }
}

/// What came out of one delivery.
#[derive(Debug)]
pub struct Execution {
    /// How it ended.
    pub verdict: Verdict,
    /// The follow-ups; empty unless the verdict is [`Verdict::Ack`].
    pub publishes: Vec<Publication>,
    /// What it saw and wants to write of the handler's state; empty unless the verdict is [`Verdict::Ack`].
    pub state: Changes,
    /// The state could not be read: the verdict says nothing of the handler or its event.
    pub state_failed: Option<ReadError>,
    /// What the guest said.
    pub logs: Vec<LogLine>,
    /// Bytes of logs that were over the limit.
    pub logs_dropped: u64,
    /// From the start of the instance to its end.
    pub wall: Duration,
    /// The most linear memory that the instance had, in bytes.
    pub peak_memory: usize,
    /// HTTP requests that were refused: not allowed, too many, or to an address that nobody may reach.
    pub http_denied: u64,
}

impl Handler {
    /// A handler, if its policy grants what the component imports.
    pub fn new(
        component: Component,
        policy: impl Into<Arc<Policy>>,
        isolation: Isolation,
    ) -> Result<Handler, LoadError> {
        let policy = policy.into();
        policy.check_size(component.size as u64)?;
        component.check_grants(&policy.interfaces.grants)?;
        Ok(Handler { component, policy, isolation })
    }

    /// Runs one delivery. `warm` is an instance that an earlier call gave back. Gives back the instance if it may be used
    /// again.
    ///
    /// Dropping the future ends the guest.
    pub async fn run(
        &self,
        warm: Option<WarmInstance>,
        event: Arc<GuestEvent>,
        delivery: GuestDelivery,
        surroundings: Surroundings,
    ) -> (Execution, Option<WarmInstance>) {
        let Surroundings { now, replay_run, state, throttled } = surroundings;
        let start = Instant::now();
        let deadline = Deadline::new(start, self.policy.deadline, throttled);
        let state = state.map(|reader| StateScope::new(reader, self.policy.state_bytes));
        let scope = Scope::new(event, now, replay_run, state);
        let (mut execution, warm) = self.call(warm, deadline, scope, delivery).await;
        execution.wall = start.elapsed();
        (execution, warm)
    }

    /// Starts an instance and drops it; says why, if it does not start within the deadline of a delivery, also when that is
    /// tried again: a busy machine is no fault of the component.
    ///
    /// Dropping the future ends the guest.
    pub async fn try_start(&self) -> Result<(), String> {
        let mut problem = String::new();
        for _ in 0..START_TRIES {
            let deadline = Deadline::new(Instant::now(), self.policy.deadline, Arc::default());
            match self.instantiate(deadline).await {
                Ok(_) => return Ok(()),
                Err((error, mut store)) => {
                    let execution = self.failed(&error, &mut store);
                    let (word, message) = execution.verdict.told();
                    problem = bounded(format!("it does not start: {word}: {message}"));
                }
            }
        }
        Err(problem)
    }

    async fn call(
        &self,
        warm: Option<WarmInstance>,
        deadline: Deadline,
        scope: Scope,
        delivery: GuestDelivery,
    ) -> (Execution, Option<WarmInstance>) {
        let mut warm = match warm {
            Some(mut warm) => {
                warm.store.data_mut().deadline = deadline.clone();
                warm.store.set_epoch_deadline(1);
                warm
            }
            None => match self.instantiate(deadline.clone()).await {
                Ok(warm) => warm,
                Err((error, mut store)) => return (self.failed(&error, &mut store), None),
            },
        };
        let (event, clock) = (scope.event.clone(), &*self.component.engine.clock);
        warm.store.data_mut().begin(scope, delivery.attempt);
        let result = match &warm.instance {
            Instance::Events(instance) => {
                let call = instance.wasmill_events_handler().call_handle(&mut warm.store, &event, &delivery);
                in_time(clock, &deadline, call).await.map(verdict)
            }
            Instance::Messaging(instance) => {
                let call = handle_message(instance, &mut warm.store, &event, &delivery);
                in_time(clock, &deadline, call).await.map(messaging::verdict)
            }
        };
        let verdict = match result {
            Err(error) => return (self.failed(&error, &mut warm.store), None),
            Ok(verdict) => verdict,
        };
        warm.served += 1;
        let execution = finish(&mut warm.store, verdict);
        (execution, self.keep(warm))
    }

    /// The instance, if it may serve another delivery.
    fn keep(&self, mut warm: WarmInstance) -> Option<WarmInstance> {
        let Isolation::Reuse { max_events, max_memory_growth } = self.isolation else { return None };
        let used = warm.store.data().limiter.used();
        if warm.served == 1 {
            warm.settled_memory = used;
        }
        let refused = warm.store.data_mut().limiter.take_refused();
        let grown = used.saturating_sub(warm.settled_memory);
        (warm.served < max_events && grown <= max_memory_growth && !refused).then_some(warm)
    }

    async fn instantiate(&self, deadline: Deadline) -> Result<WarmInstance, (wasmtime::Error, Store<Host>)> {
        let host = Host::new(self.policy.clone(), self.component.digest_text.clone(), deadline.clone());
        let mut store = Store::new(&self.component.engine.engine, host);
        let largest = self.policy.event_bytes.max(self.policy.publish_bytes).max(self.policy.state_bytes);
        store.set_hostcall_fuel(usize::try_from(largest.saturating_mul(2).max(MIN_COPY)).unwrap_or(usize::MAX));
        store.limiter(|host| &mut host.limiter);
        store.epoch_deadline_callback(|context| {
            if context.data().deadline.has_passed() {
                return Err(Trap::Interrupt.into());
            }
            Ok(UpdateDeadline::Yield(1))
        });
        store.set_epoch_deadline(1);
        let clock = &*self.component.engine.clock;
        let instance = match &*self.component.entry {
            Entry::Events(pre) => {
                in_time(clock, &deadline, pre.instantiate_async(&mut store)).await.map(Instance::Events)
            }
            Entry::Messaging(pre) => {
                in_time(clock, &deadline, pre.instantiate_async(&mut store)).await.map(Instance::Messaging)
            }
        };
        match instance {
            Ok(instance) => Ok(WarmInstance { store, instance, served: 0, settled_memory: 0 }),
            Err(error) => Err((error, store)),
        }
    }

    fn timeout(&self) -> Verdict {
        let message = format!("the handler did not return within {:?}", self.policy.deadline);
        Verdict::Fault { class: FaultClass::Timeout, message }
    }

    /// The execution of a guest that did not return.
    fn failed(&self, error: &wasmtime::Error, store: &mut Store<Host>) -> Execution {
        let refused = store.data_mut().limiter.take_refused();
        let mut execution = finish(store, Verdict::Ack);
        execution.verdict = match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => self.timeout(),
            // A guest that cannot have memory dies of something else, usually of a panic.
            _ if refused => {
                let message = format!("the handler wanted more than its {} bytes of memory", self.policy.memory);
                Verdict::Fault { class: FaultClass::OutOfMemory, message }
            }
            Some(Trap::StackOverflow) => {
                let message = "the handler's stack overflowed".to_owned();
                Verdict::Fault { class: FaultClass::StackOverflow, message }
            }
            _ => Verdict::Fault { class: FaultClass::Trap, message: bounded(trap_message(error, &execution.logs)) },
        };
        execution.publishes.clear();
        execution.state = Changes::default();
        execution
    }
}

/// The result of a guest, if it comes before the deadline. The epoch stops guests that compute; this stops those that
/// wait for the host.
async fn in_time<T>(
    clock: &Clock,
    deadline: &Deadline,
    guest: impl Future<Output = wasmtime::Result<T>>,
) -> wasmtime::Result<T> {
    let (mut guest, mut timer) =
        (std::pin::pin!(guest), std::pin::pin!(tokio::time::sleep_until(deadline.at().into())));
    std::future::poll_fn(|context| {
        clock.keep_running();
        if let Poll::Ready(result) = guest.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        while timer.as_mut().poll(context).is_ready() {
            if deadline.has_passed() {
                return Poll::Ready(Err(Trap::Interrupt.into()));
            }
            timer.as_mut().reset(deadline.at().into());
        }
        Poll::Pending
    })
    .await
}

/// The cause, and what the guest last wrote to stderr: there a language's runtime says why it gave up.
fn trap_message(error: &wasmtime::Error, logs: &[LogLine]) -> String {
    let said: Vec<&str> = logs
        .iter()
        .rev()
        .filter(|line| line.source == LogSource::Stderr && !line.message.trim().is_empty())
        .take(STDERR_LINES)
        .map(|line| line.message.trim())
        .collect();
    let cause = error.root_cause().to_string();
    match said.is_empty() {
        true => cause,
        false => format!("{cause}; stderr: {}", said.into_iter().rev().collect::<Vec<_>>().join(" ")),
    }
}

/// Hands the event over as a message.
async fn handle_message(
    instance: &MessagingCore,
    store: &mut Store<Host>,
    event: &Arc<GuestEvent>,
    delivery: &GuestDelivery,
) -> wasmtime::Result<Result<(), MessagingError>> {
    let message = store.data_mut().incoming(event, delivery)?;
    instance.wasi_messaging_incoming_handler().call_handle(store, message).await
}

fn verdict(result: Result<(), Failure>) -> Verdict {
    match result {
        Ok(()) => Verdict::Ack,
        Err(Failure::Retry(message)) => Verdict::Retry { message: bounded(message), after: None },
        Err(Failure::RetryAfter((message, ms))) => {
            Verdict::Retry { message: bounded(message), after: Some(Duration::from_millis(ms)) }
        }
        Err(Failure::Reject(message)) => Verdict::Reject { message: bounded(message) },
    }
}

/// Takes what belongs to this delivery out of the store.
fn finish(store: &mut Store<Host>, verdict: Verdict) -> Execution {
    let host = store.data_mut();
    let scope = host.scope.take();
    let (mut publishes, state) = scope.map(|scope| (scope.publishes, scope.state)).unwrap_or_default();
    let (mut state, state_failed) = state.map(StateScope::finish).unwrap_or_default();
    if verdict != Verdict::Ack {
        publishes.clear();
        state = Changes::default();
    }
    let (peak_memory, http_denied) = (host.limiter.peak(), host.end_http());
    let (logs, logs_dropped) = host.logs.take();
    let wall = Duration::ZERO;
    Execution { verdict, publishes, state, state_failed, logs, logs_dropped, wall, peak_memory, http_denied }
}
