//! Listening, and writing down what was heard.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::super::pubsub::{Heard, Lease, Position, PubSub, is_pattern};
use super::super::{BrokerError, keys};
use super::script::{KeyTable, Script};
use super::{RedisBroker, reply, settle};
use crate::outcome::Publication;

#[async_trait]
impl PubSub for RedisBroker {
    async fn listen(&self, channel: &str, intake: &str) -> Result<BoxStream<'static, Heard>, BrokerError> {
        let marks = keys::intake_marks(intake);
        let mut connection = self.own.open_pubsub().await?;
        let subscribed = async {
            connection.subscribe(&marks).await?;
            match is_pattern(channel) {
                true => connection.psubscribe(channel).await,
                false => connection.subscribe(channel).await,
            }
        };
        subscribed.await.map_err(super::link::classify)?;
        let heard = move |message: ::redis::Msg| {
            let channel: Vec<u8> = message.get_channel().unwrap_or_default();
            let payload = message.get_payload_bytes().to_vec();
            let is_own = channel.starts_with(keys::PREFIX.as_bytes());
            let heard = match (is_own, channel == marks.as_bytes() && !message.from_pattern()) {
                (_, true) => String::from_utf8(payload).ok().map(Heard::Mark),
                (true, false) => None,
                (false, false) => Some(Heard::Message { channel, payload }),
            };
            std::future::ready(heard)
        };
        Ok(connection.into_on_message().filter_map(heard).boxed())
    }

    async fn publish_message(&self, channel: &str, payload: &[u8]) -> Result<u64, BrokerError> {
        self.own.query(::redis::cmd("PUBLISH").arg(channel).arg(payload)).await
    }

    async fn lease(&self, intake: &str, owner: &str, ttl: Duration) -> Result<Lease, BrokerError> {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let reply = Script::Lease
            .run(&self.own, &[intake, &keys::intake_position(intake)], |command| {
                command.arg(owner).arg(ttl);
            })
            .await?;
        reply::lease(reply)
    }

    async fn release(&self, intake: &str, owner: &str) -> Result<(), BrokerError> {
        self.lease(intake, owner, Duration::ZERO).await.map(drop)
    }

    async fn take_in(
        &self,
        intake: &str,
        owner: &str,
        ttl: Duration,
        position: &Position,
        events: &[Publication],
    ) -> Result<bool, BrokerError> {
        let Some(first) = events.first() else { return Ok(false) };
        let position_key = keys::intake_position(intake);
        let mut keys = KeyTable::default();
        let write = |command: &mut ::redis::Cmd| {
            command.arg(owner).arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)).arg(position.to_string());
            events.iter().for_each(|event| settle::write_publication(command, event, &mut keys));
        };
        let reply = Script::TakeIn.run(&self.own, &[&first.key, intake, &position_key], write).await?;
        Ok(reply::integer(&reply)? == 1)
    }
}
