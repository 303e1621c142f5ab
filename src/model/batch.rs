//! What the decoder needs to know of a micro-batch: tokens laid end to end, no padding.

use crate::ops::attention::{Heads, Sight, Span};
use crate::ops::{Cx, Mirror};
use candle_core::Result;

/// A micro-batch of S sequences with N tokens in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids (N).
    pub ids: Vec<u32>,
    /// Position of each token in its sequence (N).
    pub positions: Vec<u32>,
    /// The sequences' rows.
    pub spans: Vec<Span>,
    /// For each token (sample id, position): what dropout masks depend on (N).
    pub origins: Vec<[u32; 2]>,
}

impl Tokens {
    /// Sequences of ids laid end to end, each with the id of its sample.
    pub fn new<'a>(sequences: impl IntoIterator<Item = (&'a [u32], u32)>) -> Self {
        let mut tokens = Self::default();
        for (ids, sample) in sequences {
            let start = tokens.ids.len();
            let rows = start..start + ids.len();
            tokens.ids.extend_from_slice(ids);
            tokens.positions.extend(0..ids.len() as u32);
            tokens.origins.extend((0..ids.len() as u32).map(|p| [sample, p]));
            tokens.spans.push(Span { q: rows.clone(), k: rows });
        }
        tokens
    }

    /// The same where `cx` computes; `keys` rows of keys and values are in the attention's buffers.
    ///
    /// # Errors
    /// When a copy to a device fails.
    pub fn rows(&self, cx: &Cx, heads: Heads, keys: usize) -> Result<Rows<'_>> {
        Ok(Rows {
            ids: Mirror::new(cx, &self.ids)?,
            positions: Mirror::new(cx, &self.positions)?,
            origins: Mirror::new(cx, &self.origins)?,
            sight: Sight::new(cx, &self.spans, heads, self.len(), keys)?,
        })
    }

    /// The number of tokens N.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// The [`Tokens`] of a pass where it computes.
pub struct Rows<'a> {
    /// Token ids (N).
    pub ids: Mirror<'a, u32>,
    /// Position of each token in its sequence (N).
    pub positions: Mirror<'a, u32>,
    /// For each token (sample id, position) (N).
    pub origins: Mirror<'a, [u32; 2]>,
    /// The sequences.
    pub sight: Sight<'a>,
}
