//! What a run says: progress, metrics files, logs, the curve, the card. The only place that prints.
//!
//! Nothing leaves it with a token in it: what is printed is scrubbed of those that are known, and errors and diagnostics, which quote what
//! a user wrote, of all that looks like one ([`crate::secret`]).

mod axis;
pub mod card;
mod csv;
pub mod curve;
pub mod download;
pub mod log;
mod log_file;
mod markup;
pub mod memory;
pub mod metrics;
pub mod progress;
pub mod sink;
mod tensorboard;
mod usage;

use crate::secret::{scrub, scrub_known};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Whether colours make sense on `stream`: it is a terminal that has them, and `NO_COLOR` (<https://no-color.org>) is not set.
pub fn takes_color(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    stream.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|t| t != "dumb")
}

/// Prints text to standard output; a reader that went away is no error.
pub fn print_out(text: &str) {
    let (text, mut out) = (scrub_known(text), io::stdout().lock());
    // A closed pipe means that nobody reads on: there is nobody to tell.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a line to standard error.
pub fn print_note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{}", scrub_known(&text.to_string()));
}

/// Prints an error to standard error.
pub fn print_error(error: impl Display) {
    print_note(format_args!("error: {}", scrub(&error.to_string())));
}
