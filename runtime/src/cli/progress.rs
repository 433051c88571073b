//! How far long work has come, on stderr, if that is a terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often what moves by itself does.
const TICK: Duration = Duration::from_millis(200);

/// A bar towards `total` things, named by their plural.
pub fn towards(total: u64, things: &str) -> ProgressBar {
    let template = format!("{{bar:30}} {{human_pos}}/{{human_len}} {things}, {{per_sec}}, {{elapsed}}");
    shown(ProgressBar::new(total), &template)
}

/// A count of things of which nobody knows how many there will be.
pub fn counting(things: &str) -> ProgressBar {
    shown(ProgressBar::new_spinner(), &format!("{{spinner}} {{human_pos}} {things}, {{per_sec}}, {{elapsed}}"))
}

/// What is being waited for, in words that change.
pub fn saying() -> ProgressBar {
    shown(ProgressBar::new_spinner(), "{spinner} {msg}")
}

/// The step that is going on and how long the work has taken; moves by itself, so that long silence is no worry.
pub fn working() -> ProgressBar {
    let bar = shown(ProgressBar::new_spinner(), "{spinner} {elapsed} {msg}");
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

fn shown(bar: ProgressBar, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the templates above are right, as the test shows");
    if std::io::stderr().is_terminal() { bar.with_style(style) } else { ProgressBar::hidden() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_right() {
        towards(10, "orders").inc(1);
        counting("events").inc(1);
        saying().tick();
        working().tick();
    }
}
