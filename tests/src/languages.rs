//! The handler `enrich` of guest-examples/ in every language, loaded once per test process.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wasmill::app;
use wasmill::broker::keys::{DEFAULT_TENANT, Namespace};
use wasmill::config::Config;
pub use wasmill::project::Lang;
use wasmill::state;
use wasmill::wasm::{
    CompiledCache, Component, Engine, EngineSettings, Execution, GuestDelivery, GuestEvent, Handler, Isolation,
    Surroundings, WarmInstance,
};

use crate::{build, guests, workspace};

/// The time of the events, in milliseconds since the Unix epoch: 2025-01-01T12:00:00Z.
pub const TIME: u64 = 1_735_732_800_000;
/// The largest limit on memory that a test may set, in bytes.
const MAX_MEMORY: usize = 512 << 20;

/// The handler of a language, built and compiled; `None`, after a word about it, if its tools are missing here.
///
/// # Panics
/// When it cannot be built or loaded; with `CI` in the environment, also when its tools are missing.
pub fn component(lang: Lang) -> Option<&'static Component> {
    static COMPONENTS: [OnceLock<Option<Component>>; Lang::ALL.len()] = [const { OnceLock::new() }; Lang::ALL.len()];
    let component = COMPONENTS[lang as usize].get_or_init(|| load(lang)).as_ref();
    if component.is_none() {
        eprintln!("skipped: the tools for {lang} are missing, `cargo xtask guests` says which");
    }
    component
}

/// Makes a test of each check for each language: `rust::CHECK`, `js::CHECK` and so on. A check is a function that takes
/// a [`Subject`].
#[macro_export]
macro_rules! for_every_language {
    ($($check:ident),* $(,)?) => {
        $crate::for_every_language!(@one rust, Rust, $($check),*);
        $crate::for_every_language!(@one js, Js, $($check),*);
        $crate::for_every_language!(@one ts, Ts, $($check),*);
        $crate::for_every_language!(@one python, Python, $($check),*);
        $crate::for_every_language!(@one go, Go, $($check),*);
        $crate::for_every_language!(@one c, C, $($check),*);
        $crate::for_every_language!(@one cpp, Cpp, $($check),*);
        $crate::for_every_language!(@one zig, Zig, $($check),*);
    };
    (@one $name:ident, $lang:ident, $($check:ident),*) => {
        mod $name {
            $(
                #[test]
                fn $check() {
                    if let Some(subject) = $crate::languages::Subject::new($crate::languages::Lang::$lang) {
                        super::$check(&subject);
                    }
                }
            )*
        }
    };
}

/// The folder of compiled components, which test processes share: compiling one may take half a minute.
pub fn compiled_cache() -> std::path::PathBuf {
    workspace().join("target/guests-compiled")
}

fn load(lang: Lang) -> Option<Component> {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| {
        let settings = EngineSettings { instances: 16, max_memory: MAX_MEMORY };
        Engine::new(settings).expect("the engine can be set up")
    });
    let path = guests::enrich(lang.as_str())?;
    let cache = CompiledCache::open(&compiled_cache()).expect("the cache is the user's own");
    // Another process waits, and then finds it in the cache.
    let _lock = build::lock(&format!("guests-compiled-{lang}.lock"));
    let component = Component::from_file(engine, Some(&cache), &path);
    Some(component.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// The handler of a language, ready to be run.
pub struct Subject {
    /// The language that it is written in.
    pub lang: Lang,
    component: Component,
}

impl Subject {
    /// The handler of a language; `None` if the tools of that language are missing.
    pub fn new(lang: Lang) -> Option<Subject> {
        Some(Subject { lang, component: component(lang)?.clone() })
    }

    /// The handler with these limits, as `[handlers.enrich.limits]` has them, and these streams to publish to.
    ///
    /// # Panics
    /// When the limits are no valid configuration.
    pub fn handler(&self, limits: &str, publishes: &[&str], isolation: Isolation) -> Handler {
        configured(&self.component, limits, publishes, isolation)
    }
}

/// Any component as a handler with these limits, as `[handlers.enrich.limits]` has them, which publishes nothing. Each
/// delivery gets a fresh instance.
///
/// # Panics
/// When the limits are no valid configuration.
pub fn handler_of(component: &Component, limits: &str) -> Handler {
    configured(component, limits, &[], Isolation::Fresh)
}

fn configured(component: &Component, limits: &str, publishes: &[&str], isolation: Isolation) -> Handler {
    let text = format!(
        "[handlers.enrich]\ncomponent = \"enrich.wasm\"\nstreams = [\"orders\"]\npublishes = {publishes:?}\n\
         [handlers.enrich.limits]\n{limits}\n"
    );
    let config = Config::parse(None, &text, []).unwrap_or_else(|error| panic!("{text}\n{error}"));
    let resolved = config.handler("enrich").expect("it is configured");
    let schemas = app::schemas(&config).expect("there are none");
    let policy = app::policy(&resolved, &Namespace::default(), &app::envelopes(&config), schemas);
    let policy = policy.expect("it refers to no secrets");
    Handler::new(component.clone(), policy, isolation).expect("the usual grants are enough")
}

/// One event of this type through a handler, at this attempt.
pub fn run(
    handler: &Handler,
    warm: Option<WarmInstance>,
    r#type: &str,
    data: impl Into<Vec<u8>>,
    attempt: u32,
) -> (Execution, Option<WarmInstance>) {
    let event = GuestEvent {
        id: "e-1".to_owned(),
        source: "/shop".to_owned(),
        type_: r#type.to_owned(),
        time: TIME,
        subject: None,
        schema_version: None,
        partition_key: Some("c-1".to_owned()),
        content_type: "application/json".to_owned(),
        attributes: vec![("tone".to_owned(), "loud".to_owned())],
        data: data.into(),
    };
    let delivery = GuestDelivery {
        tenant: DEFAULT_TENANT.to_owned(),
        handler: "enrich".to_owned(),
        stream: "orders".to_owned(),
        entry_id: "1-0".to_owned(),
        attempt,
        max_attempts: 3,
        deadline_ms: u64::try_from(handler.policy.deadline.as_millis()).unwrap_or(u64::MAX),
        replay: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let surroundings = Surroundings { now: TIME, ..Surroundings::here(Some(state::empty())) };
    runtime.block_on(handler.run(warm, Arc::new(event), delivery, surroundings))
}

/// An instance serves this many deliveries, and may grow up to its limit.
pub fn reuse(max_events: u32, max_memory_growth: usize) -> Isolation {
    Isolation::Reuse { max_events, max_memory_growth }
}

/// How long a delivery may take where time is not what is tested: machines that build something else are slow.
pub const PATIENCE: Duration = Duration::from_secs(60);
