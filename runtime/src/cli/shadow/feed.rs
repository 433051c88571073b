//! The events that two versions are compared on: those of the past, or those that come from now on.

use std::time::Duration;

use wasmill::broker::EntryId;
use wasmill::clock::now_ms;
use wasmill::event::Event;
use wasmill::ops::{HistoryQuery, MAX_HISTORY_PAGE};

use crate::cli::Report;
use crate::cli::target::{Past, Target};

/// How often it is looked for events to come.
const POLL: Duration = Duration::from_millis(200);

/// A range of past events, by the places that `wasmill history` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    from: String,
    /// `None`: as far as the streams go now.
    to: Option<String>,
}

impl Range {
    /// `FROM..TO`, or `FROM..` up to now.
    pub fn parse(text: &str) -> Result<Range, String> {
        match text.split_once("..") {
            Some((from, to)) if !from.is_empty() => {
                Ok(Range { from: from.to_owned(), to: Some(to.to_owned()).filter(|to| !to.is_empty()) })
            }
            _ => Err("write it as FROM..TO, or FROM.. up to now; such as 1h.. or 2026-01-31T12:00:00Z..10m".to_owned()),
        }
    }
}

/// An entry.
pub struct Found {
    /// The stream that it is in.
    pub stream: String,
    /// Its place there.
    pub entry: String,
    /// The event; `Err` if it is none.
    pub event: Result<Event, String>,
}

/// Where to look next.
pub struct Feed {
    streams: Vec<Place>,
    /// The stream whose turn it is.
    at: usize,
    to: Option<String>,
    /// Whether events are still to come.
    pub is_live: bool,
}

/// How far a stream has been looked at.
struct Place {
    stream: String,
    from: Option<String>,
    is_done: bool,
    /// There was more than a page, when it was last looked at.
    has_more: bool,
}

impl Feed {
    /// Past events, one stream after the other.
    pub fn past(streams: Vec<String>, range: &Range) -> Feed {
        let place = |stream| Place { stream, from: Some(range.from.clone()), is_done: false, has_more: false };
        // What comes meanwhile is not past.
        let to = range.to.clone().unwrap_or_else(|| now_ms().to_string());
        let streams = streams.into_iter().map(place).collect();
        Feed { streams, at: 0, to: Some(to), is_live: false }
    }

    /// The events that come from now on.
    pub async fn live(target: &Target, streams: Vec<String>) -> Result<Feed, Report> {
        let mut places = Vec::with_capacity(streams.len());
        for stream in streams {
            let newest = HistoryQuery { newest_first: true, count: Some(1), ..HistoryQuery::default() };
            let page = target.history(&stream, &newest).await?;
            let from = page.last.as_deref().and_then(after);
            places.push(Place { stream, from, is_done: false, has_more: false });
        }
        Ok(Feed { streams: places, at: 0, to: None, is_live: true })
    }

    /// Whether events came faster than they were looked at, in any of the streams.
    pub fn is_behind(&self) -> bool {
        self.is_live && self.streams.iter().any(|place| place.has_more)
    }

    /// The next events, in the order of their stream; `None` at the end. Live, there may be none yet.
    pub async fn page(&mut self, target: &Target) -> Result<Option<Vec<Found>>, Report> {
        for _ in 0..self.streams.len() {
            let at = self.at;
            let place = &mut self.streams[at];
            if place.is_done {
                self.at = (at + 1) % self.streams.len();
                continue;
            }
            let query = HistoryQuery {
                from: place.from.clone(),
                to: self.to.clone(),
                count: Some(MAX_HISTORY_PAGE),
                ..HistoryQuery::default()
            };
            let Past { entries, next } = target.past(&place.stream, &query).await?;
            let end = entries.last().and_then(|(entry, _)| after(entry));
            place.has_more = next.is_some();
            place.is_done = next.is_none() && !self.is_live;
            place.from = next.or(end).or(place.from.take());
            // Past streams are looked at one after the other, live ones in turn.
            if self.is_live || place.is_done {
                self.at = (at + 1) % self.streams.len();
            }
            if !entries.is_empty() {
                let stream = &self.streams[at].stream;
                let found = |(entry, event)| Found { stream: stream.clone(), entry, event };
                return Ok(Some(entries.into_iter().map(found).collect()));
            }
        }
        if self.streams.iter().all(|place| place.is_done) {
            return Ok(None);
        }
        tokio::time::sleep(POLL).await;
        Ok(Some(Vec::new()))
    }
}

/// The place behind an entry.
fn after(entry: &str) -> Option<String> {
    let id: EntryId = entry.parse().ok()?;
    Some(id.next().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_a_beginning_and_may_lack_an_end() {
        let range = |from: &str, to: Option<&str>| Range { from: from.to_owned(), to: to.map(str::to_owned) };
        assert_eq!(Range::parse("1-0..2-0"), Ok(range("1-0", Some("2-0"))));
        assert_eq!(Range::parse("10m.."), Ok(range("10m", None)));
        for wrong in ["", "10m", "..", "..10m"] {
            assert!(Range::parse(wrong).is_err(), "{wrong}");
        }
    }
}
