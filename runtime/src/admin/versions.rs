//! Versions of handlers by HTTP.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query};
use axum::http::header;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{AdminState, Problem};
use crate::ops::{DeployQuery, GcReport, RollbackRequest, SmokeReport, VersionsReport};

/// An answer, or why there is none.
type Answer<T> = Result<Json<T>, Problem>;

/// What stays.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GcQuery {
    /// The newest so many versions of each handler stay as well [default: 0]
    keep_last: usize,
}

/// Deploy a version: all workers prepare it, then serve it
///
/// The answer comes at once; ask for the versions to see how far the workers are.
#[utoipa::path(post, path = "/v1/handlers/{handler}/versions", tag = "versions",
    params(("handler" = String, Path), DeployQuery),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 200, body = VersionsReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn deploy(
    state: AdminState,
    Path(handler): Path<String>,
    Query(query): Query<DeployQuery>,
    body: Bytes,
) -> Answer<VersionsReport> {
    Ok(Json(state.operator.deploy(&handler, &body, &query).await?))
}

/// Keep smoke tests, for a deployment that names them
///
/// `{"tests": [{"name", "event", "expected"}]}`: events as CloudEvents JSON, and what is to come of each, as
/// `wasmill test` writes it; without that it must be acknowledged. At most 100, and 1 MiB.
#[utoipa::path(post, path = "/v1/smoke-tests", tag = "versions",
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses((status = 200, body = SmokeReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn put_smoke(state: AdminState, body: Bytes) -> Answer<SmokeReport> {
    Ok(Json(state.operator.put_smoke(&body).await?))
}

/// The versions of a handler, what workers serve, and how far a rollout is
#[utoipa::path(get, path = "/v1/handlers/{handler}/versions", tag = "versions", params(("handler" = String, Path)),
    responses((status = 200, body = VersionsReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn versions(state: AdminState, Path(handler): Path<String>) -> Answer<VersionsReport> {
    Ok(Json(state.operator.versions(&handler).await?))
}

/// Go back to a version that was deployed before, or cancel the rollout that goes on
///
/// While a rollout goes on and no version is named, that rollout ends, and the version that serves stays.
#[utoipa::path(post, path = "/v1/handlers/{handler}/rollback", tag = "versions", params(("handler" = String, Path)),
    request_body = RollbackRequest,
    responses((status = 200, body = VersionsReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn rollback(
    state: AdminState,
    Path(handler): Path<String>,
    Json(request): Json<RollbackRequest>,
) -> Answer<VersionsReport> {
    Ok(Json(state.operator.rollback(&handler, &request).await?))
}

/// The bytes of a component that was deployed and is kept
#[utoipa::path(get, path = "/v1/components/{digest}", tag = "versions", params(("digest" = String, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/wasm"),
        (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn component(state: AdminState, Path(digest): Path<String>) -> Result<impl IntoResponse, Problem> {
    let bytes = state.operator.component(&digest).await?;
    Ok(([(header::CONTENT_TYPE, "application/wasm")], bytes))
}

/// Delete components that nobody needs any more
#[utoipa::path(post, path = "/v1/gc", tag = "versions", params(GcQuery),
    responses((status = 200, body = GcReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn gc(state: AdminState, Query(query): Query<GcQuery>) -> Answer<GcReport> {
    Ok(Json(state.operator.gc(query.keep_last).await?))
}
