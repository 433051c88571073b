//! Whose things a request asks for: what stands under `/v1/tenants/TENANT` is the same as what stands under `/v1`, which is
//! the tenant `default`.

use axum::extract::Request;
use axum::http::{Extensions, Uri};

use super::Problem;
use crate::broker::keys::DEFAULT_TENANT;

/// What the path of a request begins with that names a tenant.
const PREFIX: &str = "/v1/tenants/";

/// The tenant that a request names.
#[derive(Clone)]
struct Named(String);

/// The tenant of a request that has come through [`take_out`].
pub(super) fn of(extensions: &Extensions) -> &str {
    named(extensions).unwrap_or(DEFAULT_TENANT)
}

/// The tenant that a request names, if it names one.
pub(super) fn named(extensions: &Extensions) -> Option<&str> {
    extensions.get::<Named>().map(|named| &*named.0)
}

/// What is answered for a tenant that is not there, or is not to be seen: nothing tells which.
pub(super) fn unknown() -> Problem {
    Problem::new(404, "unknown-tenant", "there is no such tenant")
}

/// Takes the tenant out of the path, and keeps it beside the request.
pub(super) async fn take_out(mut request: Request) -> Request {
    let Some((tenant, rest)) = split(request.uri()) else { return request };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(rest);
    // A path in the place of a path makes a URI as the one before.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
        request.extensions_mut().insert(Named(tenant));
    }
    request
}

/// The tenant, and the path and query without it.
fn split(uri: &Uri) -> Option<(String, axum::http::uri::PathAndQuery)> {
    let whole = uri.path_and_query()?.as_str();
    let (tenant, rest) = whole.strip_prefix(PREFIX)?.split_once('/')?;
    // Names of tenants need no escapes: one that has them is none.
    Some((tenant.to_owned(), format!("/v1/{rest}").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_is_taken_out_of_the_path() {
        let split = |uri: &str| split(&uri.parse().unwrap()).map(|(tenant, rest)| (tenant, rest.to_string()));
        let expected = ("acme".to_owned(), "/v1/streams/a%2Fb/events?x=1".to_owned());
        assert_eq!(split("/v1/tenants/acme/streams/a%2Fb/events?x=1"), Some(expected.clone()));
        assert_eq!(split("http://host:1/v1/tenants/acme/streams/a%2Fb/events?x=1"), Some(expected));
        for path in ["/v1/streams", "/v1/tenants", "/v1/tenants/acme", "/metrics"] {
            assert_eq!(split(path), None, "{path}");
        }
    }
}
