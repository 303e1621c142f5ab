//! Files made to break their reader: an error is the answer, without a panic, in bounded memory, and nothing outside the model is opened.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod bombs;
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

/// A small generator of random numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}
