//! Logs: set up once by the binary.

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// The environment variable that goes before `log.level`.
pub const LEVEL_VARIABLE: &str = "WASMILL_LOG";

/// The level is not one that can be set.
#[derive(Debug, thiserror::Error)]
#[error("`{directive}` is not a log level or filter, such as info or wasmill=debug: {cause}")]
pub struct InvalidLevel {
    directive: String,
    #[source]
    cause: tracing_subscriber::filter::ParseError,
}

/// Writes logs to stderr from now on. Colours only if `terminal` says that stderr is one. A second call has no effect.
pub fn init(config: &LogConfig, terminal: bool) -> Result<(), InvalidLevel> {
    let directive = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| config.level.clone());
    let filter = EnvFilter::try_new(&directive).map_err(|cause| InvalidLevel { directive, cause })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    // Only a second initialisation fails.
    let _ = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    Ok(())
}
