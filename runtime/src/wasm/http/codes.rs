//! What failed, in the standard codes of `wasi:http`.

use std::error::Error as _;
use std::io::{self, ErrorKind};

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, IoError, TlsAlertReceivedPayload};

use crate::wasm::host::Host;

/// The interface under the name that wasmtime links it.
const TYPES: &str = "wasi:http/types@0.2.12";

/// Replaces `http-error-code`, which tells guests the code behind a stream that failed: wasmtime's own knows none of the
/// errors that bodies end with.
pub(crate) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let code = |store: StoreContextMut<'_, Host>, (error,): (Resource<IoError>,)| {
        let error = store.data().table.get(&error)?;
        let code = match error.downcast_ref::<ErrorCode>() {
            Some(code) => Some(code.clone()),
            None => error.downcast_ref::<Error>().and_then(of_body),
        };
        Ok((code,))
    };
    linker.instance(TYPES)?.func_wrap("http-error-code", code)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The code of what a response body can end with.
fn of_body(error: &Error) -> Option<ErrorCode> {
    match error {
        Error::HttpResponseBodySize(limit) => Some(ErrorCode::HttpResponseBodySize(*limit)),
        Error::ConnectionReadTimeout => Some(ErrorCode::ConnectionReadTimeout),
        Error::Hyper(error) => Some(of_hyper(error)),
        _ => None,
    }
}

/// The code of a fault of the protocol, or of the connection below it.
pub(super) fn of_hyper(error: &hyper::Error) -> ErrorCode {
    let source = error.source();
    if let Some(Error::HttpRequestBodySize(limit)) = source.and_then(|cause| cause.downcast_ref()) {
        return ErrorCode::HttpRequestBodySize(*limit);
    }
    let io = source.and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match (error, io) {
        (error, _) if error.is_timeout() => ErrorCode::HttpResponseTimeout,
        (error, _) if error.is_incomplete_message() => ErrorCode::HttpResponseIncomplete,
        (error, _) if error.is_parse_too_large() => ErrorCode::HttpResponseHeaderSectionSize(None),
        (_, Some(ErrorKind::UnexpectedEof)) => ErrorCode::HttpResponseIncomplete,
        (_, Some(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)) => {
            ErrorCode::ConnectionTerminated
        }
        (error, _) if error.is_closed() || error.is_canceled() => ErrorCode::ConnectionTerminated,
        _ => ErrorCode::HttpProtocolError,
    }
}

/// The code of a connection that did not come about.
pub(super) fn of_connect(error: &io::Error) -> ErrorCode {
    match error.kind() {
        ErrorKind::ConnectionRefused => ErrorCode::ConnectionRefused,
        ErrorKind::TimedOut => ErrorCode::ConnectionTimeout,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => ErrorCode::DestinationIpUnroutable,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => ErrorCode::ConnectionTerminated,
        _ => ErrorCode::DestinationUnavailable,
    }
}

/// The code of a TLS handshake that failed.
pub(super) fn of_tls(error: &io::Error) -> ErrorCode {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            ErrorCode::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => ErrorCode::TlsAlertReceived(TlsAlertReceivedPayload {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        }),
        _ => ErrorCode::TlsProtocolError,
    }
}
