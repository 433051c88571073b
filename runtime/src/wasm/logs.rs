//! What a guest says: `wasi:logging`, stdout and stderr, collected per delivery and bounded.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::text::printable;

/// What a line costs besides its text, in bytes: without it, empty lines would be kept without end.
const LINE_OVERHEAD: usize = 64;

/// How much a line matters, as `wasi:logging` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Step by step.
    Trace,
    /// For hunting a fault.
    Debug,
    /// For operators.
    Info,
    /// Unexpected, dealt with.
    Warn,
    /// Not done.
    Error,
    /// Cannot go on.
    Critical,
}

impl LogLevel {
    /// The level in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Critical => "critical",
        }
    }
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSource {
    /// The `wasi:logging` interface.
    Logging,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// wasmill itself, about what the guest did.
    Host,
}

impl LogSource {
    /// The source in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            LogSource::Logging => "logging",
            LogSource::Stdout => "stdout",
            LogSource::Stderr => "stderr",
            LogSource::Host => "host",
        }
    }
}

/// One line of a guest. Control characters have been replaced, so that no line can pass for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Where it came from.
    pub source: LogSource,
    /// How much it matters: stdout is info, stderr is warn.
    pub level: LogLevel,
    /// Which part of the guest spoke; empty for stdout and stderr.
    pub context: String,
    /// The text.
    pub message: String,
}

/// The lines of one delivery.
#[derive(Debug, Default)]
struct Lines {
    lines: Vec<LogLine>,
    partial: [Vec<u8>; 2],
    kept: usize,
    dropped: u64,
}

/// Collects lines up to a number of bytes; counts what is over it.
#[derive(Clone, Debug)]
pub(super) struct LogBuffer {
    limit: usize,
    lines: Arc<Mutex<Lines>>,
}

impl LogBuffer {
    pub(super) fn new(limit: usize) -> LogBuffer {
        LogBuffer { limit, lines: Arc::default() }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds a line of `wasi:logging`.
    pub(super) fn log(&self, level: LogLevel, context: &str, message: &str) {
        self.add(LogSource::Logging, level, context, message);
    }

    /// Adds a line of our own.
    pub(super) fn note(&self, level: LogLevel, context: &str, message: &str) {
        self.add(LogSource::Host, level, context, message);
    }

    fn add(&self, source: LogSource, level: LogLevel, context: &str, message: &str) {
        let mut lines = self.lines();
        let size = context.len() + message.len();
        if lines.kept + size + LINE_OVERHEAD > self.limit {
            lines.dropped += size as u64;
            return;
        }
        lines.kept += size + LINE_OVERHEAD;
        let (context, message) = (printable(context), printable(message));
        lines.lines.push(LogLine { source, level, context, message });
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut lines = self.lines();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = self.limit.saturating_sub(lines.kept);
            let (kept, dropped) = part.split_at(room.min(part.len()));
            lines.kept += kept.len();
            lines.dropped += dropped.len() as u64;
            match kept.strip_suffix(b"\n") {
                Some(end) => {
                    lines.partial[stream as usize].extend_from_slice(end);
                    lines.end_line(stream);
                }
                None => lines.partial[stream as usize].extend_from_slice(kept),
            }
        }
    }

    /// The lines since the last call, and the number of bytes that were over the limit.
    pub(super) fn take(&self) -> (Vec<LogLine>, u64) {
        let mut lines = self.lines();
        lines.end_line(Stream::Out);
        lines.end_line(Stream::Err);
        let taken = std::mem::take(&mut *lines);
        (taken.lines, taken.dropped)
    }

    /// Standard output into this buffer.
    pub(super) fn stdout(&self) -> GuestStream {
        GuestStream { stream: Stream::Out, buffer: self.clone() }
    }

    /// Standard error into this buffer.
    pub(super) fn stderr(&self) -> GuestStream {
        GuestStream { stream: Stream::Err, buffer: self.clone() }
    }
}

impl Lines {
    fn end_line(&mut self, stream: Stream) {
        let bytes = std::mem::take(&mut self.partial[stream as usize]);
        if bytes.is_empty() {
            return;
        }
        self.kept += LINE_OVERHEAD;
        let message = printable(&String::from_utf8_lossy(&bytes));
        let (source, level) = match stream {
            Stream::Out => (LogSource::Stdout, LogLevel::Info),
            Stream::Err => (LogSource::Stderr, LogLevel::Warn),
        };
        self.lines.push(LogLine { source, level, context: String::new(), message });
    }
}

#[derive(Clone, Copy, Debug)]
enum Stream {
    Out = 0,
    Err = 1,
}

/// Standard output or standard error of a guest. Never full: what is over the limit is dropped and counted.
#[derive(Clone)]
pub(super) struct GuestStream {
    stream: Stream,
    buffer: LogBuffer,
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl OutputStream for GuestStream {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.buffer.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        // The size that wasi-libc writes at once.
        Ok(64 << 10)
    }
}

#[async_trait::async_trait]
impl Pollable for GuestStream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.buffer.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_split_and_cleaned() {
        let buffer = LogBuffer::new(1000);
        buffer.write(Stream::Out, b"one");
        buffer.write(Stream::Out, b" line\ntwo\x1b[31m\nthree");
        let (lines, dropped) = buffer.take();
        let messages: Vec<&str> = lines.iter().map(|line| line.message.as_str()).collect();
        assert_eq!((messages, dropped), (vec!["one line", "two [31m", "three"], 0));
        assert!(buffer.take().0.is_empty());
    }

    #[test]
    fn what_is_over_the_limit_is_dropped_and_counted() {
        let buffer = LogBuffer::new(LINE_OVERHEAD + 12);
        buffer.write(Stream::Err, b"12345678\nabcd");
        buffer.log(LogLevel::Info, "", "too long for what is left");
        let (lines, dropped) = buffer.take();
        let messages: Vec<&str> = lines.iter().map(|line| line.message.as_str()).collect();
        assert_eq!((messages, dropped), (vec!["12345678", "abc"], 1 + 25));
    }

    #[test]
    fn lines_without_text_are_bounded_too() {
        let buffer = LogBuffer::new(10 * LINE_OVERHEAD);
        (0..1000).for_each(|_| buffer.log(LogLevel::Info, "", ""));
        assert_eq!(buffer.take().0.len(), 10);
        (0..1000).for_each(|_| buffer.write(Stream::Out, b"a\n"));
        assert!(buffer.take().0.len() <= 10);
    }
}
