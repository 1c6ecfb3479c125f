//! What a person sees while it goes on: named steps, and the guest's console, dimmed.

use std::io::{self, IsTerminal};
use std::time::Instant;

use guest::Event;

/// Standard output.
#[derive(Debug)]
pub(crate) struct Screen {
    started: Instant,
    dim: &'static str,
    bold: &'static str,
    plain: &'static str,
}

impl Screen {
    /// Colours only for a terminal.
    pub(crate) fn new() -> Self {
        let (dim, bold, plain) =
            if io::stdout().is_terminal() { ("\x1b[2m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        Self { started: Instant::now(), dim, bold, plain }
    }

    /// A new step begins.
    pub(crate) fn step(&self, what: &str) {
        let (bold, plain) = (self.bold, self.plain);
        println!("{bold}[{:5.1} s] {what}{plain}", self.started.elapsed().as_secs_f64());
    }

    /// Something of the step that is under way.
    pub(crate) fn detail(&self, what: &str) {
        let (dim, plain) = (self.dim, self.plain);
        println!("{dim}          | {what}{plain}");
    }

    /// Something was said in the guest, or by its monitor.
    pub(crate) fn event(&self, event: &Event) {
        let (who, text) = match event {
            Event::Said(line) => ("guest", line.to_string()),
            Event::Console(text) => ("guest", text.clone()),
            Event::Message(text) => ("monitor", text.clone()),
            Event::Ended(status) => ("monitor", format!("ended: {status}")),
        };
        let (dim, plain) = (self.dim, self.plain);
        println!("{dim}{who:>9} | {text}{plain}");
    }
}
