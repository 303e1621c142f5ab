//! What the decoder needs to know of a micro-batch: tokens laid end to end, no padding.

use crate::ops::attention::Span;

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
    pub origins: Vec<(u32, u32)>,
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
            tokens.origins.extend((0..ids.len() as u32).map(|p| (sample, p)));
            tokens.spans.push(Span { q: rows.clone(), k: rows });
        }
        tokens
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
