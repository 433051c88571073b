//! What came out of a delivery, as users see it.

use serde_json::{Value, json};
use wasmill::envelope::structured;
use wasmill::outcome::Verdict;
use wasmill::state::Kept;
use wasmill::wasm::{Execution, LogLine};

use super::table::{plain, plain_lines};

/// The outcome in one word, and the message.
pub fn outcome(verdict: &Verdict) -> (&'static str, &str) {
    verdict.told()
}

/// Everything that came out of a delivery.
pub fn as_json(execution: &Execution) -> Value {
    let (word, message) = outcome(&execution.verdict);
    let published = execution.publishes.iter().map(|publication| {
        let mut event = structured::to_json(&publication.event);
        event["stream"] = json!(&*publication.key);
        event
    });
    let logs = execution.logs.iter().map(|line| {
        json!({
            "level": line.level.as_str(),
            "source": line.source.as_str(),
            "context": line.context,
            "message": line.message,
        })
    });
    let class = if let Verdict::Fault { class, .. } = &execution.verdict { Some(class.as_str()) } else { None };
    json!({
        "outcome": word,
        "class": class,
        "message": message,
        "published": published.collect::<Value>(),
        "state": execution.state.shown(),
        "logs": logs.collect::<Value>(),
        "logs_dropped_bytes": execution.logs_dropped,
        "wall_us": execution.wall.as_micros() as u64,
        "memory_bytes": execution.peak_memory,
    })
}

/// The same for people.
pub fn print_text(execution: &Execution) {
    let (word, message) = outcome(&execution.verdict);
    match message {
        "" => say!("{word}"),
        message => say!("{word}: {}", plain_lines(message, "")),
    }
    for publication in &execution.publishes {
        say!("published to {}: {}", publication.key, plain(&structured::to_json(&publication.event).to_string()));
    }
    for (key, value) in execution.state.shown() {
        let key = plain(&key);
        match value {
            Some(Kept::Text(text)) => say!("state {key}: {}", plain(&text)),
            Some(Kept::Base64 { base64 }) => say!("state {key}: base64 {base64}"),
            None => say!("state {key} deleted"),
        }
    }
    for line in &execution.logs {
        say!("{}", log_text(line));
    }
    if execution.logs_dropped > 0 {
        say!("{} bytes of logs were over the limit and were dropped", execution.logs_dropped);
    }
}

/// What a handler said.
pub fn log_text(line: &LogLine) -> String {
    format!("{} {}: {}", line.source.as_str(), line.level.as_str(), line.message)
}
