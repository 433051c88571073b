//! Waking up readers: whatever the number of streams that have nothing to read, one connection watches all of them.
//!
//! If the broker can say which streams have changed ([`Watcher`]), a wake-up costs the same however many are watched.
//! Otherwise one request blocks on all of them ([`Watch::run_blocking`]), which is named anew after each wake-up.
//!
//! Of the threads that wait for a stream one is woken. It hands the wake-up on if it cannot read, or when it has got as much
//! as it asked for: so an event alone is no work for the others, and a flood finds all of them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::Command;
use crate::broker::watcher::{Changed, Watcher};
use crate::broker::{Broker, BrokerError, Cursor, EntryId, Source};

/// All idle readers try again after this time, though nothing was heard: a stream that was deleted and made again with
/// smaller ids may wake nobody.
const POLL: Duration = Duration::from_secs(5);
/// How often it is looked for whom that time is over.
const POLL_STEP: Duration = Duration::from_secs(1);
/// The most streams for which that is done at a time, so that thousands of idle ones cost next to nothing. N streams are
/// tried again every N/100 seconds, if that is more than [`POLL`].
const POLL_STREAMS: usize = 100;
/// How long an interrupted wait may take to notice, before it is interrupted again: the first interruption may have
/// come before the wait had begun.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(5);
/// The pause after the broker could not be asked.
const ERROR_PAUSE: Duration = Duration::from_millis(500);
/// How long wake-ups are collected when there are many, so that threads are woken for several at a time.
const GATHER: Duration = Duration::from_millis(1);
/// There are many if so many have come within [`GATHER_WINDOW`]. Below that the pause costs more than it saves: at 1,000
/// events a second the 99th percentile of latency was twice as high with 10.
const MANY: usize = 40;
const GATHER_WINDOW: Duration = Duration::from_millis(10);
/// A request that blocks on more streams than this is not made more often than every [`BLOCKING_PAUSE`].
const FEW_STREAMS: usize = 100;
const BLOCKING_PAUSE: Duration = Duration::from_millis(5);

/// A thread that reads, and can be woken.
#[derive(Clone)]
pub(super) struct Thread {
    commands: mpsc::UnboundedSender<Command>,
    /// It has nothing to do: others may be in the middle of something, for as long as a guest may run without a pause.
    is_idle: Arc<AtomicBool>,
}

impl Thread {
    /// One that is told by this.
    pub(super) fn new(commands: mpsc::UnboundedSender<Command>) -> Thread {
        Thread { commands, is_idle: Arc::default() }
    }

    /// It has something to do from now on, or nothing.
    pub(super) fn set_idle(&self, is_idle: bool) {
        self.is_idle.store(is_idle, Ordering::Relaxed);
    }
}

/// Who waits for which stream.
#[derive(Default)]
pub(super) struct Watch {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    streams: HashMap<Arc<str>, Stream>,
    /// Streams for which somebody has begun to wait.
    added: Vec<Arc<str>>,
}

struct Stream {
    /// The newest entry that is known of.
    newest: EntryId,
    /// When the last one began to wait.
    since: Instant,
    groups: Vec<Group>,
}

/// The threads that wait for one group.
struct Group {
    source: Arc<Source>,
    waiting: VecDeque<Thread>,
}

impl Group {
    /// Wakes an idle one, or else the one that has waited longest.
    fn wake_one(&mut self) -> bool {
        let waiting = &mut self.waiting;
        loop {
            let idle = waiting.iter().position(|thread| thread.is_idle.load(Ordering::Relaxed));
            let Some(thread) = waiting.remove(idle.unwrap_or(0)) else { return false };
            thread.set_idle(false);
            // A thread that has ended needs no waking.
            if thread.commands.send(Command::Wake(self.source.clone())).is_ok() {
                return true;
            }
        }
    }
}

impl State {
    /// One of the readers of each group; how many that are.
    fn wake(&mut self, key: &str) -> usize {
        let groups = self.streams.get_mut(key).into_iter().flat_map(|stream| &mut stream.groups);
        groups.map(|group| usize::from(group.wake_one())).sum()
    }

    /// Where to look for what is new, of those that somebody waits for.
    fn cursors<'a>(&self, keys: impl Iterator<Item = &'a Arc<str>>) -> Vec<Cursor> {
        let waited = keys.filter_map(|key| Some((key, self.streams.get(key).filter(|stream| stream.is_waited_for())?)));
        waited.map(|(key, stream)| Cursor { key: key.clone(), after: stream.newest }).collect()
    }

    /// The streams whose readers have waited longest without being woken, and for too long.
    fn overdue(&mut self) -> Vec<Arc<str>> {
        self.streams.retain(|_, stream| stream.is_waited_for());
        let mut overdue: Vec<_> = self.streams.iter().filter(|(_, stream)| stream.since.elapsed() >= POLL).collect();
        overdue.sort_unstable_by_key(|(_, stream)| stream.since);
        overdue.into_iter().take(POLL_STREAMS).map(|(key, _)| key.clone()).collect()
    }
}

impl Stream {
    fn is_waited_for(&self) -> bool {
        self.groups.iter().any(|group| !group.waiting.is_empty())
    }
}

impl Watch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Asks for one [`Command::Wake`] when the stream has something new. `last` is the newest entry that the caller has
    /// seen of it.
    pub(super) fn register(&self, source: &Arc<Source>, last: Option<EntryId>, thread: &Thread) {
        let mut state = self.state();
        let stream = state.streams.entry(source.key.clone()).or_insert_with(|| Stream {
            newest: EntryId::MIN,
            since: Instant::now(),
            groups: Vec::new(),
        });
        stream.newest = last.map_or(stream.newest, |last| stream.newest.max(last));
        stream.since = Instant::now();
        let at = stream.groups.iter().position(|group| group.source.group == source.group).unwrap_or_else(|| {
            stream.groups.push(Group { source: source.clone(), waiting: VecDeque::new() });
            stream.groups.len() - 1
        });
        let waiting = &mut stream.groups[at].waiting;
        if !waiting.iter().any(|other| other.commands.same_channel(&thread.commands)) {
            waiting.push_back(thread.clone());
        }
        state.added.push(source.key.clone());
        drop(state);
        self.changed.notify_one();
    }

    /// Wakes another thread for the stream, as the one that was woken leaves something to do.
    pub(super) fn pass_on(&self, source: &Source) {
        let mut state = self.state();
        let groups = state.streams.get_mut(&source.key).into_iter().flat_map(|stream| &mut stream.groups);
        groups.filter(|group| group.source.group == source.group).for_each(|group| _ = group.wake_one());
    }

    fn wake_all(&self) {
        let mut state = self.state();
        for group in state.streams.values_mut().flat_map(|stream| &mut stream.groups) {
            while group.wake_one() {}
        }
    }

    /// Waits on the broker and wakes shards, until the future is dropped.
    pub(super) async fn run(&self, broker: &dyn Broker) {
        loop {
            let error = match broker.watcher().await {
                Ok(Some(watcher)) => self.follow(watcher).await,
                Ok(None) => return self.run_blocking(broker).await,
                Err(error) => error,
            };
            tracing::debug!("waiting for events: {error}");
            tokio::time::sleep(ERROR_PAUSE).await;
            self.wake_all();
        }
    }

    /// Follows what the broker says of changes, until it does not.
    async fn follow(&self, mut watcher: Box<dyn Watcher>) -> BrokerError {
        {
            let mut state = self.state();
            state.added = state.streams.keys().cloned().collect();
        }
        let (mut next_poll, mut pace) = (Instant::now() + POLL_STEP, Pace::new());
        loop {
            if let Err(error) = self.follow_once(&mut *watcher, &mut next_poll, &mut pace).await {
                return error;
            }
        }
    }

    async fn follow_once(
        &self,
        watcher: &mut dyn Watcher,
        next_poll: &mut Instant,
        pace: &mut Pace,
    ) -> Result<(), BrokerError> {
        let added = {
            let mut state = self.state();
            let mut added = std::mem::take(&mut state.added);
            added.sort_unstable();
            added.dedup();
            state.cursors(added.iter())
        };
        for newer in watcher.watch(&added).await? {
            pace.woken += self.wake_with(&newer);
        }
        tokio::select! {
            changed = watcher.changed() => match changed? {
                Changed::Streams(keys) => {
                    let mut state = self.state();
                    pace.woken += keys.iter().map(|key| state.wake(key)).sum::<usize>();
                }
                Changed::All => self.wake_all(),
            },
            () = self.changed.notified() => {}
            () = tokio::time::sleep_until(*next_poll) => {
                *next_poll = Instant::now() + POLL_STEP;
                watcher.check().await?;
                self.poll();
            }
        }
        pace.keep().await;
        Ok(())
    }

    /// Has those try again who have waited for long.
    fn poll(&self) {
        let mut state = self.state();
        state.overdue().iter().for_each(|key| _ = state.wake(key));
    }

    /// Wakes the readers of a stream, whose newest entry is known.
    fn wake_with(&self, newer: &Cursor) -> usize {
        let mut state = self.state();
        if let Some(stream) = state.streams.get_mut(&newer.key) {
            stream.newest = newer.after;
        }
        state.wake(&newer.key)
    }

    /// The same by one request that blocks on all streams.
    async fn run_blocking(&self, broker: &dyn Broker) {
        let mut next_poll = Instant::now() + POLL;
        loop {
            let now = Instant::now();
            // Streams that wake their readers all the time do not put this off.
            if now >= next_poll {
                next_poll = now + POLL;
                self.state().streams.values_mut().for_each(|stream| stream.newest = EntryId::MIN);
                self.wake_all();
            }
            let cursors = {
                let mut state = self.state();
                state.added.clear();
                state.cursors(state.streams.keys())
            };
            if cursors.is_empty() {
                self.changed.notified().await;
                continue;
            }
            match self.wait(broker, &cursors, next_poll - now).await {
                Ok(woken) => woken.iter().for_each(|cursor| _ = self.wake_with(cursor)),
                Err(error) => {
                    tracing::debug!("waiting for events: {error}");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    self.wake_all();
                }
            }
            if cursors.len() > FEW_STREAMS {
                tokio::time::sleep(BLOCKING_PAUSE).await;
            }
        }
    }

    /// The streams that have something new; none when the time is over or other streams are to be watched.
    async fn wait(
        &self,
        broker: &dyn Broker,
        cursors: &[Cursor],
        timeout: Duration,
    ) -> Result<Vec<Cursor>, BrokerError> {
        let wait = broker.wait(cursors, timeout);
        tokio::pin!(wait);
        let mut interrupted = false;
        loop {
            tokio::select! {
                woken = &mut wait => return woken,
                () = self.changed.notified() => interrupted = true,
                () = tokio::time::sleep(INTERRUPT_AGAIN), if interrupted => {}
            }
            broker.interrupt_wait().await?;
        }
    }
}

/// Pauses after wake-ups if there are many of them.
struct Pace {
    began: Instant,
    /// Wake-ups since then.
    woken: usize,
}

impl Pace {
    fn new() -> Pace {
        Pace { began: Instant::now(), woken: 0 }
    }

    async fn keep(&mut self) {
        if self.woken >= MANY {
            *self = Pace::new();
            tokio::time::sleep(GATHER).await;
        } else if self.began.elapsed() >= GATHER_WINDOW {
            *self = Pace::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::keys::Namespace;
    use crate::broker::memory::MemoryBroker;

    fn source(stream: &str, group: &str) -> Arc<Source> {
        Arc::new(Namespace::default().source(stream, group))
    }

    fn thread() -> (Thread, mpsc::UnboundedReceiver<Command>) {
        let (commands, told) = mpsc::unbounded_channel();
        (Thread::new(commands), told)
    }

    /// The group that the thread was woken for.
    fn woken(receiver: &mut mpsc::UnboundedReceiver<Command>) -> Option<Arc<str>> {
        match receiver.try_recv().ok()? {
            Command::Wake(source) => Some(source.group.clone()),
            _ => panic!("another command"),
        }
    }

    /// A reader that waits for a stream in vain asks again all the same, though another stream wakes its reader each
    /// second.
    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_is_tried_again_beside_a_busy_one() {
        let (watch, broker) = (Watch::default(), MemoryBroker::new());
        let (sender, mut receiver) = thread();
        let [quiet, busy] = ["quiet", "busy"].map(|name| source(name, "group"));
        watch.register(&quiet, None, &sender);
        watch.register(&busy, None, &sender);
        let start = Instant::now();
        let readers = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                broker.append(&busy.key, Vec::new());
                let Some(Command::Wake(source)) = receiver.recv().await else { panic!("another command") };
                if source == quiet {
                    return start.elapsed();
                }
                watch.register(&busy, None, &sender);
            }
        };
        let asked = tokio::select! {
            () = watch.run(&broker) => unreachable!("it runs until it is dropped"),
            asked = readers => asked,
            () = tokio::time::sleep(POLL * 20) => panic!("the quiet stream starves"),
        };
        assert!(asked >= POLL && asked <= POLL * 2, "{asked:?}");
    }

    #[tokio::test]
    async fn one_thread_of_each_group_is_woken_and_others_when_it_passes_that_on() {
        let watch = Watch::default();
        let ((a, mut told_a), (b, mut told_b)) = (thread(), thread());
        let [billing, shipping] = ["billing", "shipping"].map(|group| source("orders", group));
        watch.register(&billing, None, &a);
        watch.register(&billing, None, &b);
        watch.register(&shipping, None, &b);
        watch.state().wake("orders");
        assert_eq!((woken(&mut told_a), woken(&mut told_a)), (Some("billing".into()), None));
        assert_eq!((woken(&mut told_b), woken(&mut told_b)), (Some("shipping".into()), None));
        watch.pass_on(&billing);
        assert_eq!(woken(&mut told_b), Some("billing".into()));
        // Nobody is left.
        watch.pass_on(&billing);
        watch.state().wake("orders");
        assert_eq!((woken(&mut told_a), woken(&mut told_b)), (None, None));
    }

    #[tokio::test]
    async fn an_idle_thread_is_woken_before_one_that_has_waited_longer() {
        let watch = Watch::default();
        let ((a, mut told_a), (b, mut told_b)) = (thread(), thread());
        let orders = source("orders", "billing");
        watch.register(&orders, None, &a);
        watch.register(&orders, None, &b);
        b.set_idle(true);
        watch.state().wake("orders");
        assert_eq!((woken(&mut told_a), woken(&mut told_b)), (None, Some("billing".into())));
        // It has something to do now.
        watch.register(&orders, None, &b);
        watch.state().wake("orders");
        assert_eq!((woken(&mut told_a), woken(&mut told_b)), (Some("billing".into()), None));
    }

    #[tokio::test]
    async fn a_thread_that_has_ended_keeps_no_wake_up_from_others() {
        let watch = Watch::default();
        let ((a, told_a), (b, mut told_b)) = (thread(), thread());
        let orders = source("orders", "billing");
        watch.register(&orders, None, &a);
        watch.register(&orders, None, &b);
        drop(told_a);
        watch.state().wake("orders");
        assert_eq!(woken(&mut told_b), Some("billing".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_idle_streams_only_some_are_tried_again_at_a_time_and_all_of_them_in_the_end() {
        let watch = Watch::default();
        let (sender, mut receiver) = thread();
        let streams = 3 * POLL_STREAMS;
        let sources: Vec<_> = (0..streams).map(|number| source(&number.to_string(), "group")).collect();
        sources.iter().for_each(|source| watch.register(source, None, &sender));
        watch.poll();
        assert_eq!(woken(&mut receiver), None, "nobody has waited for long");
        tokio::time::sleep(POLL).await;
        let mut tried = std::collections::BTreeSet::new();
        for _ in 0..3 {
            watch.poll();
            let before = tried.len();
            while let Ok(Command::Wake(source)) = receiver.try_recv() {
                tried.insert(source.key.clone());
                // In vain: it waits again.
                watch.register(&source, None, &sender);
            }
            assert_eq!(tried.len() - before, POLL_STREAMS);
            tokio::time::sleep(POLL).await;
        }
        assert_eq!(tried.len(), streams);
    }

    #[tokio::test]
    async fn what_threads_have_seen_is_not_looked_for_again() {
        let watch = Watch::default();
        let (sender, _told) = thread();
        let (orders, id) = (source("orders", "billing"), |ms| EntryId { ms, seq: 0 });
        watch.register(&orders, Some(id(7)), &sender);
        // Another thread has seen less, and the next nothing.
        watch.register(&orders, Some(id(5)), &sender);
        watch.register(&orders, None, &sender);
        assert_eq!(
            watch.state().cursors([&orders.key].into_iter()),
            [Cursor { key: orders.key.clone(), after: id(7) }]
        );
    }
}
