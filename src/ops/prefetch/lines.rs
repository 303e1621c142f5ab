//! Prefetching what is needed next while tiles are computed: the memory is idle then.

/// `rows` pieces of `bytes`, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Ahead {
    /// An address, not a pointer: threads share it, and nothing is read through it.
    pub(in crate::ops) start: usize,
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) bytes: usize,
    pub(in crate::ops) stride: usize,
}

impl Ahead {
    /// Nothing.
    pub(in crate::ops) const NOTHING: Self = Self { start: 0, rows: 0, bytes: 0, stride: 0 };

    /// All of some values.
    pub(in crate::ops) fn all<T>(values: &[T]) -> Self {
        let (start, bytes) = (values.as_ptr().addr(), size_of_val(values));
        Self { start, rows: usize::from(bytes > 0), bytes, stride: 0 }
    }

    /// Part `i` of `of`, in whole lines, of what lies in one piece.
    pub(in crate::ops) fn part(self, i: usize, of: usize) -> Self {
        let at = |i: usize| (self.bytes * i / of).next_multiple_of(LINE).min(self.bytes);
        let (first, end) = (at(i), at(i + 1));
        let rows = self.rows.min(usize::from(end > first));
        Self { start: self.start + first, rows, bytes: end - first, ..self }
    }

    /// As many lines as it can lie in, wherever its pieces begin.
    fn lines(&self) -> usize {
        self.rows * ((self.bytes + LINE - 2) / LINE + 1)
    }
}

/// Bytes of a line.
const LINE: usize = 64;
/// Places of what the ops behind a product read: q, k, v and o of attention.
pub(in crate::ops) const PLACES: usize = 4;
pub(in crate::ops) type Places = [Ahead; PLACES];

/// The cache lines of what is ahead, asked for one by one. What the ops behind the product read comes at once, to be in a cache at all; the last lines, of the next
/// panel's weights, just in time: what comes early is gone from the L2 cache again, because all rows of x pass through it beside one panel.
pub(in crate::ops) struct Lines<'a> {
    /// What the ops behind the product read, after `now`.
    behind: &'a [Ahead],
    /// The weights of the next panel, after that.
    ahead: &'a [Ahead],
    now: Ahead,
    at: usize,
    /// Pairs between the last line of `behind` and the first of `ahead`.
    wait: usize,
}

impl<'a> Lines<'a> {
    /// Pairs of the inner dimension from one line to the next: some hundred cycles of a whole tile, in which the memory gives several.
    const APART: usize = 4;

    /// Nothing.
    pub(in crate::ops) const NONE: Self =
        Self { behind: &[], ahead: &[], now: Ahead::NOTHING, at: 0, wait: 0 };

    /// Over so many pairs: `ahead` over the last, `behind` over the first, or nothing of it where there are too few for both.
    pub(in crate::ops) fn new(behind: &'a [Ahead], ahead: &'a [Ahead], pairs: usize) -> Self {
        let of = |all: &[Ahead]| all.iter().map(Ahead::lines).sum::<usize>() * Self::APART;
        let (left, needed) = (pairs.saturating_sub(of(ahead)), of(behind));
        let (behind, wait) = if needed <= left { (behind, left - needed) } else { (&[][..], left) };
        Self { behind, ahead, wait, ..Self::NONE }
    }

    /// Asks for the next line when it is time: for how many of the next `pairs`, at least one of them, nothing else is to be asked for.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(in crate::ops) fn ask(&mut self, pairs: usize) -> usize {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        while self.now.rows == 0 {
            let next = if let Some((first, rest)) = self.behind.split_first() {
                self.behind = rest;
                first
            } else if self.wait > 0 {
                let pairs = pairs.min(self.wait);
                self.wait -= pairs;
                return pairs;
            } else if let Some((first, rest)) = self.ahead.split_first() {
                self.ahead = rest;
                first
            } else {
                return pairs;
            };
            (self.now, self.at) = (*next, next.start);
        }
        let Ahead { start, rows, bytes, stride } = self.now;
        // SAFETY: asking for an address that nobody may read does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(self.at)) };
        self.at += LINE;
        if self.at & !(LINE - 1) >= start + bytes {
            self.at = start + stride;
            self.now = Ahead { start: self.at, rows: rows - 1, bytes, stride };
        }
        pairs.min(Self::APART)
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Lines<'_> {
    /// Nothing is asked for here.
    #[inline(always)]
    pub(in crate::ops) fn ask(&mut self, pairs: usize) -> usize {
        pairs
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// After how many of so many pairs the first line of `ahead` was asked for; in the end everything must be.
    fn waited(behind: &[Ahead], ahead: &[Ahead], pairs: usize) -> usize {
        let mut lines = Lines::new(behind, ahead, pairs);
        let (mut done, mut waited) = (0, 0);
        while done < pairs {
            let left = (pairs - done).min(288);
            let asked = lines.ask(left);
            assert!((1..=left).contains(&asked));
            done += asked;
            if lines.ahead.len() == ahead.len() {
                waited = done;
            }
        }
        let left = (lines.now.rows, lines.behind.len(), lines.ahead.len());
        assert_eq!(left, (0, 0, 0), "{behind:?}, {ahead:?}");
        waited
    }

    #[test]
    fn the_last_pair_finds_every_line_asked_for() {
        let memory = vec![0u8; 1 << 16];
        for from in 0..LINE {
            let start = memory[from..].as_ptr().addr();
            let ahead = [(1, 20_000, 0), (300, 96, 200), (90, 66, 640)]
                .map(|(rows, bytes, stride)| Ahead { start, rows, bytes, stride });
            for ahead in [&ahead[..1], &ahead[1..2], &ahead[2..], &ahead[..]] {
                let waited = waited(&[], ahead, 10_000);
                assert!(waited > 1_000, "{ahead:?}: from pair {waited} on");
            }
        }
    }

    #[test]
    fn what_ops_behind_read_is_asked_for_where_the_weights_leave_time() {
        let memory = vec![0u8; 20_000];
        let (behind, weights) = ([Ahead::all(&memory)], [Ahead::all(&memory[..6_400])]);
        for (pairs, asked) in [(2_000, 1), (1_000, 0)] {
            assert_eq!(Lines::new(&behind, &weights, pairs).behind.len(), asked, "{pairs} pairs");
            assert!(waited(&behind, &weights, pairs) > pairs - 500, "{pairs} pairs");
        }
    }

    #[test]
    fn parts_of_a_piece_are_all_of_it() {
        let memory = vec![0u8; 10_000];
        for of in [1, 3, 7, 200] {
            let mut end = memory.as_ptr().addr();
            for part in (0..of).map(|i| Ahead::all(&memory).part(i, of)) {
                assert_eq!(part.start, end);
                assert_eq!(part.rows == 0, part.bytes == 0);
                end += part.bytes;
            }
            assert_eq!(end, memory.as_ptr().addr() + memory.len());
        }
    }
}
