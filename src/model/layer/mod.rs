//! One decoder layer and its hand-written backward pass.
//!
//! ```text
//! x ─ norm₁ ─ q,k,v ─ rope ─ attention ─ o ─(+x)─ x₂ ─ norm₂ ─ gate,up ─ silu⊙ ─ down ─(+x₂)─ y
//!     └────────────── attend.rs ──────────────┘       └─────────── mlp.rs ───────────┘
//! ```
//!
//! Kept for the backward pass per token: x, x₂ (C each), q, attention output (H·D each), k, v (K·D each), gate, up (F each) and
//! the small r, log-sum-exp and adapter products; of these, what [`Keep`] says. Norm outputs and the SwiGLU product are always
//! computed again.

mod attend;
mod keep;
mod mlp;

use super::DecoderSpec;
use super::batch::Rows;
use super::cache::LayerCache;
use super::linear::{Dropout, Linear, Output};
use crate::ops::{Buf, Cx, Vector, rope};
use crate::optim::Arena;
use attend::Attended;
use candle_core::Result;
use mlp::Gated;

pub use keep::{Keep, Keeping};

/// The weights of one layer.
#[derive(Debug)]
pub struct Layer {
    /// RMSNorm weight before attention (C).
    pub norm1: Vector,
    /// Query projection (H·D, C).
    pub q: Linear,
    /// Key projection (K·D, C).
    pub k: Linear,
    /// Value projection (K·D, C).
    pub v: Linear,
    /// Output projection (C, H·D).
    pub o: Linear,
    /// RMSNorm weight before the MLP (C).
    pub norm2: Vector,
    /// Gate projection (F, C).
    pub gate: Linear,
    /// Up projection (F, C).
    pub up: Linear,
    /// Down projection (C, F).
    pub down: Linear,
}

/// What surrounds a layer's pass and is the same for all layers.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Buffers and threads.
    pub cx: &'a Cx,
    /// The model's shape.
    pub spec: &'a DecoderSpec,
    /// Rotary table.
    pub rope: &'a rope::Table,
    /// The micro-batch.
    pub rows: &'a Rows<'a>,
    /// Dropout masks, in training.
    pub dropout: Option<Dropout<'a>>,
}

/// What a layer keeps between its passes.
pub struct Saved {
    x: Buf,
    x2: Buf,
    attended: Option<Attended>,
    gated: Option<Gated>,
}

/// Whether any of the modules trains.
fn adapted(linears: &[&Linear]) -> bool {
    linears.iter().any(|linear| linear.adapter.is_some())
}

impl Layer {
    /// Its linear layers, in the order of [`DecoderSpec::linear_paths`].
    pub fn linears(&self) -> [&Linear; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    /// The layer's output (N, C) and what the backward pass needs.
    ///
    /// # Errors
    /// When the shapes disagree.
    pub fn forward(&self, p: Pass<'_>, arena: &Arena, x: Buf, keep: Keep) -> Result<(Buf, Saved)> {
        let (x2, attended) = self.attend(p, arena, &x, None)?;
        let attended = match keep {
            Keep::All => Some(attended),
            Keep::Attention => Some(attended.without_products()),
            Keep::Residual => None,
        };
        let gated = self.mlp_gate(p, arena, &x2)?;
        let (y, gated) = self.mlp_down(p, arena, &x2, gated, keep == Keep::All)?;
        Ok((y, Saved { x, x2, attended, gated }))
    }

    /// The layer's output alone; with a cache, for new tokens of one sequence whose earlier keys and values lie in it.
    ///
    /// # Errors
    /// When the shapes disagree or the cache is full.
    pub fn output(
        &self,
        p: Pass<'_>,
        arena: &Arena,
        x: Buf,
        cache: Option<&mut LayerCache>,
    ) -> Result<Buf> {
        let (x2, _) = self.attend(p, arena, &x, cache)?;
        drop(x);
        let gated = self.mlp_gate(p, arena, &x2)?;
        Ok(self.mlp_down(p, arena, &x2, gated, false)?.0)
    }

    /// Turns dy (N, C) into dx and adds the adapters' gradients to the arena; `None` for dx when `first`: nothing before this layer
    /// trains, and gradients go as far as its own adapters ask for.
    ///
    /// # Errors
    /// When the shapes disagree.
    pub fn backward(
        &self,
        p: Pass<'_>,
        arena: &mut Arena,
        s: Saved,
        dy: Buf,
        first: bool,
    ) -> Result<Option<Buf>> {
        let gated = match s.gated {
            Some(kept) => kept,
            None => self.mlp_gate(p, arena, &s.x2)?,
        };
        let ends = first && !adapted(&[&self.q, &self.k, &self.v, &self.o]);
        let dx2 = self.mlp_backward(p, arena, &s.x2, gated, dy, ends)?;
        drop(s.x2);
        let Some(dx2) = dx2 else { return Ok(None) };
        let attended = match s.attended {
            Some(kept) => kept,
            None => self.attention(p, arena, &s.x, None)?,
        };
        self.attend_backward(p, arena, &s.x, attended, dx2, first)
    }
}

fn output<'a>(linear: &'a Linear, u: &'a Option<Buf>, dy: &'a Buf) -> Output<'a> {
    Output { linear, u: u.as_ref(), dy }
}
