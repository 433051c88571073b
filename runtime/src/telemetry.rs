//! Logs: set up once by the binary.

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// The environment variable that goes before `log.level`.
pub const LEVEL_VARIABLE: &str = "WASMILL_LOG";

/// Exchanges the filter of the log, which there is one of in a process.
static EXCHANGE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// The level is not one that can be set.
#[derive(Debug, thiserror::Error)]
#[error("`{directive}` is not a log level or filter, such as info or wasmill=debug: {cause}")]
pub struct InvalidLevel {
    directive: String,
    #[source]
    cause: tracing_subscriber::filter::ParseError,
}

fn filter(config: &LogConfig) -> Result<EnvFilter, InvalidLevel> {
    let directive = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| config.level.clone());
    EnvFilter::try_new(&directive).map_err(|cause| InvalidLevel { directive, cause })
}

/// Writes logs to stderr from now on. Colours only if `terminal` says that stderr is one. A second call has no effect.
pub fn init(config: &LogConfig, terminal: bool) -> Result<(), InvalidLevel> {
    let (filter, builder) =
        (filter(config)?, tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(terminal));
    // Only a second initialisation fails.
    match config.format {
        LogFormat::Text => {
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init().map(|()| exchange_by(move |filter| drop(handle.reload(filter))));
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_span_list(false);
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init().map(|()| exchange_by(move |filter| drop(handle.reload(filter))));
        }
    }
    Ok(())
}

fn exchange_by(exchange: impl Fn(EnvFilter) + Send + Sync + 'static) {
    // There is one log, which has been set up just now.
    let _ = EXCHANGE.set(Box::new(exchange));
}

/// Whether the level can be set.
pub fn check_level(config: &LogConfig) -> Result<(), InvalidLevel> {
    filter(config).map(drop)
}

/// Logs at this level from now on, unless the environment names another one.
pub fn set_level(config: &LogConfig) -> Result<(), InvalidLevel> {
    let filter = filter(config)?;
    if let Some(exchange) = EXCHANGE.get() {
        exchange(filter);
    }
    Ok(())
}
