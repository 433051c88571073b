//! The caps on bodies: bytes of all requests and of all responses of a delivery, and time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, WasiBody};

use super::Exchange;

/// A request body that fails once the delivery has sent too much.
pub(super) struct Outgoing {
    body: WasiBody,
    exchange: Arc<Exchange>,
}

impl Outgoing {
    pub(super) fn new(body: WasiBody, exchange: Arc<Exchange>) -> Outgoing {
        Outgoing { body, exchange }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let size = frame.data_ref().map_or(0, Bytes::len) as u64;
            let limit = self.exchange.policy.request_bytes;
            if self.exchange.sent.fetch_add(size, Ordering::Relaxed) + size > limit {
                return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(limit)))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body that fails once the delivery has received too much, or when its time is over.
pub(super) struct Received {
    pub(super) body: Incoming,
    pub(super) exchange: Arc<Exchange>,
    /// When the request has to be done.
    pub(super) end: Instant,
    /// The longest pause between two frames.
    pub(super) pause: Duration,
    pub(super) timer: Pin<Box<Sleep>>,
}

impl Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            ready!(this.timer.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        };
        let Some(frame) = frame.transpose()? else { return Poll::Ready(None) };
        let size = frame.data_ref().map_or(0, Bytes::len) as u64;
        let limit = this.exchange.policy.response_bytes;
        if this.exchange.received.fetch_add(size, Ordering::Relaxed) + size > limit {
            return Poll::Ready(Some(Err(Error::HttpResponseBodySize(Some(limit)))));
        }
        this.timer.as_mut().reset(super::connect::soonest(this.end, this.pause));
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
