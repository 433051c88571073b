//! Building and loading handlers, on a thread of its own: both take their time.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wasmill::app;
use wasmill::config::{Config, ResolvedHandler};
use wasmill::deploy::Version;
use wasmill::project;
use wasmill::wasm::{CompiledCache, Engine};

use crate::cli::Report;

/// How often is looked whether the thread has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What all handlers of a configuration have in common.
pub struct Setup {
    /// Which reading of the configuration this is.
    pub generation: u64,
    /// The configuration.
    pub config: Config,
    /// Runs the components.
    pub engine: Engine,
    /// Keeps compiled components.
    pub cache: Option<CompiledCache>,
}

impl Setup {
    /// Everything that components need.
    pub fn new(generation: u64, config: Config) -> Result<Setup, String> {
        let engine = crate::cli::engine(&config).map_err(|error| error.to_string())?;
        let cache = app::cache(&config).map_err(|error| format!("worker.cache_dir: {error}"))?;
        Ok(Setup { generation, config, engine, cache })
    }
}

/// A handler that is to be made ready.
pub struct Job {
    pub setup: Arc<Setup>,
    pub handler: ResolvedHandler,
}

/// What the thread tells.
pub enum Told {
    /// A step of a build.
    Progress(String),
    /// A job is done.
    Done(Box<Done>),
}

/// A job that is done.
pub struct Done {
    pub generation: u64,
    pub handler: String,
    pub took: Duration,
    pub result: Result<Version, String>,
}

/// The thread.
pub struct Builder {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

impl Builder {
    /// Starts the thread; `tell` hears of each step and result.
    pub fn start(tell: impl Fn(Told) + Send + 'static) -> Result<Builder, Report> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let work = move || {
            for job in waiting {
                tell(Told::Done(Box::new(make(&job, &|line| tell(Told::Progress(line.to_owned()))))));
            }
        };
        let thread = std::thread::Builder::new().name("builder".to_owned()).spawn(work).map_err(Report::failure)?;
        Ok(Builder { jobs, thread })
    }

    /// Adds a job.
    pub fn add(&self, job: Job) {
        // The thread ends after this.
        let _ = self.jobs.send(job);
    }

    /// Ends the thread. A build that is under way gets so much time: on a terminal, Ctrl-C has ended its tools as well.
    pub fn end(self, time: Duration) {
        let until = Instant::now() + time;
        drop(self.jobs);
        while !self.thread.is_finished() {
            if Instant::now() >= until {
                tracing::warn!("a build is left behind");
                return;
            }
            std::thread::sleep(LOOK);
        }
        if self.thread.join().is_err() {
            tracing::warn!("the thread that builds has panicked");
        }
    }
}

fn make(job: &Job, progress: &dyn Fn(&str)) -> Done {
    let start = Instant::now();
    let result = try_make(job, progress);
    Done { generation: job.setup.generation, handler: job.handler.name.clone(), took: start.elapsed(), result }
}

fn try_make(job: &Job, progress: &dyn Fn(&str)) -> Result<Version, String> {
    if let Some(plan) = &job.handler.build {
        project::build(plan, &mut |line| progress(line)).map_err(|error| error.to_string())?;
    }
    let Setup { config, engine, cache, .. } = &*job.setup;
    app::version(config, &job.handler, engine, cache.as_ref()).map_err(|error| error.to_string())
}
