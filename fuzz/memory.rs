//! An allocator that counts what lives and, where a cap is set, ends the process that goes beyond it.
//!
//! libFuzzer looks at the resident memory once a second; what a reader takes and gives back in between, or takes and never touches, it does not see.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that may live at a time while an input is read.
pub(crate) const CAP: usize = 512 << 20;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Beyond this the process ends.
pub(crate) static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The system's allocator, counted.
pub(crate) struct Counting;

/// The most bytes that lived at a time while `work` ran, beyond those that lived before; other threads count too.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let done = work();
    (done, PEAK.load(Relaxed).saturating_sub(before))
}

fn add(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
    if live > MOST.load(Relaxed) {
        // Nothing may be allocated here.
        MOST.store(usize::MAX, Relaxed);
        let _ = writeln!(
            std::io::stderr(),
            "more than the cap of memory: {live} bytes live, {bytes} were asked for"
        );
        std::process::abort();
    }
}

// SAFETY: every call goes to the system's allocator as it came; only numbers are kept besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Relaxed);
        add(size);
        // SAFETY: as the caller vouches.
        unsafe { System.realloc(at, layout, size) }
    }
}
