//! Moving delayed events into their streams when their time has come.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::delayed::{self, Delayed};
use super::super::keys::Namespace;
use super::super::{BrokerError, DELAYED_PAUSE, DelayedMoved, Refusal, Settled};
use super::link::Link;
use super::reply::{self, DueDelayed};
use super::script::{KeyTable, Script};
use super::settle;
use crate::outcome::Due;

/// Bytes of events that are moved together; one event may have more.
const MAX_BYTES: usize = 1 << 20;

/// Moves what is due; see [`super::super::Broker::move_delayed`].
pub(super) async fn move_delayed(
    link: &Link,
    namespace: &Namespace,
    limit: usize,
) -> Result<DelayedMoved, BrokerError> {
    let set = namespace.delayed();
    let reply = Script::DueDelayed
        .run(link, &[&set], |command| {
            command.arg(limit).arg(MAX_BYTES);
        })
        .await?;
    let DueDelayed { now_ms, members, next_due } = reply::due_delayed(reply)?;
    let mut moved = DelayedMoved { next_due, ..DelayedMoved::default() };
    let mut refused: Vec<&[u8]> = Vec::new();
    let mut events: Vec<(&[u8], Delayed)> = Vec::with_capacity(members.len());
    for member in &members {
        match delayed::unpack(member) {
            Some(event) if namespace.has_stream(&event.key) => events.push((member, event)),
            Some(_) | None => {
                moved.refused.push(format!("a member of {set} was not written by wasmill"));
                refused.push(member);
            }
        }
    }
    for ((member, _), result) in events.iter().zip(append(link, &set, &events).await?) {
        match result {
            Settled::Applied => moved.moved += 1,
            Settled::Refused(why) => {
                moved.refused.push(why);
                refused.push(member);
            }
            Settled::Superseded | Settled::Duplicate | Settled::Stale | Settled::OverQuota => {}
        }
    }
    put_off(link, &set, now_ms, &refused).await?;
    Ok(moved)
}

/// Appends the events, each unless somebody else has done it; the answers are in their order.
async fn append(link: &Link, set: &str, events: &[(&[u8], Delayed)]) -> Result<Vec<Settled>, BrokerError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let mut table = KeyTable::default();
    table.index(set);
    let places: Vec<usize> = events.iter().map(|(_, event)| table.index(&event.key)).collect();
    let write = |command: &mut ::redis::Cmd| {
        for ((member, event), place) in events.iter().zip(places) {
            command.arg(*member).arg(place).arg(event.fields.len() * 2);
            for (name, value) in &event.fields {
                command.arg(name).arg(value);
            }
        }
    };
    match Script::MoveDelayed.run(link, &table.0, write).await {
        Ok(reply) => settle::results(reply),
        // The keys of one stream may be what is refused: the others are not to suffer for it.
        Err(BrokerError::Refused { refusal, message })
            if refusal.is_about_effects() && refusal != Refusal::OutOfMemory =>
        {
            let key = &events[0].1.key;
            let (first, others): (Vec<usize>, Vec<usize>) = (0..events.len()).partition(|&at| events[at].1.key == *key);
            if others.is_empty() {
                return Ok(vec![settle::refused(refusal, &format!("{key}: {message}")); events.len()]);
            }
            let mut answers = BTreeMap::new();
            for part in [first, others] {
                let chosen: Vec<_> = part.iter().map(|&at| events[at].clone()).collect();
                let settled = Box::pin(append(link, set, &chosen)).await?;
                answers.extend(part.into_iter().zip(settled));
            }
            Ok(answers.into_values().collect())
        }
        Err(error) => Err(error),
    }
}

/// Lets members wait for another while, so that they do not stand before what can be moved.
async fn put_off(link: &Link, set: &str, now_ms: u64, members: &[&[u8]]) -> Result<(), BrokerError> {
    if members.is_empty() {
        return Ok(());
    }
    let due = now_ms + DELAYED_PAUSE.as_millis() as u64;
    let mut command = ::redis::cmd("ZADD");
    // XX: one that somebody has moved meanwhile does not come back.
    command.arg(set).arg("XX");
    for member in members {
        command.arg(due).arg(*member);
    }
    match link.query::<i64>(&command).await {
        // They stay where they are: a full server moves nothing anyway.
        Ok(_) | Err(BrokerError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// How long from now an event is due, for the scripts: a sign, and milliseconds.
pub(super) fn when(due: Due) -> String {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match due {
        Due::Now => String::new(),
        Due::After(delay) => format!("+{}", ms(delay)),
        Due::At(at) => format!("={at}"),
    }
}
