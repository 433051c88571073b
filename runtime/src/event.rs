//! The event: the record that the whole of wasmill is about, in memory.
//!
//! Pure data. The wire forms are in [`crate::envelope`], the guest's view of it in `wit/events.wit`.

use std::fmt;

use sha2::{Digest, Sha256};

/// An event is larger than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event has {size} bytes; limits.event_bytes is {limit}")]
pub struct TooLarge {
    /// Its bytes, as [`Event::size`] counts them.
    pub size: usize,
    /// The bytes that it may have.
    pub limit: u64,
}

impl TooLarge {
    /// Whether an event of so many bytes is within a limit.
    pub fn check(size: usize, limit: u64) -> Result<(), TooLarge> {
        if size as u64 > limit { Err(TooLarge { size, limit }) } else { Ok(()) }
    }
}

/// Attributes that an event may carry besides the named ones; a bound on what one entry can make us hold.
pub const MAX_ATTRIBUTES: usize = 64;

/// The attribute that names the event which led to this one.
pub const CAUSATION_ID: &str = "causationid";
/// The attribute that names the version of the handler which made this one: `sha256:` and 64 hexadecimal digits.
pub const HANDLER_DIGEST: &str = "handlerdigest";
/// The attribute that all events of one story share.
pub const CORRELATION_ID: &str = "correlationid";
/// The W3C trace context attribute.
pub const TRACEPARENT: &str = "traceparent";
/// The vendor part of the W3C trace context.
pub const TRACESTATE: &str = "tracestate";

/// A CloudEvents 1.0 record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Identifies the event together with `source`. Never empty.
    pub id: String,
    /// Who made the event, a URI reference. Never empty.
    pub source: String,
    /// What happened. Never empty.
    pub r#type: String,
    /// When it happened, in milliseconds since the Unix epoch.
    pub time: u64,
    /// What it happened to.
    pub subject: Option<String>,
    /// The version of the schema that `data` follows (CloudEvents `dataschema`).
    pub schema_version: Option<String>,
    /// Events with the same key belong together (CloudEvents `partitionkey`).
    pub partition_key: Option<String>,
    /// The media type of `data`; empty when the producer did not say.
    pub content_type: String,
    /// All other attributes in the order in which they were written, the trace context among them.
    pub attributes: Vec<(String, String)>,
    /// The payload, untouched.
    pub data: Vec<u8>,
}

impl Event {
    /// The value of an extension attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The SHA-256 of source and id: equal for what is the same event.
    pub fn identity_hash(&self) -> ContentHash {
        let mut hasher = Sha256::new();
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hasher.update((self.source.len() as u64).to_be_bytes());
        hasher.update(self.source.as_bytes());
        hasher.update(self.id.as_bytes());
        ContentHash(hasher.finalize().into())
    }

    /// The SHA-256 of type and data: equal for events that say the same, whatever their ids.
    pub fn content_hash(&self) -> ContentHash {
        let mut hasher = Sha256::new();
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hasher.update((self.r#type.len() as u64).to_be_bytes());
        hasher.update(self.r#type.as_bytes());
        hasher.update(&self.data);
        ContentHash(hasher.finalize().into())
    }

    /// Whether the event is within `limits.event_bytes`.
    pub fn check_size(&self, limit: u64) -> Result<(), TooLarge> {
        TooLarge::check(self.size(), limit)
    }

    /// The bytes that count against size limits: the payload and every text.
    pub fn size(&self) -> usize {
        let optional = |field: &Option<String>| field.as_ref().map_or(0, String::len);
        self.data.len()
            + self.id.len()
            + self.source.len()
            + self.r#type.len()
            + self.content_type.len()
            + optional(&self.subject)
            + optional(&self.schema_version)
            + optional(&self.partition_key)
            + self.attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

/// The result of [`Event::content_hash`] and [`Event::identity_hash`]; displays as lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// Writes bytes as lower-case hexadecimal.
pub fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Whether CloudEvents allows this as the name of an extension attribute: lower-case letters and digits, 1 to 64.
pub fn is_attribute_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_hash_depends_on_type_and_data_only() {
        let event = Event { id: "1".into(), r#type: "ab".into(), data: b"c".to_vec(), ..Event::default() };
        let same = Event { id: "2".into(), ..event.clone() };
        let shifted = Event { r#type: "a".into(), data: b"bc".to_vec(), ..event.clone() };
        assert_eq!(event.content_hash(), same.content_hash());
        assert_ne!(event.content_hash(), shifted.content_hash());
        assert_eq!(event.content_hash().to_string().len(), 64);
    }

    #[test]
    fn attribute_names_follow_cloudevents() {
        assert!(is_attribute_name("causationid"));
        assert!(is_attribute_name(&"a".repeat(64)));
        for bad in ["", "Upper", "with_underscore", "ümlaut", &"a".repeat(65)] {
            assert!(!is_attribute_name(bad), "{bad}");
        }
    }
}
