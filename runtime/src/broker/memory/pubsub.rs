//! Pub/Sub in this process: channels, patterns as Redis matches them, leases.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::super::keys;
use super::super::pubsub::{Heard, Lease, Position, is_pattern};

/// Everybody who listens, and who may write.
#[derive(Default)]
pub(super) struct Channels {
    listeners: Vec<Listener>,
    leases: HashMap<String, (String, Instant)>,
    positions: HashMap<String, Position>,
}

struct Listener {
    channel: String,
    marks: String,
    heard: mpsc::UnboundedSender<Heard>,
}

impl Channels {
    pub(super) fn listen(&mut self, channel: &str, intake: &str) -> mpsc::UnboundedReceiver<Heard> {
        let (heard, receiver) = mpsc::unbounded_channel();
        self.listeners.push(Listener { channel: channel.to_owned(), marks: keys::intake_marks(intake), heard });
        receiver
    }

    /// Hands the message to everybody who listens; how many did.
    pub(super) fn publish(&mut self, channel: &str, payload: &[u8]) -> u64 {
        let mut count = 0;
        self.listeners.retain(|listener| {
            let heard = if channel == listener.marks {
                String::from_utf8(payload.to_vec()).ok().map(Heard::Mark)
            } else if !channel.starts_with(keys::PREFIX) && listener.wants(channel) {
                Some(Heard::Message { channel: channel.as_bytes().to_vec(), payload: payload.to_vec() })
            } else {
                None
            };
            count += u64::from(heard.is_some());
            // One that has gone is forgotten.
            heard.map_or(!listener.heard.is_closed(), |heard| listener.heard.send(heard).is_ok())
        });
        count
    }

    pub(super) fn lease(&mut self, intake: &str, owner: &str, ttl: Duration) -> Lease {
        let now = Instant::now();
        let free = self.leases.get(intake).is_none_or(|(_, until)| *until <= now);
        let held = free || self.has_lease(intake, owner);
        if held {
            self.leases.insert(intake.to_owned(), (owner.to_owned(), now + ttl));
        }
        Lease { held, position: self.positions.get(intake).cloned() }
    }

    pub(super) fn release(&mut self, intake: &str, owner: &str) {
        if self.has_lease(intake, owner) {
            self.leases.remove(intake);
        }
    }

    /// Keeps the lease and notes the position; `false` if somebody else has the lease, or nobody.
    pub(super) fn advance(&mut self, intake: &str, owner: &str, ttl: Duration, position: &Position) -> bool {
        let held = self.has_lease(intake, owner);
        if held {
            self.lease(intake, owner, ttl);
            self.positions.insert(intake.to_owned(), position.clone());
        }
        held
    }

    fn has_lease(&self, intake: &str, owner: &str) -> bool {
        self.leases.get(intake).is_some_and(|(holder, until)| holder == owner && *until > Instant::now())
    }
}

impl Listener {
    fn wants(&self, channel: &str) -> bool {
        match is_pattern(&self.channel) {
            true => matches(self.channel.as_bytes(), channel.as_bytes()),
            false => self.channel == channel,
        }
    }
}

/// Whether a text matches a pattern with `*`, `?`, `[a-c]`, `[^a]` and `\`, as Redis understands them.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on if what follows the last `*` does not match: one byte later.
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, from));
            at += 1;
        } else if let Some(length) = pattern.get(at..).and_then(|rest| one(rest, text[from])) {
            at += length;
            from += 1;
        } else if let Some((after, tried)) = star {
            star = Some((after, tried + 1));
            (at, from) = (after, tried + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// The length of the element that a pattern begins with, if the byte matches it.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', rest @ ..] => {
            let negated = rest.first() == Some(&b'^');
            let mut at = usize::from(negated);
            let mut found = false;
            while let Some(&first) = rest.get(at).filter(|&&first| first != b']') {
                match rest[at..] {
                    [b'\\', literal, ..] => {
                        found |= literal == byte;
                        at += 2;
                    }
                    [low, b'-', high, ..] => {
                        found |= (low.min(high)..=low.max(high)).contains(&byte);
                        at += 3;
                    }
                    _ => {
                        found |= first == byte;
                        at += 1;
                    }
                }
            }
            // A `]` that is missing stands at the end.
            (found != negated).then_some((at + 2).min(pattern.len()))
        }
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_redis_matches_them() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "a:b"][..], &[][..]),
            ("a*", &["a", "ab", "a*"], &["", "ba"]),
            ("*a", &["a", "ba", "aa"], &["", "ab"]),
            ("a*b*c", &["abc", "axbxbxc"], &["ab", "abcd", "acb"]),
            ("h?llo", &["hello", "hxllo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo", "hllo"]),
            ("h[^e]llo", &["hallo"], &["hello"]),
            ("h[a-c]", &["ha", "hc"], &["hd", "h-"]),
            ("h[c-a]", &["hb"], &["hd"]),
            ("\\*", &["*"], &["a", "\\*"]),
            ("[\\]]", &["]"], &["\\"]),
            ("[ab", &["a"], &["c", "ab"]),
            ("a\\", &["a\\"], &["a"]),
        ] {
            for text in yes {
                assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
            }
            for text in no {
                assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn no_pattern_takes_long() {
        assert!(!matches("*a".repeat(50).as_bytes(), "a".repeat(40).as_bytes()));
        assert!(!matches(format!("{}b", "*a".repeat(50)).as_bytes(), "a".repeat(10_000).as_bytes()));
    }
}
