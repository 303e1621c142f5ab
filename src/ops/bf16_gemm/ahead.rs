//! What is needed next, asked for while tiles are computed: the memory is idle then.

/// `rows` pieces of `bytes`, `stride` apart.
#[derive(Debug, Clone, Copy)]
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
pub(super) struct Lines<'a> {
    /// What comes after `now`.
    ahead: &'a [Ahead],
    now: Ahead,
    at: *const u8,
    /// Pairs before the first is asked for.
    wait: usize,
}

impl<'a> Lines<'a> {
    const BYTES: usize = 64;
    /// Pairs of the inner dimension from one line to the next: some hundred cycles of a whole tile, in which the memory gives several.
    const APART: usize = 4;

    /// Over the last of so many pairs.
    pub(super) fn new(ahead: &'a [Ahead], pairs: usize) -> Self {
        // As many as a piece can lie in, wherever it begins.
        let of = |a: &Ahead| a.rows * ((a.bytes + Self::BYTES - 2) / Self::BYTES + 1);
        let lines: usize = ahead.iter().map(of).sum();
        let wait = pairs.saturating_sub(lines * Self::APART);
        Self { ahead, now: Ahead::NOTHING, at: std::ptr::null(), wait }
    }

    /// Asks for the next line when it is time: for how many of the next `pairs`, at least one of them, nothing else is to be asked for.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn ask(&mut self, pairs: usize) -> usize {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        if self.wait > 0 {
            let pairs = pairs.min(self.wait);
            self.wait -= pairs;
            return pairs;
        }
        while self.now.rows == 0 {
            let Some((first, rest)) = self.ahead.split_first() else { return pairs };
            (self.now, self.at, self.ahead) = (*first, first.start, rest);
        }
        let Ahead { start, rows, bytes, stride } = self.now;
        // SAFETY: asking for an address that nobody may read does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.cast()) };
        self.at = self.at.wrapping_add(Self::BYTES);
        if self.at as usize & !(Self::BYTES - 1) >= start as usize + bytes {
            self.at = start.wrapping_add(stride);
            self.now = Ahead { start: self.at, rows: rows - 1, bytes, stride };
        }
        pairs.min(Self::APART)
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_last_pair_finds_every_line_asked_for() {
        const PAIRS: usize = 10_000;
        let weights = vec![0u8; 1 << 16];
        for from in 0..Lines::BYTES {
            let start = weights[from..].as_ptr();
            let ahead = [(1, 20_000, 0), (300, 96, 200), (90, 66, 640)]
                .map(|(rows, bytes, stride)| Ahead { start, rows, bytes, stride });
            for ahead in [&ahead[..1], &ahead[1..2], &ahead[2..], &ahead[..]] {
                let mut lines = Lines::new(ahead, PAIRS);
                let (mut done, mut waited) = (0, 0);
                while done < PAIRS {
                    let left = (PAIRS - done).min(288);
                    let pairs = lines.ask(left);
                    assert!((1..=left).contains(&pairs));
                    done += pairs;
                    if lines.wait > 0 {
                        waited = done;
                    }
                }
                assert_eq!((lines.now.rows, lines.ahead.len()), (0, 0), "{ahead:?} from {from}");
                assert!(waited > 1_000, "{ahead:?}: from pair {waited} on");
            }
        }
    }
}
