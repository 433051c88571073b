//! HTTP requests over `wasi:http`, one after the other.

use std::collections::BTreeMap;

use guest::{Event, Failure};
use serde::Deserialize;
use serde_json::{Value, json};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;

use crate::config::wasi::config::store;

/// What the data of an event asks for.
#[derive(Deserialize)]
struct Wish {
    scheme: String,
    authority: String,
    #[serde(default)]
    path: String,
    /// GET if there is none.
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Bytes of the request body; no body if it is left out.
    body: Option<usize>,
    /// How often to ask.
    #[serde(default = "once")]
    times: u32,
}

fn once() -> u32 {
    1
}

/// Sends the request that the data describes, and says what came back each time.
pub fn ask(event: &Event) -> Result<Value, Failure> {
    let wish: Wish = serde_json::from_slice(&event.data).map_err(|error| Failure::Reject(error.to_string()))?;
    let mut answers = Vec::new();
    for _ in 0..wish.times {
        // The key that the host is going to add, as the handler could use it elsewhere.
        let key = store::get("wasmill.idempotency-key").ok().flatten();
        answers.push(match exchange(&wish) {
            Ok((status, body)) => json!({"status": status, "bytes": body.len(), "body": shown(&body), "key": key}),
            Err(error) => json!({"error": format!("{error:?}"), "key": key}),
        });
    }
    Ok(answers.into())
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(4096).collect()
}

fn exchange(wish: &Wish) -> Result<(u16, Vec<u8>), ErrorCode> {
    let headers = Fields::new();
    for (name, value) in &wish.headers {
        let set = headers.set(name, &[value.clone().into_bytes()]);
        set.map_err(|error| ErrorCode::InternalError(Some(format!("{error:?}"))))?;
    }
    let request = OutgoingRequest::new(headers);
    let scheme = match wish.scheme.as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let method = wish.method.as_deref().map_or(Method::Get, |method| match method {
        "POST" => Method::Post,
        "CONNECT" => Method::Connect,
        other => Method::Other(other.to_owned()),
    });
    let set = [
        request.set_scheme(Some(&scheme)),
        request.set_authority(Some(&wish.authority)),
        request.set_path_with_query(Some(&wish.path)),
        request.set_method(&method),
    ];
    if set.iter().any(Result::is_err) {
        return Err(ErrorCode::HttpRequestUriInvalid);
    }
    let body = match wish.body {
        Some(length) => Some((request.body().map_err(|()| ErrorCode::ConfigurationError)?, length)),
        None => None,
    };
    let future = outgoing_handler::handle(request, None)?;
    let written = body.map_or(Ok(()), |(body, length)| write(body, length));
    future.subscribe().block();
    let response =
        future.get().ok_or(ErrorCode::HttpResponseTimeout)?.map_err(|()| ErrorCode::ConfigurationError)??;
    written?;
    Ok((response.status(), read(&response)?))
}

fn write(body: OutgoingBody, length: usize) -> Result<(), ErrorCode> {
    let stream = body.write().map_err(|()| ErrorCode::ConfigurationError)?;
    let chunk = [b'x'; 4096];
    let mut left = length;
    while left > 0 {
        let size = left.min(chunk.len());
        // The host gave up on the request; the response says why.
        if stream.blocking_write_and_flush(&chunk[..size]).is_err() {
            return Ok(());
        }
        left -= size;
    }
    drop(stream);
    OutgoingBody::finish(body, None)
}

fn read(response: &IncomingResponse) -> Result<Vec<u8>, ErrorCode> {
    let body = response.consume().map_err(|()| ErrorCode::ConfigurationError)?;
    let stream = body.stream().map_err(|()| ErrorCode::ConfigurationError)?;
    let mut read = Vec::new();
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(bytes) => read.extend(bytes),
            Err(StreamError::Closed) => return Ok(read),
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return Err(code.unwrap_or_else(|| ErrorCode::InternalError(Some(error.to_debug_string()))));
            }
        }
    }
}
