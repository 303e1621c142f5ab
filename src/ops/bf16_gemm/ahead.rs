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

/// The cache lines of what is ahead, asked for one by one. The last lines come just in time: what comes early is gone from the L2 cache
/// again, because all rows of x pass through it beside one panel.
pub(super) struct Lines {
    ahead: Ahead,
    at: *const u8,
    /// Pairs before the first is asked for.
    wait: usize,
}

impl Lines {
    const BYTES: usize = 64;
    /// Pairs of the inner dimension from one line to the next: some hundred cycles, in which the memory gives one.
    const APART: usize = 4;

    /// Over the last of so many pairs.
    pub(super) fn new(ahead: Ahead, pairs: usize) -> Self {
        // As many as a piece can lie in, wherever it begins.
        let lines = ahead.rows * ((ahead.bytes + Self::BYTES - 2) / Self::BYTES + 1);
        Self { ahead, at: ahead.start, wait: pairs.saturating_sub(lines * Self::APART) }
    }

    /// Asks for the next line when it is time: for how many of the next `pairs` nothing else is to be asked for.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn ask(&mut self, pairs: usize) -> usize {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        if self.wait > 0 {
            let pairs = pairs.min(self.wait);
            self.wait -= pairs;
            return pairs;
        }
        let Ahead { start, rows, bytes, stride } = self.ahead;
        if rows == 0 {
            return pairs;
        }
        // SAFETY: asking for an address that nobody may read does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.cast()) };
        self.at = self.at.wrapping_add(Self::BYTES);
        if self.at as usize & !(Self::BYTES - 1) >= start as usize + bytes {
            self.at = start.wrapping_add(stride);
            self.ahead = Ahead { start: self.at, rows: rows - 1, bytes, stride };
        }
        pairs.min(Self::APART)
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_last_pair_finds_every_line_asked_for() {
        let weights = vec![0u8; 1 << 16];
        for (from, rows, bytes, stride) in [(0, 1, 20_000, 0), (8, 300, 96, 200), (63, 90, 66, 640)]
        {
            let start = weights[from..].as_ptr();
            let mut lines = Lines::new(Ahead { start, rows, bytes, stride }, 10_000);
            let (mut done, mut began) = (0, 0);
            while done < 10_000 {
                if lines.wait > 0 {
                    began = done;
                }
                done += lines.ask((10_000 - done).min(288));
            }
            assert_eq!(lines.ahead.rows, 0, "{rows} pieces of {bytes} bytes");
            assert!(began > 1_000, "{rows} pieces of {bytes} bytes: from pair {began} on");
        }
    }
}
