//! Who is let in: tokens with roles, and no web page that was made to ask for something.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

use super::{Admin, Problem, roles};
use crate::access::{Actor, Holder, Tokens};
use crate::broker::keys::DEFAULT_TENANT;

/// Refusals that are written into the audit log: so many in [`REFUSALS_TIME`]. All of them are counted.
const MAX_REFUSALS: u32 = 20;
/// See [`MAX_REFUSALS`].
const REFUSALS_TIME: Duration = Duration::from_secs(60);

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It carries no token.
    NoToken,
    /// Its token is not known.
    WrongToken,
    /// Its token is of another tenant.
    Tenant,
    /// Its token has a lesser role than it takes.
    Role,
    /// It names this machine by a foreign name.
    Host,
}

impl Refusal {
    pub(super) const ALL: [Refusal; 5] =
        [Refusal::NoToken, Refusal::WrongToken, Refusal::Tenant, Refusal::Role, Refusal::Host];

    /// Its name in the metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Refusal::NoToken => "no_token",
            Refusal::WrongToken => "wrong_token",
            Refusal::Tenant => "tenant",
            Refusal::Role => "role",
            Refusal::Host => "host",
        }
    }
}

/// Who is let in, and how many were not. Clones are one.
#[derive(Clone)]
pub struct Gate {
    tokens: watch::Receiver<Arc<Tokens>>,
    refused: Arc<Refused>,
}

#[derive(Default)]
struct Refused {
    counts: [AtomicU64; Refusal::ALL.len()],
    /// Since when how many were written into the audit log.
    written: Mutex<Option<(Instant, u32)>>,
}

impl Refused {
    /// Whether a refusal is to be written into the audit log, which counts as done.
    fn is_written(&self, now: Instant) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) =
            written.filter(|(since, _)| now.duration_since(*since) < REFUSALS_TIME).unwrap_or((now, 0));
        *written = Some((since, count.saturating_add(1)));
        count < MAX_REFUSALS
    }
}

impl Gate {
    /// Lets in who has one of the tokens, whichever they are at the time; everybody if there is none.
    pub fn new(tokens: watch::Receiver<Arc<Tokens>>) -> Gate {
        Gate { tokens, refused: Arc::default() }
    }

    /// Lets in everybody who can connect.
    pub fn open() -> Gate {
        // Without a sender the value stays as it is.
        Gate::new(watch::channel(Arc::default()).1)
    }

    fn tokens(&self) -> Arc<Tokens> {
        self.tokens.borrow().clone()
    }

    /// How many were refused, by the reason.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = Refusal::ALL.iter().zip(&self.refused.counts);
        counts.map(|(reason, count)| (reason.name(), count.load(Ordering::Relaxed)))
    }

    fn count(&self, refusal: Refusal) {
        self.refused.counts[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// A refusal, who was refused, and what is answered.
struct Refuse {
    refusal: Refusal,
    actor: Actor,
    problem: Problem,
}

/// Refuses requests that carry no token, or one that does not go as far as they do. Those that it lets through know who
/// asks.
pub(super) async fn check_token(
    State(admin): State<Admin>,
    route: Option<MatchedPath>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    // Behind no route there are none.
    let mut params = params.iter().flatten();
    let tenant = params.find(|(name, _)| *name == "tenant").map(|(_, tenant)| tenant);
    match examine(&admin.gate.tokens(), &request, route.as_ref().map(MatchedPath::as_str), tenant) {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(Refuse { refusal, actor, problem }) => {
            let what = format!("{} {}", request.method(), request.uri().path());
            refuse(&admin, refusal, actor, what, &problem.detail).await;
            let is_unknown = problem.status == 401;
            let mut response = problem.into_response();
            if is_unknown {
                let scheme = header::HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            response
        }
    }
}

/// Counts a refusal, and writes it down if there were not too many.
async fn refuse(admin: &Admin, refusal: Refusal, actor: Actor, what: String, why: &str) {
    admin.gate.count(refusal);
    if admin.gate.refused.is_written(Instant::now()) {
        let operator = admin.operator.borrow().clone();
        operator.acting_as(actor).note_refusal(what, why).await;
    }
}

/// Who asks, if they may. `tenant` is the one that the path names.
fn examine(tokens: &Tokens, request: &Request, route: Option<&str>, tenant: Option<&str>) -> Result<Actor, Refuse> {
    let actor = match tokens.is_empty() {
        true => Actor::Anybody,
        false => Actor::Token(holder(tokens, request)?.clone()),
    };
    // Behind no route there is nothing but the answer that there is none.
    let Some(route) = route else { return Ok(actor) };
    let Some(needed) = roles::needed(request.method(), route) else {
        let problem = Problem::new(405, "method-not-allowed", "this path has other methods; see /openapi.json");
        return Err(Refuse { refusal: Refusal::Role, actor, problem });
    };
    let Actor::Token(Holder { role, tenant: own }) = &actor else { return Ok(actor) };
    let Some(own) = own else { return Ok(actor) };
    if tenant.unwrap_or(DEFAULT_TENANT) != &**own {
        let problem = match tenant {
            // The answer for one that is there is that for one that is not.
            Some(other) => unknown_tenant(other),
            None => Problem::new(403, "tenant", format!("this token is for /v1/tenants/{own}/ alone")),
        };
        return Err(Refuse { refusal: Refusal::Tenant, actor, problem });
    }
    if *role < needed {
        let detail = format!("this takes a token of the role `{needed}`; this one has the role `{role}`");
        return Err(Refuse { refusal: Refusal::Role, actor, problem: Problem::new(403, "role", detail) });
    }
    Ok(actor)
}

/// What is answered for a tenant that is not there, or is not to be seen.
pub(super) fn unknown_tenant(name: &str) -> Problem {
    Problem::new(404, "unknown-tenant", format!("there is no tenant `{}`", name.escape_debug()))
}

/// Whose token the request carries.
fn holder<'a>(tokens: &'a Tokens, request: &Request) -> Result<&'a Holder, Refuse> {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
    });
    let (refusal, kind, detail) = match given.map(|secret| tokens.holder(secret)) {
        Some(Some(holder)) => return Ok(holder),
        Some(None) => {
            let detail = "the token is wrong; it is what admin.token_env or admin.token_file names, or a key of the same \
                          kind for a role or a tenant";
            (Refusal::WrongToken, "wrong-token", detail)
        }
        None => {
            let detail = "send the token: `authorization: Bearer TOKEN`; the command line has --admin-token-file";
            (Refusal::NoToken, "no-token", detail)
        }
    };
    Err(Refuse { refusal, actor: Actor::Nobody, problem: Problem::new(401, kind, detail) })
}

/// Without a token, refuses requests that name this machine by another name than a loopback one: a page from elsewhere
/// whose name has been made to point here.
pub(super) async fn check_host(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().host().or(host).unwrap_or("localhost");
    if !admin.gate.tokens().is_empty() || is_loopback(host) {
        return next.run(request).await;
    }
    admin.gate.count(Refusal::Host);
    let detail = "the host of the request is not a loopback name: use 127.0.0.1, [::1] or localhost, or set a token";
    Problem::new(403, "foreign-host", detail).into_response()
}

/// Whether `HOST` or `HOST:PORT` is a loopback name.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Method;

    use super::*;
    use crate::access::Role;

    #[test]
    fn loopback_names_are_known() {
        for host in ["localhost", "LOCALHOST:9464", "127.0.0.1", "127.0.0.2:80", "[::1]", "[::1]:9464"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "example.com", "127.0.0.1.example.com", "10.0.0.1:9464", "[2001:db8::1]:80", "localhost.evil"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn so_many_refusals_are_written_down_in_a_minute() {
        let (refused, start) = (Refused::default(), Instant::now());
        assert_eq!((0..100).filter(|_| refused.is_written(start)).count(), MAX_REFUSALS as usize);
        assert!(!refused.is_written(start + REFUSALS_TIME - Duration::from_millis(1)));
        assert!(refused.is_written(start + REFUSALS_TIME));
    }

    /// One token of each role for two tenants and `default`, and that of everything.
    fn tokens() -> Tokens {
        let mut tokens = Tokens::default();
        for tenant in ["a", "b", DEFAULT_TENANT] {
            for role in Role::OF_TENANTS {
                let holder = Holder { role, tenant: Some(tenant.into()) };
                tokens.add(&format!("{tenant}-{role}"), format!("{tenant}.{role}"), holder).unwrap();
            }
        }
        tokens.add("admin", "admin".to_owned(), Holder::ADMIN).unwrap();
        tokens
    }

    fn ask(token: Option<&str>, method: &Method, route: &str, tenant: Option<&str>) -> Result<Actor, (u16, String)> {
        let mut request = Request::builder().method(method.clone()).uri("/");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).unwrap();
        let examined = examine(&tokens(), &request, Some(route), tenant);
        examined.map_err(|refuse| (refuse.problem.status, refuse.problem.r#type.rsplit(':').next().unwrap().to_owned()))
    }

    /// All routes with the role that they take, for the tenant `default` and for others.
    fn routes() -> Vec<(Method, String, Option<&'static str>, Role)> {
        let mut routes = Vec::new();
        for (method, path, role) in roles::all() {
            match path.strip_prefix(roles::OF_TENANT) {
                Some(_) => routes.push((method.clone(), path.to_owned(), Some("a"), role)),
                None => {
                    routes.push((method.clone(), path.to_owned(), None, role));
                    let Some(rest) = path.strip_prefix("/v1").filter(|rest| *rest != "/audit") else { continue };
                    routes.push((method.clone(), format!("{}{rest}", roles::OF_TENANT), Some("a"), role));
                }
            }
        }
        assert!(routes.len() > 50);
        routes
    }

    #[test]
    fn each_role_may_do_what_it_may_on_each_route_and_no_more() {
        for (method, route, tenant, needed) in routes() {
            let own = tenant.unwrap_or(DEFAULT_TENANT);
            for role in Role::OF_TENANTS {
                let answer = ask(Some(&format!("{own}-{role}")), &method, &route, tenant);
                let holder = Holder { role, tenant: Some(own.into()) };
                let expected = if role >= needed { Ok(Actor::Token(holder)) } else { Err((403, "role".to_owned())) };
                assert_eq!(answer, expected, "{role} {method} {route}");
            }
            assert_eq!(ask(Some("admin"), &method, &route, tenant), Ok(Actor::Token(Holder::ADMIN)));
            assert_eq!(ask(Some("wrong"), &method, &route, tenant), Err((401, "wrong-token".to_owned())));
            assert_eq!(ask(None, &method, &route, tenant), Err((401, "no-token".to_owned())));
        }
    }

    #[test]
    fn another_tenant_is_none_and_what_belongs_to_nobody_alone_is_closed() {
        for (method, route, tenant, _) in routes() {
            for role in Role::OF_TENANTS {
                let answer = ask(Some(&format!("b-{role}")), &method, &route, tenant);
                let expected = if tenant.is_some() { (404, "unknown-tenant") } else { (403, "tenant") };
                assert_eq!(answer, Err((expected.0, expected.1.to_owned())), "{role} {method} {route}");
            }
        }
        let there = unknown_tenant("a");
        let text = |tenant: &str| {
            let token = Request::builder().header(header::AUTHORIZATION, "Bearer b-view").body(Body::empty()).unwrap();
            let refuse = examine(&tokens(), &token, Some("/v1/tenants/{tenant}/stats"), Some(tenant)).unwrap_err();
            refuse.problem
        };
        assert_eq!(text("a"), there, "one that is there");
        assert_eq!(text("zzz").detail, there.detail.replace("`a`", "`zzz`"), "one that is not");
    }

    #[test]
    fn a_route_that_nobody_thought_of_is_refused_whoever_asks() {
        assert_eq!(ask(Some("admin"), &Method::POST, "/v1/new", None), Err((405, "method-not-allowed".to_owned())));
        assert_eq!(ask(Some("admin"), &Method::DELETE, "/v1/stats", None), Err((405, "method-not-allowed".to_owned())));
    }
}
