//! Messages that reach only those who listen right now (Redis Pub/Sub), and what it takes to make durable events of
//! them, once each, with many workers listening.
//!
//! Everybody who listens to the same channels hears the same things in the same order. So a *mark*, a message with a unique
//! text on a channel that all workers hear, gives each message that follows it the same [`Position`] everywhere. One
//! worker has the *lease* and writes; with every batch it writes down, in the same step, the position it has come to.
//! Whoever takes the lease over goes on exactly there.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::BrokerError;
use crate::outcome::Publication;

/// Something that a listener heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A mark.
    Mark(String),
    /// A message, byte for byte.
    Message { channel: Vec<u8>, payload: Vec<u8> },
}

/// The place of a message: the mark before it, and how many messages there were since then, this one included. The
/// mark itself is at 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The mark.
    pub mark: Arc<str>,
    /// Messages since the mark.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.mark, self.offset)
    }
}

/// A text is not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the position of an intake: it has the form MARK-NUMBER")]
pub struct InvalidPosition(pub String);

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Position, InvalidPosition> {
        let parts = text.rsplit_once('-').and_then(|(mark, offset)| Some((mark, offset.parse().ok()?)));
        let (mark, offset) = parts.ok_or_else(|| InvalidPosition(text.to_owned()))?;
        Ok(Position { mark: mark.into(), offset })
    }
}

/// Who may write, and how far the writing has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The one who asked has the lease.
    pub held: bool,
    /// The last message that was written; `None` if there is none yet.
    pub position: Option<Position>,
}

/// What an intake needs of a broker. `intake` is its key, see [`super::keys::Namespace::intake`].
#[async_trait]
pub trait PubSub: Send + Sync {
    /// Listens to a channel, or to all channels that match if it is a pattern ([`is_pattern`]), and to the marks of the
    /// intake. Channels of wasmill's own are left out. What is published once this has returned is heard, in the order
    /// in which it was published, until the stream ends, which it does when the connection breaks.
    async fn listen(&self, channel: &str, intake: &str) -> Result<BoxStream<'static, Heard>, BrokerError>;

    /// Publishes a message to whoever listens; how many did.
    async fn publish_message(&self, channel: &str, payload: &[u8]) -> Result<u64, BrokerError>;

    /// Takes the lease if nobody has it, and keeps it for the next `ttl` if `owner` has it.
    async fn lease(&self, intake: &str, owner: &str, ttl: Duration) -> Result<Lease, BrokerError>;

    /// Gives the lease back, if `owner` has it.
    async fn release(&self, intake: &str, owner: &str) -> Result<(), BrokerError>;

    /// If `owner` has the lease: appends the events, all or none, writes down the position, keeps the lease for the next
    /// `ttl`, and answers `true`. Else writes nothing. The events belong to one stream; at least one.
    async fn take_in(
        &self,
        intake: &str,
        owner: &str,
        ttl: Duration,
        position: &Position,
        events: &[Publication],
    ) -> Result<bool, BrokerError>;
}

/// Whether a channel stands for all channels that match it: it has one of the characters `*?[\`.
pub fn is_pattern(channel: &str) -> bool {
    channel.contains(['*', '?', '[', '\\'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_their_text() {
        let position = Position { mark: "a-b".into(), offset: 7 };
        assert_eq!(position.to_string().parse(), Ok(position));
        for text in ["", "a", "a-", "-x", "a-1x"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
