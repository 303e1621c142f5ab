//! Files made to break their reader: an error is the answer, without a panic, in bounded memory, and nothing outside the model is opened.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod bombs;
#[path = "../common/dice.rs"]
mod dice;
mod replay;
mod shards;
#[path = "../../fuzz/targets.rs"]
mod targets;

use std::sync::{Mutex, MutexGuard, PoisonError};
use targets::memory::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What lives is counted for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}
