//! Health and metrics over HTTP, for operators and orchestrators.

mod metrics;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::pipeline::{Intake, Retention, Stats};

/// What the pages show.
#[derive(Clone)]
pub struct AdminState {
    /// The counters of all handlers.
    pub stats: Arc<Stats>,
    /// Whether the worker takes events.
    pub ready: Arc<AtomicBool>,
    /// The streams that the worker keeps short.
    pub retention: Vec<Retention>,
    /// The messages that the worker makes events of.
    pub intakes: Vec<Intake>,
}

/// The port cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("admin.listen: cannot serve {address}: {cause}. Choose another address, or \"\" for none")]
pub struct AdminError {
    address: SocketAddr,
    #[source]
    cause: std::io::Error,
}

/// Serves `/healthz`, `/readyz` and `/metrics` until `shutdown` is done.
pub async fn serve(
    address: SocketAddr,
    state: AdminState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let fault = |cause| AdminError { address, cause };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(fault)?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state);
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await.map_err(fault)
}

async fn readyz(State(state): State<AdminState>) -> impl IntoResponse {
    match state.ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready: waiting for Redis, or shutting down\n"),
    }
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&state))
}
