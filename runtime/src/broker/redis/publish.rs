//! Publishing: events that look alike travel as one table, whose constant columns are written once; others one by one.

use ::redis::{Cmd, FromRedisValue as _};

use super::super::{BrokerError, EntryId};
use super::link::Link;
use super::script::{KeyTable, Script};
use super::{reply, settle};
use crate::envelope;
use crate::outcome::Publication;

/// Appends the events, all or none; see [`super::super::Broker::publish`].
pub(super) async fn publish(link: &Link, publications: &[Publication]) -> Result<Vec<EntryId>, BrokerError> {
    let ids = match Table::of(publications) {
        Some(table) => {
            let key = &*publications[0].key;
            let answer = Script::PublishAlike.run(link, &[key], |command| table.write(command)).await?;
            let text = String::from_redis_value(answer).map_err(reply::unexpected)?;
            text.split(' ').map(str::parse).collect()
        }
        None => {
            let answer = one_by_one(link, publications).await?;
            let ids = Vec::<String>::from_redis_value(answer).map_err(reply::unexpected)?;
            ids.iter().map(|id| id.parse()).collect::<Result<Vec<EntryId>, _>>()
        }
    };
    let ids = ids.map_err(reply::unexpected)?;
    match ids.len() == publications.len() {
        true => Ok(ids),
        false => Err(reply::unexpected("another number of ids than of events")),
    }
}

async fn one_by_one(link: &Link, publications: &[Publication]) -> Result<::redis::Value, BrokerError> {
    let mut keys = KeyTable::default();
    for publication in publications {
        keys.index(&publication.key);
    }
    let table = keys.0.clone();
    let write = |command: &mut Cmd| {
        publications.iter().for_each(|publication| settle::write_publication(command, publication, &mut keys));
    };
    Script::Publish.run(link, &table, write).await
}

/// Events with the same fields in the same order, on their way to the same stream.
#[derive(Default)]
struct Table {
    /// The names of the fields.
    names: Vec<String>,
    /// Whether not all events have the same value there, by field.
    differs: Vec<bool>,
    /// The values of all events, one after the other.
    bytes: Vec<u8>,
    /// Where each of the values ends in `bytes`.
    ends: Vec<usize>,
}

impl Table {
    /// `None` if the events do not look alike, or there are not at least two of them.
    fn of(publications: &[Publication]) -> Option<Table> {
        let [first, rest @ ..] = publications else { return None };
        if rest.is_empty() {
            return None;
        }
        let mut table = Table::default();
        envelope::encode(&first.event, |name, value| {
            table.names.push(name.to_owned());
            table.push(value);
        });
        table.differs = vec![false; table.names.len()];
        table.bytes.reserve(table.bytes.len() * rest.len() + table.bytes.len() / 2);
        table.ends.reserve(table.names.len() * rest.len());
        rest.iter().all(|publication| publication.key == first.key && table.add(publication)).then_some(table)
    }

    /// Adds an event; `false` if it has other fields.
    fn add(&mut self, publication: &Publication) -> bool {
        let mut column = 0;
        let mut is_alike = true;
        envelope::encode(&publication.event, |name, value| {
            is_alike = is_alike && self.names.get(column).is_some_and(|known| known == name);
            if is_alike {
                self.differs[column] |= self.value(column) != value;
                self.push(value);
                column += 1;
            }
        });
        is_alike && column == self.names.len()
    }

    fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len());
    }

    fn value(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    /// Adds what `publish_alike.lua` expects.
    fn write(&self, command: &mut Cmd) {
        let width = self.names.len();
        command.arg(self.ends.len() / width).arg(width);
        for (column, name) in self.names.iter().enumerate() {
            command.arg(name).arg(self.value(column));
        }
        let differing: Vec<usize> = (0..width).filter(|&column| self.differs[column]).collect();
        command.arg(differing.len());
        for column in &differing {
            command.arg(column + 1);
        }
        for row in (width..self.ends.len()).step_by(width) {
            for column in &differing {
                command.arg(self.value(row + column));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn publication(id: &str, subject: Option<&str>) -> Publication {
        let event = Event { id: id.into(), subject: subject.map(str::to_owned), ..Event::default() };
        Publication::now("s".into(), event)
    }

    #[test]
    fn only_what_differs_is_repeated() {
        let events: Vec<Publication> = (0..3).map(|n| publication(&format!("id-{n}"), Some("same"))).collect();
        let table = Table::of(&events).expect("they look alike");
        let mut command = Cmd::new();
        table.write(&mut command);
        let packed = String::from_utf8_lossy(&command.get_packed_command()).into_owned();
        assert_eq!(packed.matches("id-").count(), 3);
        assert_eq!(packed.matches("same").count(), 1);
        assert!(packed.ends_with("$1\r\n1\r\n$1\r\n2\r\n$4\r\nid-1\r\n$4\r\nid-2\r\n"), "{packed:?}");
    }

    #[test]
    fn other_fields_or_streams_are_no_table() {
        let alone = [publication("1", None)];
        let other_fields = [publication("1", None), publication("2", Some("s"))];
        let other_stream = [publication("1", None), Publication { key: "other".into(), ..publication("2", None) }];
        let fewer = [publication("1", Some("s")), publication("2", None)];
        for publications in [&[][..], &alone, &other_fields, &other_stream, &fewer] {
            assert!(Table::of(publications).is_none());
        }
    }
}
