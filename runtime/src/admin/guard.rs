//! Who is let in: tokens with roles, and no web page that was made to ask for something.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

use super::{Admin, Problem, roles, tenant};
use crate::access::{Actor, Holder, Tokens};
use crate::broker::keys::DEFAULT_TENANT;

/// Refusals that are written into the audit log of a tenant: so many in [`REFUSALS_TIME`], so that they do not push out what
/// was done. All of them are counted.
const MAX_REFUSALS: u32 = 20;
/// See [`MAX_REFUSALS`].
const REFUSALS_TIME: Duration = Duration::from_secs(3600);

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
    /// Since when how many were written into the audit log of each tenant.
    written: Mutex<HashMap<Arc<str>, (Instant, u32)>>,
}

impl Refused {
    /// Whether a refusal is to be written into the audit log of a tenant, which counts as done. There are as many as have
    /// tokens.
    fn is_written(&self, tenant: &Arc<str>, now: Instant) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = written.entry(tenant.clone()).or_insert((now, 0));
        if now.duration_since(*since) >= REFUSALS_TIME {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= MAX_REFUSALS
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
    mut request: Request,
    next: Next,
) -> Response {
    let route = route.as_ref().map(MatchedPath::as_str);
    match examine(&admin.gate.tokens(), &request, route, tenant::named(request.extensions())) {
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
    // It is told to those whose token it is, and not to those whose things were asked for.
    let tenant = match &actor {
        Actor::Token(Holder { tenant: Some(tenant), .. }) => tenant.clone(),
        _ => DEFAULT_TENANT.into(),
    };
    let operator = admin.operators.borrow().get(&tenant).cloned();
    let Some(operator) = operator.filter(|_| admin.gate.refused.is_written(&tenant, Instant::now())) else { return };
    operator.acting_as(actor).note_refusal(what, why).await;
}

/// Who asks, if they may. `route` is without the tenant, `named` the one that the request names.
fn examine(tokens: &Tokens, request: &Request, route: Option<&str>, named: Option<&str>) -> Result<Actor, Refuse> {
    let actor = match tokens.is_empty() {
        true => Actor::Anybody,
        false => Actor::Token(holder(tokens, request)?.clone()),
    };
    // Behind no route there is nothing but the answer that there is none.
    let Some(route) = route else { return Ok(actor) };
    let Some(needed) = roles::needed(request.method(), route, named.unwrap_or(DEFAULT_TENANT)) else {
        let problem = Problem::new(405, "method-not-allowed", "this path has other methods; see /openapi.json");
        return Err(Refuse { refusal: Refusal::Role, actor, problem });
    };
    let Actor::Token(Holder { role, tenant: Some(own) }) = &actor else { return Ok(actor) };
    let problem = match named {
        // The answer for one that is there is that for one that is not.
        Some(other) if other != &**own => tenant::unknown(),
        None if &**own != DEFAULT_TENANT => {
            Problem::new(403, "tenant", format!("this token is for /v1/tenants/{own}/ alone"))
        }
        _ if *role < needed => {
            let detail = format!("this takes a token of the role `{needed}`; this one has the role `{role}`");
            let problem = Problem::new(403, "role", detail);
            return Err(Refuse { refusal: Refusal::Role, actor, problem });
        }
        _ => return Ok(actor),
    };
    Err(Refuse { refusal: Refusal::Tenant, actor, problem })
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
    fn so_many_refusals_of_each_tenant_are_written_down_in_an_hour() {
        let (refused, start) = (Refused::default(), Instant::now());
        let [a, b] = ["a", "b"].map(Arc::from);
        assert_eq!((0..100).filter(|_| refused.is_written(&a, start)).count(), MAX_REFUSALS as usize);
        assert!(refused.is_written(&b, start), "another one's is no matter of it");
        assert!(!refused.is_written(&a, start + REFUSALS_TIME - Duration::from_millis(1)));
        assert!(refused.is_written(&a, start + REFUSALS_TIME));
    }

    /// One token of each role for two tenants and `default`, and that of everything.
    fn tokens() -> Tokens {
        let mut tokens = Tokens::default();
        for tenant in ["a", "b", DEFAULT_TENANT] {
            for role in Role::OF_TENANTS {
                let holder = Holder { role, tenant: Some(tenant.into()) };
                let secret = (format!("{tenant}.{role}"), format!("{tenant}-{role}"), holder);
                tokens.add(vec![secret], &Tokens::default()).unwrap();
            }
        }
        let admin = ("admin.token".to_owned(), "admin".to_owned(), Holder::ADMIN);
        tokens.add(vec![admin], &Tokens::default()).unwrap();
        tokens
    }

    fn ask(token: Option<&str>, method: &Method, path: &str, named: Option<&str>) -> Result<Actor, (u16, String)> {
        let mut request = Request::builder().method(method.clone()).uri("/");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).unwrap();
        let examined = examine(&tokens(), &request, Some(path), named);
        examined.map_err(|refuse| (refuse.problem.status, refuse.problem.r#type.rsplit(':').next().unwrap().to_owned()))
    }

    /// All routes for `default`, not named, and for the tenant `a`.
    fn routes() -> impl Iterator<Item = (&'static Method, &'static str, Option<&'static str>, Role)> {
        roles::all().flat_map(|(method, path)| {
            [None, Some(DEFAULT_TENANT), Some("a")].map(|named| {
                let needed = roles::needed(method, path, named.unwrap_or(DEFAULT_TENANT)).unwrap();
                (method, path, named, needed)
            })
        })
    }

    #[test]
    fn each_role_may_do_what_it_may_on_each_route_and_no_more() {
        for (method, path, named, needed) in routes() {
            let own = named.unwrap_or(DEFAULT_TENANT);
            for role in Role::OF_TENANTS {
                let answer = ask(Some(&format!("{own}-{role}")), method, path, named);
                let holder = Holder { role, tenant: Some(own.into()) };
                let expected = if role >= needed { Ok(Actor::Token(holder)) } else { Err((403, "role".to_owned())) };
                assert_eq!(answer, expected, "{role} {method} {path} of {named:?}");
            }
            assert_eq!(ask(Some("admin"), method, path, named), Ok(Actor::Token(Holder::ADMIN)));
            assert_eq!(ask(Some("wrong"), method, path, named), Err((401, "wrong-token".to_owned())));
            assert_eq!(ask(None, method, path, named), Err((401, "no-token".to_owned())));
        }
    }

    #[test]
    fn of_other_tenants_nothing_is_seen_and_what_is_nobodys_alone_is_closed() {
        for (method, path, named, _) in routes() {
            for role in Role::OF_TENANTS {
                let answer = ask(Some(&format!("b-{role}")), method, path, named);
                let expected = if named.is_some() { (404, "unknown-tenant") } else { (403, "tenant") };
                assert_eq!(answer, Err((expected.0, expected.1.to_owned())), "{role} {method} {path} of {named:?}");
                assert_eq!(ask(Some(&format!("b-{role}")), method, path, Some("none")), {
                    Err((404, "unknown-tenant".to_owned()))
                });
            }
        }
    }

    #[test]
    fn a_route_that_nobody_thought_of_is_refused_whoever_asks() {
        assert_eq!(ask(Some("admin"), &Method::POST, "/v1/new", None), Err((405, "method-not-allowed".to_owned())));
        assert_eq!(ask(Some("admin"), &Method::DELETE, "/v1/stats", None), Err((405, "method-not-allowed".to_owned())));
    }
}
