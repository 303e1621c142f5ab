//! What a run says: progress, metrics files, logs, the curve, the card. The only place that prints.

mod axis;
pub mod card;
mod csv;
pub mod curve;
pub mod download;
pub mod log;
mod markup;
pub mod memory;
pub mod metrics;
pub mod progress;
pub mod sink;
mod tensorboard;
mod usage;

use std::fmt::Display;
use std::io::{self, Write};

/// Prints text to standard output; a reader that went away is no error.
pub fn print_out(text: &str) {
    let mut out = io::stdout().lock();
    // A closed pipe means that nobody reads on: there is nobody to tell.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a line to standard error.
pub fn print_note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints an error to standard error.
pub fn print_error(error: impl Display) {
    print_note(format_args!("error: {error}"));
}
