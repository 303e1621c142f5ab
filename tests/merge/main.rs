//! Merging against PEFT's `merge_and_unload` and bitsandbytes' round trip, directories, refusals, `--verify`. Fixtures:
//! `scripts/fixtures/merge.py`.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;
mod files;
mod numbers;
mod refused;
mod verify;
