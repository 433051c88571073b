//! The HTTP API of a worker: health, metrics, and everything that operators do ([`crate::ops`]).
//!
//! [`routes`], [`events`], [`versions`] and [`reload`] turn requests into operations, [`guard`] lets in who may by [`roles`], [`problem`] says what went wrong,
//! [`server`] bounds connections.

mod events;
mod guard;
mod metrics;
mod openapi;
mod problem;
mod reload;
mod roles;
mod routes;
mod server;
mod state;
mod tenant;
mod versions;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::csrf::CsrfLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

pub use self::guard::Gate;
pub use self::openapi::document as openapi_document;
pub use self::problem::{PREFIX as PROBLEM_PREFIX, Problem};
use crate::access::Actor;
use crate::ops::{Operator, Operators};
use crate::pipeline::{Intake, Retention, Roster, Served, Stats};
use crate::readiness::{Phase, Readiness};
use crate::reload::Reload;
use crate::wasm::MAX_COMPONENT_BYTES;

/// The largest body of a request, in bytes: a batch of events.
pub const MAX_BODY: usize = 16 << 20;
/// The most time that a request may take. Waiting for events ends before.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The most time that a reload is waited for: compiling takes long, and is bounded by `compile.wall_time`. It goes on when
/// nobody waits any more.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(900);

/// What the API is served from, while all of it may change.
#[derive(Clone)]
pub struct Admin {
    /// What the worker serves.
    pub roster: Roster,
    /// Whether it takes events.
    pub readiness: Arc<Readiness>,
    /// Do what is asked for, by the configuration that holds.
    pub operators: watch::Receiver<Operators>,
    /// Who is let in.
    pub gate: Gate,
    /// Reads the configuration again; `None` if this process does not on request.
    pub reload: Option<Reload>,
}

impl FromRequestParts<Admin> for AdminState {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<AdminState, Problem> {
        let served = admin.roster.now();
        let tenant = tenant::of(&parts.extensions);
        let operator = admin.operators.borrow().get(tenant).cloned().ok_or_else(tenant::unknown)?;
        // Without a guard before the route nobody is known.
        let actor = parts.extensions.get::<Actor>().cloned().unwrap_or(Actor::Nobody);
        Ok(AdminState {
            operator: operator.acting_as(actor),
            stats: served.stats.clone(),
            served: served.clone(),
            readiness: admin.readiness.clone(),
            gate: admin.gate.clone(),
            retention: served.retention.clone(),
            intakes: served.intakes.clone(),
            reload: admin.reload.clone(),
        })
    }
}

/// What one request sees: it works on one state, whatever changes meanwhile.
#[derive(Clone)]
pub struct AdminState {
    /// The counters of all handlers.
    pub stats: Arc<Stats>,
    /// What is served.
    pub served: Arc<Served>,
    /// Whether the worker takes events.
    pub readiness: Arc<Readiness>,
    /// Does what is asked for, for the tenant that the request names.
    pub operator: Operator,
    /// Who is let in.
    pub gate: Gate,
    /// The streams that the worker keeps short.
    pub retention: Arc<[Retention]>,
    /// The messages that the worker makes events of.
    pub intakes: Arc<[Arc<Intake>]>,
    /// Reads the configuration again.
    pub reload: Option<Reload>,
}

/// The port cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("admin.listen: cannot serve {address}: {cause}. Choose another address, or \"\" for none")]
pub struct AdminError {
    address: SocketAddr,
    #[source]
    cause: std::io::Error,
}

/// Where the API is served.
#[derive(Debug)]
pub enum Place {
    /// At an address.
    Address(SocketAddr),
    /// At a socket that listens already.
    Listener(std::net::TcpListener),
}

/// Serves until `shutdown` is done.
pub async fn serve(
    place: Place,
    admin: Admin,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let (address, listener) = match place {
        Place::Address(address) => (address, tokio::net::TcpListener::bind(address).await),
        Place::Listener(listener) => {
            let address = listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
            let ready = listener.set_nonblocking(true);
            (address, ready.and_then(|()| tokio::net::TcpListener::from_std(listener)))
        }
    };
    let fault = |cause| AdminError { address, cause };
    let listener = listener.map_err(fault)?;
    let bound = listener.local_addr().map_err(fault)?;
    tracing::info!(address = %bound, "the admin API is served");
    server::serve(listener, router(admin), server::Limits::default(), shutdown).await;
    Ok(())
}

/// All routes, with all limits.
pub fn router(admin: Admin) -> Router {
    let stream = Router::new()
        .route("/v1/streams", get(routes::streams))
        .route("/v1/streams/{stream}", get(routes::stream))
        .route("/v1/streams/{stream}/events", get(routes::history).post(events::publish));
    let handler = Router::new()
        .route("/v1/handlers/{handler}/pending", get(routes::pending))
        .route("/v1/handlers/{handler}/dead-letters", get(routes::dead_letters))
        .route("/v1/handlers/{handler}/dead-letters/{id}", get(routes::dead_letter))
        .route("/v1/handlers/{handler}/dead-letters/redrive", post(routes::redrive))
        .route("/v1/handlers/{handler}/dead-letters/drop", post(routes::drop_dead_letters))
        .route("/v1/handlers/{handler}/pause", post(routes::pause))
        .route("/v1/handlers/{handler}/resume", post(routes::resume))
        .route("/v1/handlers/{handler}/replay", post(routes::replay));
    let fleet = Router::new()
        .route("/v1/tenants", get(routes::tenants))
        .route("/v1/usage", get(routes::usage))
        .route("/v1/workers", get(routes::workers))
        .route("/v1/stats", get(routes::stats))
        .route("/v1/audit", get(routes::audit))
        .route("/v1/schemas", get(routes::schemas))
        .route("/v1/schemas/{type}", get(routes::schema))
        .route("/v1/doctor", get(routes::doctor).post(routes::doctor_fix))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi::page));
    let upload = DefaultBodyLimit::max(MAX_COMPONENT_BYTES as usize);
    let version = Router::new()
        .route("/v1/handlers/{handler}/state", get(state::keys).post(state::write))
        .route("/v1/handlers/{handler}/state/value", get(state::value))
        .route("/v1/handlers/{handler}/state/clear", post(state::clear))
        .route("/v1/handlers/{handler}/versions", get(versions::versions).post(versions::deploy))
        .layer(upload)
        .layer(RequestBodyLimitLayer::new(MAX_COMPONENT_BYTES as usize));
    let versions = Router::new()
        .route("/v1/handlers/{handler}/rollback", post(versions::rollback))
        .route("/v1/components/{digest}", get(versions::component))
        .route("/v1/smoke-tests", post(versions::put_smoke))
        .route("/v1/gc", post(versions::gc));
    let usual = stream.merge(handler).merge(fleet).merge(versions).layer(RequestBodyLimitLayer::new(MAX_BODY));
    let guarded = usual.merge(version).layer(middleware::from_fn_with_state(admin.clone(), guard::check_token));
    let reload = Router::new()
        .route("/v1/reload", post(reload::reload))
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .layer(middleware::from_fn_with_state(admin.clone(), guard::check_token))
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, RELOAD_TIMEOUT));
    let health = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(readyz));
    let routes = guarded
        .merge(health)
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, REQUEST_TIMEOUT))
        .merge(reload)
        .layer(CsrfLayer::new())
        .layer(middleware::from_fn_with_state(admin.clone(), guard::check_host))
        .layer(CatchPanicLayer::new())
        .layer(middleware::map_response(problem::unify))
        .with_state(admin);
    // Which route it is depends on what this leaves of the path.
    Router::new().fallback_service(routes).layer(middleware::map_request(tenant::take_out))
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let why = match admin.readiness.phase() {
        Phase::Ready => return "ready\n".into_response(),
        Phase::Starting => "starting".to_owned(),
        Phase::WaitingForRedis { why } => format!("waiting for Redis: {why}"),
        Phase::Draining => "shutting down".to_owned(),
    };
    Problem::new(503, "not-ready", format!("not ready: {why}")).into_response()
}

async fn metrics(state: AdminState) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&state))
}
