//! What is needed next, asked for while tiles are computed: the memory is idle then.

/// `rows` pieces of `bytes`, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) start: *const u8,
    pub(super) rows: usize,
    pub(super) bytes: usize,
    pub(super) stride: usize,
}

impl Ahead {
    /// Nothing.
    pub(super) const NOTHING: Self = Self { start: std::ptr::null(), rows: 0, bytes: 0, stride: 0 };
}

/// The cache lines of what is ahead, asked for one by one.
pub(super) struct Lines {
    ahead: Ahead,
    at: *const u8,
    apart: usize,
}

impl Lines {
    const BYTES: usize = 64;

    /// Over so many pairs of the inner dimension, evenly as far as they suffice.
    pub(super) fn new(ahead: Ahead, pairs: usize) -> Self {
        let lines = ahead.rows * (ahead.bytes / Self::BYTES + 1);
        Self { ahead, at: ahead.start, apart: (pairs / lines.max(1)).clamp(4, 64) }
    }

    /// Pairs from one to the next.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn apart(&self) -> usize {
        self.apart
    }

    /// Asks for the next line.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn ask(&mut self) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let Ahead { start, rows, bytes, stride } = self.ahead;
        if rows == 0 {
            return;
        }
        // SAFETY: asking for an address that nobody may read does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.cast()) };
        self.at = self.at.wrapping_add(Self::BYTES);
        if self.at as usize & !(Self::BYTES - 1) >= start as usize + bytes {
            self.at = start.wrapping_add(stride);
            self.ahead = Ahead { start: self.at, rows: rows - 1, bytes, stride };
        }
    }
}
