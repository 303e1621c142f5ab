//! Gradients of attention from the saved log-sum-exp.
//!
//! ```text
//! P  = exp(scale · S − lse)        δ  = rowsum(dO ⊙ O)        dS = P ⊙ (dO · Vᵀ − δ)
//! dV = Pᵀ · dO                     dK = scale · dSᵀ · Q       dQ = scale · dS · K
//! ```
//!
//! A task is a segment of the packed rows of one (span, key/value head). Chunks of [`CHUNK`]
//! rows (outer) meet blocks of [`KEYS`] keys (inner), on transposed tiles: rows are keys, lanes are
//! packed rows, so that the broadcast operands come straight from `k` and `v`:
//!
//! ```text
//! Sᵀ  (6 keys, 64 rows) = K · Qᵀ     a = k         panel = rows panel of Q,    inner = size
//! dPᵀ (6 keys, 64 rows) = V · dOᵀ    a = v         panel = rows panel of dO,   inner = size
//! dV  (6 keys, 64)     += Pᵀ · dO    a = Pᵀ        panel = columns panel of dO, inner = rows
//! dK  (6 keys, 64)     += dSᵀ · Q    a = dSᵀ       panel = columns panel of Q,  inner = rows
//! dQ  (6 rows, 64)     += dS · K     a = dS words  panel = columns panel of K,  inner = keys
//! ```
//!
//! `Pᵀ` and `dSᵀ` are bf16 `(KEYS, CHUNK)`; the dS words hold dS once more, as pair words
//! `(KEYS / 2, CHUNK)` of two neighbouring keys. `dQ` of a chunk and `dK`, `dV` of a segment
//! add up in f32; those of several segments are added and rounded once.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::Result;
use half::bf16;

use super::gradient::{CHUNK, Scratch, segment};
use super::tile::{self, LANES};
use crate::ops::Cx;
use crate::ops::attention::segments::{self, Layout, Task};
use crate::ops::attention::{Heads, Span};
use crate::ops::shared::Shared;

/// The operands, as they come.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub q: &'a [bf16],
    pub k: &'a [bf16],
    pub v: &'a [bf16],
    pub o: &'a [bf16],
    pub lse: &'a [f32],
    pub dout: &'a [bf16],
    pub heads: Heads,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Writes the rows of `dq`, `dk` and `dv` that lie inside the spans.
///
/// # Errors
/// When there is no memory for the sums of segments.
///
/// # Panics
/// If the slices are too short or the heads do not [`apply`](super::applies); spans must be apart, as
/// [`Heads::check`] sees to.
pub(in super::super) fn backward(
    cx: &Cx,
    [q, k, v, o, dout]: [&[bf16]; 5],
    lse: &[f32],
    spans: &[Span],
    heads: Heads,
    [dq, dk, dv]: [&mut [bf16]; 3],
) -> Result<()> {
    assert!(super::applies(heads), "heads that the kernels do not know");
    let inputs = Inputs { q, k, v, o, lse, dout, heads };
    let queries = q.len() / heads.q_width().max(1);
    let layout = Layout { chunk: CHUNK, width: super::width(heads) };
    let (dq, dk, dv) = (Shared::new(dq), Shared::new(dk), Shared::new(dv));
    let segment = |task: &Task<'_>, sums: &mut [f32]| {
        // SAFETY: `applies` has found the instructions; tasks differ in their rows, each a query and a head of `dq`.
        SCRATCH.with_borrow_mut(|scratch| unsafe { segment(inputs, task, scratch, sums, dq) });
    };
    // SAFETY: as above; keys of a (span, head) are written once, apart from all others.
    let write = |keys: Range<usize>, parts: &[(&Task<'_>, &[f32])]| unsafe {
        write(keys, parts, heads, dk, dv);
    };
    segments::each(cx, (spans, queries), heads, layout, segment, write)
}

/// Adds up the parts of `dK` and `dV` in order and rounds them; `keys` are counted inside the span.
///
/// # Safety
/// The processor is [`super::supported`], and nobody else uses these keys of this head in `dk` and
/// `dv`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn write(
    keys: Range<usize>,
    parts: &[(&Task<'_>, &[f32])],
    heads: Heads,
    dk: Shared<bf16>,
    dv: Shared<bf16>,
) {
    let (size, lanes) = (heads.size, heads.lanes());
    let Some((task, _)) = parts.first() else { return };
    for key in keys {
        let at = (task.span.k.start + key) * heads.kv_width() + task.kv_head * size;
        // `dK` and `dV` of a key follow each other in a part.
        for (which, out, factor) in [(0, dk, heads.scale()), (1, dv, 1.0)] {
            // SAFETY: this key and head are the caller's own, by its promise.
            let out = unsafe { out.part(at..at + size) };
            if let [(part, values)] = parts
                && part.keys.contains(&key)
            {
                let row = (key - part.keys.start) * 2 + which;
                tile::write_scaled(&values[row * lanes..][..size], factor, out);
                continue;
            }
            for (column, out) in out.chunks_mut(LANES).enumerate() {
                let mut sum = [0.0_f32; LANES];
                for (part, values) in parts.iter().filter(|(part, _)| part.keys.contains(&key)) {
                    let row = (key - part.keys.start) * 2 + which;
                    let values = &values[row * lanes + column * LANES..][..LANES];
                    for (sum, value) in sum.iter_mut().zip(values) {
                        *sum += value;
                    }
                }
                tile::write_scaled(&sum, factor, out);
            }
        }
    }
}
