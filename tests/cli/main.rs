//! The real binary: whole runs, bad input, files that someone broke.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

#[path = "../common/checkpoint.rs"]
mod checkpoint;
mod common;
mod endings;
mod hostile;
#[path = "../common/left.rs"]
mod left;
mod lock;
mod no_code;
mod preview;
mod prompts;
mod reproduce;
mod resume;
mod rows;
mod runs;
#[cfg(target_os = "linux")]
mod sinks;
mod taken_up;
mod vinasmol;
