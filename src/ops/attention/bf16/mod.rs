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
//! Work is divided by shape alone, never by the number of threads, and every sum has a fixed order:
//! results have the same bits on any number of threads.

#![expect(clippy::needless_range_loop, reason = "row and vector indices name registers of a tile")]

mod backward;
mod forward;
mod gradient;
mod panels;
mod tile;

use super::Heads;
use crate::ops::bf16_gemm::supported;
pub(super) use backward::backward;
pub(super) use forward::forward;

impl Heads {
    /// The head size rounded up to whole tiles: the row of an f32 accumulator.
    fn lanes(&self) -> usize {
        self.size.next_multiple_of(tile::LANES)
    }
}

/// f32 values of a key's `dK` and `dV` in a segment.
pub(super) fn width(heads: Heads) -> usize {
    2 * heads.lanes()
}

/// Whether these heads can be computed here.
pub(super) fn applies(heads: Heads) -> bool {
    supported() && heads.size.is_multiple_of(2) && heads.window != Some(0)
}
