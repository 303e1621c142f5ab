//! Signals in every phase of a run: it ends with 75 and a durable checkpoint, and what takes it up becomes the run that nobody disturbed,
//! byte for byte. Notices of a machine that is taken away do the same.
//!
//! Two signals within each phase; `VFT_SIGNALS=100` for more, at random moments of the phase, `VFT_SIGNAL_SEED` for others. The long form is
//! best run alone: `VFT_SIGNALS=100 cargo test --test signals phases -- --test-threads=2 --nocapture`.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]
#![expect(clippy::print_stdout, reason = "the figures of the long form")]

#[path = "../common/checkpoint.rs"]
mod checkpoint;
mod common;
#[path = "../common/dice.rs"]
mod dice;
#[path = "../common/left.rs"]
mod left;
mod manners;
mod model;
mod phase;
mod phases;
mod preemption;
#[path = "../hub/server.rs"]
#[expect(dead_code, reason = "the Hub's tests use all of it")]
mod server;
