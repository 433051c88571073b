//! `wasmill stats --watch` on a terminal.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Row, Sparkline, Table};
use wasmill::ops::StatsReport;

use super::Report;
use super::stats::{COLUMNS, Samples, cells, state};
use super::table::counted;
use super::target::Target;

/// Rates that are kept for the curve.
const HISTORY: usize = 240;
/// How often keys are looked at.
const KEYS: Duration = Duration::from_millis(50);

/// What is shown.
#[derive(Default)]
struct View {
    samples: Samples,
    rates: VecDeque<u64>,
    fault: Option<String>,
}

/// Shows the view until `q`, Escape or Ctrl-C.
pub async fn run(target: &Target, interval: Duration) -> Result<(), Report> {
    let mut terminal = ratatui::init();
    let result = watch(target, interval, &mut terminal).await;
    ratatui::restore();
    result
}

async fn watch(target: &Target, interval: Duration, terminal: &mut ratatui::DefaultTerminal) -> Result<(), Report> {
    let mut view = View::default();
    let mut ticks = tokio::time::interval(interval);
    let mut keys = tokio::time::interval(KEYS);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                match target.stats().await {
                    Ok(report) => view.take_in(report),
                    Err(error) => view.fault = Some(error.to_string()),
                }
                terminal.draw(|frame| view.draw(frame)).map_err(Report::failure)?;
            }
            _ = keys.tick() => {
                while event::poll(Duration::ZERO).map_err(Report::failure)? {
                    match event::read().map_err(Report::failure)? {
                        Event::Key(key) if is_end(key.code, key.modifiers) => return Ok(()),
                        Event::Resize(..) => {
                            terminal.draw(|frame| view.draw(frame)).map_err(Report::failure)?;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

fn is_end(code: KeyCode, modifiers: KeyModifiers) -> bool {
    let interrupt = code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
    interrupt || matches!(code, KeyCode::Char('q') | KeyCode::Esc)
}

impl View {
    fn take_in(&mut self, report: StatsReport) {
        self.samples.push(report);
        if let (Some(before), Some(now)) = (self.samples.before(), self.samples.newest()) {
            let done = |report: &StatsReport| -> BTreeMap<String, u64> {
                let handlers = report.handlers.iter();
                handlers.map(|(name, status)| (name.clone(), status.counts.acked + status.counts.dead)).collect()
            };
            let (first, last) = (done(before), done(now));
            let sum: u64 = last.iter().map(|(name, done)| done.saturating_sub(*first.get(name).unwrap_or(done))).sum();
            self.rates.push_back(sum * 1000 / now.at_ms.saturating_sub(before.at_ms).max(1));
        }
        if self.rates.len() > HISTORY {
            self.rates.pop_front();
        }
        self.fault = None;
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [head, curve, body] =
            Layout::vertical([Constraint::Length(1), Constraint::Length(5), Constraint::Min(3)]).areas(frame.area());
        let now = self.samples.newest();
        let workers = counted(now.map_or(0, |now| now.workers), "worker");
        let rate = self.rates.back().copied().unwrap_or(0);
        let title = match &self.fault {
            Some(fault) => Line::from(fault.clone()).fg(Color::Red),
            None => Line::from(format!("wasmill: {workers}, {rate} events/s    q: quit")).bold(),
        };
        frame.render_widget(title, head);
        let width = usize::from(curve.width);
        let rates: Vec<u64> = self.rates.iter().copied().skip(self.rates.len().saturating_sub(width)).collect();
        frame.render_widget(Sparkline::default().block(Block::new().title("events/s")).data(rates), curve);
        let Some(now) = now else { return };
        let rows = now.handlers.iter().map(|(name, status)| {
            let colour = match state(status) {
                "BLOCKED" => Color::Red,
                "serving" => Color::Reset,
                _ => Color::Yellow,
            };
            Row::new(cells(name, now, self.samples.before())).style(Style::new().fg(colour))
        });
        let widths = [Constraint::Fill(2)].into_iter().chain([Constraint::Fill(1); COLUMNS.len() - 1]);
        frame.render_widget(Table::new(rows, widths).header(Row::new(COLUMNS).bold()), body);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use wasmill::ops::HandlerStatus;

    use super::*;

    fn report(at_ms: u64, acked: u64) -> StatsReport {
        let mut status = HandlerStatus { workers: 2, lag: Some(1234), ..HandlerStatus::default() };
        status.counts.acked = acked;
        StatsReport { at_ms, workers: 2, handlers: [("payment".to_owned(), status)].into() }
    }

    fn drawn(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(140, 12)).expect("a terminal in memory");
        terminal.draw(|frame| view.draw(frame)).expect("drawing in memory");
        terminal.backend().to_string()
    }

    #[test]
    fn rates_are_differences() {
        let mut view = View::default();
        view.take_in(report(1_000, 100));
        view.take_in(report(3_000, 700));
        let text = drawn(&view);
        for part in ["2 workers, 300 events/s", "payment", "serving", "300/s", "1,234"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn rates_are_steady_though_workers_report_seldom() {
        let mut view = View::default();
        // The counts come every two seconds, 200 at a time.
        (0..20).for_each(|second| view.take_in(report(1_000 + second * 1_000, second / 2 * 200)));
        let steady = view.rates.iter().skip(6);
        assert!(steady.clone().all(|rate| (80..=120).contains(rate)), "{:?}", view.rates);
    }

    #[test]
    fn a_worker_that_has_gone_makes_no_negative_rate() {
        let mut view = View::default();
        view.take_in(report(1_000, 700));
        view.take_in(report(2_000, 100));
        assert!(drawn(&view).contains(" 0 events/s"), "{}", drawn(&view));
    }

    #[test]
    fn a_fault_is_shown_until_there_is_an_answer() {
        let mut view = View { fault: Some("Redis cannot be reached".to_owned()), ..View::default() };
        assert!(drawn(&view).contains("Redis cannot be reached"));
        view.take_in(report(1_000, 1));
        assert!(!drawn(&view).contains("cannot be reached"));
    }
}
