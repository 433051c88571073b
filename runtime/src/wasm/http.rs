//! `wasi:http/outgoing-handler`: requests of a guest to hosts that its handler was granted by name.
//!
//! - [`origin`]: which hosts are allowed; `address`: which of their addresses
//! - `connect`: one request, from the look-up of the name to the head of the response
//! - `body`: the caps on what goes out and comes in; `codes`: what guests are told when a request fails
//!
//! Redirects are answers like any other: following one is a new request, which is checked like the first.

mod address;
mod body;
pub(super) mod codes;
mod connect;
pub mod origin;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, header};
use tokio::sync::watch;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpCtx, WasiHttpHooks};

use self::origin::Origin;
use super::GuestEvent;
use super::deadline::Deadline;
use super::host::{Policy, derived_id};
use super::logs::{LogBuffer, LogLevel};

/// The header that lets a server know a request that is sent again.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The most that the host keeps of a request body which is not on its way yet, in bytes. A guest can hold many.
const BODY_BUFFER: usize = 64 << 10;
/// The pieces that it is kept in: what `wasmtime-wasi-http` buffers at least, and the one that is being written.
const BODY_PIECES: usize = 2;
/// The most that the header fields of a request may take in memory, in bytes. A guest can hold many of these, too.
const FIELDS: usize = 32 << 10;

/// What the requests of a handler are bounded by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpPolicy {
    /// Where they may go.
    pub allow: Vec<Origin>,
    /// Whether the names of allowed hosts may resolve to loopback and private addresses.
    pub private: bool,
    /// Requests that one delivery may send.
    pub requests: u32,
    /// Bytes of all request bodies of a delivery.
    pub request_bytes: u64,
    /// Bytes of all response bodies of a delivery.
    pub response_bytes: u64,
    /// How long one request may take, from its start to the end of the response; the deadline of the delivery holds too.
    pub timeout: Duration,
    /// What nobody may be granted: host and port of our own Redis and admin API.
    pub own: Vec<(String, u16)>,
}

/// What the requests of one delivery share. Requests run as tasks of their own, beside the guest.
pub(super) struct Exchange {
    pub(super) policy: Arc<HttpPolicy>,
    logs: LogBuffer,
    deadline: Deadline,
    handler: Arc<str>,
    sent: AtomicU64,
    received: AtomicU64,
    denied: AtomicU64,
    /// Its other end is dropped with the delivery.
    delivery: watch::Receiver<()>,
}

impl Exchange {
    /// Comes when the delivery is over: an instance that is used again may still hold its requests.
    async fn is_over(&self) {
        // Nothing is ever sent, so that this fails, and not before the other end is gone.
        let _ = self.delivery.clone().changed().await;
    }

    /// Counts a request that was refused, and says so.
    fn deny(&self, target: &str, reason: &str) {
        self.denied.fetch_add(1, Ordering::Relaxed);
        let message = format!("handler {}: the request to {target} was denied: {reason}", self.handler);
        self.logs.note(LogLevel::Warn, "wasi:http", &message);
    }
}

/// What a store needs for `wasi:http` while it runs one delivery. Made when the guest first uses it.
pub(super) struct HttpState {
    pub(super) ctx: WasiHttpCtx,
    pub(super) hooks: Hooks,
    _delivery: watch::Sender<()>,
}

impl HttpState {
    /// `event` and `replay_run` are those of the delivery; without an event, while an instance starts, all is denied.
    pub(super) fn new(
        policy: &Arc<Policy>,
        event: Option<(Arc<GuestEvent>, Arc<str>)>,
        logs: &LogBuffer,
        deadline: Deadline,
    ) -> HttpState {
        let (sender, delivery) = watch::channel(());
        let exchange = policy.interfaces.http.clone().map(|http| {
            Arc::new(Exchange {
                policy: http,
                logs: logs.clone(),
                deadline,
                handler: policy.handler.clone(),
                sent: AtomicU64::new(0),
                received: AtomicU64::new(0),
                denied: AtomicU64::new(0),
                delivery,
            })
        });
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(FIELDS);
        let hooks = Hooks { policy: policy.clone(), event, exchange, requests: 0 };
        HttpState { ctx, hooks, _delivery: sender }
    }

    /// The key that the next request of this delivery will have.
    pub(super) fn next_key(&self) -> Option<String> {
        self.hooks.key()
    }

    /// Requests that were refused.
    pub(super) fn denied(&self) -> u64 {
        self.hooks.exchange.as_ref().map_or(0, |exchange| exchange.denied.load(Ordering::Relaxed))
    }
}

/// Our answers to what the implementation of `wasi:http` asks.
pub(super) struct Hooks {
    policy: Arc<Policy>,
    event: Option<(Arc<GuestEvent>, Arc<str>)>,
    exchange: Option<Arc<Exchange>>,
    requests: u32,
}

impl Hooks {
    fn key(&self) -> Option<String> {
        let (event, replay_run) = self.event.as_ref()?;
        Some(derived_id(&self.policy, event, self.requests as usize, replay_run, "wasi:http"))
    }

    /// Checks everything that can be known without looking up the name of the host.
    fn admit(&mut self, request: &mut Request<WasiBody>) -> Result<(Arc<Exchange>, Origin)> {
        let (Some(exchange), Some(key)) = (self.exchange.clone(), self.key()) else {
            return Err(Error::HttpRequestDenied);
        };
        // Shown to operators: the rest of the URL may hold secrets.
        let shown = request.uri().authority().map_or("", |authority| authority.host()).escape_debug().to_string();
        let origin = Origin::of(request.uri()).map_err(|error| {
            exchange.deny(&shown, &error.to_string());
            Error::HttpRequestUriInvalid
        })?;
        let policy = &exchange.policy;
        if !policy.allow.contains(&origin) {
            exchange.deny(&origin.to_string(), "it is not among handlers.NAME.http.allow");
            return Err(Error::HttpRequestDenied);
        }
        // A tunnel would lead to any host.
        if request.method() == Method::CONNECT {
            exchange.deny(&origin.to_string(), "CONNECT is not allowed");
            return Err(Error::HttpRequestMethodInvalid);
        }
        if self.requests >= policy.requests {
            exchange.deny(&origin.to_string(), "the delivery has sent handlers.NAME.http.requests requests");
            return Err(Error::HttpRequestDenied);
        }
        self.requests += 1;
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let left = policy.request_bytes.saturating_sub(exchange.sent.load(Ordering::Relaxed));
        if length.is_some_and(|length: u64| length > left) {
            return Err(Error::HttpRequestBodySize(Some(policy.request_bytes)));
        }
        if !request.headers().contains_key(IDEMPOTENCY_KEY) {
            let value = HeaderValue::from_str(&key).expect("a UUID is a header value");
            request.headers_mut().insert(IDEMPOTENCY_KEY, value);
        }
        Ok((exchange, origin))
    }
}

/// What the guest has of a request: its response, and the work that goes on until the connection ends.
type Sent = (http::Response<WasiBody>, Box<dyn Future<Output = Result<()>> + Send>);

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<()>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent>> + Send> {
        let admitted = self.admit(&mut request);
        Box::new(async move {
            let (exchange, origin) = admitted?;
            let sent = connect::send(exchange.clone(), origin, request, options.unwrap_or_default());
            tokio::select! {
                // First: nothing may be said of a delivery that is over.
                biased;
                () = exchange.is_over() => Err(Error::ConnectionTerminated),
                sent = sent => sent,
            }
        })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BODY_PIECES - 1
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_BUFFER / BODY_PIECES
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        codes::of_hyper(error)
    }

    fn p2_error_from_connect(&mut self, error: &std::io::Error) -> ErrorCode {
        codes::of_connect(error)
    }

    fn p2_error_from_tls(&mut self, error: &std::io::Error) -> ErrorCode {
        codes::of_tls(error)
    }
}
