//! Writing decisions: acks without effects by one XACK per stream, everything else by script.

use std::collections::BTreeMap;

use ::redis::{Cmd, Value};

use super::super::{BrokerError, Refusal, Settled, dead_letter, delayed, keys};
use super::delayed::when;
use super::link::Link;
use super::reply;
use super::script::{KeyTable, Script};
use crate::envelope;
use crate::outcome::{DeadLetter, Decision, Due, Publication, Settlement};
use crate::state::{Changes, Home, Seen, StateChange};

/// Applies the settlements; see [`super::super::Broker::settle`].
pub(super) async fn settle(
    link: &Link,
    consumer: &str,
    settlements: &[Settlement],
) -> Result<Vec<Settled>, BrokerError> {
    let [mut bare, mut parks, mut effects] = [const { Vec::new() }; 3];
    for (at, settlement) in settlements.iter().enumerate() {
        match &settlement.decision {
            Decision::Ack { publishes, mark: None, state: None } if publishes.is_empty() => bare.push(at),
            Decision::Park { .. } => parks.push(at),
            Decision::Ack { .. } | Decision::DeadLetter(_) => effects.push(at),
        }
    }
    // All three travel together; each is atomic by itself, and no delivery is in two of them.
    let (bare_results, park_results, effect_results) = futures::join!(
        settle_bare(link, settlements, &bare),
        settle_by_script(Kind::Parks, link, consumer, settlements, &parks),
        settle_by_script(Kind::Effects, link, consumer, settlements, &effects),
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
            Err(BrokerError::Refused { refusal, message }) if refusal.is_about_effects() => {
                let theirs = results.iter_mut().zip(&owners).filter(|(_, owner)| **owner == index);
                theirs.for_each(|(result, _)| *result = refused(refusal, &message));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(results)
}

/// What is settled by script.
#[derive(Clone, Copy)]
enum Kind {
    /// Parking.
    Parks,
    /// Acks with effects, and dead letters.
    Effects,
}

/// Settles by script. What the server refuses as a whole is about what is to be written: acks go on, and the call is
/// made again for each group on each stream, since the keys of one may be what is refused. Groups of different tenants can have
/// the same name.
async fn settle_by_script(
    kind: Kind,
    link: &Link,
    consumer: &str,
    settlements: &[Settlement],
    places: &[usize],
) -> Result<Vec<Settled>, BrokerError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let reply = match kind {
        Kind::Parks => run_park(link, consumer, settlements, places).await,
        Kind::Effects => run_settle(link, consumer, settlements, places).await,
    };
    match reply {
        Ok(reply) => results(reply),
        Err(BrokerError::Refused { refusal, message }) if refusal.is_about_effects() => {
            let whose = |at: usize| (&settlements[at].source.key, &settlements[at].source.group);
            let (first, others): (Vec<usize>, Vec<usize>) =
                places.iter().partition(|&&at| whose(at) == whose(places[0]));
            if others.is_empty() {
                return Ok(vec![refused(refusal, &message); places.len()]);
            }
            let mut answers = BTreeMap::new();
            for part in [first, others] {
                let settled = Box::pin(settle_by_script(kind, link, consumer, settlements, &part)).await?;
                answers.extend(part.into_iter().zip(settled));
            }
            Ok(places.iter().map(|at| answers.remove(at).unwrap_or(Settled::Superseded)).collect())
        }
        Err(error) => Err(error),
    }
}

pub(super) fn refused(refusal: Refusal, message: &str) -> Settled {
    Settled::Refused(format!("{refusal}: {message}. {}", refusal.remedy()))
}

async fn run_park(
    link: &Link,
    consumer: &str,
    settlements: &[Settlement],
    places: &[usize],
) -> Result<Value, BrokerError> {
    let mut keys = KeyTable::default();
    let mut body = Cmd::new();
    for &at in places {
        let Settlement { source, entry, decision: Decision::Park { pause } } = &settlements[at] else { continue };
        body.arg(keys.index(&source.key)).arg(&*source.group).arg(entry.to_string());
        body.arg(keys.index(&source.due_key)).arg(pause.as_millis() as u64);
    }
    Script::Park
        .run(link, &keys.0, |command| {
            command.arg(consumer).arg(keys::PARKED_CONSUMER);
            append(command, &body);
        })
        .await
}

async fn run_settle(
    link: &Link,
    consumer: &str,
    settlements: &[Settlement],
    places: &[usize],
) -> Result<Value, BrokerError> {
    let mut keys = KeyTable::default();
    for &at in places {
        let Settlement { source, decision, .. } = &settlements[at];
        keys.index(&source.key);
        match decision {
            Decision::Ack { publishes, mark, state } => {
                let marks = mark.iter().map(|mark| &*mark.key);
                let states = state.iter().flat_map(|change| [&*change.home.hash, &*change.home.sizes]);
                marks.chain(publishes.iter().map(key_of)).chain(states).for_each(|key| {
                    keys.index(key);
                });
            }
            Decision::DeadLetter(letter) => {
                keys.index(&letter.key);
            }
            Decision::Park { .. } => {}
        }
    }
    let table = keys.0.clone();
    Script::Settle
        .run(link, &table, |command| {
            command.arg(consumer);
            for &at in places {
                write_effects(command, &settlements[at], &mut keys);
            }
        })
        .await
}

/// The arguments of one settlement, as settle.lua reads them.
fn write_effects<'a>(command: &mut Cmd, settlement: &'a Settlement, keys: &mut KeyTable<'a>) {
    let Settlement { source, entry, decision } = settlement;
    let mut head = |op: &str, keys: &mut KeyTable<'a>| {
        command.arg(op).arg(keys.index(&source.key)).arg(&*source.group).arg(entry.to_string());
    };
    match decision {
        Decision::Ack { publishes, mark, state } => {
            head("A", keys);
            match mark {
                Some(mark) => {
                    let ttl = u64::try_from(mark.ttl.as_millis()).unwrap_or(u64::MAX).max(1);
                    command.arg(keys.index(&mark.key)).arg(ttl).arg(u8::from(mark.overrides))
                }
                None => command.arg(0),
            };
            command.arg(publishes.len());
            for publication in publishes {
                write_publication(command, publication, keys);
            }
            match state {
                Some(change) => write_state(command, change, keys),
                None => {
                    command.arg(0);
                }
            }
        }
        Decision::DeadLetter(letter) => {
            head("D", keys);
            write_dead_letter(command, letter, source.is_inbox, keys);
        }
        Decision::Park { .. } => {}
    }
}

/// The key that is written for an event: its stream, or the set of those that wait.
pub(super) fn key_of(publication: &Publication) -> &str {
    match publication.when {
        Due::Now => &publication.key,
        Due::After(_) | Due::At(_) => publication.waits_in.as_deref().unwrap_or(keys::DELAYED),
    }
}

/// The arguments of one event: its key, when, number of fields and values, fields and values; or the one member.
pub(super) fn write_publication<'a>(command: &mut Cmd, publication: &'a Publication, keys: &mut KeyTable<'a>) {
    let place = keys.index(key_of(publication));
    if publication.when != Due::Now {
        command.arg(place).arg(when(publication.when)).arg(1).arg(delayed::pack(publication));
        return;
    }
    if publication.envelope.is_some() {
        let fields = publication.fields();
        command.arg(place).arg("").arg(fields.len() * 2);
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        return;
    }
    let mut count = 0usize;
    envelope::encode(&publication.event, |_, _| count += 2);
    command.arg(place).arg("").arg(count);
    envelope::encode(&publication.event, |name, value| {
        command.arg(name).arg(value);
    });
}

fn write_state<'a>(command: &mut Cmd, change: &'a StateChange, keys: &mut KeyTable<'a>) {
    let StateChange { home, changes: Changes { seen, listed, writes, .. } } = change;
    command.arg(keys.index(&home.hash)).arg(keys.index(&home.sizes)).arg(&*home.handler).arg(quota(home));
    command.arg(seen.len());
    for (key, seen) in seen {
        command.arg(key);
        match seen {
            Seen::Absent => command.arg("-"),
            Seen::Present => command.arg("+"),
            Seen::Value(fingerprint) => command.arg(fingerprint.to_string()),
        };
    }
    match listed {
        Some(keys) => command.arg(keys.len()).arg(keys),
        None => command.arg(-1),
    };
    command.arg(writes.len());
    for (key, value) in writes {
        command.arg(key).arg(u8::from(value.is_some())).arg(value.as_deref().unwrap_or_default());
    }
}

/// The quota as scripts take it.
pub(super) fn quota(home: &Home) -> String {
    home.quota.map_or_else(String::new, |bytes| bytes.to_string())
}

fn write_dead_letter<'a>(command: &mut Cmd, letter: &'a DeadLetter, in_inbox: bool, keys: &mut KeyTable<'a>) {
    let evidence = dead_letter::evidence(letter);
    command.arg(keys.index(&letter.key)).arg(evidence.len() * 2);
    // Lua counts from 1, and the value stands after its name.
    command.arg(dead_letter::LAST_TIME_INDEX * 2 + 2).arg(u8::from(in_inbox));
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

pub(super) fn results(reply: Value) -> Result<Vec<Settled>, BrokerError> {
    let Value::Array(values) = reply else { return Err(reply::unexpected("no list of results")) };
    let result = |value| match value {
        Value::Int(1) => Ok(Settled::Applied),
        Value::Int(0) => Ok(Settled::Superseded),
        Value::Int(2) => Ok(Settled::Duplicate),
        Value::Int(3) => Ok(Settled::Stale),
        Value::Int(4) => Ok(Settled::OverQuota),
        Value::BulkString(why) => Ok(Settled::Refused(String::from_utf8_lossy(&why).into_owned())),
        _ => Err(reply::unexpected("a result that is neither number nor text")),
    };
    values.into_iter().map(result).collect()
}
