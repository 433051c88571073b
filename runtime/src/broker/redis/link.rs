//! Connections: settings, opening, opening again, and what an error of the client means.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisError, ServerErrorKind, TlsCertificates, Value,
};

use super::super::{BrokerError, Refusal};

/// Unanswered bytes older than this break the connection: a peer that has vanished is noticed without a response.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection is silent before the system probes the peer.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How to reach the server.
#[derive(Clone)]
pub struct RedisSettings {
    client: Client,
    /// The same for connections that the server tells of what it was not asked for.
    watching: Client,
    /// The most time that opening a connection may take.
    pub connect_timeout: Duration,
    /// The most time that an answer may take; `None` for connections that block on purpose.
    response_timeout: Option<Duration>,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// The URL (or the certificates) are not what the client understands.
    #[error("redis.url: {0}")]
    Url(#[source] RedisError),
    /// A certificate file cannot be read.
    #[error("redis.ca_file: {0}")]
    CaFile(#[source] std::io::Error),
}

impl RedisSettings {
    /// Settings for a URL (`redis://`, `rediss://`, `unix://`), with default time limits and no further credentials.
    pub fn new(url: &str) -> Result<RedisSettings, InvalidSettings> {
        RedisSettings::with_credentials(url, None, None, None)
    }

    /// Settings for a URL; `username` and `password` go before those in the URL. `ca_file` holds PEM certificates that
    /// are trusted besides the public ones.
    pub fn with_credentials(
        url: &str,
        username: Option<&str>,
        password: Option<&str>,
        ca_file: Option<&Path>,
    ) -> Result<RedisSettings, InvalidSettings> {
        let info = url.into_connection_info().map_err(InvalidSettings::Url)?;
        let mut redis = info.redis_settings().clone().set_lib_name("wasmill", env!("CARGO_PKG_VERSION"));
        if let Some(username) = username {
            redis = redis.set_username(username);
        }
        if let Some(password) = password {
            redis = redis.set_password(password);
        }
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(KEEPALIVE))
            .set_user_timeout(USER_TIMEOUT);
        let info = info.set_redis_settings(redis.clone()).set_tcp_settings(tcp);
        let watching = info.clone().set_redis_settings(redis.set_protocol(ProtocolVersion::RESP3));
        let root_cert = ca_file.map(std::fs::read).transpose().map_err(InvalidSettings::CaFile)?;
        let open = |info| match root_cert.clone() {
            Some(root_cert) => {
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(root_cert) })
            }
            None => Client::open(info),
        };
        Ok(RedisSettings {
            client: open(info).map_err(InvalidSettings::Url)?,
            watching: open(watching).map_err(InvalidSettings::Url)?,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Some(Duration::from_secs(30)),
        })
    }

    /// The same with other time limits.
    pub fn with_timeouts(mut self, connect: Duration, response: Duration) -> RedisSettings {
        self.connect_timeout = connect;
        self.response_timeout = Some(response);
        self
    }

    /// For connections that the server tells of what it was not asked for.
    pub(super) fn watching(&self) -> &Client {
        &self.watching
    }

    /// The most time that an answer may take, if there is a bound.
    pub(super) fn response_timeout(&self) -> Option<Duration> {
        self.response_timeout
    }

    /// The same for a connection whose requests block until there is something to say.
    pub(super) fn for_waiting(mut self) -> RedisSettings {
        self.response_timeout = None;
        self
    }
}

/// One connection that is opened when needed and again after it broke.
pub(super) struct Link {
    shared: Arc<Shared>,
}

/// What requests, and the task that opens the connection for them, have in common.
struct Shared {
    settings: RedisSettings,
    connection: Mutex<Option<MultiplexedConnection>>,
    /// Held while the connection is being opened, so that concurrent requests share one.
    opening: tokio::sync::Mutex<()>,
    /// The server's id of the connection; 0 while there is none. Only kept for connections that block.
    client_id: AtomicU64,
}

impl Shared {
    fn current(&self) -> std::sync::MutexGuard<'_, Option<MultiplexedConnection>> {
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Opens the connection unless somebody else just did.
    async fn open(self: Arc<Shared>) -> Result<MultiplexedConnection, BrokerError> {
        let _opening = self.opening.lock().await;
        if let Some(connection) = &*self.current() {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.settings.connect_timeout))
            .set_response_timeout(self.settings.response_timeout);
        let opened = self.settings.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = opened.map_err(classify)?;
        if self.settings.response_timeout.is_none() {
            let id = ::redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await.map_err(classify)?;
            self.client_id.store(id, Ordering::Relaxed);
        }
        *self.current() = Some(connection.clone());
        Ok(connection)
    }
}

impl Link {
    /// How it is opened.
    pub(super) fn settings(&self) -> &RedisSettings {
        &self.shared.settings
    }

    pub(super) fn new(settings: RedisSettings) -> Link {
        let shared = Shared {
            settings,
            connection: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
            client_id: AtomicU64::new(0),
        };
        Link { shared: Arc::new(shared) }
    }

    /// The connection, opened if there is none. A task of its own opens it (and ends by itself after the connect
    /// timeout), so that a request which is put aside or dropped meanwhile holds up no other.
    pub(super) async fn connection(&self) -> Result<MultiplexedConnection, BrokerError> {
        if let Some(connection) = &*self.shared.current() {
            return Ok(connection.clone());
        }
        tokio::spawn(self.shared.clone().open()).await.unwrap_or_else(|error| {
            Err(BrokerError::Unreachable { message: format!("opening the connection failed: {error}"), cause: None })
        })
    }

    /// Opens a connection of its own for listening.
    pub(super) async fn open_pubsub(&self) -> Result<::redis::aio::PubSub, BrokerError> {
        let settings = &self.shared.settings;
        match tokio::time::timeout(settings.connect_timeout, settings.client.get_async_pubsub()).await {
            Ok(opened) => opened.map_err(classify),
            Err(_) => {
                let message = "connecting took too long".to_owned();
                Err(BrokerError::Unreachable { message, cause: None })
            }
        }
    }

    /// The server's id of the connection, if it blocks and is open.
    pub(super) fn client_id(&self) -> Option<u64> {
        Some(self.shared.client_id.load(Ordering::Relaxed)).filter(|&id| id != 0)
    }

    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, BrokerError> {
        let mut connection = self.connection().await?;
        let reply = connection.send_packed_command(command).await.and_then(Value::extract_error);
        let value = reply.map_err(|error| self.failed(error))?;
        T::from_redis_value(value).map_err(super::reply::unexpected)
    }

    /// Sends a pipeline; the first error of any of its commands is the answer.
    pub(super) async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, BrokerError> {
        let mut connection = self.connection().await?;
        pipeline.query_async(&mut connection).await.map_err(|error| self.failed(error))
    }

    /// Sends a pipeline; the answers of its commands, each of which may be an error.
    pub(super) async fn pipeline_each(
        &self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, BrokerError>>, BrokerError> {
        let mut connection = self.connection().await?;
        let replies = connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
        let replies = replies.map_err(|error| self.failed(error))?;
        Ok(replies.into_iter().map(|reply| reply.extract_error().map_err(|error| self.failed(error))).collect())
    }

    /// Drops the connection if the error says that it is of no more use.
    fn failed(&self, error: RedisError) -> BrokerError {
        let error = classify(error);
        let broken = match &error {
            BrokerError::Unreachable { .. } => true,
            // A primary that became a replica: the name may lead to the new primary by now.
            BrokerError::Refused { refusal, .. } => matches!(refusal, Refusal::ReadOnly | Refusal::NotAuthenticated),
            _ => false,
        };
        if broken {
            self.forget();
        }
        error
    }

    /// Drops the connection; the next request opens another one.
    pub(super) fn forget(&self) {
        *self.shared.current() = None;
        self.shared.client_id.store(0, Ordering::Relaxed);
    }
}

/// What an error of the client means to wasmill.
pub(super) fn classify(error: RedisError) -> BrokerError {
    // A pipeline and a transaction wrap the errors of their commands: the first one says what is wrong.
    let first = error.clone().into_server_errors().and_then(|errors| errors.first().map(|(_, first)| first.clone()));
    let error = first.map_or(error, RedisError::from);
    let message = error.to_string();
    let refused = |refusal| BrokerError::Refused { refusal, message: message.clone() };
    match error.kind() {
        ErrorKind::AuthenticationFailed => return refused(Refusal::NotAuthenticated),
        ErrorKind::Server(kind) => match kind {
            ServerErrorKind::BusyLoading => return refused(Refusal::Loading),
            ServerErrorKind::ReadOnly => return refused(Refusal::ReadOnly),
            ServerErrorKind::NoPerm => return refused(Refusal::NoPermission),
            // So Redis answers an EXEC that the user may not run.
            ServerErrorKind::ExecAbort if message.contains("NOPERM") => return refused(Refusal::NoPermission),
            _ => {}
        },
        // Only asked of a connection that is to be told of changes.
        ErrorKind::RESP3NotSupported => return refused(Refusal::Other),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => return BrokerError::Unexpected { message },
        ErrorKind::Extension => {}
        _ => return BrokerError::Unreachable { message, cause: Some(error) },
    }
    match error.code().unwrap_or_default() {
        "NOGROUP" => BrokerError::NoGroup { message },
        "NOAUTH" | "WRONGPASS" => refused(Refusal::NotAuthenticated),
        "OOM" => refused(Refusal::OutOfMemory),
        "WRONGTYPE" => refused(Refusal::WrongType),
        "MISCONF" => refused(Refusal::ReadOnly),
        // A deleted stream has no group either.
        "ERR" if message.contains("no such key") || message.contains("The XGROUP subcommand requires") => {
            BrokerError::NoGroup { message }
        }
        _ if message.contains("used memory > 'maxmemory'") => refused(Refusal::OutOfMemory),
        _ => refused(Refusal::Other),
    }
}
