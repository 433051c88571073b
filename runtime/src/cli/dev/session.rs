//! The handlers of one reading of the configuration at work, and their HTTP API.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use wasmill::access::Tokens;
use wasmill::admin::{Admin, Gate, Place};
use wasmill::app;
use wasmill::broker::Operate;
use wasmill::broker::keys::DEFAULT_TENANT;
use wasmill::broker::memory::MemoryBroker;
use wasmill::broker::redis::RedisBroker;
use wasmill::deploy::{Slot, Version};
use wasmill::ops::{Operator, Operators};
use wasmill::pipeline::{self, Backend, Deployment, PipelineError};
use wasmill::readiness::Readiness;

use super::builder::Setup;
use super::show::Window;
use crate::cli::Report;
use crate::cli::admin_thread::AdminThread;

/// Handlers at work.
pub struct Session {
    /// The configuration that they follow.
    pub setup: Arc<Setup>,
    /// What works on their broker.
    pub operator: Operator,
    /// How far they are.
    pub readiness: Arc<Readiness>,
    deployments: Vec<Arc<Deployment>>,
    admin: AdminThread,
    stop: watch::Sender<bool>,
    serving: Pin<Box<dyn Future<Output = Result<(), PipelineError>>>>,
}

impl Session {
    /// Starts to serve. Nothing happens unless [`Session::ended`] or [`Session::end`] is awaited.
    pub fn start(
        setup: Arc<Setup>,
        mut versions: BTreeMap<String, Version>,
        memory: Option<&MemoryBroker>,
        listener: TcpListener,
        window: Arc<Window>,
    ) -> Result<Session, Report> {
        let config = &setup.config;
        let handlers = config.handlers().into_iter();
        let deployments: Vec<Arc<Deployment>> = handlers
            .filter_map(|handler| {
                let version = versions.remove(&handler.name)?;
                let slot = Arc::new(Slot::new(version));
                Some(Arc::new(app::deployment(config, &handler, (slot, Arc::default()))))
            })
            .collect();
        let (backend, broker): (Backend, Arc<dyn Operate>) = match memory {
            Some(broker) => (Backend::Memory(broker.clone()), Arc::new(broker.clone())),
            None => {
                let settings = app::redis_settings(config).map_err(Report::usage)?;
                (Backend::redis(settings.clone()), Arc::new(RedisBroker::new(settings)))
            }
        };
        let worker = pipeline::Worker { observer: Some(window), ..app::worker(config) };
        let (roster, orders) = app::roster(config, deployments.clone());
        let readiness = Arc::new(Readiness::default());
        let operator = Operator::new(broker, config, app::schemas(config).map_err(Report::usage)?);
        let operators = [(config.tenant.name.clone(), operator.clone())].into();
        let mut tokens = Tokens::default();
        config.add_tokens_of(DEFAULT_TENANT, &mut tokens, &Tokens::default()).map_err(Report::usage)?;
        let admin = Admin {
            roster,
            readiness: readiness.clone(),
            operators: watch::Sender::new(Operators::new(operators)).subscribe(),
            reload: None,
            gate: Gate::new(watch::channel(Arc::new(tokens)).1),
        };
        let (stop, mut stopped) = watch::channel(false);
        let admin = AdminThread::start(Place::Listener(listener), admin, stopped.clone())?;
        let shutdown = async move {
            // A dropped sender is a stop, too.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let serving = {
            let readiness = readiness.clone();
            async move { pipeline::serve(worker, backend, orders, &readiness, shutdown).await }
        };
        Ok(Session { setup, operator, readiness, deployments, admin, stop, serving: Box::pin(serving) })
    }

    /// A handler.
    pub fn deployment(&self, name: &str) -> Option<&Arc<Deployment>> {
        self.deployments.iter().find(|deployment| deployment.name() == name)
    }

    /// Serves; ends only by a fault.
    pub async fn ended(&mut self) -> Report {
        match (&mut self.serving).await {
            Ok(()) => Report::failure("the handlers have stopped by themselves"),
            Err(error) => Report::failure(error),
        }
    }

    /// Drains, within `worker.drain_timeout`.
    pub async fn end(self) -> Result<(), Report> {
        // Everybody who listens ends with this.
        let _ = self.stop.send(true);
        let served = self.serving.await;
        self.admin.join();
        served.map_err(Report::failure)
    }
}
