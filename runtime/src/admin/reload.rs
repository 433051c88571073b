//! Reading the configuration again, by HTTP.

use axum::Json;

use super::{AdminState, Problem};
use crate::reload::{ReloadError, ReloadReport};

/// Read the configuration again, and take over what has changed in it
///
/// The answer comes when that is done. A configuration or a component with a fault changes nothing.
#[utoipa::path(post, path = "/v1/reload", tag = "fleet",
    responses((status = 200, body = ReloadReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn reload(state: AdminState) -> Result<Json<ReloadReport>, Problem> {
    let Some(reload) = &state.reload else {
        let detail = "this process does not read its configuration again on request: only `wasmill run` does";
        return Err(Problem::new(409, "conflict", detail));
    };
    let report = reload.now(state.operator.actor().clone()).await.map_err(|error| {
        let status = if matches!(*error, ReloadError::Ended) { 503 } else { 422 };
        Problem::new(status, "not-reloaded", error.to_string())
    })?;
    Ok(Json(report))
}
