//! Attention in bf16 on `vdpbf16ps`.
//!
//! For each head `h`, with `g = h / (heads / kv_heads)` and `scale = 1 / sqrt(size)`:
//!
//! ```text
//! S = scale · Q_h · K_gᵀ      P = softmax over the visible keys of S      O_h = P · V_g
//! lse = ln Σ exp(S)           over the visible keys
//! ```
//!
//! Shapes, row-major: `q`, `o`, `dout`, `dq`: `(Nq, heads * size)`; `k`, `v`, `dk`, `dv`:
//! `(Nk, kv_heads * size)`; `lse`: `(Nq, heads)`. Products take bf16 and accumulate in f32.
//!
//! All query heads of a group see the same keys, so a group is treated as **one** head with `group`
//! times the queries: the *packed rows* of a (span, kv head) are its (query, head of the group)
//! pairs, head fastest, and packed row `r` stands at position `offset + r / group`. This keeps the
//! register tiles full when there are few queries (decoding), and makes the sum of `dK` and `dV`
//! over a group part of an ordinary product.
//!
//! Work is divided by shape alone, never by the number of threads, and every sum has a fixed order:
//! results have the same bits on any number of threads.

#![expect(clippy::needless_range_loop, reason = "row and vector indices name registers of a tile")]

mod backward;
mod forward;
mod gradient;
mod panels;
#[cfg(test)]
mod tests;
mod tile;

use super::{Heads, Span};
use crate::ops::bf16_gemm::supported;
pub(super) use backward::backward;
pub(super) use forward::forward;

impl Span {
    /// The position of the first query.
    fn offset(&self) -> usize {
        self.k.len() - self.q.len()
    }
}

impl Heads {
    fn q_width(&self) -> usize {
        self.heads * self.size
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.size
    }

    /// The head size rounded up to whole tiles: the row of an f32 accumulator.
    fn lanes(&self) -> usize {
        self.size.next_multiple_of(tile::LANES)
    }

    /// The first key that the query at `position` sees; the last is at `position` itself.
    fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Whether these heads can be computed here.
pub(super) fn applies(heads: Heads) -> bool {
    supported() && heads.size.is_multiple_of(2) && heads.window != Some(0)
}
