//! What a handler remembers between events: keys and values, how they are read, and what one delivery saw and wrote of
//! them. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// Keys that one delivery may read, ask for, set or delete.
pub const MAX_KEYS: usize = 256;
/// The most keys that a handler's state may have for a delivery to list them: the settle looks whether they are still the
/// same, and nothing else runs on Redis meanwhile.
pub const MAX_LISTED: usize = 1000;

/// What is wrong with a key.
pub fn check_key(key: &str) -> Result<(), String> {
    if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
        return Err(format!("a key of the state has 1 to {MAX_KEY_BYTES} bytes, this one has {}", key.len()));
    }
    if key.chars().any(char::is_control) {
        return Err(format!("the key {key:?} has a control character"));
    }
    Ok(())
}

/// The SHA-1 of a value, which Redis's scripts know as well. Whoever can make two values with the same one is the only
/// one who can be deceived by them: the handler that wrote both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(sha1_smol::Digest);

impl Fingerprint {
    /// The fingerprint of a value.
    pub fn of(value: &[u8]) -> Fingerprint {
        Fingerprint(sha1_smol::Sha1::from(value).digest())
    }
}

/// 40 hexadecimal digits in lower case.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a delivery saw of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// There was no such key.
    Absent,
    /// It was there; its value was not looked at.
    Present,
    /// It had the value with this fingerprint.
    Value(Fingerprint),
}

impl Seen {
    /// What is seen of a value.
    pub fn of(value: Option<&[u8]>) -> Seen {
        value.map_or(Seen::Absent, |value| Seen::Value(Fingerprint::of(value)))
    }

    /// Whether the same would be seen of this value.
    pub fn still_holds(self, value: Option<&[u8]>) -> bool {
        match self {
            Seen::Present => value.is_some(),
            seen => seen == Seen::of(value),
        }
    }
}

/// What one delivery saw and wants to write. The writes apply only if everything seen is still so: then the delivery
/// might as well have run at that very moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What was seen, in order. The same key can stand here twice, when it was asked for in two ways.
    pub seen: Vec<(String, Seen)>,
    /// All keys that there were, if the delivery listed them.
    pub listed: Option<Vec<String>>,
    /// New values by key; `None` deletes.
    pub writes: BTreeMap<String, Option<Vec<u8>>>,
    /// The bytes of keys and values that were seen: the settle looks at all of them again.
    pub seen_bytes: usize,
}

impl Changes {
    /// Whether there is nothing to check and nothing to write.
    pub fn is_empty(&self) -> bool {
        !self.has_seen() && self.writes.is_empty()
    }

    /// Whether the delivery depends on what it saw.
    pub fn has_seen(&self) -> bool {
        !self.seen.is_empty() || self.listed.is_some()
    }

    /// The writes, as users see them: the new value by key, or none if it is deleted.
    pub fn shown(&self) -> BTreeMap<String, Option<Kept>> {
        self.writes.iter().map(|(key, value)| (key.clone(), value.as_deref().map(Kept::new))).collect()
    }

    /// The bytes of keys and values that the settle has to do with.
    pub fn bytes(&self) -> usize {
        let written = self.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
        written.sum::<usize>() + self.seen_bytes
    }
}

/// A value in JSON, where people write and read it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Kept {
    /// It is UTF-8.
    Text(String),
    /// It is not.
    Base64 {
        /// Its bytes in base64.
        base64: String,
    },
}

impl Kept {
    /// The JSON form of a value.
    pub fn new(value: &[u8]) -> Kept {
        match std::str::from_utf8(value) {
            Ok(text) => Kept::Text(text.to_owned()),
            Err(_) => Kept::Base64 { base64: BASE64.encode(value) },
        }
    }

    /// The value.
    pub fn bytes(&self) -> Result<Vec<u8>, base64::DecodeError> {
        match self {
            Kept::Text(text) => Ok(text.clone().into_bytes()),
            Kept::Base64 { base64 } => BASE64.decode(base64),
        }
    }
}

/// The state that people have written down; fails for what is no key or no base64, and names it.
pub fn unpack(kept: &BTreeMap<String, Kept>) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let value = |(key, value): (&String, &Kept)| {
        check_key(key)?;
        Ok((key.clone(), value.bytes().map_err(|error| format!("{key}: {error}"))?))
    };
    kept.iter().map(value).collect()
}

/// Where the state of a handler lies, and how large it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The Redis key of the hash that holds it.
    pub hash: Arc<str>,
    /// The Redis key of the hash that says how many bytes of keys and values the states of the tenant have, by handler.
    pub sizes: Arc<str>,
    /// The handler, as it stands there.
    pub handler: Arc<str>,
    /// The most bytes that the states of the tenant may have together; `None` for no bound.
    pub quota: Option<u64>,
}

/// The changes, and whose state they are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// Where the state lies.
    pub home: Arc<Home>,
    /// What was seen and is to be written.
    pub changes: Changes,
}

/// The state could not be read; nothing that the delivery does is to count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state cannot be read: {0}")]
pub struct ReadError(pub String);

/// Where a delivery reads the state of its handler.
#[async_trait]
pub trait Reader: Send + Sync {
    /// The values of these keys, in order; `None` if they have more than `most` bytes together.
    async fn values(&self, keys: &[String], most: u64) -> Result<Option<Vec<Option<Vec<u8>>>>, ReadError>;

    /// Whether there is such a key.
    async fn has(&self, key: &str) -> Result<bool, ReadError>;

    /// All keys, in no order; `None` if there are more than `most`.
    async fn keys(&self, most: usize) -> Result<Option<Vec<String>>, ReadError>;

    /// The quota of the tenant, if the last run of the delivery wanted more bytes than that: this one is told so when it
    /// wants to make the state larger.
    fn exceeded_quota(&self) -> Option<u64> {
        None
    }
}

/// A state that is not shared with anybody: what `wasmill invoke` and tests of handlers begin with.
#[async_trait]
impl Reader for BTreeMap<String, Vec<u8>> {
    async fn values(&self, keys: &[String], most: u64) -> Result<Option<Vec<Option<Vec<u8>>>>, ReadError> {
        let values: Vec<Option<Vec<u8>>> = keys.iter().map(|key| self.get(key).cloned()).collect();
        let bytes: usize = values.iter().flatten().map(Vec::len).sum();
        Ok(Some(values).filter(|_| bytes as u64 <= most))
    }

    async fn has(&self, key: &str) -> Result<bool, ReadError> {
        Ok(self.contains_key(key))
    }

    async fn keys(&self, most: usize) -> Result<Option<Vec<String>>, ReadError> {
        Ok((self.len() <= most).then(|| BTreeMap::keys(self).cloned().collect()))
    }
}

/// A state with nothing in it, for deliveries that no broker knows of.
pub fn empty() -> Arc<dyn Reader> {
    Arc::new(BTreeMap::<String, Vec<u8>>::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_at_the_edge() {
        assert!(check_key("k").is_ok() && check_key(&"k".repeat(MAX_KEY_BYTES)).is_ok());
        assert!(check_key("orders/{7}*\u{fc}").is_ok());
        for key in ["", &"k".repeat(MAX_KEY_BYTES + 1), "a\nb", "a\0", "\u{85}"] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
    }

    #[test]
    fn what_people_write_down_survives() {
        let state = BTreeMap::from([("a".to_owned(), b"\xff\0".to_vec()), ("b".to_owned(), b"text".to_vec())]);
        let kept: BTreeMap<String, Kept> = state.iter().map(|(key, value)| (key.clone(), Kept::new(value))).collect();
        assert_eq!(unpack(&kept), Ok(state));
        let bad = [("", Kept::new(b"")), ("a", Kept::Base64 { base64: "?".to_owned() })];
        assert!(bad.into_iter().all(|(key, value)| unpack(&[(key.to_owned(), value)].into()).is_err()));
    }

    #[test]
    fn what_was_seen_holds_as_long_as_it_would_be_seen_again() {
        let value = Seen::of(Some(b"1"));
        assert!(value.still_holds(Some(b"1")) && !value.still_holds(Some(b"2")) && !value.still_holds(None));
        assert!(Seen::Present.still_holds(Some(b"2")) && !Seen::Present.still_holds(None));
        assert!(Seen::of(None).still_holds(None) && !Seen::of(None).still_holds(Some(b"")));
        assert_eq!(Fingerprint::of(b"").to_string(), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    }
}
