//! Publishing many events at once.

use std::sync::Arc;

use wasmill::event::Event;
use wasmill::outcome::Publication;

use super::fixture::{Fixture, event, event_of, ids};

async fn publish(f: &Fixture, events: &[(&str, Event)]) {
    let publications: Vec<Publication> =
        events.iter().map(|(key, event)| Publication::now(Arc::from(*key), event.clone())).collect();
    let published = f.broker().publish(&publications).await.expect("events are published");
    for key in ["a", "b"] {
        let wanted: Vec<_> = events.iter().zip(&published).filter(|((to, _), _)| *to == key).collect();
        let entries = f.all(key).await;
        assert_eq!(ids(&entries), wanted.iter().filter_map(|(_, id)| **id).collect::<Vec<_>>());
        let written: Vec<Event> = entries.into_iter().map(event_of).collect();
        assert_eq!(written, wanted.iter().map(|((_, event), _)| event.clone()).collect::<Vec<_>>());
    }
}

pub async fn events_that_look_alike_keep_what_they_differ_in(f: &Fixture) {
    // Nothing, one field, the first and the last field, and bytes that are no text; 64 attributes make an entry wide.
    let same = event("same");
    let wide = (0..64).map(|n| (format!("x{n}"), "v".to_owned())).collect();
    let wide = Event { attributes: wide, ..event("wide") };
    let mut events = vec![same.clone(), same.clone(), same];
    events.extend((0..500).map(|n| event(&format!("id {n}"))));
    events.extend((0..=255u8).map(|n| Event { data: vec![n; n.into()], ..event(&format!("bytes {n}")) }));
    publish(f, &events.into_iter().map(|event| ("a", event)).collect::<Vec<_>>()).await;
    f.delete_stream("a").await;
    publish(f, &[("a", wide.clone()), ("a", Event { time: 1, ..wide })]).await;
}

pub async fn events_with_other_fields_and_streams_go_together(f: &Fixture) {
    let bare = Event { subject: None, attributes: Vec::new(), ..event("bare") };
    let renamed = Event { attributes: vec![("other".to_owned(), "c".to_owned())], ..event("renamed") };
    publish(f, &[("a", event("1")), ("a", bare), ("b", event("2")), ("a", renamed), ("b", event("3"))]).await;
}
