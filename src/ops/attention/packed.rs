//! Packed rows of a (span, key/value head), and where they lie.

use super::{Heads, Span};
use std::ops::Range;

/// The (query, head of the group) pairs of a (span, key/value head), head fastest.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    pub(super) span: &'a Span,
    pub(super) kv_head: usize,
    pub(super) heads: Heads,
}

impl Packed<'_> {
    /// How many there are.
    pub(super) fn rows(&self) -> usize {
        self.span.q.len() * self.heads.group()
    }

    /// Row of q and head of a packed row.
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        let group = self.heads.group();
        (self.span.q.start + row / group, self.kv_head * group + row % group)
    }

    /// Where its values begin in q.
    pub(super) fn element(&self, row: usize) -> usize {
        let (query, head) = self.place(row);
        query * self.heads.q_width() + head * self.heads.size
    }

    /// Where the values of a key, counted inside the span, begin in k.
    pub(super) fn key(&self, key: usize) -> usize {
        (self.span.k.start + key) * self.heads.kv_width() + self.kv_head * self.heads.size
    }

    /// Its position in the span.
    pub(super) fn position(&self, row: usize) -> usize {
        self.span.offset() + row / self.heads.group()
    }

    /// Keys that a row sees, counted inside the span.
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        self.heads.visible(self.position(row))
    }

    /// Keys that any of the rows sees.
    pub(super) fn seen(&self, rows: &Range<usize>) -> Range<usize> {
        self.visible(rows.start).start..self.visible(rows.end - 1).end
    }

    /// Copies the values of rows, one after the other.
    pub(super) fn pack<T: Copy>(&self, rows: Range<usize>, from: &[T], to: &mut [T]) {
        let size = self.heads.size;
        for (row, to) in rows.zip(to.chunks_exact_mut(size)) {
            to.copy_from_slice(&from[self.element(row)..][..size]);
        }
    }
}
