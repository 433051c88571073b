//! The state of handlers by HTTP.

use axum::Json;
use axum::extract::{Path, Query};

use super::{AdminState, Problem};
use crate::ops::{StateCleared, StateKey, StateQuery, StateReport, StateValue, StateWrite, StateWritten};

/// An answer, or why there is none.
type Answer<T> = Result<Json<T>, Problem>;

/// The keys in the state of a handler
#[utoipa::path(get, path = "/v1/handlers/{handler}/state", tag = "handlers",
    params(("handler" = String, Path), StateQuery),
    responses((status = 200, body = StateReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn keys(
    state: AdminState,
    Path(handler): Path<String>,
    Query(query): Query<StateQuery>,
) -> Answer<StateReport> {
    Ok(Json(state.operator.state(&handler, &query).await?))
}

/// A value in the state of a handler
#[utoipa::path(get, path = "/v1/handlers/{handler}/state/value", tag = "handlers",
    params(("handler" = String, Path), StateKey),
    responses((status = 200, body = StateValue), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn value(
    state: AdminState,
    Path(handler): Path<String>,
    Query(query): Query<StateKey>,
) -> Answer<StateValue> {
    Ok(Json(state.operator.state_value(&handler, &query.key).await?))
}

/// Set or delete a value in the state of a handler
///
/// Deliveries that have read it and are not settled yet are run again.
#[utoipa::path(post, path = "/v1/handlers/{handler}/state", tag = "handlers", params(("handler" = String, Path)),
    request_body = StateWrite,
    responses((status = 200, body = StateWritten), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn write(
    state: AdminState,
    Path(handler): Path<String>,
    Json(write): Json<StateWrite>,
) -> Answer<StateWritten> {
    Ok(Json(state.operator.write_state(&handler, &write).await?))
}

/// Delete the whole state of a handler
///
/// Deliveries that have read it and are not settled yet are run again.
#[utoipa::path(post, path = "/v1/handlers/{handler}/state/clear", tag = "handlers", params(("handler" = String, Path)),
    responses((status = 200, body = StateCleared), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn clear(state: AdminState, Path(handler): Path<String>) -> Answer<StateCleared> {
    Ok(Json(state.operator.clear_state(&handler).await?))
}
