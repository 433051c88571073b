//! Publishing by HTTP, in the three modes of the CloudEvents HTTP binding: structured, batched and binary.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::IntoParams;

use super::{AdminState, Problem};
use crate::clock::now_ms;
use crate::envelope::{DecodeError, decode, parse_time, structured};
use crate::event::{Event, TRACEPARENT, TRACESTATE};
use crate::ops::PublishReport;
use crate::outcome::Due;

/// The prefix of the headers that are CloudEvents attributes.
const PREFIX: &str = "ce-";

/// When events enter the stream.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct When {
    /// So many milliseconds later, at most 30 days
    delay_ms: Option<u64>,
    /// At this time (RFC 3339); a time that is over means at once
    at: Option<String>,
}

impl When {
    fn due(&self) -> Result<Due, String> {
        match (self.delay_ms, &self.at) {
            (Some(_), Some(_)) => Err("`delay_ms` and `at` exclude each other".to_owned()),
            (Some(ms), None) => Ok(Due::After(Duration::from_millis(ms))),
            (None, Some(text)) => parse_time(text).map(Due::At).ok_or_else(|| format!("`at` is no time: `{text}`")),
            (None, None) => Ok(Due::Now),
        }
    }
}

/// Publish events, all or none
///
/// The body is a CloudEvent (`application/cloudevents+json`), a list of them (`application/cloudevents-batch+json`), or
/// the data of one whose attributes are in headers (`ce-id`, `ce-source`, `ce-type` ...).
#[utoipa::path(post, path = "/v1/streams/{stream}/events", tag = "streams",
    params(("stream" = String, Path), When),
    request_body(content(
        (serde_json::Value = "application/cloudevents+json"),
        (Vec<serde_json::Value> = "application/cloudevents-batch+json"),
        (String = "*/*"),
    )),
    responses((status = 201, body = PublishReport), (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn publish(
    state: AdminState,
    Path(stream): Path<String>,
    Query(when): Query<When>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<PublishReport>), Problem> {
    let invalid = |detail| Problem::new(400, "invalid", detail);
    let (due, events) = (when.due().map_err(invalid)?, events(&headers, &body).map_err(invalid)?);
    Ok((StatusCode::CREATED, Json(state.operator.publish(&stream, due, events).await?)))
}

/// The events of a request.
fn events(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, String> {
    let kind = match headers.get(header::CONTENT_TYPE) {
        Some(value) => value.to_str().map_err(|_| "`content-type` is not ASCII".to_owned())?,
        None => "",
    };
    let media_type = kind.split(';').next().unwrap_or_default().trim();
    if structured::is_media_type(media_type) {
        return Ok(vec![structured::parse(body, now_ms()).map_err(|error| error.to_string())?]);
    }
    if media_type.eq_ignore_ascii_case(structured::BATCH_MEDIA_TYPE) {
        let documents: Vec<&RawValue> =
            serde_json::from_slice(body).map_err(|error| format!("the body is no list of CloudEvents: {error}"))?;
        let event = |(at, document): (usize, &&RawValue)| {
            structured::parse(document.get().as_bytes(), now_ms()).map_err(|error| format!("event {at}: {error}"))
        };
        return documents.iter().enumerate().map(event).collect();
    }
    binary(headers, kind, body).map(|event| vec![event])
}

/// An event in binary mode: the same as a stream entry in binary mode, with other names.
fn binary(headers: &HeaderMap, kind: &str, body: &[u8]) -> Result<Event, String> {
    let mut fields = vec![(b"data".to_vec(), body.to_vec())];
    if !kind.is_empty() {
        fields.push((b"content-type".to_vec(), kind.as_bytes().to_vec()));
    }
    for (name, value) in headers {
        let name = name.as_str();
        let field = match name.strip_prefix(PREFIX) {
            Some(attribute) => format!("ce_{attribute}"),
            None if name == TRACEPARENT || name == TRACESTATE => name.to_owned(),
            None => continue,
        };
        let value = percent_decoded(value.as_bytes()).map_err(|problem| format!("header `{name}`: {problem}"))?;
        fields.push((field.into_bytes(), value));
    }
    let event = decode(fields, now_ms()).map_err(|error| match &error {
        DecodeError::Missing(field) => {
            let header = field.replacen("ce_", PREFIX, 1);
            format!(
                "header `{header}` is missing: send {} with a CloudEvent, {} with a list of them, or \
                 the data with its attributes in headers",
                structured::MEDIA_TYPE,
                structured::BATCH_MEDIA_TYPE
            )
        }
        _ => error.to_string().replace("field `ce_", "header `ce-"),
    })?;
    match event.attributes.iter().find(|(name, _)| !crate::event::is_attribute_name(name)) {
        Some((name, _)) => Err(format!("header `ce-{name}`: the name of an attribute is 1 to 64 of a-z and 0-9")),
        None => Ok(event),
    }
}

/// The bytes that a header stands for: `%XX` is one byte.
fn percent_decoded(value: &[u8]) -> Result<Vec<u8>, &'static str> {
    const BAD: &str = "`%` must be followed by two hexadecimal digits";
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|&byte| char::from(byte).to_digit(16)).ok_or(BAD);
        bytes.push((digit()? * 16 + digit()?) as u8);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    const BINARY: [(&str, &str); 5] = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("content-type", "text/plain"),
    ];

    #[test]
    fn binary_mode_reads_headers() {
        let more = [("ce-subject", "caf%C3%A9"), ("ce-mine", "x"), ("traceparent", "00-aa-bb-01"), ("accept", "*/*")];
        let events = events(&headers(&[&BINARY[..], &more].concat()), b"\xff").expect("a valid request");
        let event = &events[0];
        assert_eq!((event.subject.as_deref(), event.attribute("mine")), (Some("café"), Some("x")));
        assert_eq!((event.content_type.as_str(), &event.data[..]), ("text/plain", &b"\xff"[..]));
        assert_eq!((event.attribute(TRACEPARENT), event.attributes.len()), (Some("00-aa-bb-01"), 2));
    }

    #[test]
    fn structured_and_batched_mode_read_the_body() {
        let one = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#;
        let kind = headers(&[("content-type", "application/cloudevents+json; charset=utf-8")]);
        assert_eq!(events(&kind, one.as_bytes()).expect("one event")[0].data, br#"{"a":1}"#);
        let kind = headers(&[("content-type", structured::BATCH_MEDIA_TYPE)]);
        assert_eq!(events(&kind, format!("[{one},{one}]").as_bytes()).expect("two events").len(), 2);
        assert_eq!(events(&kind, b"[]").expect("no event").len(), 0);
        let fault = events(&kind, format!("[{one},{{}}]").as_bytes()).expect_err("the second is no event");
        assert!(fault.starts_with("event 1: "), "{fault}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (at, word) in [(1, "ce-id"), (2, "ce-source"), (3, "ce-type")] {
            let mut some = BINARY.to_vec();
            some.remove(at);
            let fault = events(&headers(&some), b"").expect_err(word);
            assert!(fault.contains(&format!("header `{word}` is missing")), "{fault}");
        }
        for (name, value, part) in [
            ("ce-time", "yesterday", "`ce-time`"),
            ("ce-subject", "%4", "two hexadecimal digits"),
            ("ce-not-a-name", "x", "a-z and 0-9"),
            ("ce-subject", "%ff", "UTF-8"),
        ] {
            let fault = events(&headers(&[&BINARY[..], &[(name, value)]].concat()), b"").expect_err(name);
            assert!(fault.contains(part), "{fault}");
        }
    }
}
