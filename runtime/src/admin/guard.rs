//! Who is let in: a token, and no web page that was made to ask for something.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::{Admin, Problem};

/// A secret that requests must carry, as its SHA-256: comparing takes the same time wherever two of them differ.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Keeps the hash of the secret.
    pub fn new(secret: &str) -> Token {
        Token(Sha256::digest(secret).into())
    }

    fn admits(&self, secret: &str) -> bool {
        // Of the hashes nothing can be learned by their prefixes.
        self.0 == <[u8; 32]>::from(Sha256::digest(secret))
    }
}

/// Refuses requests without the token, if there is one.
pub(super) async fn check_token(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let Some(token) = &admin.token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
    });
    if given.is_some_and(|secret| token.admits(secret)) {
        return next.run(request).await;
    }
    let (kind, detail) = match given {
        Some(_) => ("wrong-token", "the token is wrong; it is what admin.token_env or admin.token_file names"),
        None => ("no-token", "send the token: `authorization: Bearer TOKEN`; the command line has --admin-token-file"),
    };
    let mut response = Problem::new(401, kind, detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

/// Without a token, refuses requests that name this machine by another name than a loopback one: a page from elsewhere
/// whose name has been made to point here.
pub(super) async fn check_host(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().host().or(host).unwrap_or("localhost");
    if admin.token.is_some() || is_loopback(host) {
        return next.run(request).await;
    }
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
    use super::*;

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
    fn only_the_secret_is_admitted() {
        let token = Token::new("a secret of some length");
        assert!(token.admits("a secret of some length"));
        assert!(!token.admits("a secret of some lengtH") && !token.admits(""));
    }
}
