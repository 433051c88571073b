//! What a worker has heard and not seen written yet, in order. No waiting in here.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::broker::pubsub::Position;

/// The most messages that are held: some seconds of a busy channel.
pub(super) const MAX_MESSAGES: usize = 100_000;
/// The most bytes of payloads and channels that are held.
pub(super) const MAX_BYTES: usize = 64 << 20;
/// The marks that are remembered, besides those that messages in the queue need.
const MAX_MARKS: usize = 1024;

/// A message with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) position: Position,
    pub(super) channel: Vec<u8>,
    pub(super) payload: Vec<u8>,
    /// When it was heard, in milliseconds since the Unix epoch.
    pub(super) time: u64,
    /// Which of the marks that were heard comes before it.
    mark: u64,
}

impl Message {
    fn bytes(&self) -> usize {
        self.channel.len() + self.payload.len()
    }
}

/// Messages in the order of their places. Bounded: the oldest ones give way.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The text and the number of each mark.
    marks: VecDeque<(Arc<str>, u64)>,
    /// Messages are heard, and counted from the last mark.
    counting: bool,
    /// The number of the last mark before the sequence was interrupted.
    interrupted: Option<u64>,
    /// The last position that was told.
    position: Option<Position>,
    /// Messages since the last mark.
    offset: u64,
    messages: VecDeque<Message>,
    bytes: usize,
    /// The mark's number and the offset of the last message that gave way, and how many have since the last time that
    /// they were known to be written.
    dropped: Option<(u64, u64)>,
    dropped_count: u64,
}

impl Queue {
    /// A mark was heard.
    pub(super) fn mark(&mut self, text: &str) {
        let number = self.marks.back().map_or(0, |(_, last)| last + 1);
        self.marks.push_back((text.into(), number));
        (self.offset, self.counting) = (0, true);
        let needed = self.messages.front().map_or(number, |message| message.mark);
        while self.marks.len() > MAX_MARKS && self.marks.front().is_some_and(|(_, oldest)| *oldest < needed) {
            self.marks.pop_front();
        }
    }

    /// A message was heard. Before the first mark, or the first one after an interruption, it has no place, and is left to
    /// those who listened before.
    pub(super) fn message(&mut self, channel: Vec<u8>, payload: Vec<u8>, time: u64) {
        let Some((mark, number)) = self.marks.back().filter(|_| self.counting) else { return };
        self.offset += 1;
        let position = Position { mark: mark.clone(), offset: self.offset };
        let message = Message { position, channel, payload, time, mark: *number };
        self.bytes += message.bytes();
        self.messages.push_back(message);
        while self.messages.len() > MAX_MESSAGES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.pop() else { break };
            self.dropped = Some((oldest.mark, oldest.position.offset));
            self.dropped_count += 1;
        }
    }

    /// The connection broke: what is said until the next mark is missed.
    pub(super) fn interrupt(&mut self) {
        self.counting = false;
        self.interrupted = self.marks.back().map(|(_, number)| *number);
    }

    /// Forgets what has been written, up to this position.
    pub(super) fn written(&mut self, position: &Position) {
        let is_new = self.position.replace(position.clone()).as_ref() != Some(position);
        let end = match (self.marks.iter().rev().find(|(mark, _)| *mark == position.mark), self.interrupted) {
            (Some((_, mark)), _) => (*mark, position.offset),
            // A mark that was missed: somebody has written since, and what comes before is settled.
            (None, Some(last)) if is_new => (last, u64::MAX),
            // A mark that was not heard comes before all that were.
            (None, _) => return,
        };
        while self.messages.front().is_some_and(|message| (message.mark, message.position.offset) <= end) {
            self.pop();
        }
        if self.dropped.is_some_and(|dropped| dropped <= end) {
            (self.dropped, self.dropped_count) = (None, 0);
        }
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.bytes();
        Some(message)
    }

    /// The oldest messages: at most `count`, and one, or so many as have `bytes` together.
    pub(super) fn first(&self, count: usize, bytes: usize) -> impl Iterator<Item = &Message> {
        let mut sum = 0;
        self.messages.iter().take(count).enumerate().map_while(move |(at, message)| {
            sum += message.bytes();
            (at == 0 || sum <= bytes).then_some(message)
        })
    }

    /// How many messages gave way and were written by nobody, as far as is known. Asked by whoever has the lease, who
    /// would have had to write them; each is told once.
    pub(super) fn take_lost(&mut self) -> u64 {
        self.dropped = None;
        std::mem::take(&mut self.dropped_count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payloads(queue: &Queue) -> Vec<u64> {
        queue.messages.iter().map(|message| message.time).collect()
    }

    fn at(mark: &str, offset: u64) -> Position {
        Position { mark: mark.into(), offset }
    }

    #[test]
    fn places_count_from_the_last_mark() {
        let mut queue = Queue::default();
        queue.message(vec![], vec![], 0);
        queue.mark("a");
        queue.message(vec![], vec![], 1);
        queue.message(vec![], vec![], 2);
        queue.mark("b");
        queue.message(vec![], vec![], 3);
        let places: Vec<String> = queue.first(10, 10).map(|message| message.position.to_string()).collect();
        assert_eq!(places, ["a-1", "a-2", "b-1"], "the first one came before every mark");
        queue.written(&at("unknown", 7));
        assert_eq!(payloads(&queue), [1, 2, 3], "that was before all of these");
        queue.written(&at("a", 1));
        assert_eq!(payloads(&queue), [2, 3]);
        queue.written(&at("b", 0));
        assert_eq!(payloads(&queue), [3]);
        queue.written(&at("a", 9));
        assert_eq!(payloads(&queue), [3]);
    }

    #[test]
    fn what_was_heard_before_an_interruption_is_kept_until_somebody_else_writes() {
        let mut queue = Queue::default();
        queue.mark("a");
        (1..4).for_each(|n| queue.message(vec![], vec![], n));
        queue.written(&at("a", 1));
        queue.interrupt();
        queue.message(vec![], vec![], 4);
        queue.written(&at("a", 1));
        queue.mark("b");
        queue.message(vec![], vec![], 5);
        assert_eq!(payloads(&queue), [2, 3, 5], "what comes before the next mark has no place");
        queue.written(&at("missed", 2));
        assert_eq!(payloads(&queue), [5]);
        queue.written(&at("b", 1));
        assert_eq!(payloads(&queue), [0; 0]);
    }

    #[test]
    fn both_bounds_hold_at_their_edges_and_what_gives_way_is_counted() {
        let mut queue = Queue::default();
        queue.mark("a");
        (0..MAX_MESSAGES as u64).for_each(|n| queue.message(vec![], vec![], n));
        assert_eq!((queue.messages.len(), queue.take_lost()), (MAX_MESSAGES, 0));
        (0..2).for_each(|n| queue.message(vec![], vec![], n));
        assert_eq!((queue.messages.len(), queue.messages[0].time), (MAX_MESSAGES, 2));
        queue.written(&at("a", 1));
        assert_eq!(queue.dropped_count, 2, "the second one may not have been written");
        assert_eq!((queue.take_lost(), queue.take_lost()), (2, 0));
        queue.message(vec![], vec![], 0);
        queue.written(&at("a", 3));
        assert_eq!(queue.take_lost(), 0, "somebody has written it");

        let mut queue = Queue::default();
        queue.mark("a");
        queue.message(vec![b'c'], vec![0; MAX_BYTES - 1], 1);
        assert_eq!((queue.bytes, queue.messages.len()), (MAX_BYTES, 1));
        queue.message(vec![], vec![0], 2);
        assert_eq!((queue.bytes, payloads(&queue)), (1, vec![2]));
        queue.message(vec![], vec![0; MAX_BYTES + 1], 3);
        assert_eq!((queue.bytes, payloads(&queue), queue.take_lost()), (0, vec![], 3));
    }

    #[test]
    fn batches_are_bounded_and_never_empty() {
        let mut queue = Queue::default();
        queue.mark("a");
        (0..5).for_each(|n| queue.message(vec![], vec![0; 10], n));
        assert_eq!(queue.first(3, 1000).count(), 3);
        assert_eq!(queue.first(10, 20).count(), 2);
        assert_eq!(queue.first(10, 1).count(), 1);
    }

    #[test]
    fn marks_are_bounded_but_those_that_are_needed_stay() {
        let mut queue = Queue::default();
        (0..5000).for_each(|n| queue.mark(&n.to_string()));
        assert_eq!(queue.marks.len(), MAX_MARKS);
        queue.message(vec![], vec![], 1);
        (0..5000).for_each(|n| queue.mark(&format!("x{n}")));
        queue.written(&at("4999", 1));
        assert_eq!(queue.messages.len(), 0);
        queue.mark("last");
        assert_eq!(queue.marks.len(), MAX_MARKS);
    }

    /// What can happen to a group of workers.
    #[derive(Clone, Debug)]
    enum Step {
        Message,
        /// A worker begins to listen.
        Join,
        /// The holder writes so many.
        Write(usize),
        /// The holder goes, and another worker takes over.
        TakeOver(usize),
        /// A worker that does not write learns the position.
        Learn(usize),
        /// The connection of a worker breaks; if it wrote, another one may take over.
        Break(usize),
        /// All that were interrupted listen again.
        Rejoin,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => Just(Step::Message),
            1 => Just(Step::Join),
            4 => (1usize..5).prop_map(Step::Write),
            1 => (0usize..9).prop_map(Step::TakeOver),
            1 => (0usize..9).prop_map(Step::Learn),
            1 => (0usize..9).prop_map(Step::Break),
            1 => Just(Step::Rejoin),
        ]
    }

    struct Member {
        queue: Queue,
        /// The number of messages that were there before it.
        joined: u64,
        connected: bool,
    }

    /// A group of workers; its first holder is the first member.
    #[derive(Default)]
    struct Group {
        members: Vec<Member>,
        holder: usize,
        position: Option<Position>,
        marks: u64,
        messages: u64,
        written: Vec<u64>,
        /// What only those had heard who are gone.
        lost: Vec<u64>,
    }

    impl Group {
        fn run(steps: Vec<Step>, elders_first: bool) -> Group {
            let mut group = Group::default();
            for step in [vec![Step::Join], steps, vec![Step::Rejoin, Step::Write(usize::MAX)]].concat() {
                group.apply(step, elders_first);
            }
            group
        }

        fn apply(&mut self, step: Step, elders_first: bool) {
            match step {
                Step::Message => {
                    self.messages += 1;
                    let connected = self.members.iter_mut().filter(|member| member.connected);
                    connected.for_each(|member| member.queue.message(vec![], vec![], self.messages));
                }
                Step::Join => {
                    self.members.push(Member { queue: Queue::default(), joined: self.messages, connected: true });
                    self.mark();
                }
                Step::Write(count) if self.members[self.holder].connected => {
                    // With the lease comes the position.
                    self.learn(self.holder);
                    let first = self.members[self.holder].queue.first(count, usize::MAX);
                    let batch: Vec<Message> = first.cloned().collect();
                    self.written.extend(batch.iter().map(|message| message.time));
                    self.position = batch.last().map(|message| message.position.clone()).or(self.position.take());
                    self.learn(self.holder);
                }
                Step::Write(_) => {}
                Step::TakeOver(next) if self.members.len() > 1 => {
                    self.members.remove(self.holder);
                    self.holder = if elders_first { 0 } else { next % self.members.len() };
                    let done = self.written.last().max(self.lost.last()).copied().unwrap_or(0);
                    self.lost.extend(done + 1..=self.members[self.holder].joined);
                    self.learn(self.holder);
                }
                Step::TakeOver(_) => {}
                Step::Learn(which) => self.learn(which % self.members.len()),
                Step::Break(which) => {
                    let which = which % self.members.len();
                    self.members[which].queue.interrupt();
                    self.members[which].connected = false;
                    if which == self.holder {
                        let next = self.members.iter().position(|member| member.connected);
                        self.holder = next.unwrap_or(which);
                    }
                }
                Step::Rejoin => {
                    let broken: Vec<usize> =
                        (0..self.members.len()).filter(|&which| !self.members[which].connected).collect();
                    for which in broken {
                        self.members[which].connected = true;
                        self.mark();
                    }
                }
            }
        }

        fn mark(&mut self) {
            self.marks += 1;
            let connected = self.members.iter_mut().filter(|member| member.connected);
            connected.for_each(|member| member.queue.mark(&self.marks.to_string()));
        }

        /// Those who ask for the lease learn the position; who is not connected does not ask.
        fn learn(&mut self, which: usize) {
            let member = &mut self.members[which];
            self.position.iter().filter(|_| member.connected).for_each(|position| member.queue.written(position));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Whoever writes when, and whatever breaks: nothing is written twice, and all in order.
        #[test]
        fn no_message_is_written_twice(steps in proptest::collection::vec(step(), 0..100)) {
            let written = Group::run(steps, false).written;
            prop_assert!(written.is_sorted_by(|a, b| a < b), "{:?}", written);
        }

        /// Each message is written that one of those has heard who are still there.
        #[test]
        fn every_message_is_written_once(steps in proptest::collection::vec(step(), 0..100)) {
            let whole = |step: &Step| !matches!(step, Step::Break(_));
            let group = Group::run(steps.into_iter().filter(whole).collect(), true);
            let mut all = [group.written, group.lost].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (1..=group.messages).collect::<Vec<_>>());
        }
    }
}
