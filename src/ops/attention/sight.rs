//! Which rows see which: the sequences of a batch.

use super::Heads;
use crate::gpu::{Arg, Memory};
use crate::ops::Cx;
use candle_core::{Result, bail};
use std::ops::Range;

/// One sequence: its rows in q and its rows in k and v.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Rows of q.
    pub q: Range<usize>,
    /// Rows of k and v; the last `q.len()` of them are the queries' own positions.
    pub k: Range<usize>,
}

impl Span {
    /// The position of the first query.
    pub(super) fn offset(&self) -> usize {
        self.k.len() - self.q.len()
    }
}

/// The sequences of a batch, and on a device for each row which rows it sees and which see it.
pub struct Sight<'a> {
    pub(super) spans: &'a [Span],
    /// For each row of q: first and last + 1 row of k that it sees; for each row of k: of q that see it.
    rows: Option<(Memory, Memory)>,
}

impl<'a> Sight<'a> {
    /// For q of `nq` and k of `nk` rows.
    ///
    /// # Errors
    /// When a span exceeds the rows or the copy to a device fails.
    pub fn new(cx: &Cx, spans: &'a [Span], heads: Heads, nq: usize, nk: usize) -> Result<Self> {
        if spans.iter().any(|s| s.q.end > nq || s.k.end > nk || s.q.len() > s.k.len()) {
            bail!("attention: {spans:?} exceed {nq} and {nk} rows");
        }
        let rows = match cx.gpu() {
            Some(gpu) => {
                let (keys, queries) = visible_rows(spans, heads, nq, nk);
                Some((Memory::upload(gpu, &keys)?, Memory::upload(gpu, &queries)?))
            }
            None => None,
        };
        Ok(Self { spans, rows })
    }

    pub(super) fn on_device(&self) -> Result<(Arg, Arg)> {
        match &self.rows {
            Some((keys, queries)) => Ok((keys.into(), queries.into())),
            None => bail!("attention: the spans are not on the device"),
        }
    }
}

/// For each row of q the rows of k that it sees, and for each row of k the rows of q that see it, as [first, last + 1].
fn visible_rows(
    spans: &[Span],
    heads: Heads,
    nq: usize,
    nk: usize,
) -> (Vec<[u32; 2]>, Vec<[u32; 2]>) {
    let (mut keys, mut queries) = (vec![[0; 2]; nq], vec![[0; 2]; nk]);
    let range = |from: usize, r: Range<usize>| [(from + r.start) as u32, (from + r.end) as u32];
    for span in spans {
        let (n, offset) = (span.q.len(), span.offset());
        for i in 0..n {
            keys[span.q.start + i] = range(span.k.start, heads.visible(offset + i));
        }
        for j in 0..span.k.len() {
            let first = j.saturating_sub(offset);
            let last = heads.window.map_or(n, |w| (j + w).saturating_sub(offset).min(n));
            queries[span.k.start + j] = range(span.q.start, first..last.max(first));
        }
    }
    (keys, queries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Heads = Heads { heads: 1, kv_heads: 1, size: 2, window: Some(2) };

    #[test]
    fn rows_see_their_own_sequence_up_to_themselves() {
        let spans = [Span { q: 0..2, k: 0..2 }, Span { q: 2..5, k: 2..5 }];
        let (keys, _) = visible_rows(&spans, Heads { window: None, ..WINDOW }, 5, 5);
        assert_eq!(keys, [[0, 1], [0, 2], [2, 3], [2, 4], [2, 5]]);
    }

    #[test]
    fn keys_are_seen_by_those_who_see_them() {
        let spans = [Span { q: 0..4, k: 0..6 }, Span { q: 4..9, k: 6..11 }];
        for window in [None, Some(1), Some(2), Some(3), Some(9)] {
            let (keys, queries) = visible_rows(&spans, Heads { window, ..WINDOW }, 9, 11);
            let sees = |i: usize, j: usize| (keys[i][0]..keys[i][1]).contains(&(j as u32));
            for (j, [first, last]) in queries.iter().enumerate() {
                let seen_by: Vec<u32> = (0..9).filter(|i| sees(*i as usize, j)).collect();
                assert_eq!(seen_by, (*first..*last).collect::<Vec<_>>(), "{window:?}, key {j}");
            }
        }
    }
}
