//! Colours, only where people look.

use std::fmt;
use std::io::IsTerminal as _;

use ratatui::crossterm::style::{Color, Stylize as _};

use super::Context;

/// Whether to colour.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// For standard output: colours on a terminal, unless results are for programs or `NO_COLOR` is set.
    pub fn for_stdout(context: &Context) -> Paint {
        let is_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Paint { on: !context.is_json() && is_wanted && std::io::stdout().is_terminal() }
    }

    /// What went well.
    pub fn good(self, text: impl fmt::Display) -> String {
        self.in_color(text, Color::Green)
    }

    /// What did not.
    pub fn bad(self, text: impl fmt::Display) -> String {
        self.in_color(text, Color::Red)
    }

    /// What may yet go well.
    pub fn odd(self, text: impl fmt::Display) -> String {
        self.in_color(text, Color::Yellow)
    }

    /// What matters less.
    pub fn faint(self, text: impl fmt::Display) -> String {
        self.in_color(text, Color::DarkGrey)
    }

    fn in_color(self, text: impl fmt::Display, color: Color) -> String {
        if self.on { text.to_string().with(color).to_string() } else { text.to_string() }
    }
}
