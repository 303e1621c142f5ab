//! How much memory a piece of work may take whose own code sets no limit.
//!
//! A chat template of three lines doubles a text forty times; minijinja counts its steps, not its bytes. An allocator cannot refuse softly: it must not
//! unwind, and memory that it does not give ends the process. So the process ends here, before the system has none left: with a message that names the
//! file, and exit code 2 as for everything that the user is to mend. Checkpoints that were written stay.
//!
//! What a thread takes is counted by [`Counted`], which the binary installs as its allocator; in a program that does not, [`within`] limits nothing.

use crate::terminal::one_line;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::io::Write;

/// More than any thread can take.
const ENDLESS: isize = isize::MAX / 2;

thread_local! {
    static LEFT: Cell<isize> = const { Cell::new(ENDLESS) };
    static WORK: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Does `work`, which may have `bytes` more than now alive at a time; `what` is for the message.
pub fn within<T>(what: &str, bytes: usize, work: impl FnOnce() -> T) -> T {
    struct Before(isize);
    impl Drop for Before {
        fn drop(&mut self) {
            LEFT.set(self.0);
        }
    }
    WORK.with_borrow_mut(|w| {
        if w != what {
            what.clone_into(w);
        }
    });
    let _before = Before(LEFT.replace(isize::try_from(bytes).unwrap_or(ENDLESS)));
    work()
}

/// The system's allocator, which counts what each thread takes and gives back.
pub struct Counted;

fn take(bytes: usize) {
    let left = LEFT.get() - bytes as isize;
    LEFT.set(left);
    if left < 0 {
        exceeded();
    }
}

fn give(bytes: usize) {
    LEFT.set(LEFT.get().saturating_add(bytes as isize));
}

#[cold]
fn exceeded() -> ! {
    LEFT.set(ENDLESS);
    WORK.with_borrow(|what| {
        // Whoever cannot be told ends all the same.
        let _ = writeln!(
            std::io::stderr(),
            "error: {} takes more memory than any of its kind\n  hint: mend or replace the file",
            one_line(what)
        );
    });
    std::process::exit(2)
}

// SAFETY: every call goes to the system's allocator as it came; only a number is kept besides.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        give(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        give(layout.size());
        take(size);
        // SAFETY: as the caller vouches.
        unsafe { System.realloc(at, layout, size) }
    }
}
