//! What a fixture expects, as it stands in `NAME.expected.json`: the outcome, and of each follow-up what the handler chose.
//! What the host derives (id, time, source, causation, digest, correlation, trace) is not in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::envelope::structured;
use crate::event::{CAUSATION_ID, CORRELATION_ID, HANDLER_DIGEST, TRACEPARENT, TRACESTATE};
use crate::outcome::{Due, Publication, Verdict};
use crate::state::Kept;
use crate::wasm::Execution;

/// The media type that goes without saying.
const USUAL_MEDIA_TYPE: &str = "application/json";
/// Attributes that the host sets.
const DERIVED: [&str; 5] = [CAUSATION_ID, HANDLER_DIGEST, CORRELATION_ID, TRACEPARENT, TRACESTATE];

/// What comes of an event.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// `ack`, `retry`, `reject`, `trap` or `timeout`.
    pub outcome: String,
    /// The kind of trap, such as `out_of_memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What the handler said. Not of traps and timeouts: it is made of addresses and limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The pause that the handler asked for, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// The follow-ups, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<FollowUp>,
    /// What is written to the state, by key; `null` if it is deleted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub state: BTreeMap<String, Option<Kept>>,
}

/// What the handler chose of a follow-up, under the names that CloudEvents has for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FollowUp {
    stream: String,
    r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dataschema: Option<String>,
    /// Not if it is that of the event: it is inherited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partitionkey: Option<String>,
    /// Not if it is [`USUAL_MEDIA_TYPE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

/// `null` is data, too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Expectation {
    /// What came of an event with this partition key.
    pub fn of(execution: &Execution, partition_key: Option<&str>) -> Expectation {
        let (word, message) = execution.verdict.told();
        let (class, message, after) = match &execution.verdict {
            Verdict::Ack => (None, None, None),
            Verdict::Retry { after, .. } => (None, Some(message.to_owned()), *after),
            Verdict::Reject { .. } => (None, Some(message.to_owned()), None),
            Verdict::Fault { class, .. } => (Some(class.as_str().to_owned()), None, None),
        };
        let published = execution.publishes.iter().map(|publication| FollowUp::of(publication, partition_key));
        Expectation {
            outcome: word.to_owned(),
            class,
            message,
            after_ms: after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            published: published.map(FollowUp::normal).collect(),
            state: execution.state.shown(),
        }
    }

    /// Reads a file.
    pub fn parse(text: &[u8]) -> Result<Expectation, serde_json::Error> {
        let expectation: Expectation = serde_json::from_slice(text)?;
        Ok(expectation.normal())
    }

    /// The one form of all that mean the same.
    pub fn normal(mut self) -> Expectation {
        self.published = self.published.into_iter().map(FollowUp::normal).collect();
        self
    }

    /// Everything but the outcome, in one line.
    pub fn effects(&self) -> String {
        let rest = Expectation { outcome: String::new(), ..self.clone() };
        let mut document = serde_json::to_value(&rest).expect("its keys are texts");
        document.as_object_mut().map(|document| document.shift_remove("outcome"));
        document.to_string()
    }

    /// The text of the file: the same for what is equal.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("its keys are texts");
        text.push('\n');
        text
    }
}

impl FollowUp {
    fn of(publication: &Publication, partition_key: Option<&str>) -> FollowUp {
        let event = &publication.event;
        let mut document = structured::to_json(event);
        let mut take = |name: &str| document.as_object_mut().and_then(|document| document.shift_remove(name));
        let chosen = event.attributes.iter().filter(|(name, _)| !DERIVED.contains(&name.as_str()));
        FollowUp {
            stream: publication.key.to_string(),
            r#type: event.r#type.clone(),
            subject: event.subject.clone(),
            dataschema: event.schema_version.clone(),
            partitionkey: event.partition_key.clone().filter(|key| partition_key != Some(key)),
            datacontenttype: Some(event.content_type.clone()),
            attributes: chosen.cloned().collect(),
            delay_ms: match publication.when {
                Due::After(delay) => Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
                Due::Now | Due::At(_) => None,
            },
            data: take("data"),
            data_base64: take("data_base64").and_then(|text| text.as_str().map(str::to_owned)),
        }
    }

    /// The one form of all that mean the same.
    fn normal(mut self) -> FollowUp {
        if let Some(data) = &mut self.data {
            data.sort_all_objects();
        }
        self.datacontenttype = self.datacontenttype.filter(|media_type| media_type != USUAL_MEDIA_TYPE);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::event::Event;
    use crate::outcome::FaultClass;

    use super::*;

    fn execution(verdict: Verdict, publishes: Vec<Publication>) -> Execution {
        Execution {
            verdict,
            publishes,
            state: Default::default(),
            state_failed: None,
            logs: Vec::new(),
            logs_dropped: 0,
            wall: Duration::ZERO,
            peak_memory: 0,
            http_denied: 0,
        }
    }

    fn publication(event: Event) -> Publication {
        let when = Due::After(Duration::from_secs(2));
        Publication { when, ..Publication::now("out".into(), event) }
    }

    fn follow_up(event: Event) -> String {
        Expectation::of(&execution(Verdict::Ack, vec![publication(event)]), Some("k")).to_text()
    }

    #[test]
    fn what_the_handler_chose_is_in_it_and_what_the_host_derives_is_not() {
        let text = |text: &str| text.to_owned();
        let event = Event {
            id: text("i"),
            source: text("/s"),
            r#type: text("t"),
            time: 1,
            subject: Some(text("o-1")),
            schema_version: Some(text("2")),
            partition_key: Some(text("k")),
            content_type: text("application/json"),
            attributes: ["causationid", "handlerdigest", "priority"].map(|name| (text(name), text("high"))).to_vec(),
            data: br#"{"b": 1, "a": {"d": 2, "c": null}}"#.to_vec(),
        };
        let said = follow_up(event.clone());
        let expected = r#"{"outcome": "ack", "published": [{"data": {"a": {"c": null, "d": 2}, "b": 1}, "type": "t",
            "stream": "out", "subject": "o-1", "dataschema": "2", "attributes": {"priority": "high"},
            "datacontenttype": "application/json", "delay_ms": 2000}]}"#;
        assert_eq!(Expectation::parse(expected.as_bytes()).unwrap().to_text(), said);
        assert!(["partitionkey", "causationid", "handlerdigest"].iter().all(|name| !said.contains(name)), "{said}");
        let other = follow_up(Event { partition_key: Some(text("other")), content_type: String::new(), ..event });
        assert!(other.contains(r#""partitionkey": "other""#) && other.contains(r#""datacontenttype": """#), "{other}");
    }

    #[test]
    fn data_is_json_text_or_base64() {
        let data = |content_type: &str, data: &[u8]| {
            let event = Event { content_type: content_type.to_owned(), data: data.to_vec(), ..Event::default() };
            let said: Value = serde_json::from_str(&follow_up(event)).unwrap();
            (said["published"][0].get("data").cloned(), said["published"][0].get("data_base64").cloned())
        };
        assert_eq!(data("application/json", b"null"), (Some(Value::Null), None));
        assert_eq!(data("text/plain", b"null"), (Some("null".into()), None));
        assert_eq!(data("text/plain", b"\xff"), (None, Some("/w==".into())));
        assert_eq!(data("application/json", b"{"), (None, Some("ew==".into())));
        assert_eq!(data("application/json", b""), (None, None));
        // What is written is read again as the same.
        let null =
            follow_up(Event { content_type: "application/json".into(), data: b"null".to_vec(), ..Event::default() });
        assert_eq!(Expectation::parse(null.as_bytes()).unwrap().to_text(), null);
    }

    #[test]
    fn failures_keep_what_can_be_compared() {
        let of = |verdict| Expectation::of(&execution(verdict, Vec::new()), None).to_text().replace(['\n', ' '], "");
        let message = || "busy".to_owned();
        let after = Some(Duration::from_millis(200));
        assert_eq!(
            of(Verdict::Retry { message: message(), after }),
            r#"{"outcome":"retry","message":"busy","after_ms":200}"#
        );
        assert_eq!(of(Verdict::Reject { message: message() }), r#"{"outcome":"reject","message":"busy"}"#);
        let fault = |class| Verdict::Fault { class, message: message() };
        assert_eq!(of(fault(FaultClass::OutOfMemory)), r#"{"outcome":"trap","class":"out_of_memory"}"#);
        assert_eq!(of(fault(FaultClass::Timeout)), r#"{"outcome":"timeout","class":"timeout"}"#);
    }

    #[test]
    fn a_slip_in_a_file_is_named() {
        let fault = |text: &str| Expectation::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(fault(r#"{"outcome": "ack", "publishd": []}"#).contains("publishd"));
        assert!(fault(r#"{"published": []}"#).contains("outcome"));
    }
}
