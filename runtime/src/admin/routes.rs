//! Requests -> operations. Each function is one operation; its comment is its description in the OpenAPI document.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Admin, AdminState, Problem};
use crate::ops::{
    AuditPage, AuditQuery, DeadLetterPage, DeadLetterQuery, DeadLetterReport, DoctorReport, HistoryPage, HistoryQuery,
    MovedReport, PauseReport, PendingQuery, PendingReport, ReplayReport, ReplayRequest, SchemaDocument, SchemaQuery,
    SchemaReport, Selection, StatsReport, StreamReport, TenantReport, UsageReport, WorkerStatus,
};

/// An answer, or why there is none.
type Answer<T> = Result<Json<T>, Problem>;

/// Which streams.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamsQuery {
    /// All streams that there are, not those of the configuration alone
    all: bool,
}

/// The streams, with their groups
#[utoipa::path(get, path = "/v1/streams", tag = "streams", params(StreamsQuery),
    responses((status = 200, body = Vec<StreamReport>), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn streams(state: AdminState, Query(query): Query<StreamsQuery>) -> Answer<Vec<StreamReport>> {
    Ok(Json(state.operator.streams(&[], query.all).await?))
}

/// One stream, with its groups
#[utoipa::path(get, path = "/v1/streams/{stream}", tag = "streams", params(("stream" = String, Path)),
    responses((status = 200, body = StreamReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn stream(state: AdminState, Path(stream): Path<String>) -> Answer<StreamReport> {
    Ok(Json(state.operator.stream(&stream).await?))
}

/// Past events of a stream, page by page
#[utoipa::path(get, path = "/v1/streams/{stream}/events", tag = "streams",
    params(("stream" = String, Path), HistoryQuery),
    responses((status = 200, body = HistoryPage), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn history(
    state: AdminState,
    Path(stream): Path<String>,
    Query(query): Query<HistoryQuery>,
) -> Answer<HistoryPage> {
    Ok(Json(state.operator.history(&stream, &query).await?))
}

/// What has been handed out to a handler and is not settled
#[utoipa::path(get, path = "/v1/handlers/{handler}/pending", tag = "handlers",
    params(("handler" = String, Path), PendingQuery),
    responses((status = 200, body = PendingReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn pending(
    state: AdminState,
    Path(handler): Path<String>,
    Query(query): Query<PendingQuery>,
) -> Answer<PendingReport> {
    Ok(Json(state.operator.pending(&handler, &query).await?))
}

/// The dead letters of a handler, oldest first, page by page
#[utoipa::path(get, path = "/v1/handlers/{handler}/dead-letters", tag = "dead letters",
    params(("handler" = String, Path), DeadLetterQuery),
    responses((status = 200, body = DeadLetterPage), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn dead_letters(
    state: AdminState,
    Path(handler): Path<String>,
    Query(query): Query<DeadLetterQuery>,
) -> Answer<DeadLetterPage> {
    Ok(Json(state.operator.dead_letters(&handler, &query).await?))
}

/// One dead letter, with all its evidence
#[utoipa::path(get, path = "/v1/handlers/{handler}/dead-letters/{id}", tag = "dead letters",
    params(("handler" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = DeadLetterReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn dead_letter(
    state: AdminState,
    Path((handler, id)): Path<(String, String)>,
) -> Answer<DeadLetterReport> {
    Ok(Json(state.operator.dead_letter(&handler, &id).await?))
}

/// Send dead letters back to their handler; doing it twice does it once
#[utoipa::path(post, path = "/v1/handlers/{handler}/dead-letters/redrive", tag = "dead letters",
    params(("handler" = String, Path)), request_body = Selection,
    responses((status = 200, body = MovedReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn redrive(
    state: AdminState,
    Path(handler): Path<String>,
    Json(selection): Json<Selection>,
) -> Answer<MovedReport> {
    Ok(Json(state.operator.redrive(&handler, &selection).await?))
}

/// Delete dead letters for good
#[utoipa::path(post, path = "/v1/handlers/{handler}/dead-letters/drop", tag = "dead letters",
    params(("handler" = String, Path)), request_body = Selection,
    responses((status = 200, body = MovedReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn drop_dead_letters(
    state: AdminState,
    Path(handler): Path<String>,
    Json(selection): Json<Selection>,
) -> Answer<MovedReport> {
    Ok(Json(state.operator.drop_dead_letters(&handler, &selection).await?))
}

/// Run past events again through a handler, one page of them
#[utoipa::path(post, path = "/v1/handlers/{handler}/replay", tag = "handlers",
    params(("handler" = String, Path)), request_body = ReplayRequest,
    responses((status = 200, body = ReplayReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn replay(
    state: AdminState,
    Path(handler): Path<String>,
    Json(request): Json<ReplayRequest>,
) -> Answer<ReplayReport> {
    Ok(Json(state.operator.replay(&handler, &request).await?))
}

/// Pause a handler on all workers; what is running finishes
#[utoipa::path(post, path = "/v1/handlers/{handler}/pause", tag = "handlers", params(("handler" = String, Path)),
    responses((status = 200, body = PauseReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn pause(state: AdminState, Path(handler): Path<String>) -> Answer<PauseReport> {
    Ok(Json(state.operator.set_paused(&handler, true).await?))
}

/// Let a handler go on that was paused
#[utoipa::path(post, path = "/v1/handlers/{handler}/resume", tag = "handlers", params(("handler" = String, Path)),
    responses((status = 200, body = PauseReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn resume(state: AdminState, Path(handler): Path<String>) -> Answer<PauseReport> {
    Ok(Json(state.operator.set_paused(&handler, false).await?))
}

/// The tenants that are served
#[utoipa::path(get, path = "/v1/tenants", tag = "fleet",
    responses((status = 200, body = Vec<TenantReport>), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn tenants(State(admin): State<Admin>) -> Json<Vec<TenantReport>> {
    Json(admin.operators.borrow().reports())
}

/// What the tenant uses of what it may
#[utoipa::path(get, path = "/v1/usage", tag = "fleet",
    responses((status = 200, body = UsageReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn usage(state: AdminState) -> Answer<UsageReport> {
    Ok(Json(state.operator.usage().await?))
}

/// The workers that are alive
#[utoipa::path(get, path = "/v1/workers", tag = "fleet",
    responses((status = 200, body = Vec<WorkerStatus>), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn workers(state: AdminState) -> Answer<Vec<WorkerStatus>> {
    Ok(Json(state.operator.workers().await?))
}

/// The handlers over all workers: counts, durations, lag, dead letters
#[utoipa::path(get, path = "/v1/stats", tag = "fleet",
    responses((status = 200, body = StatsReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn stats(state: AdminState) -> Answer<StatsReport> {
    Ok(Json(state.operator.stats().await?))
}

/// Who has changed what; of `default`, also what concerns the worker itself
#[utoipa::path(get, path = "/v1/audit", tag = "fleet", params(AuditQuery),
    responses((status = 200, body = AuditPage), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn audit(state: AdminState, Query(query): Query<AuditQuery>) -> Answer<AuditPage> {
    Ok(Json(state.operator.audit(&query).await?))
}

/// Is everything as it should be?
#[utoipa::path(get, path = "/v1/doctor", tag = "fleet",
    responses((status = 200, body = DoctorReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn doctor(state: AdminState) -> Answer<DoctorReport> {
    Ok(Json(state.operator.doctor(false).await?))
}

/// The same, and mend what can be mended without any risk
#[utoipa::path(post, path = "/v1/doctor", tag = "fleet",
    responses((status = 200, body = DoctorReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn doctor_fix(state: AdminState) -> Answer<DoctorReport> {
    Ok(Json(state.operator.doctor(true).await?))
}

/// The schemas: types with their versions
#[utoipa::path(get, path = "/v1/schemas", tag = "schemas",
    responses((status = 200, body = Vec<SchemaReport>), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn schemas(state: AdminState) -> Json<Vec<SchemaReport>> {
    Json(state.operator.schemas())
}

/// The JSON Schema of a type, of its greatest version if none is named
#[utoipa::path(get, path = "/v1/schemas/{type}", tag = "schemas",
    params(("type" = String, Path), SchemaQuery),
    responses((status = 200, body = SchemaDocument), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn schema(
    state: AdminState,
    Path(r#type): Path<String>,
    Query(query): Query<SchemaQuery>,
) -> Answer<SchemaDocument> {
    Ok(Json(state.operator.schema(&r#type, query.version.as_deref())?))
}
