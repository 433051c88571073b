//! Smoke tests of a version: events that each worker runs through it before it says that it is prepared.
//!
//! Nothing comes of them: follow-ups are only compared, HTTP requests are denied. They travel as one document in the store of
//! components, by its digest.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Version;
use super::expected::Expectation;
use crate::clock::now_ms;
use crate::envelope::structured;
use crate::outcome::bounded;
use crate::state::{Kept, unpack};
use crate::text::printable;
use crate::wasm::{GuestDelivery, GuestEvent, Handler, Isolation, Policy, Surroundings};

/// The most events of one rollout.
pub const MAX_SMOKE_TESTS: usize = 100;
/// The largest document with smoke tests, in bytes.
pub const MAX_SMOKE_BYTES: usize = 1 << 20;

/// The document is not one of smoke tests.
#[derive(Debug, thiserror::Error)]
pub enum SmokeError {
    /// Not of the form.
    #[error("the smoke tests cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// None at all, or more than [`MAX_SMOKE_TESTS`].
    #[error("{0} smoke tests; 1 to {MAX_SMOKE_TESTS} are allowed")]
    Count(usize),
    /// More than [`MAX_SMOKE_BYTES`].
    #[error("the smoke tests have {0} bytes; {MAX_SMOKE_BYTES} are allowed")]
    TooLarge(usize),
    /// One of them has no event.
    #[error("smoke test {name}: not a CloudEvent in JSON: {cause}")]
    Event { name: String, cause: String },
    /// One of them begins with a state that cannot be.
    #[error("smoke test {name}: state: {cause}")]
    State { name: String, cause: String },
}

/// Smoke tests of a handler.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SmokeTests {
    /// The tests, in the order in which they are run.
    pub tests: Vec<SmokeTest>,
}

/// An event, and what is to come of it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SmokeTest {
    /// What it is called when it fails.
    pub name: String,
    /// The event, as CloudEvents JSON.
    pub event: Value,
    /// The state that the handler begins with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub state: BTreeMap<String, Kept>,
    /// What is to come of it. Without that, it must be acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expectation>,
}

impl SmokeTests {
    /// Reads the document, and checks each event.
    pub fn parse(document: &[u8]) -> Result<SmokeTests, SmokeError> {
        if document.len() > MAX_SMOKE_BYTES {
            return Err(SmokeError::TooLarge(document.len()));
        }
        let mut tests: SmokeTests = serde_json::from_slice(document)?;
        if !(1..=MAX_SMOKE_TESTS).contains(&tests.tests.len()) {
            return Err(SmokeError::Count(tests.tests.len()));
        }
        for test in &mut tests.tests {
            structured::parse(test.event.to_string().as_bytes(), 0)
                .map_err(|error| SmokeError::Event { name: test.name.clone(), cause: error.to_string() })?;
            unpack(&test.state).map_err(|cause| SmokeError::State { name: test.name.clone(), cause })?;
            test.expected = test.expected.take().map(Expectation::normal);
        }
        Ok(tests)
    }

    /// The document, if it is one that [`SmokeTests::parse`] takes.
    pub fn document(&self) -> Result<Vec<u8>, SmokeError> {
        let document = serde_json::to_vec(self)?;
        SmokeTests::parse(&document)?;
        Ok(document)
    }

    /// Runs the tests one after the other, each in an instance of its own; what is wrong with the first that fails.
    /// `delivery` is what all deliveries have in common; with `check_schemas`, events must follow theirs.
    pub async fn run(&self, version: &Version, delivery: &GuestDelivery, check_schemas: bool) -> Result<(), String> {
        let handler = without_effects(&version.handler);
        for test in &self.tests {
            let result = run_one(&handler, test, delivery, check_schemas).await;
            // Names and messages may be anybody's.
            result.map_err(|problem| bounded(printable(&format!("smoke test {}: {problem}", test.name))))?;
        }
        Ok(())
    }
}

/// The handler as it is tested: nothing of an event is left for the next, and no request leaves.
fn without_effects(handler: &Handler) -> Handler {
    let mut policy = Policy::clone(&handler.policy);
    policy.interfaces.http = None;
    Handler { component: handler.component.clone(), policy: Arc::new(policy), isolation: Isolation::Fresh }
}

async fn run_one(
    handler: &Handler,
    test: &SmokeTest,
    delivery: &GuestDelivery,
    check_schemas: bool,
) -> Result<(), String> {
    let event = structured::parse(test.event.to_string().as_bytes(), now_ms()).map_err(|error| error.to_string())?;
    if let Some((_, why)) = handler.policy.refusal(&event, check_schemas) {
        return Err(format!("not run: {why}"));
    }
    let partition_key = event.partition_key.clone();
    // Not by the clock: a handler that puts it into a follow-up has the same follow-up each time.
    let delivery = GuestDelivery { entry_id: format!("{}-0", event.time), ..delivery.clone() };
    let state = unpack(&test.state)?;
    let event = Arc::new(GuestEvent::from(event));
    let (execution, _) = handler.run(None, event, delivery, Surroundings::here(Some(Arc::new(state)))).await;
    let actual = Expectation::of(&execution, partition_key.as_deref());
    let (word, message) = execution.verdict.told();
    match &test.expected {
        Some(expected) if *expected == actual => Ok(()),
        None if actual.outcome == "ack" => Ok(()),
        Some(expected) if expected.outcome == actual.outcome => {
            Err(format!("{word} as expected, but with {}, not {}", actual.effects(), expected.effects()))
        }
        _ => {
            let expected = test.expected.as_ref().map_or("ack", |expected| expected.outcome.as_str());
            let message = if message.is_empty() { String::new() } else { format!(" ({message})") };
            Err(format!("{word}{message} instead of {expected}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn test(name: &str, event: Value) -> SmokeTest {
        SmokeTest { name: name.to_owned(), event, state: BTreeMap::new(), expected: None }
    }

    fn event(data: &str) -> Value {
        json!({"specversion": "1.0", "id": "1", "source": "/t", "type": "t", "data": data})
    }

    #[test]
    fn documents_are_bounded_in_number_and_size() {
        let of = |count: usize| SmokeTests { tests: vec![test("t", event("")); count] }.document();
        assert!(matches!(of(0), Err(SmokeError::Count(0))));
        assert!(of(1).is_ok() && of(MAX_SMOKE_TESTS).is_ok());
        assert!(matches!(of(MAX_SMOKE_TESTS + 1), Err(SmokeError::Count(101))));
        let rest = SmokeTests { tests: vec![test("t", event(""))] }.document().unwrap().len();
        let sized = |size: usize| SmokeTests { tests: vec![test("t", event(&"x".repeat(size - rest)))] }.document();
        assert!(sized(MAX_SMOKE_BYTES).is_ok());
        assert!(matches!(sized(MAX_SMOKE_BYTES + 1), Err(SmokeError::TooLarge(_))));
    }

    #[test]
    fn what_is_no_event_is_named() {
        let error =
            SmokeTests { tests: vec![test("a", event("")), test("b", json!({"id": 1}))] }.document().unwrap_err();
        assert!(error.to_string().starts_with("smoke test b: not a CloudEvent"), "{error}");
        let slip = br#"{"tests": [{"name": "a", "event": {}, "expect": {}}]}"#;
        assert!(SmokeTests::parse(slip).unwrap_err().to_string().contains("expect"));
    }

    #[test]
    fn what_is_written_is_read_again_as_the_same() {
        let expected = Expectation::parse(br#"{"outcome": "retry", "message": "later"}"#).unwrap();
        let tests = SmokeTests { tests: vec![SmokeTest { expected: Some(expected), ..test("a", event("x")) }] };
        assert_eq!(SmokeTests::parse(&tests.document().unwrap()).unwrap(), tests);
    }
}
