//! What the user sees while a phase runs: a bar with live figures on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Seconds between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The bar of one phase.
pub struct Progress {
    bar: ProgressBar,
    name: String,
    terminal: bool,
    quiet: bool,
    last_line: Duration,
}

impl Progress {
    /// A bar that is full at `length`.
    #[must_use]
    pub fn new(name: &str, length: u64, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::new(length);
        if !terminal || quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:8} {bar:24} {percent:>3}% {elapsed:>4}  {msg}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        Self { bar, name: name.to_owned(), terminal, quiet, last_line: Duration::ZERO }
    }

    /// Shows where the phase stands.
    pub fn show(&mut self, position: u64, message: &str) {
        self.bar.set_position(position);
        self.bar.set_message(message.to_owned());
        let elapsed = self.bar.elapsed();
        if !self.terminal && !self.quiet && elapsed.saturating_sub(self.last_line) >= LINE_EVERY {
            self.last_line = elapsed;
            eprintln!("{:8} {:>4} s  {message}", self.name, elapsed.as_secs());
        }
    }

    /// Ends the bar with a last word.
    pub fn done(&self, message: &str) {
        self.bar.finish_and_clear();
        if !self.quiet {
            eprintln!("{:8} {:>6.1} s  {message}", self.name, self.bar.elapsed().as_secs_f64());
        }
    }
}
