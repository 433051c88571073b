//! Serving connections: only so many at a time, and none may take for ever to say what it wants.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What connections may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time; further ones wait to be accepted.
    pub(super) connections: usize,
    /// How long a connection may take until the head of its next request is there.
    pub(super) head: Duration,
}

impl Default for Limits {
    /// More than any monitoring needs; as much patience as a slow line needs.
    fn default() -> Limits {
        Limits { connections: 256, head: Duration::from_secs(15) }
    }
}

/// How long to wait when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is done; then lets running requests end.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: impl Future<Output = ()>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let has_room = connections.len() < limits.connections;
        let accepted = tokio::select! {
            accepted = listener.accept(), if has_room => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(&http, stream, router.clone());
                let connection = graceful.watch(connection);
                connections.spawn(async move {
                    // A connection that breaks concerns nobody but its other end.
                    let _ = connection.await;
                });
            }
            Err(error) => {
                tracing::warn!("the admin API cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
    while connections.join_next().await.is_some() {}
}

fn connection(
    http: &http1::Builder,
    stream: TcpStream,
    router: Router,
) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    // Without it a small answer may wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    async fn ask(stream: &mut TcpStream) -> String {
        let mut answer = String::new();
        stream.write_all(REQUEST).await.expect("it is connected");
        stream.read_to_string(&mut answer).await.expect("the server closes properly");
        answer
    }

    /// Connections beyond the limit wait until one that says nothing has been given up.
    #[tokio::test]
    async fn silent_connections_are_given_up_and_make_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new().route("/", get(|| async { "here" }));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let limits = Limits { connections: 2, head: Duration::from_millis(200) };
        let server = tokio::spawn(serve(listener, router, limits, async { drop(stopped.await) }));
        let mut silent = Vec::new();
        for _ in 0..2 {
            silent.push(TcpStream::connect(address).await.expect("the port is open"));
        }
        silent[1].write_all(b"GET / HTTP/1.1\r\nhost:").await.expect("it is connected");
        let mut other = TcpStream::connect(address).await.expect("the port is open");
        let start = std::time::Instant::now();
        let answer = tokio::time::timeout(Duration::from_secs(20), ask(&mut other)).await.expect("room is made");
        assert!(answer.ends_with("here"), "{answer}");
        assert!(start.elapsed() >= Duration::from_millis(100), "it did not have to wait");
        drop(stop);
        server.await.expect("it ends");
    }
}
