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
use tokio::runtime::Handle;

use super::super::{BrokerError, Refusal};
use super::pool::{Lease, Place, Pool};

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

    /// The same as another user. Its connections do not say which library they use: that needs a permission more.
    fn with_user(&self, username: &str, password: &str) -> Result<RedisSettings, RedisError> {
        let info = self.client.get_connection_info();
        let redis = info.redis_settings().clone().set_username(username).set_password(password);
        let client = Client::open(info.clone().set_redis_settings(redis.set_skip_set_lib_name()))?;
        Ok(RedisSettings { client, ..self.clone() })
    }

    /// The number of the database.
    pub fn database(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
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

/// The user of a tenant, and where its password is.
#[derive(Clone)]
pub struct Login {
    /// The tenant that it works for.
    pub tenant: Arc<str>,
    /// The name of the user.
    pub username: Arc<str>,
    /// What tells this way to log in from others: where the password is.
    pub place: Arc<str>,
    /// Reads the password, whenever a connection is opened; the error says what is missing.
    pub password: Arc<dyn Fn() -> Result<String, String> + Send + Sync>,
}

/// The same user of the same tenant, with the password in the same place.
impl PartialEq for Login {
    fn eq(&self, other: &Login) -> bool {
        (&self.tenant, &self.username, &self.place) == (&other.tenant, &other.username, &other.place)
    }
}

impl Eq for Login {}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Login { tenant, username, place, .. } = self;
        let mut shown = f.debug_struct("Login");
        shown.field("tenant", tenant).field("username", username).field("place", place).finish_non_exhaustive()
    }
}

/// One connection that is opened when needed and again after it broke.
#[derive(Clone)]
pub(super) struct Link {
    shared: Arc<Shared>,
    /// Requests are looks whether there is something to do.
    looks: bool,
}

/// What requests, and the task that opens the connection for them, have in common.
pub(super) struct Shared {
    settings: RedisSettings,
    /// As whom to log in, if not as the settings say.
    login: Mutex<Option<Login>>,
    /// The threads that the connection lives on; those of whoever opens it if there are none.
    runtime: Option<Handle>,
    /// If it is one of a bounded number.
    place: Option<Place>,
    connection: Mutex<Option<MultiplexedConnection>>,
    /// Held while the connection is being opened, so that concurrent requests share one.
    opening: tokio::sync::Mutex<()>,
    /// The server's id of the connection; 0 while there is none. Only kept for connections that block.
    client_id: AtomicU64,
}

impl Shared {
    fn new(settings: RedisSettings) -> Shared {
        Shared {
            settings,
            login: Mutex::new(None),
            runtime: None,
            place: None,
            connection: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
            client_id: AtomicU64::new(0),
        }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<MultiplexedConnection>> {
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    pub(super) fn is_open(&self) -> bool {
        self.current().is_some()
    }

    /// Drops the connection; the next request opens another one.
    pub(super) fn forget(&self) {
        *self.current() = None;
        self.client_id.store(0, Ordering::Relaxed);
    }

    /// Opens the connection unless somebody else just did.
    async fn open(self: Arc<Shared>) -> Result<MultiplexedConnection, BrokerError> {
        let _opening = self.opening.lock().await;
        if let Some(connection) = &*self.current() {
            return Ok(connection.clone());
        }
        let settings = self.settings()?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(settings.response_timeout);
        let opened = settings.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = opened.map_err(classify)?;
        if settings.response_timeout.is_none() {
            let id = ::redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await.map_err(classify)?;
            self.client_id.store(id, Ordering::Relaxed);
        }
        *self.current() = Some(connection.clone());
        Ok(connection)
    }

    fn login(&self) -> std::sync::MutexGuard<'_, Option<Login>> {
        self.login.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How to log in now.
    fn settings(&self) -> Result<RedisSettings, BrokerError> {
        let Some(login) = self.login().clone() else { return Ok(self.settings.clone()) };
        let refused = |message| BrokerError::Refused { refusal: Refusal::NotAuthenticated, message };
        let password = (login.password)().map_err(refused)?;
        self.settings.with_user(&login.username, &password).map_err(classify)
    }
}

impl Link {
    /// How it is opened.
    pub(super) fn settings(&self) -> &RedisSettings {
        &self.shared.settings
    }

    pub(super) fn new(settings: RedisSettings) -> Link {
        Link { shared: Arc::new(Shared::new(settings)), looks: false }
    }

    /// A connection that lives on these threads, whoever opens it.
    pub(super) fn living_on(settings: RedisSettings, runtime: Handle) -> Link {
        Link { shared: Arc::new(Shared { runtime: Some(runtime), ..Shared::new(settings) }), looks: false }
    }

    /// The same as another user, as one of the connections of a pool.
    pub(super) fn of_user(settings: RedisSettings, runtime: Handle, login: Login, pool: &Arc<Pool>) -> Link {
        let shared = pool.join(|place| Shared {
            login: Mutex::new(Some(login)),
            runtime: Some(runtime),
            place: Some(place),
            ..Shared::new(settings)
        });
        Link { shared, looks: false }
    }

    /// The same as another user, as the only connection of it.
    pub(super) fn as_user(settings: RedisSettings, login: Login) -> Link {
        Link { shared: Arc::new(Shared { login: Mutex::new(Some(login)), ..Shared::new(settings) }), looks: false }
    }

    /// Logs in this way from now on. What is under way is finished as before.
    pub(super) fn log_in_as(&self, login: &Login) {
        if self.shared.login().replace(login.clone()).as_ref() != Some(login) {
            self.forget();
        }
    }

    /// The same connection, for looking whether there is something to do; if so, [`Link::was_of_use`] has to be told.
    pub(super) fn looking(&self) -> Link {
        Link { looks: true, ..self.clone() }
    }

    /// A look has found something.
    pub(super) fn was_of_use(&self) {
        if let Some(place) = &self.shared.place {
            place.used();
        }
    }

    /// The connection is one of few, and has not been of use for a moment: whether there is something to do is to be
    /// asked on another way.
    pub(super) fn is_quiet(&self) -> bool {
        self.shared.place.as_ref().is_some_and(|place| !place.is_fresh())
    }

    /// Waits for the connection, if it is one of few.
    async fn enter(&self) -> Option<Lease> {
        match &self.shared.place {
            Some(place) => Some(place.enter(&self.shared, !self.looks).await),
            None => None,
        }
    }

    /// The connection, opened if there is none. A task of its own opens it (and ends by itself after the connect
    /// timeout), so that a request which is put aside or dropped meanwhile holds up no other.
    async fn connection(&self) -> Result<MultiplexedConnection, BrokerError> {
        if let Some(connection) = &*self.shared.current() {
            return Ok(connection.clone());
        }
        let opening = self.shared.clone().open();
        let opening = match &self.shared.runtime {
            Some(runtime) => runtime.spawn(opening),
            None => tokio::spawn(opening),
        };
        opening.await.unwrap_or_else(|error| {
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
        let _lease = self.enter().await;
        let mut connection = self.connection().await?;
        let reply = connection.send_packed_command(command).await.and_then(Value::extract_error);
        let value = reply.map_err(|error| self.failed(error))?;
        T::from_redis_value(value).map_err(super::reply::unexpected)
    }

    /// Sends a pipeline; the first error of any of its commands is the answer.
    pub(super) async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, BrokerError> {
        let _lease = self.enter().await;
        let mut connection = self.connection().await?;
        pipeline.query_async(&mut connection).await.map_err(|error| self.failed(error))
    }

    /// Sends a pipeline; the answers of its commands, each of which may be an error.
    pub(super) async fn pipeline_each(
        &self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, BrokerError>>, BrokerError> {
        let _lease = self.enter().await;
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
        self.shared.forget();
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
        // So a script is told what its user may not do.
        "ERR" if message.contains("The user executing the script can't") => refused(Refusal::NoPermission),
        _ if message.contains("used memory > 'maxmemory'") => refused(Refusal::OutOfMemory),
        _ => refused(Refusal::Other),
    }
}
