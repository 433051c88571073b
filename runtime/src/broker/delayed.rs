//! Events that wait for their time: how one of them lies in the sorted set [`super::keys::DELAYED`].
//!
//! A member is MsgPack: the id and the source of the event, which make it unique, the key of its stream, and the fields
//! of the entry that it will be. Asking twice for the same event gives the same member, which is there once.

use rmpv::Value;

use super::Fields;
use crate::outcome::Publication;

/// Names and values of an event at most: a script cannot copy more. wasmill writes fewer.
const MAX_ITEMS: usize = 6000;

/// An event whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// The Redis key of its stream.
    pub key: String,
    /// What to append there.
    pub fields: Fields,
}

/// The member for an event.
pub fn pack(publication: &Publication) -> Vec<u8> {
    let event = &publication.event;
    let fields = publication.fields().into_iter().flat_map(|(name, value)| [Value::Binary(name), Value::Binary(value)]);
    let texts = [&*event.id, &*event.source, &*publication.key].map(Value::from);
    let member = Value::Array(texts.into_iter().chain([Value::Array(fields.collect())]).collect());
    let mut bytes = Vec::with_capacity(event.size() + 128);
    rmpv::encode::write_value(&mut bytes, &member).expect("writing to memory does not fail");
    bytes
}

/// The event of a member; `None` if wasmill did not write it.
pub fn unpack(mut member: &[u8]) -> Option<Delayed> {
    let Value::Array(parts) = rmpv::decode::read_value(&mut member).ok()? else { return None };
    let [_, _, key, Value::Array(items)]: [Value; 4] = parts.try_into().ok()? else { return None };
    let key = key.as_str().filter(|key| !key.is_empty())?.to_owned();
    let bytes = |item| if let Value::Binary(bytes) = item { Some(bytes) } else { None };
    let mut items = items.into_iter();
    let mut fields = Fields::with_capacity(items.len() / 2);
    while let Some(name) = items.next() {
        fields.push((bytes(name)?, bytes(items.next()?)?));
    }
    (1..=MAX_ITEMS / 2).contains(&fields.len()).then_some(Delayed { key, fields })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope;
    use crate::event::Event;

    proptest! {
        #[test]
        fn what_is_packed_can_be_unpacked(id in ".{1,9}", key in ".{1,9}", data: Vec<u8>) {
            let event = Event { id, source: "/s".into(), r#type: "t".into(), data, ..Event::default() };
            let publication = Publication::now(key.as_str().into(), event.clone());
            let member = pack(&publication);
            prop_assert_eq!(unpack(&member), Some(Delayed { key, fields: envelope::fields(&event) }));
            prop_assert_eq!(pack(&publication), member);
        }

        #[test]
        fn other_members_are_none(member: Vec<u8>) {
            prop_assert_eq!(unpack(&member), None);
        }
    }
}
