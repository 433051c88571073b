//! Which role each request needs: one table of all routes. What is not in it is refused, so that nothing is served that
//! nobody has thought of.

use axum::http::Method;

use crate::access::Role;
use crate::broker::keys::DEFAULT_TENANT;

const AUDIT: &str = "/v1/audit";
const GC: &str = "/v1/gc";
/// What the tenant `default` has in common with the worker itself: its audit log, and the components of all.
const OF_WORKER: [&str; 2] = [AUDIT, GC];
const GET: Method = Method::GET;
const POST: Method = Method::POST;

/// The method and path of each route, and the role that it takes. What shows or changes what belongs to several tenants
/// takes [`Role::Admin`], which no tenant's token has.
const ROUTES: &[(Method, &str, Role)] = &[
    (GET, "/v1/streams", Role::View),
    (GET, "/v1/streams/{stream}", Role::View),
    (GET, "/v1/streams/{stream}/events", Role::View),
    (POST, "/v1/streams/{stream}/events", Role::Operate),
    (GET, "/v1/handlers/{handler}/pending", Role::View),
    (GET, "/v1/handlers/{handler}/dead-letters", Role::View),
    (GET, "/v1/handlers/{handler}/dead-letters/{id}", Role::View),
    (POST, "/v1/handlers/{handler}/dead-letters/redrive", Role::Operate),
    (POST, "/v1/handlers/{handler}/dead-letters/drop", Role::Operate),
    (POST, "/v1/handlers/{handler}/pause", Role::Operate),
    (POST, "/v1/handlers/{handler}/resume", Role::Operate),
    (POST, "/v1/handlers/{handler}/replay", Role::Operate),
    (GET, "/v1/handlers/{handler}/state", Role::View),
    (GET, "/v1/handlers/{handler}/state/value", Role::View),
    (POST, "/v1/handlers/{handler}/state", Role::Operate),
    (POST, "/v1/handlers/{handler}/state/clear", Role::Operate),
    (GET, "/v1/handlers/{handler}/versions", Role::View),
    (POST, "/v1/handlers/{handler}/versions", Role::Deploy),
    (POST, "/v1/handlers/{handler}/rollback", Role::Deploy),
    (POST, "/v1/smoke-tests", Role::Deploy),
    (GET, "/v1/components/{digest}", Role::View),
    (POST, GC, Role::Deploy),
    (GET, "/v1/tenants", Role::Admin),
    (GET, "/v1/usage", Role::View),
    (GET, "/v1/workers", Role::View),
    (GET, "/v1/stats", Role::View),
    (GET, "/v1/schemas", Role::View),
    (GET, "/v1/schemas/{type}", Role::View),
    (GET, "/v1/doctor", Role::Admin),
    (POST, "/v1/doctor", Role::Admin),
    (GET, AUDIT, Role::View),
    (POST, "/v1/reload", Role::Admin),
    (GET, "/metrics", Role::Admin),
    (GET, "/openapi.json", Role::Admin),
];

/// The role that a request of this method on this route takes, for a tenant; `None` if there is no such route.
pub(super) fn needed(method: &Method, route: &str, tenant: &str) -> Option<Role> {
    // HEAD is answered as GET is.
    let method = if method == Method::HEAD { &GET } else { method };
    let found = ROUTES.iter().find(|(known, path, _)| known == method && *path == route);
    found.map(|(_, path, role)| match *path {
        path if OF_WORKER.contains(&path) && tenant == DEFAULT_TENANT => Role::Admin,
        _ => *role,
    })
}

/// All routes, for the tests.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (&'static Method, &'static str)> {
    ROUTES.iter().map(|(method, path, _)| (method, *path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_nobody_thought_of_takes_no_role() {
        let needed = |method, path| needed(&method, path, DEFAULT_TENANT);
        assert_eq!(needed(POST, "/v1/handlers/{handler}/pause"), Some(Role::Operate));
        assert_eq!(needed(GET, "/v1/handlers/{handler}/pause"), None);
        assert_eq!(needed(Method::HEAD, "/v1/stats"), Some(Role::View));
        assert_eq!(needed(Method::DELETE, "/v1/stats"), None);
        assert_eq!(needed(GET, "/v1/nothing"), None);
    }

    #[test]
    fn what_is_of_the_worker_itself_is_for_its_admin() {
        assert_eq!(needed(&GET, AUDIT, "acme"), Some(Role::View));
        assert_eq!(needed(&GET, AUDIT, DEFAULT_TENANT), Some(Role::Admin));
        assert_eq!(needed(&POST, GC, "acme"), Some(Role::Deploy));
        assert_eq!(needed(&POST, GC, DEFAULT_TENANT), Some(Role::Admin));
    }

    #[test]
    fn every_described_route_has_a_role_and_every_change_takes_more_than_looking() {
        let document = serde_json::to_value(super::super::openapi_document()).unwrap();
        let mut described = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            for method in operations.as_object().unwrap().keys() {
                let method: Method = method.to_uppercase().parse().unwrap();
                let role = needed(&method, path, "acme").unwrap_or_else(|| panic!("{method} {path} has no role"));
                assert!(method == GET || role > Role::View, "{method} {path} can be done by whoever may look");
                described += 1;
            }
        }
        // What is not described: the description itself, the metrics.
        let is_described = |path: &str| !["/metrics", "/openapi.json"].contains(&path);
        let expected = ROUTES.iter().filter(|(_, path, _)| is_described(path)).count();
        assert_eq!(described, expected, "the table has routes that are not there");
    }
}
