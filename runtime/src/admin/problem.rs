//! Errors as RFC 9457 has them: `application/problem+json`.

use axum::body::{Body, to_bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ops::OpsError;

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";
/// What the `type` of a problem begins with; its kind follows.
pub const PREFIX: &str = "urn:wasmill:problem:";
/// What is kept of the text of an error that was made elsewhere, in bytes.
const MAX_TEXT: usize = 4096;

/// What went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct Problem {
    /// The kind of problem: `urn:wasmill:problem:KIND`.
    #[serde(rename = "type")]
    pub r#type: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time, and what can be done about it.
    pub detail: String,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(status: u16, kind: &str, detail: impl Into<String>) -> Problem {
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
        let (title, detail) = (title.to_owned(), detail.into());
        Problem { r#type: format!("{PREFIX}{kind}"), title, status, detail }
    }
}

impl From<OpsError> for Problem {
    fn from(error: OpsError) -> Problem {
        Problem::new(error.status(), error.kind(), error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).expect("a problem is numbers and texts");
        (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response()
    }
}

/// Gives errors that were made by libraries (no such path, body too large, time is up) the form of all others.
pub(super) async fn unify(response: Response) -> Response {
    let status = response.status();
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE);
    if !(status.is_client_error() || status.is_server_error()) || is_problem {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = to_bytes(Body::new(body), MAX_TEXT).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let (kind, usual) = match status {
        StatusCode::NOT_FOUND => ("no-such-path", "there is nothing here; see /openapi.json"),
        StatusCode::METHOD_NOT_ALLOWED => ("method-not-allowed", "this path has other methods; see /openapi.json"),
        StatusCode::PAYLOAD_TOO_LARGE => {
            ("too-large", "the body is larger than 16 MiB (a component: 64 MiB); send less at a time")
        }
        StatusCode::GATEWAY_TIMEOUT => ("timeout", "it took longer than 30 seconds"),
        StatusCode::FORBIDDEN => ("cross-origin", "requests from web pages of other origins are refused"),
        _ if status.is_server_error() => ("internal", "this is a fault of wasmill; its log says more"),
        _ => ("invalid", "the request is not well formed"),
    };
    // The libraries know no more than the status, except of what is wrong with a request.
    let detail = if text.is_empty() || kind != "invalid" { usual.to_owned() } else { text };
    let mut unified = Problem::new(status.as_u16(), kind, detail).into_response();
    for name in [header::ALLOW, header::WWW_AUTHENTICATE] {
        if let Some(value) = parts.headers.get(&name) {
            unified.headers_mut().insert(name, value.clone());
        }
    }
    unified
}
