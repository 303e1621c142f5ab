//! The real binary: whole runs, bad input, files that someone broke.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;
mod endings;
mod hostile;
mod preview;
mod prompts;
mod resume;
mod runs;
mod vinasmol;
