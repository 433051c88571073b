//! The description of the API, made from the code that serves it.

use axum::Json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi, ToResponse};

use super::{Problem, events, reload, routes, state, versions};

/// What went wrong
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "the field is the schema of the response")]
pub(super) struct ProblemResponse(Problem);

/// The document without what derives cannot say.
#[derive(OpenApi)]
#[openapi(
    info(title = "wasmill", description = "Operating a mill: streams, handlers, dead letters, workers. What stands under `/v1` is that of the tenant \
         `default`; the same stands under `/v1/tenants/TENANT` for every other one."),
    paths(
        routes::streams, routes::stream, routes::history, events::publish, routes::pending, routes::dead_letters,
        routes::dead_letter, routes::redrive, routes::drop_dead_letters, routes::replay, routes::workers,
        routes::stats, routes::audit, routes::doctor, routes::doctor_fix, routes::schemas, routes::schema, routes::pause,
        routes::resume, routes::tenants, routes::usage, versions::deploy, versions::put_smoke, versions::versions, versions::rollback,
        versions::component, versions::gc, reload::reload, state::keys, state::value, state::write, state::clear,
    ),
    components(responses(ProblemResponse), schemas(Problem)),
    modifiers(&Bearer),
)]
struct Document;

/// The token that a worker may ask for.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
        // A worker without a token asks for none.
        let token = SecurityRequirement::new("token", [""; 0]);
        document.security = Some(vec![SecurityRequirement::default(), token]);
    }
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// Serves it.
pub(super) async fn page() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
