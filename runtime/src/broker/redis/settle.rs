//! Writing decisions: acks without effects by one XACK per stream, everything else by script.

use std::collections::BTreeMap;

use ::redis::{Cmd, Value};

use super::super::{BrokerError, Refusal, Settled, dead_letter, keys};
use super::link::Link;
use super::reply;
use super::script::{KeyTable, Script};
use crate::envelope;
use crate::outcome::{DeadLetter, Decision, Publication, Settlement};

/// Applies the settlements; see [`super::super::Broker::settle`].
pub(super) async fn settle(
    link: &Link,
    consumer: &str,
    settlements: &[Settlement],
) -> Result<Vec<Settled>, BrokerError> {
    let [mut bare, mut parks, mut effects] = [const { Vec::new() }; 3];
    for (at, settlement) in settlements.iter().enumerate() {
        match &settlement.decision {
            Decision::Ack { publishes } if publishes.is_empty() => bare.push(at),
            Decision::Park { .. } => parks.push(at),
            Decision::Ack { .. } | Decision::DeadLetter(_) => effects.push(at),
        }
    }
    // All three travel together; each is atomic by itself, and no delivery is in two of them.
    let (bare_results, park_results, effect_results) = futures::join!(
        settle_bare(link, settlements, &bare),
        settle_parks(link, consumer, settlements, &parks),
        settle_effects(link, consumer, settlements, &effects),
    );
    let mut results = vec![Settled::Superseded; settlements.len()];
    let groups = [(bare, bare_results?), (parks, park_results?), (effects, effect_results?)];
    for (places, settled) in groups {
        if places.len() != settled.len() {
            return Err(reply::unexpected("another number of results than of settlements"));
        }
        for (at, result) in places.into_iter().zip(settled) {
            results[at] = result;
        }
    }
    Ok(results)
}

/// Acks without effects: one XACK for all entries of a stream. It does not say which of them were still pending, which
/// makes no difference, since nothing else is written.
async fn settle_bare(link: &Link, settlements: &[Settlement], places: &[usize]) -> Result<Vec<Settled>, BrokerError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let mut commands: Vec<((&str, &str), Cmd)> = Vec::new();
    // The command that each of the places went into.
    let mut owners = Vec::with_capacity(places.len());
    for &at in places {
        let Settlement { source, entry, .. } = &settlements[at];
        let group = (&*source.key, &*source.group);
        let owner = commands.iter().position(|(known, _)| *known == group).unwrap_or_else(|| {
            let mut command = ::redis::cmd("XACK");
            command.arg(group.0).arg(group.1);
            commands.push((group, command));
            commands.len() - 1
        });
        commands[owner].1.arg(entry.to_string());
        owners.push(owner);
    }
    let mut pipeline = ::redis::Pipeline::with_capacity(commands.len());
    for (_, command) in commands {
        pipeline.add_command(command);
    }
    let mut results = vec![Settled::Applied; places.len()];
    for (index, reply) in link.pipeline_each(&pipeline).await?.into_iter().enumerate() {
        match reply {
            Ok(_) => {}
            // What is no stream (any more) has nothing pending.
            Err(BrokerError::NoGroup { .. } | BrokerError::Refused { refusal: Refusal::WrongType, .. }) => {
                let theirs = results.iter_mut().zip(&owners).filter(|(_, owner)| **owner == index);
                theirs.for_each(|(result, _)| *result = Settled::Superseded);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(results)
}

async fn settle_parks(
    link: &Link,
    consumer: &str,
    settlements: &[Settlement],
    places: &[usize],
) -> Result<Vec<Settled>, BrokerError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let mut keys = KeyTable::default();
    let mut body = Cmd::new();
    for &at in places {
        let Settlement { source, entry, decision: Decision::Park { pause } } = &settlements[at] else { continue };
        body.arg(keys.index(&source.key)).arg(&*source.group).arg(entry.to_string());
        body.arg(keys.index(&source.due_key)).arg(pause.as_millis() as u64);
    }
    let reply = Script::Park
        .run(link, &keys.0, |command| {
            command.arg(consumer).arg(keys::PARKED_CONSUMER);
            append(command, &body);
        })
        .await?;
    results(reply)
}

async fn settle_effects(
    link: &Link,
    consumer: &str,
    settlements: &[Settlement],
    places: &[usize],
) -> Result<Vec<Settled>, BrokerError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let mut keys = KeyTable::default();
    for &at in places {
        let Settlement { source, decision, .. } = &settlements[at];
        keys.index(&source.key);
        match decision {
            Decision::Ack { publishes } => publishes.iter().for_each(|publication| {
                keys.index(&publication.key);
            }),
            Decision::DeadLetter(letter) => {
                keys.index(&letter.key);
            }
            Decision::Park { .. } => {}
        }
    }
    let table = keys.0.clone();
    let reply = Script::Settle
        .run(link, &table, |command| {
            command.arg(consumer);
            for &at in places {
                write_effects(command, &settlements[at], &mut keys);
            }
        })
        .await;
    match reply {
        Ok(reply) => results(reply),
        // Nothing was written. This is about effects alone, so acks and parked entries go on.
        Err(BrokerError::Refused { refusal, message }) if refusal.is_about_effects() => {
            let group = |at: usize| &settlements[at].source.group;
            let (first, others): (Vec<usize>, Vec<usize>) =
                places.iter().partition(|&&at| group(at) == group(places[0]));
            if !others.is_empty() {
                // One handler's keys may be what is refused: the others are not to suffer for it.
                return settle_apart(link, consumer, settlements, places, [first, others]).await;
            }
            let why = format!("{refusal}: {message}. {}", refusal.remedy());
            Ok(vec![Settled::Refused(why); places.len()])
        }
        Err(error) => Err(error),
    }
}

/// Settles two parts in calls of their own; the answers are in the order of `places`.
async fn settle_apart(
    link: &Link,
    consumer: &str,
    settlements: &[Settlement],
    places: &[usize],
    parts: [Vec<usize>; 2],
) -> Result<Vec<Settled>, BrokerError> {
    let mut answers = BTreeMap::new();
    for part in parts {
        let settled = Box::pin(settle_effects(link, consumer, settlements, &part)).await?;
        answers.extend(part.into_iter().zip(settled));
    }
    Ok(places.iter().map(|at| answers.remove(at).unwrap_or(Settled::Superseded)).collect())
}

/// The arguments of one settlement, as settle.lua reads them.
fn write_effects<'a>(command: &mut Cmd, settlement: &'a Settlement, keys: &mut KeyTable<'a>) {
    let Settlement { source, entry, decision } = settlement;
    let mut head = |op: &str, keys: &mut KeyTable<'a>| {
        command.arg(op).arg(keys.index(&source.key)).arg(&*source.group).arg(entry.to_string());
    };
    match decision {
        Decision::Ack { publishes } => {
            head("A", keys);
            command.arg(publishes.len());
            for publication in publishes {
                write_publication(command, publication, keys);
            }
        }
        Decision::DeadLetter(letter) => {
            head("D", keys);
            write_dead_letter(command, letter, keys);
        }
        Decision::Park { .. } => {}
    }
}

/// The arguments of one follow-up: stream, number of fields and values, fields and values.
pub(super) fn write_publication<'a>(command: &mut Cmd, publication: &'a Publication, keys: &mut KeyTable<'a>) {
    let mut count = 0usize;
    envelope::encode(&publication.event, |_, _| count += 2);
    command.arg(keys.index(&publication.key)).arg(count);
    envelope::encode(&publication.event, |name, value| {
        command.arg(name).arg(value);
    });
}

fn write_dead_letter<'a>(command: &mut Cmd, letter: &'a DeadLetter, keys: &mut KeyTable<'a>) {
    let evidence = dead_letter::evidence(letter);
    command.arg(keys.index(&letter.key)).arg(evidence.len() * 2);
    // Lua counts from 1, and the value stands after its name.
    command.arg(dead_letter::LAST_TIME_INDEX * 2 + 2);
    for (name, value) in evidence {
        command.arg(name).arg(&*value);
    }
}

fn append(command: &mut Cmd, arguments: &Cmd) {
    for argument in arguments.args_iter() {
        if let ::redis::Arg::Simple(bytes) = argument {
            command.arg(bytes);
        }
    }
}

fn results(reply: Value) -> Result<Vec<Settled>, BrokerError> {
    let Value::Array(values) = reply else { return Err(reply::unexpected("no list of results")) };
    let result = |value| match value {
        Value::Int(1) => Ok(Settled::Applied),
        Value::Int(0) => Ok(Settled::Superseded),
        Value::BulkString(why) => Ok(Settled::Refused(String::from_utf8_lossy(&why).into_owned())),
        _ => Err(reply::unexpected("a result that is neither number nor text")),
    };
    values.into_iter().map(result).collect()
}
