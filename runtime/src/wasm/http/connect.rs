//! One request: look up the name, check the addresses, connect to one that was checked, send, wait for the head of the
//! response.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response, Uri, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsConnector;
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody};

use super::address::{Reach, reach, unwrapped};
use super::body::{Outgoing, Received};
use super::origin::Origin;
use super::{Exchange, HttpPolicy, Sent};

/// The largest head of a response, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Names that are looked up at the same time, each on a thread that cannot be stopped; further ones wait.
const MAX_LOOKUPS: usize = 64;
static LOOKUPS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);

/// A connection, with or without TLS.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// The sooner of a point in time and one that is so far from now.
pub(super) fn soonest(end: Instant, pause: Duration) -> Instant {
    Instant::now().checked_add(pause).map_or(end, |then| then.min(end))
}

/// Sends a request that was admitted.
pub(super) async fn send(
    exchange: Arc<Exchange>,
    origin: Origin,
    request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<Sent> {
    let end = soonest(exchange.deadline.at().into(), exchange.policy.timeout);
    let within = |limit: Option<Duration>| limit.map_or(end, |limit| soonest(end, limit));
    let connect_end = within(options.connect_timeout);
    let wire = timeout_at(connect_end, connect(&exchange, &origin)).await.map_err(|_| Error::ConnectionTimeout)??;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(wire)).await?;
    let driver: AbortOnDropJoinHandle<Result<(), hyper::Error>> = spawn(connection);
    let request = request_on_the_wire(request).map(|body| Outgoing::new(body, exchange.clone()));
    let head = timeout_at(within(options.first_byte_timeout), sender.send_request(request)).await;
    let response = head.map_err(|_| Error::ConnectionReadTimeout)??;
    let length = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let limit = exchange.policy.response_bytes;
    let left = limit.saturating_sub(exchange.received.load(Ordering::Relaxed));
    if length.is_some_and(|length: u64| length > left) && !response.body().is_end_stream() {
        return Err(Error::HttpResponseBodySize(Some(limit)));
    }
    let pause = options.between_bytes_timeout.unwrap_or(Duration::MAX);
    let delivery = exchange.clone();
    let response: Response<WasiBody> = response.map(|body| {
        let timer = Box::pin(sleep_until(soonest(end, pause)));
        Received { body, exchange, end, pause, timer }.boxed_unsync()
    });
    // The connection lives as long as the guest holds the response, and no longer than the request may take or the
    // delivery does. How it ends, the guest learns from the body.
    let drive = async move {
        tokio::select! {
            () = delivery.is_over() => {}
            _ = timeout_at(end, driver) => {}
        }
        Ok(())
    };
    Ok((response, Box::new(drive)))
}

/// The request as a server wants it: with the path alone. Whom it is for says the `host` header.
fn request_on_the_wire(mut request: Request<WasiBody>) -> Request<WasiBody> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().path_and_query(path).build().expect("it is part of a URI");
    *request.uri_mut() = uri;
    request
}

/// Connects to the first of the host's addresses that may be used and answers.
async fn connect(exchange: &Exchange, origin: &Origin) -> Result<Box<dyn Wire>> {
    let stream = reach_out(exchange, origin).await?;
    // Small requests go out at once; failing to set it costs time only.
    let _ = stream.set_nodelay(true);
    if !origin.secure {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(origin.host.clone()).map_err(|_| Error::HttpRequestUriInvalid)?;
    let stream = TlsConnector::from(tls()).connect(name, stream).await.map_err(Error::Tls)?;
    Ok(Box::new(stream))
}

async fn reach_out(exchange: &Exchange, origin: &Origin) -> Result<TcpStream> {
    let addresses = resolve(&origin.host, origin.port).await?;
    let own = own_addresses(&exchange.policy, origin.port).await;
    let mut last = Error::DestinationIpProhibited;
    let mut refused = None;
    for address in addresses {
        if let Some(reason) = prohibited(&exchange.policy, &own, origin, address) {
            refused = refused.or(Some(format!("{} is {reason}", address.ip())));
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) if own.is_ours(&stream) => {
                refused = refused.or(Some(format!("{} is an address of wasmill itself", address.ip())));
            }
            Ok(stream) => return Ok(stream),
            Err(error) => last = Error::Connect(error),
        }
    }
    if let (Error::DestinationIpProhibited, Some(reason)) = (&last, refused) {
        exchange.deny(&origin.to_string(), &reason);
    }
    Err(last)
}

/// All addresses of a host. Looked up by the system; what comes of it is used as it is, and not looked up again.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let failed = || Error::DnsError { rcode: None, info_code: None };
    let permit = LOOKUPS.acquire().await.map_err(|_| failed())?;
    let host = host.to_owned();
    // A task of its own: the look-up counts until the system has answered, not until somebody stops waiting for it.
    let found = tokio::spawn(async move {
        let _permit = permit;
        lookup_host((host, port)).await.map(Iterator::collect)
    });
    let addresses: Vec<SocketAddr> = found.await.map_err(|_| failed())?.map_err(|_| failed())?;
    match addresses.is_empty() {
        true => Err(Error::DestinationNotFound),
        false => Ok(addresses),
    }
}

/// Why an address may not be used.
fn prohibited(policy: &HttpPolicy, own: &Own, origin: &Origin, address: SocketAddr) -> Option<&'static str> {
    if own.contains(address.ip()) {
        return Some("an address of wasmill itself");
    }
    let reach = reach(address.ip());
    // Whoever writes the number into the allow-list means it; a name may come to mean something else.
    let is_named = origin.ip().is_some();
    let allowed = match reach {
        Reach::Public => true,
        Reach::Private => is_named || policy.private,
        Reach::Link => is_named,
        Reach::Nowhere => false,
    };
    (!allowed).then(|| reach.as_str())
}

/// The addresses of our own Redis and admin API, as far as they have the port of the request.
struct Own {
    /// Whether any of them has.
    port: bool,
    /// One of their names could not be looked up: then no address is known to be another's.
    unknown: bool,
    addresses: Vec<IpAddr>,
}

async fn own_addresses(policy: &HttpPolicy, port: u16) -> Own {
    let mut own = Own { port: false, unknown: false, addresses: Vec::new() };
    for (host, _) in policy.own.iter().filter(|(_, own)| *own == port) {
        own.port = true;
        match resolve(host, port).await {
            Ok(addresses) => own.addresses.extend(addresses.iter().map(|address| unwrapped(address.ip()))),
            Err(_) => own.unknown = true,
        }
    }
    own
}

impl Own {
    fn contains(&self, ip: IpAddr) -> bool {
        let ip = unwrapped(ip);
        self.port && (self.unknown || ip.is_loopback() || self.addresses.contains(&ip))
    }

    /// Whether a connection leads to this machine: then both of its ends have the same address. What listens there on
    /// one of our ports may listen on all addresses.
    fn is_ours(&self, stream: &TcpStream) -> bool {
        let ends = stream.peer_addr().and_then(|peer| Ok((peer.ip(), stream.local_addr()?.ip())));
        self.port && ends.map_or(true, |(peer, local)| peer == local)
    }
}

/// TLS with the well-known authorities.
fn tls() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().expect("ring knows TLS 1.2 and 1.3");
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    });
    config.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn look_ups_of_names_are_bounded() {
        let all = LOOKUPS.acquire_many(MAX_LOOKUPS as u32).await.expect("it is never closed");
        assert!(resolve("127.0.0.1", 1).await.is_ok(), "nothing has to be looked up");
        let waits = tokio::time::timeout(Duration::from_millis(50), resolve("localhost", 1)).await;
        assert!(waits.is_err());
        drop(all);
        assert!(resolve("localhost", 1).await.is_ok_and(|found| found.iter().all(|found| found.ip().is_loopback())));
        assert_eq!(LOOKUPS.available_permits(), MAX_LOOKUPS);
    }

    #[test]
    fn a_server_is_sent_the_path_alone() {
        let on_the_wire = |uri: &str| {
            let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
            let request = Request::builder().uri(uri).body(body).expect("a request");
            request_on_the_wire(request).uri().to_string()
        };
        for (uri, wanted) in [
            ("http://a.example", "/"),
            ("http://a.example/", "/"),
            ("http://a.example?q=1", "/?q=1"),
            ("http://a.example//b.example/x", "//b.example/x"),
            ("http://a.example:1/http://b.example/", "/http://b.example/"),
        ] {
            assert_eq!(on_the_wire(uri), wanted, "{uri}");
        }
    }
}
