//! Whose turn it is among deliveries of a handler that are likely about the same keys of its state: on one thread they run
//! one after the other, so that they do not outdate each other. Others run side by side.

use std::collections::{HashMap, VecDeque};

/// What only one delivery of a handler on a thread has at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Turn {
    /// That of the events with this partition key, or of the one with this id.
    Event(String),
    /// That of the deliveries which ran on outdated state and saw this key of it first. Whoever has it waits for no other
    /// turn, so nobody waits for ever.
    State(String),
}

/// The turns that are taken, and who waits for them.
#[derive(Debug)]
pub(super) struct Turns<T> {
    waiting: HashMap<Turn, VecDeque<T>>,
    count: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns { waiting: HashMap::new(), count: 0 }
    }
}

impl<T> Turns<T> {
    /// Takes the turn for `who`, and gives it back; `None` if somebody has it: then `who` waits.
    pub(super) fn take(&mut self, turn: &Turn, who: T) -> Option<T> {
        match self.waiting.get_mut(turn) {
            Some(waiting) => {
                waiting.push_back(who);
                self.count += 1;
                None
            }
            None => {
                self.waiting.insert(turn.clone(), VecDeque::new());
                Some(who)
            }
        }
    }

    /// The turn is over; gives the next one, who has it now.
    pub(super) fn pass(&mut self, turn: &Turn) -> Option<T> {
        let next = self.waiting.get_mut(turn)?.pop_front();
        match next {
            Some(_) => self.count -= 1,
            None => drop(self.waiting.remove(turn)),
        }
        next
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.count
    }

    /// Sends everybody away who waits.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = T> {
        self.count = 0;
        self.waiting.values_mut().flat_map(std::mem::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_taken_in_order_and_different_ones_are_independent() {
        let mut turns = Turns::default();
        let (a, b) = (Turn::Event("a".into()), Turn::State("a".into()));
        assert_eq!(turns.take(&a, 1), Some(1));
        assert_eq!((turns.take(&a, 2), turns.take(&a, 3), turns.take(&b, 4)), (None, None, Some(4)));
        assert_eq!(turns.waiting(), 2);
        assert_eq!((turns.pass(&a), turns.pass(&b), turns.pass(&a)), (Some(2), None, Some(3)));
        assert_eq!((turns.waiting(), turns.pass(&a)), (0, None));
        assert!(turns.waiting.is_empty(), "nothing is kept of turns that nobody has");
        assert_eq!(turns.take(&a, 5), Some(5));
    }

    #[test]
    fn who_has_a_turn_keeps_it_when_the_others_are_sent_away() {
        let mut turns = Turns::default();
        let turn = Turn::Event("a".into());
        assert_eq!((turns.take(&turn, 1), turns.take(&turn, 2)), (Some(1), None));
        assert_eq!(turns.clear().collect::<Vec<_>>(), [2]);
        assert_eq!((turns.waiting(), turns.take(&turn, 3)), (0, None));
        assert_eq!(turns.pass(&turn), Some(3));
    }
}
