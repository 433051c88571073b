//! The adapter for `wasi:messaging`: an event is handed over as a message, and messages that are sent become drafts.
//!
//! A message travels with the same names as the fields of an entry: `ce_type` and so on. What the host decides (id,
//! source, time) can be read, and is ignored where it comes back, so that a guest can pass on all metadata of a message.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::bindings::wasmill::events::publisher::PublishError;
use super::bindings::wasmill::events::types::Draft;
use super::host::{Host, Policy, RESERVED};
use super::messaging_bindings::wasi::messaging::producer;
use super::messaging_bindings::wasi::messaging::types::{self, Error, MetadataError};
use super::{GuestDelivery, GuestEvent};
use crate::envelope::format_time;
use crate::event::is_attribute_name;
use crate::outcome::{Verdict, bounded};

/// What the names of an event's attributes begin with.
const ATTRIBUTE: &str = "ce_";
/// What the names of what wasmill says of a delivery begin with.
const OWN: &str = "wasmill_";
/// What a name with its value costs besides its text, in bytes.
const PAIR_OVERHEAD: usize = 64;

/// A way to send, which there is only one of.
pub struct Client;

/// A message of the guest, or the one that it handles.
#[derive(Default)]
pub struct Message {
    topic: Option<String>,
    content_type: Option<String>,
    data: Vec<u8>,
    metadata: Vec<(String, String)>,
}

impl Message {
    /// The event as a message.
    fn of(event: &GuestEvent, delivery: &GuestDelivery) -> Message {
        let mut metadata = Vec::with_capacity(event.attributes.len() + 8);
        let mut put = |name: &str, value: &str| metadata.push((format!("{ATTRIBUTE}{name}"), value.to_owned()));
        put("id", &event.id);
        put("source", &event.source);
        put("type", &event.type_);
        put("time", &format_time(event.time));
        let optional = [
            ("subject", &event.subject),
            ("dataschema", &event.schema_version),
            ("partitionkey", &event.partition_key),
        ];
        for (name, value) in optional {
            value.iter().for_each(|value| put(name, value));
        }
        event.attributes.iter().for_each(|(name, value)| put(name, value));
        metadata.push((format!("{OWN}attempt"), delivery.attempt.to_string()));
        Message {
            topic: Some(delivery.stream.clone()),
            content_type: Some(event.content_type.clone()).filter(|content_type| !content_type.is_empty()),
            data: event.data.clone(),
            metadata,
        }
    }

    /// The message as an event that is to be published.
    fn into_draft(self, topic: String) -> Draft {
        let mut draft = Draft {
            type_: topic.clone(),
            stream: topic,
            subject: None,
            schema_version: None,
            partition_key: None,
            content_type: self.content_type.unwrap_or_default(),
            attributes: Vec::new(),
            data: self.data,
            delay_ms: None,
        };
        for (key, value) in self.metadata {
            match (key.strip_prefix(ATTRIBUTE), key.as_str()) {
                (Some("type"), _) => draft.type_ = value,
                (Some("subject"), _) => draft.subject = Some(value),
                (Some("dataschema"), _) => draft.schema_version = Some(value),
                (Some("partitionkey"), _) => draft.partition_key = Some(value),
                (Some(name), _) if RESERVED.contains(&name) => {}
                (Some(name), _) => draft.attributes.push((name.to_owned(), value)),
                (None, name) if name.starts_with(OWN) => {}
                (None, _) => draft.attributes.push((key, value)),
            }
        }
        draft
    }

    /// What it holds of the host's memory, in bytes.
    fn size(&self) -> usize {
        let pairs = self.metadata.iter().map(|(key, value)| key.len() + value.len() + PAIR_OVERHEAD);
        self.data.len() + self.content_type.as_ref().map_or(0, String::len) + pairs.sum::<usize>() + PAIR_OVERHEAD
    }
}

fn check_key(key: &str) -> Result<(), MetadataError> {
    let is_fine = match key.strip_prefix(ATTRIBUTE).or_else(|| key.strip_prefix(OWN)) {
        Some(name) => is_attribute_name(name),
        None => is_attribute_name(key) && !RESERVED.contains(&key),
    };
    let reason = || format!("`{}` is no attribute of an event: 1 to 64 of a-z and 0-9", key.escape_default());
    if is_fine { Ok(()) } else { Err(MetadataError::Invalid(Some(reason()))) }
}

/// Bytes that the messages of an instance may hold at the same time: the one that is handled, and others to be sent.
fn most(policy: &Policy) -> usize {
    let bytes = policy.event_bytes.saturating_add(policy.publish_bytes.saturating_mul(2));
    usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(64 << 10)
}

impl Host {
    /// Makes a message of the event that is to be handled.
    pub(super) fn incoming(
        &mut self,
        event: &Arc<GuestEvent>,
        delivery: &GuestDelivery,
    ) -> wasmtime::Result<Resource<Message>> {
        self.keep(Message::of(event, delivery))
    }

    fn keep(&mut self, message: Message) -> wasmtime::Result<Resource<Message>> {
        self.account(0, message.size())?;
        Ok(self.table.push(message)?)
    }

    /// Changes a message, within what all of them may hold.
    fn change<T>(
        &mut self,
        message: &Resource<Message>,
        change: impl FnOnce(&mut Message) -> T,
    ) -> wasmtime::Result<T> {
        let held = self.table.get_mut(message)?;
        let before = held.size();
        let result = change(held);
        let after = held.size();
        self.account(before, after)?;
        Ok(result)
    }

    fn take(&mut self, message: Resource<Message>) -> wasmtime::Result<Message> {
        let message = self.table.delete(message)?;
        self.account(message.size(), 0)?;
        Ok(message)
    }

    fn account(&mut self, before: usize, after: usize) -> wasmtime::Result<()> {
        let most = most(&self.policy);
        self.message_bytes = self.message_bytes.saturating_sub(before).saturating_add(after);
        if self.message_bytes > most {
            wasmtime::bail!("the messages of the handler hold more than {most} bytes");
        }
        Ok(())
    }
}

impl types::Host for Host {}

impl types::HostClient for Host {
    fn connect(&mut self, _name: String) -> wasmtime::Result<Result<Resource<Client>, Error>> {
        Ok(Ok(self.table.push(Client)?))
    }

    fn disconnect(&mut self, client: Resource<Client>) -> wasmtime::Result<Result<(), Error>> {
        self.table.get(&client)?;
        Ok(Ok(()))
    }

    fn drop(&mut self, client: Resource<Client>) -> wasmtime::Result<()> {
        self.table.delete(client)?;
        Ok(())
    }
}

impl types::HostMessage for Host {
    fn new(&mut self, data: Vec<u8>) -> wasmtime::Result<Resource<Message>> {
        self.keep(Message { data, ..Message::default() })
    }

    fn topic(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.topic.clone())
    }

    fn content_type(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.content_type.clone())
    }

    fn set_content_type(
        &mut self,
        message: Resource<Message>,
        content_type: String,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.change(&message, |message| message.content_type = Some(content_type)).map(Ok)
    }

    fn data(&mut self, message: Resource<Message>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&message)?.data.clone())
    }

    fn set_data(&mut self, message: Resource<Message>, data: Vec<u8>) -> wasmtime::Result<()> {
        self.change(&message, |message| message.data = data)
    }

    fn metadata(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<Vec<(String, String)>>> {
        let metadata = &self.table.get(&message)?.metadata;
        Ok(Some(metadata.clone()).filter(|metadata| !metadata.is_empty()))
    }

    fn add_metadata(
        &mut self,
        message: Resource<Message>,
        key: String,
        value: String,
    ) -> wasmtime::Result<Result<(), MetadataError>> {
        if let Err(error) = check_key(&key) {
            return Ok(Err(error));
        }
        self.change(&message, |message| {
            message.metadata.retain(|(other, _)| *other != key);
            message.metadata.push((key, value));
        })
        .map(Ok)
    }

    fn set_metadata(
        &mut self,
        message: Resource<Message>,
        metadata: Vec<(String, String)>,
    ) -> wasmtime::Result<Result<(), MetadataError>> {
        if let Err(error) = metadata.iter().try_for_each(|(key, _)| check_key(key)) {
            return Ok(Err(error));
        }
        self.change(&message, |message| message.metadata = metadata).map(Ok)
    }

    fn remove_metadata(&mut self, message: Resource<Message>, key: String) -> wasmtime::Result<()> {
        self.change(&message, |message| message.metadata.retain(|(other, _)| *other != key))
    }

    fn drop(&mut self, message: Resource<Message>) -> wasmtime::Result<()> {
        self.take(message)?;
        Ok(())
    }
}

impl producer::Host for Host {
    fn send(
        &mut self,
        client: Resource<Client>,
        topic: String,
        message: Resource<Message>,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.table.get(&client)?;
        let draft = self.take(message)?.into_draft(topic);
        Ok(match self.publish_all(vec![draft]) {
            Ok(_) => Ok(()),
            Err(PublishError::Denied(topic)) => {
                Err(Error::PermissionDenied(format!("`{topic}` is not among the handler's `publishes`")))
            }
            Err(PublishError::TooLarge(limit)) => Err(Error::Other(format!("more than {limit} bytes in one delivery"))),
            Err(PublishError::TooMany(limit)) => {
                Err(Error::Other(format!("more than {limit} messages in one delivery")))
            }
            Err(PublishError::Invalid(reason)) => Err(Error::Other(reason)),
        })
    }
}

/// What becomes of the event: every error may pass, as the interface knows no other.
pub(super) fn verdict(result: Result<(), Error>) -> Verdict {
    let message = match result {
        Ok(()) => return Verdict::Ack,
        Err(Error::Timeout) => "timeout".to_owned(),
        Err(Error::Connection(message)) => format!("connection: {message}"),
        Err(Error::PermissionDenied(message)) => format!("permission denied: {message}"),
        Err(Error::Other(message)) => message,
    };
    Verdict::Retry { message: bounded(message), after: None }
}
