//! What a run says: progress, metrics files, logs, the curve, the card. The only place that prints.
//!
//! Nothing leaves it with a token in it: what is printed is scrubbed of those that are known, and errors and diagnostics, which quote what
//! a user wrote, of all that looks like one ([`crate::secret`]). Errors, notes and diagnostics quote files that others made: what a terminal
//! would obey is written out in them, and none of their lines but the first begins at the margin ([`crate::terminal`]).

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

use crate::error::UserError;
use crate::secret::{scrub, scrub_known};
use crate::terminal::{harmless, one_note};
use anyhow::Context;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

/// Whether colours make sense on `stream`: it is a terminal that has them, and `NO_COLOR` (<https://no-color.org>) is not set.
pub fn takes_color(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    stream.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|t| t != "dumb")
}

/// Prints text to standard output.
///
/// # Errors
/// When it cannot be written; a reader that went away is no error.
pub fn print_out(text: &str) -> anyhow::Result<()> {
    let (text, mut out) = (scrub_known(text), io::stdout().lock());
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A closed pipe means that nobody reads on: there is nobody to tell.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(e).context("standard output cannot be written")
        }
        _ => Ok(()),
    }
}

/// Prints a note to standard error.
pub fn print_note(text: impl Display) {
    print_lines(&one_note(&text.to_string()));
}

/// Prints lines of vft's own to standard error.
pub fn print_lines(text: &str) {
    print_marked(&harmless(text));
}

/// Prints lines of vft's own to standard error, with its own colours in them.
pub fn print_marked(text: &str) {
    // That it failed could be told in the same way only.
    let _ = writeln!(io::stderr().lock(), "{}", scrub_known(text));
}

/// Prints errors to standard error; those of a [`crate::error::UserError`] begin at the margin each.
pub fn print_error(error: &anyhow::Error) {
    let text = format!("error: {error:#}");
    let several = error.chain().any(|e| e.is::<UserError>());
    let text = if several { text.into() } else { one_note(&text) };
    print_lines(&scrub(&text));
}

/// A note as a progress bar takes it.
fn beside_a_bar(text: &str) -> String {
    harmless(&one_note(&scrub_known(text))).into_owned()
}
