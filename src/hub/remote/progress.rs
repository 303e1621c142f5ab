//! What a download tells while it runs. Nothing is printed here: who draws implements [`Progress`].

use super::error::{HubError, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Hears of a download. Every method has a default that does nothing; `()` hears nothing.
pub trait Progress {
    /// `files` files will be fetched, of `bytes` bytes together where all sizes are announced.
    fn plan(&self, _files: usize, _bytes: Option<u64>) {}
    /// The file `name` of `bytes` bytes begins.
    fn file(&self, _name: &str, _bytes: Option<u64>) {}
    /// `bytes` bytes of the file are on disk; less than before when a server makes it begin anew.
    fn at(&self, _bytes: u64) {}
    /// The file is whole.
    fn done(&self, _name: &str) {}
    /// A line for the user: a wait, another try.
    fn note(&self, _text: &str) {}
}

impl Progress for () {}

/// One call of the user's: who hears of it and who may end it.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) progress: &'a dyn Progress,
    pub(super) stop: &'a AtomicBool,
}

impl Call<'_> {
    /// An error once the user wants to stop.
    pub(super) fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(HubError::Interrupted) } else { Ok(()) }
    }

    /// Waits, but not on after a stop.
    pub(super) fn wait(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.go_on()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}
