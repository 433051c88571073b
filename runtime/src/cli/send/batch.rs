//! `wasmill send --batch`: many events from stdin, in steps that are published whole or not at all.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;

use futures::stream::{FuturesOrdered, StreamExt as _};
use indicatif::ProgressBar;
use wasmill::event::{Event, TooLarge};
use wasmill::ops::PublishReport;

use super::super::target::Target;
use super::super::{Context, Report, progress};
use super::lines::{Lines, Range};
use super::{Args, Rules, event, when};

/// Events that are published in one step at most.
const STEP_EVENTS: usize = 500;
/// A step ends when its events have this many bytes, so that none blocks the server for long.
const STEP_BYTES: usize = 1 << 20;
/// Steps that are on their way to Redis at the same time; one connection keeps their order. Requests to a worker may
/// overtake one another: there it is one at a time.
const IN_FLIGHT: usize = 4;
/// A pipe that ends within this many bytes is checked as a whole before the first event is published; a file always.
const HELD_BYTES: u64 = 64 << 20;
/// Bytes that are read at a time.
const BLOCK: usize = 1 << 16;

/// Publishes all lines; the ids are printed while they are published, or returned for JSON.
pub(super) async fn send(
    context: &Context,
    rules: &Rules,
    target: Target,
    args: &Args,
) -> Result<PublishReport, Report> {
    let mut input =
        Input { rules, args, lines: Lines::new(open(rules, args)?, rules.event_bytes), number: 0, at_end: false };
    let kept = PublishReport { stream: args.stream.clone(), ..PublishReport::default() };
    let mut sender = Sender { context, progress: progress::counting("events"), kept, fates: Vec::new(), error: None };
    sender.send_all(&mut input, &target).await.and_then(|()| sender.finish(&input))
}

/// Stdin from its beginning, checked if that is possible: a file is read twice, a pipe is held in memory.
fn open(rules: &Rules, args: &Args) -> Result<Box<dyn BufRead>, Report> {
    let fault = |error: std::io::Error| Report::failure(format!("stdin: {error}"));
    // Not by way of `io::stdin`, whose buffer would keep what it has read ahead.
    let mut stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(fault)?);
    if args.unchecked {
        return Ok(Box::new(BufReader::with_capacity(BLOCK, stdin)));
    }
    if stdin.metadata().map_err(fault)?.is_file() {
        let start = stdin.stream_position().map_err(fault)?;
        check(rules, args, BufReader::with_capacity(BLOCK, &stdin))?;
        stdin.seek(SeekFrom::Start(start)).map_err(fault)?;
        return Ok(Box::new(BufReader::with_capacity(BLOCK, stdin)));
    }
    let mut held = Vec::new();
    stdin.by_ref().take(HELD_BYTES + 1).read_to_end(&mut held).map_err(fault)?;
    if held.len() as u64 <= HELD_BYTES {
        check(rules, args, &held[..])?;
    }
    Ok(Box::new(Cursor::new(held).chain(BufReader::with_capacity(BLOCK, stdin))))
}

/// Checks every line of an input that is there as a whole.
fn check(rules: &Rules, args: &Args, input: impl BufRead) -> Result<(), Report> {
    // Nothing but its size to check; most batches are like that.
    let is_plain = !args.msgpack
        && rules.envelope.is_none()
        && matches!(rules.schemas.find(&args.r#type, args.schema_version.as_deref()), Ok(None));
    // What every event has besides its data.
    let rest = if is_plain { event(rules, args, Vec::new()).map_err(Report::usage)?.size() } else { 0 };
    let mut lines = Lines::new(input, rules.event_bytes);
    let (mut line, mut number) = (Vec::new(), 0);
    while lines.read(&mut line).map_err(|error| Report::failure(format!("stdin: {error}")))? {
        number += 1;
        if !args.is_wanted(number) || is_blank(rules, &line) {
            continue;
        }
        let checked = check_line(rules, &line).and_then(|()| match is_plain {
            true => TooLarge::check(rest + line.len(), rules.event_bytes).map_err(|error| error.to_string()),
            false => event(rules, args, line.clone()).map(drop),
        });
        checked.map_err(|error| Report::usage(format!("stdin, line {number}: {error}; nothing was published")))?;
    }
    Ok(())
}

/// Lines without anything are passed over. Of one that is too long not everything is there.
fn is_blank(rules: &Rules, line: &[u8]) -> bool {
    rules.check_length(line).is_ok() && line.trim_ascii().is_empty()
}

/// A line is JSON, and not longer than an event.
fn check_line(rules: &Rules, line: &[u8]) -> Result<(), String> {
    rules.check_length(line)?;
    let text = std::str::from_utf8(line).map_err(|error| format!("not UTF-8: {error}"))?;
    let checked = serde_json::from_str::<serde::de::IgnoredAny>(text);
    checked.map(drop).map_err(|error| format!("not JSON: {error}"))
}

/// The lines of stdin as events.
struct Input<'a, R> {
    rules: &'a Rules,
    args: &'a Args,
    lines: Lines<R>,
    /// The number of the line that was read last, from 1.
    number: u64,
    at_end: bool,
}

/// Events that are published together, and the lines that they come from.
struct Step {
    lines: Range,
    events: Vec<Event>,
}

impl<R: BufRead> Input<'_, R> {
    /// The next events; `None` at the end.
    fn next_step(&mut self) -> Result<Option<Step>, Report> {
        let mut step = Step { lines: Range { first: 0, last: 0 }, events: Vec::with_capacity(STEP_EVENTS) };
        let mut bytes = 0;
        while !self.at_end && step.events.len() < STEP_EVENTS && bytes < STEP_BYTES {
            let mut line = Vec::new();
            if !self.lines.read(&mut line).map_err(|error| Report::failure(format!("stdin: {error}")))? {
                self.at_end = true;
                break;
            }
            self.number += 1;
            if !self.args.is_wanted(self.number) || is_blank(self.rules, &line) {
                continue;
            }
            let number = self.number;
            let fault = |error: String| Report::usage(format!("stdin, line {number}: {error}"));
            check_line(self.rules, &line).map_err(fault)?;
            let event = event(self.rules, self.args, line).map_err(fault)?;
            bytes += event.data.len();
            if step.events.is_empty() {
                step.lines.first = number;
            }
            step.lines.last = number;
            step.events.push(event);
        }
        Ok(Some(step).filter(|step| !step.events.is_empty()))
    }
}

/// What has become of the events of some lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Published,
    Refused,
    /// No answer came: they may be in the stream.
    Unknown,
}

/// Publishes steps, and remembers what became of them.
struct Sender<'a> {
    context: &'a Context,
    progress: ProgressBar,
    /// Ids and places that are printed as JSON at the end.
    kept: PublishReport,
    /// In the order of the lines; neighbours have different fates.
    fates: Vec<(Range, Fate)>,
    error: Option<Report>,
}

impl Sender<'_> {
    /// Publishes until the end of the input or the first fault; what is on its way then is waited for.
    async fn send_all<R: BufRead>(&mut self, input: &mut Input<'_, R>, target: &Target) -> Result<(), Report> {
        let most = if self.context.is_by_worker() { 1 } else { IN_FLIGHT };
        let mut in_flight = FuturesOrdered::new();
        let mut end = None;
        loop {
            while end.is_none() && self.error.is_none() && in_flight.len() < most {
                match input.next_step() {
                    Ok(Some(step)) => in_flight.push_back(publish(target, input.args, step)),
                    Ok(None) => end = Some(Ok(())),
                    Err(fault) => end = Some(Err(fault)),
                }
            }
            let Some((lines, result)) = in_flight.next().await else { break };
            self.note(lines, result);
        }
        self.progress.finish();
        end.unwrap_or(Ok(()))
    }

    fn note(&mut self, lines: Range, result: Result<PublishReport, Report>) {
        let fate = match &result {
            Ok(_) => Fate::Published,
            Err(error) if error.uncertain => Fate::Unknown,
            Err(_) => Fate::Refused,
        };
        self.remember(lines, fate);
        match result {
            Ok(published) => {
                self.progress.inc(published.ids.len() as u64);
                if self.context.is_json() {
                    self.kept.ids.extend(published.ids);
                    self.kept.entries.extend(published.entries);
                } else {
                    let text: String = published.ids.iter().flat_map(|id| [id, "\n"]).collect();
                    say!("{}", text.trim_end());
                }
            }
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }

    fn remember(&mut self, lines: Range, fate: Fate) {
        match self.fates.last_mut() {
            Some((known, same)) if *same == fate => known.last = lines.last,
            _ => self.fates.push((lines, fate)),
        }
    }

    /// The ids; or the fault, what it means for which lines, and how to go on.
    fn finish<R>(&mut self, input: &Input<'_, R>) -> Result<PublishReport, Report> {
        let Some(error) = self.error.take() else { return Ok(std::mem::take(&mut self.kept)) };
        if !input.at_end {
            self.remember(Range { first: input.number + 1, last: u64::MAX }, Fate::Refused);
        }
        let list = |wanted: Fate| {
            let ranges = self.fates.iter().filter(|(_, fate)| *fate == wanted);
            ranges.map(|(range, _)| range.to_string()).collect::<Vec<_>>().join(",")
        };
        let mut message = error.to_string();
        let (published, unknown, refused) = (list(Fate::Published), list(Fate::Unknown), list(Fate::Refused));
        if !published.is_empty() {
            message += &format!("\nlines {published} are published");
        }
        if !unknown.is_empty() {
            message += &format!("\nlines {unknown} may be published: no answer came; look before you send them again");
        }
        if !refused.is_empty() {
            message += &format!("\nlines {refused} are not: send the same input again with --lines {refused}");
        }
        Err(Report::failure(message))
    }
}

async fn publish(target: &Target, args: &Args, step: Step) -> (Range, Result<PublishReport, Report>) {
    (step.lines, target.publish(&args.stream, when(args), step.events).await)
}
