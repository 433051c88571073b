//! The wasmtime engine, its settings, and the clock that interrupts guests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};
use wasmtime_wasi::p2::bindings::{clocks, random};

use super::bindings::EventHandler;
use super::compile::Compiler;
use super::host::Host;
use super::http;
use super::keyvalue_bindings::wasi::keyvalue;
use super::loaded::Loaded;
use super::messaging_bindings::wasi::messaging;

/// How often each thread of the clock interrupts running guests: they yield to the other deliveries of their thread, and
/// their deadlines are checked. Short enough that neighbours do not feel a spinning guest, long enough to cost nothing.
const TICK: Duration = Duration::from_micros(500);
/// After so many ticks in which no guest ran the clock stops, until one does.
const IDLE_TICKS: u32 = 200;
/// Linear memory that a pool slot keeps mapped between two uses instead of giving it back to the kernel. Measured: the
/// cost of a fresh instance triples without it.
const KEEP_RESIDENT: usize = 4 << 20;
/// The stack of a guest. Deep recursion beyond it is a fault of the guest.
const GUEST_STACK: usize = 512 << 10;
/// The stack of a guest together with that of the host functions it calls.
const FIBER_STACK: usize = 2 << 20;
/// Core instances, memories and tables that one component may consist of: a Python component has 39 core instances, most
/// of which only join the others.
const PARTS_PER_COMPONENT: u32 = 64;
/// Elements of one table; a large Python component has some 12,000.
const TABLE_ELEMENTS: usize = 100_000;

/// What the engine has to make room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Instances that may exist at the same time, from 1 to 10,000. Address space is reserved for each, memory is not.
    pub instances: u32,
    /// The largest memory limit of any handler, in bytes.
    pub max_memory: usize,
}

impl Default for EngineSettings {
    /// Room for a few instances, as `check` and `invoke` need it.
    fn default() -> EngineSettings {
        EngineSettings { instances: 16, max_memory: 4 << 30 }
    }
}

/// The engine cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The system does not give what the pool needs.
    #[error("the wasm engine cannot be set up: {0:#}")]
    Setup(wasmtime::Error),
    /// No thread for the clock.
    #[error("no thread for the engine's clock")]
    Thread(#[from] std::io::Error),
}

/// Compiles and runs components. Cheap to clone; the last clone ends the clock.
#[derive(Clone)]
pub struct Engine {
    pub(super) engine: wasmtime::Engine,
    pub(super) linker: Arc<Linker<Host>>,
    pub(super) compiler: Compiler,
    pub(super) stop_compiling: Arc<AtomicBool>,
    /// For whom it compiles, empty unless that was said: tenants take turns.
    pub(super) tenant: Arc<str>,
    pub(super) loaded: Arc<Loaded>,
    pub(super) clock: Arc<Clock>,
}

impl Engine {
    /// Sets up an engine that compiles in this process.
    pub fn new(settings: EngineSettings) -> Result<Engine, EngineError> {
        let engine = wasmtime::Engine::new(&config(settings)).map_err(EngineError::Setup)?;
        let linker = linker(&engine).map_err(EngineError::Setup)?;
        let clock = Clock::start(&engine)?;
        Ok(Engine {
            engine,
            linker: Arc::new(linker),
            compiler: Compiler::default(),
            stop_compiling: Arc::default(),
            tenant: "".into(),
            loaded: Arc::default(),
            clock: Arc::new(clock),
        })
    }

    /// The same engine, which compiles elsewhere.
    pub fn compiling_in(self, compiler: Compiler) -> Engine {
        Engine { compiler, ..self }
    }

    /// The same engine, which takes the turns of this tenant when it compiles in child processes: there is one at a time,
    /// and a tenant that asks for much waits behind others that ask for little.
    pub fn for_tenant(self, tenant: Arc<str>) -> Engine {
        Engine { tenant, ..self }
    }

    /// The same engine for one piece of work: what it compiles can be stopped without stopping others.
    pub fn apart(&self) -> Engine {
        Engine { stop_compiling: Arc::default(), ..self.clone() }
    }

    /// Gives up what this engine and its clones compile in child processes, now and later.
    pub fn stop_compiling(&self) {
        self.stop_compiling.store(true, Ordering::Relaxed);
    }

    /// Whether that was asked for, for those who get what is to be compiled.
    pub fn is_stopped(&self) -> &AtomicBool {
        &self.stop_compiling
    }
}

fn config(settings: EngineSettings) -> Config {
    let instances = settings.instances.clamp(1, 10_000);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * PARTS_PER_COMPONENT)
        .total_memories(instances * 2)
        .total_tables(instances * 4)
        .total_stacks(instances)
        .max_core_instances_per_component(PARTS_PER_COMPONENT)
        .max_memories_per_component(PARTS_PER_COMPONENT)
        .max_tables_per_component(PARTS_PER_COMPONENT)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .max_memory_size(settings.max_memory)
        .table_elements(TABLE_ELEMENTS)
        .max_unused_warm_slots(instances.min(256))
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    let mut config = code_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// What compiled code depends on. The pool is none of it: code that was compiled without one runs with one.
pub(super) fn code_config() -> Config {
    let mut config = Config::new();
    // Nobody reads backtraces, and to walk a stack that overflowed takes longer than to overflow it.
    config
        .epoch_interruption(true)
        .wasm_backtrace_max_frames(None)
        .max_wasm_stack(GUEST_STACK)
        .async_stack_size(FIBER_STACK)
        .concurrency_support(false)
        .memory_init_cow(true);
    config
}

/// Everything that any handler may be granted; what one may have is checked when its component is loaded.
fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    // Time and randomness are ours.
    linker.allow_shadowing(true);
    random::random::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    random::insecure::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    random::insecure_seed::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    clocks::wall_clock::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    clocks::monotonic_clock::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    linker.allow_shadowing(false);
    EventHandler::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    messaging::types::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    messaging::producer::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    keyvalue::store::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    keyvalue::batch::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, Host::config)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    http::codes::link(&mut linker)?;
    Ok(linker)
}

/// What advances the engine's epoch while guests run: two threads, each on one half of the processors. A thread that wakes up
/// where a guest is running may have to wait for the kernel's next tick, which is 4 ms on many systems; measured with one
/// thread, the stretches of a guest that never waits took up to 14 ms. Hardly ever do both threads wait.
pub(super) struct Clock(Vec<Ticker>);

/// One of the threads.
struct Ticker {
    state: Arc<ClockState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct ClockState {
    stop: AtomicBool,
    /// A guest has run since the clock has last looked.
    is_used: AtomicBool,
    is_asleep: AtomicBool,
}

impl Clock {
    fn start(engine: &wasmtime::Engine) -> std::io::Result<Clock> {
        let start = |place| Ticker::start(engine.clone(), place);
        Ok(Clock(places().into_iter().map(start).collect::<std::io::Result<_>>()?))
    }

    /// A guest is about to run: nothing else would interrupt it.
    pub(super) fn keep_running(&self) {
        self.0.iter().for_each(Ticker::keep_running);
    }
}

/// Where the threads of the clock run: each on one half of the processors that this process may use. If there is one, or it
/// cannot be said, there is one thread, anywhere.
fn places() -> Vec<Option<CpuSet>> {
    let mut halves = [CpuSet::new(), CpuSet::new()];
    if let Ok(all) = sched_getaffinity(None) {
        let allowed = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu));
        allowed.enumerate().for_each(|(at, cpu)| halves[at % 2].set(cpu));
    }
    if halves[1].count() > 0 { halves.map(Some).into() } else { vec![None] }
}

impl Ticker {
    fn start(engine: wasmtime::Engine, place: Option<CpuSet>) -> std::io::Result<Ticker> {
        let state = Arc::<ClockState>::default();
        let shared = state.clone();
        let thread = std::thread::Builder::new().name("wasm-clock".into()).spawn(move || {
            // Elsewhere it ticks as well, if not as evenly.
            let _ = place.map(|place| sched_setaffinity(None, &place));
            shared.run(&engine);
        })?;
        Ok(Ticker { state, thread: Some(thread) })
    }

    fn keep_running(&self) {
        if !self.state.is_used.load(Ordering::SeqCst) {
            self.state.is_used.store(true, Ordering::SeqCst);
        }
        if self.state.is_asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl ClockState {
    fn run(&self, engine: &wasmtime::Engine) {
        let mut idle = 0;
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            engine.increment_epoch();
            idle = if self.is_used.swap(false, Ordering::SeqCst) { 0 } else { idle + 1 };
            if idle >= IDLE_TICKS {
                self.sleep();
                idle = 0;
            }
        }
    }

    /// Until a guest runs, or the clock is to stop.
    fn sleep(&self) {
        self.is_asleep.store(true, Ordering::SeqCst);
        // Whoever says so afterwards sees that it sleeps, and wakes it.
        while !self.is_used.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.is_asleep.store(false, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A clock that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stops_while_no_guest_runs_and_goes_on_for_the_next_one() {
        let engine = Engine::new(EngineSettings::default()).expect("an engine");
        let wait = |asleep: bool| {
            let start = std::time::Instant::now();
            while engine.clock.0.iter().any(|ticker| ticker.state.is_asleep.load(Ordering::SeqCst) != asleep) {
                assert!(start.elapsed() < Duration::from_secs(20), "the clock does not become asleep = {asleep}");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for _ in 0..2 {
            wait(true);
            engine.clock.keep_running();
            wait(false);
        }
    }
}
