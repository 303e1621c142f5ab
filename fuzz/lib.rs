//! The fuzz targets, and what only a fuzzer needs: a cap on memory and a hook that lets caught panics pass.

#[expect(dead_code, reason = "tests measure what lives, a fuzzer does not")]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock, PoisonError};
use targets::memory::{CAP, Counting, MOST};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// libfuzzer-sys ends the process at every panic, also at those that vft catches: Parquet's and the tokenizer's readers panic on some broken files.
/// What nobody catches still ends it.
pub fn expect_caught_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        *last = panic.to_string();
    }));
    MOST.store(CAP, Ordering::Relaxed);
}

static LAST: Mutex<String> = Mutex::new(String::new());

/// Gives the bytes to a target.
pub fn run(name: &str, data: &[u8]) {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let target = targets::TARGETS.iter().find(|(n, _)| *n == name);
    let (_, target) = target.expect("a target of the table");
    let dir = DIR.get_or_init(scratch);
    if catch_unwind(AssertUnwindSafe(|| target(dir, data))).is_err() {
        eprintln!("{}", LAST.lock().unwrap_or_else(PoisonError::into_inner));
        std::process::abort();
    }
}

/// A directory of its own for inputs, in memory where the system has that.
fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let dir = tempfile::Builder::new().prefix("vft-fuzz-").tempdir_in(base);
    dir.expect("a place for inputs").keep()
}

/// The body of `fuzz_targets/<name>.rs`.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(init: $crate::expect_caught_panics(), |data: &[u8]| {
            $crate::run($name, data);
        });
    };
}
