//! Who has one of the few connections that are there for the users of tenants: least recently used idle ones make room
//! for those that wait, and whoever has had one for long while others wait gives it up when its requests are answered.
//!
//! Only the counting: who opens and closes is [`super::pool`].

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a connection is kept while others wait for one, though it is never idle.
pub(super) const TURN: Duration = Duration::from_millis(100);

/// What names a connection.
pub(super) type Id = u64;

/// A connection that is there, or being opened.
struct Seat {
    /// Requests on their way.
    busy: usize,
    /// When it was given.
    since: Instant,
    /// When it was last of use.
    used: Instant,
}

/// The connections, at most so many.
pub(super) struct Seats {
    most: usize,
    taken: HashMap<Id, Seat>,
    waiting: VecDeque<Id>,
}

/// What became of asking for a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It has one; the connection of another one has to be closed for it, if one is named.
    Seated { closes: Option<Id> },
    /// All are busy: see [`Seats::leave`].
    Waits,
}

/// What becomes of a connection whose request is over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// It has to be closed.
    pub(super) closes: bool,
    /// Whoever has waited for longest has one now. Its requests count from here on; none has begun yet.
    pub(super) seated: Option<Id>,
}

impl Seats {
    pub(super) fn new(most: usize) -> Seats {
        Seats { most: most.max(1), taken: HashMap::new(), waiting: VecDeque::new() }
    }

    /// Begins a request, if there is a connection for it.
    pub(super) fn ask(&mut self, id: Id, now: Instant) -> Asked {
        let others_wait = self.waiting.iter().any(|&waiting| waiting != id);
        if let Some(seat) = self.taken.get_mut(&id) {
            if others_wait && now.duration_since(seat.since) >= TURN {
                self.wait(id);
                return Asked::Waits;
            }
            seat.busy += 1;
            return Asked::Seated { closes: None };
        }
        let closes = if self.taken.len() < self.most {
            None
        } else {
            let idle = self.taken.iter().filter(|(_, seat)| seat.busy == 0);
            let Some((&oldest, _)) = idle.min_by_key(|(_, seat)| seat.used) else {
                self.wait(id);
                return Asked::Waits;
            };
            self.taken.remove(&oldest);
            Some(oldest)
        };
        self.taken.insert(id, Seat { busy: 1, since: now, used: now });
        Asked::Seated { closes }
    }

    fn wait(&mut self, id: Id) {
        if !self.waiting.contains(&id) {
            self.waiting.push_back(id);
        }
    }

    /// One more request of a connection that was given by [`Left::seated`].
    pub(super) fn begin(&mut self, id: Id) {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.busy += 1;
        }
    }

    /// Ends a request. `is_open`: the connection can be used again. `of_use`: it was for more than a look in vain.
    pub(super) fn leave(&mut self, id: Id, now: Instant, is_open: bool, of_use: bool) -> Left {
        let Some(seat) = self.taken.get_mut(&id) else { return Left::default() };
        seat.busy = seat.busy.saturating_sub(1);
        if of_use {
            seat.used = now;
        }
        if seat.busy > 0 || (is_open && self.waiting.is_empty()) {
            return Left::default();
        }
        self.taken.remove(&id);
        let seated = self.seat_next(now);
        // It may be the one that has waited for longest itself.
        Left { closes: seated != Some(id), seated }
    }

    /// Gives up whatever this one has and asks for.
    pub(super) fn remove(&mut self, id: Id, now: Instant) -> Option<Id> {
        self.waiting.retain(|&waiting| waiting != id);
        self.taken.remove(&id).and_then(|_| self.seat_next(now))
    }

    /// Gives what is free to whoever has waited for longest.
    fn seat_next(&mut self, now: Instant) -> Option<Id> {
        let next = self.waiting.pop_front()?;
        self.taken.insert(next, Seat { busy: 0, since: now, used: now });
        Some(next)
    }

    /// Whether it has a connection that was of use since `after`.
    pub(super) fn was_used_since(&self, id: Id, after: Instant) -> bool {
        self.taken.get(&id).is_some_and(|seat| seat.used >= after)
    }

    /// Notes that a connection was of use.
    pub(super) fn used(&mut self, id: Id, now: Instant) {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.used = now;
        }
    }

    /// Takes those that have been of no use since `before`, to be closed.
    pub(super) fn take_idle(&mut self, before: Instant) -> Vec<Id> {
        let idle = self.taken.iter().filter(|(_, seat)| seat.busy == 0 && seat.used < before);
        let idle: Vec<Id> = idle.map(|(&id, _)| id).collect();
        self.taken.retain(|id, _| !idle.contains(id));
        idle
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.taken.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEATED: Asked = Asked::Seated { closes: None };

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_least_recently_used_idle_one_makes_room() {
        let (mut seats, start) = (Seats::new(2), Instant::now());
        assert_eq!([seats.ask(1, start), seats.ask(2, start)], [SEATED, SEATED]);
        assert_eq!(seats.leave(2, start + ms(1), true, true), Left::default());
        assert_eq!(seats.leave(1, start + ms(2), true, true), Left::default());
        assert_eq!(seats.ask(3, start + ms(3)), Asked::Seated { closes: Some(2) });
        assert_eq!(seats.len(), 2);
    }

    #[test]
    fn when_all_are_busy_the_next_one_gets_what_becomes_free() {
        let (mut seats, start) = (Seats::new(1), Instant::now());
        assert_eq!(seats.ask(1, start), SEATED);
        assert_eq!([seats.ask(2, start), seats.ask(3, start), seats.ask(2, start)], [const { Asked::Waits }; 3]);
        // One more request of its turn does not wait, nor is it long.
        assert_eq!(seats.ask(1, start + TURN - ms(1)), SEATED);
        assert_eq!(seats.leave(1, start, true, true), Left::default());
        // Its turn is over: it finishes what it has, and waits behind the others.
        assert_eq!(seats.ask(1, start + TURN), Asked::Waits);
        assert_eq!(seats.leave(1, start + TURN, true, true), Left { closes: true, seated: Some(2) });
        seats.begin(2);
        assert_eq!(seats.leave(2, start + TURN, true, true), Left { closes: true, seated: Some(3) });
        seats.begin(3);
        assert_eq!(seats.leave(3, start + TURN, true, true), Left { closes: true, seated: Some(1) });
        seats.begin(1);
        assert_eq!(seats.leave(1, start + TURN, true, true), Left::default());
    }

    #[test]
    fn one_that_cannot_be_opened_is_given_back_at_once() {
        let (mut seats, now) = (Seats::new(1), Instant::now());
        assert_eq!(seats.ask(1, now), SEATED);
        assert_eq!(seats.leave(1, now, false, true), Left { closes: true, seated: None });
        assert_eq!(seats.len(), 0);
    }

    #[test]
    fn looks_in_vain_do_not_keep_one_open() {
        let (mut seats, start) = (Seats::new(2), Instant::now());
        assert_eq!(seats.ask(1, start), SEATED);
        seats.leave(1, start + ms(5), true, false);
        assert!(seats.was_used_since(1, start) && !seats.was_used_since(1, start + ms(1)));
        assert_eq!(seats.take_idle(start), Vec::<Id>::new());
        assert_eq!(seats.take_idle(start + ms(1)), [1]);
        assert_eq!(seats.ask(1, start), SEATED);
        assert_eq!(seats.take_idle(start + ms(9)), Vec::<Id>::new(), "a busy one is not closed");
        seats.used(1, start + ms(9));
        seats.leave(1, start + ms(9), true, false);
        assert_eq!(seats.take_idle(start + ms(9)), Vec::<Id>::new());
    }

    proptest! {
        /// Whatever is asked and ended: never more than the most, nobody who waits is forgotten while there is room, and
        /// when all requests have ended nobody waits.
        #[test]
        fn nobody_is_forgotten(most in 1usize..5, steps in prop::collection::vec((0u64..8, any::<bool>()), 1..200)) {
            let (mut seats, start) = (Seats::new(most), Instant::now());
            let (mut requests, mut waiting) = (Vec::new(), Vec::new());
            let end = |seats: &mut Seats, requests: &mut Vec<Id>, waiting: &mut Vec<Id>, at: usize, now| {
                let left = seats.leave(requests.swap_remove(at % requests.len()), now, true, true);
                if let Some(next) = left.seated {
                    assert!(waiting.contains(&next));
                    for _ in waiting.extract_if(.., |id| *id == next) {
                        seats.begin(next);
                        requests.push(next);
                    }
                }
            };
            for (at, (id, asks)) in steps.into_iter().enumerate() {
                let now = start + ms(30 * at as u64);
                if asks {
                    match seats.ask(id, now) {
                        Asked::Seated { .. } => requests.push(id),
                        Asked::Waits => waiting.push(id),
                    }
                } else if !requests.is_empty() {
                    end(&mut seats, &mut requests, &mut waiting, id as usize, now);
                }
                prop_assert!(seats.len() <= most);
                prop_assert!(waiting.is_empty() || seats.taken.values().all(|seat| seat.busy > 0));
            }
            while !requests.is_empty() {
                end(&mut seats, &mut requests, &mut waiting, 0, start + ms(100_000));
            }
            prop_assert_eq!(waiting, Vec::<Id>::new());
        }
    }
}
