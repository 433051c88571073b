//! What is typed in: events, or the names of files with events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wasmill::clock::now_ms;
use wasmill::config::ResolvedHandler;
use wasmill::event::Event;

use crate::cli::Report;

/// How long the thread takes at most to notice that it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// The longest line, in bytes; of a longer one, the rest is another line.
const MAX_LINE: usize = 1 << 20;
/// Who makes events that are typed in.
const SOURCE: &str = "/wasmill/dev";

/// A thread that reads lines from standard input, until its end. Dropping it ends and joins it.
pub struct Lines {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    /// Hands each line to `put`, which says whether there is to be another.
    pub fn read(put: impl FnMut(String) -> bool + Send + 'static) -> Result<Lines, Report> {
        let ended = Arc::new(AtomicBool::new(false));
        let flag = ended.clone();
        let thread = std::thread::Builder::new().name("typed".to_owned()).spawn(move || read_lines(&flag, put));
        Ok(Lines { ended, thread: Some(thread.map_err(Report::failure)?) })
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::warn!("the thread that reads standard input has panicked");
        }
    }
}

fn read_lines(ended: &AtomicBool, mut put: impl FnMut(String) -> bool) {
    let stdin = std::io::stdin();
    let look = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
    let (mut line, mut buffer) = (Vec::new(), [0; 4096]);
    while !ended.load(Ordering::Relaxed) {
        // A thread that waits for input could not be joined.
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&look)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        let count = match rustix::io::read(&stdin, &mut buffer) {
            Ok(0) | Err(_) => 0,
            Ok(count) => count,
        };
        for &byte in &buffer[..count] {
            if byte != b'\n' {
                line.push(byte);
            }
            if (byte == b'\n' || line.len() >= MAX_LINE) && !put(text(&mut line)) {
                return;
            }
        }
        if count == 0 {
            if !line.is_empty() {
                put(text(&mut line));
            }
            return;
        }
    }
}

fn text(line: &mut Vec<u8>) -> String {
    String::from_utf8_lossy(&std::mem::take(line)).trim().to_owned()
}

/// What a line means.
#[derive(Debug, PartialEq)]
pub enum Typed {
    /// Nothing.
    Empty,
    /// An event for a stream.
    Event { stream: String, event: Box<Event> },
    /// The name of a file with an event.
    File(String),
}

/// Reads a line: a JSON object is the data of an event of the first type of the first handler, `TYPE JSON` an event of that
/// type, and a word the name of a file.
pub fn parse(line: &str, handlers: &[ResolvedHandler]) -> Result<Typed, String> {
    if line.is_empty() {
        return Ok(Typed::Empty);
    }
    if line.starts_with('{') {
        let handler = handlers.first().ok_or("no handler is configured")?;
        let first = handler.types.0.first().map(ToString::to_string).unwrap_or_default();
        if first.is_empty() || first.contains('*') {
            let problem = format!("{} wants `{first}`, which is no single type: type TYPE {{...}}", handler.name);
            return Err(problem);
        }
        return event(handler, first, line);
    }
    let Some((r#type, data)) = line.split_once(char::is_whitespace) else { return Ok(Typed::File(line.to_owned())) };
    let handler = handlers.iter().find(|handler| handler.types.matches(r#type)).ok_or_else(|| unwanted(r#type))?;
    event(handler, r#type.to_owned(), data.trim_start())
}

/// The problem with a type that no handler wants.
pub fn unwanted(r#type: &str) -> String {
    format!("no handler wants events of the type `{type}`")
}

fn event(handler: &ResolvedHandler, r#type: String, data: &str) -> Result<Typed, String> {
    serde_json::from_str::<serde_json::Value>(data).map_err(|error| format!("the data is not JSON: {error}"))?;
    let stream = handler.streams.first().cloned().unwrap_or_default();
    let event = Event {
        id: uuid::Uuid::now_v7().to_string(),
        source: SOURCE.to_owned(),
        r#type,
        time: now_ms(),
        content_type: "application/json".to_owned(),
        data: data.as_bytes().to_vec(),
        ..Event::default()
    };
    Ok(Typed::Event { stream, event: Box::new(event) })
}

#[cfg(test)]
mod tests {
    use wasmill::config::Config;

    use super::*;

    #[test]
    fn lines_are_events_or_names() {
        let section = |name: &str, types: &str| {
            format!("[handlers.{name}]\ncomponent = \"c.wasm\"\nstreams = [\"{name}.in\"]\ntypes = [{types}]\n")
        };
        let text = [section("a", "\"order_placed\""), section("b", "\"pay_*\"")].concat();
        let handlers = Config::parse(None, &text, []).unwrap().handlers();
        let said = |line: &str| match parse(line, &handlers) {
            Ok(Typed::Event { stream, event }) => {
                format!("{stream} {} {}", event.r#type, String::from_utf8(event.data).unwrap())
            }
            Ok(other) => format!("{other:?}"),
            Err(problem) => problem,
        };
        assert_eq!(said(r#"{"a": 1}"#), r#"a.in order_placed {"a": 1}"#);
        assert_eq!(said("pay_now  [1]"), "b.in pay_now [1]");
        assert_eq!((said(""), said("order")), ("Empty".to_owned(), "File(\"order\")".to_owned()));
        assert!(said("{").contains("not JSON") && said("order_placed x").contains("not JSON"));
        assert!(said("other {}").contains("`other`"));
        let wide = parse("{}", &handlers[1..]).unwrap_err();
        assert!(wide.contains("TYPE {...}"), "{wide}");
    }
}
