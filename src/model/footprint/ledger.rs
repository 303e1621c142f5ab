//! Which buffers are out, and the most that ever were.

use std::collections::BTreeMap;

/// A buffer that is out: its bytes, and those of an element.
pub(super) type Held = (usize, usize);

/// The buffers of a pass, counted.
#[derive(Default)]
pub(super) struct Ledger {
    /// Of each kind how many are out, and the most that were.
    out: BTreeMap<Held, (usize, usize)>,
    /// Bytes that are out.
    now: usize,
    /// The most that were.
    most: usize,
}

impl Ledger {
    pub(super) fn take(&mut self, elements: usize, size: usize) -> Held {
        let held = (elements * size, size);
        let (now, most) = self.out.entry(held).or_default();
        *now += 1;
        *most = (*most).max(*now);
        self.now += held.0;
        self.most = self.most.max(self.now);
        held
    }

    pub(super) fn give(&mut self, held: impl IntoIterator<Item = Held>) {
        for held in held {
            if let Some((now, _)) = self.out.get_mut(&held) {
                *now -= 1;
            }
            self.now -= held.0;
        }
    }

    /// Bytes of a pool that keeps what was given back, by size.
    pub(super) fn pooled(&self) -> usize {
        self.out.iter().map(|((bytes, _), (_, most))| bytes * most).sum()
    }

    /// The most bytes that were out at a time.
    pub(super) fn most(&self) -> usize {
        self.most
    }
}
