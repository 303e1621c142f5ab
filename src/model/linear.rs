//! A linear layer: a frozen weight and, where one is wanted, an adapter whose factors are slices of the arena.

use crate::ops::dropout::Mask;
use crate::ops::lora::{self, Factors};
use crate::ops::philox::name_key;
use crate::ops::{Buf, Cx, Mirror, Vector, Weight, linear};
use crate::optim::{Arena, Slice};
use candle_core::Result;
use std::sync::Arc;

/// A LoRA adapter of one linear layer.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// A (R, in).
    pub a: Slice,
    /// B (out, R).
    pub b: Slice,
    /// s = alpha / R.
    pub scale: f32,
    /// Dropout probability on the adapter's input.
    pub dropout: f32,
}

/// What decides the dropout masks of a step.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Folded seed of the run.
    pub seed: u32,
    /// The optimizer step.
    pub step: u32,
}

/// What decides the dropout masks of a pass; `None` where a pass drops nothing.
#[derive(Clone, Copy)]
pub struct Dropout<'a> {
    /// Seed and step.
    pub draw: Draw,
    /// (sample id, position) of each token.
    pub origins: &'a Mirror<'a, [u32; 2]>,
}

/// y = x·Wᵀ + b, plus the adapter's s·drop(x)·Aᵀ·Bᵀ.
#[derive(Debug)]
pub struct Linear {
    /// The module's path, such as `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// The frozen weight (out, in); shared where a head is tied to the embedding.
    pub weight: Arc<Weight>,
    /// The frozen bias (out).
    pub bias: Option<Vector>,
    /// The adapter, if this module is a target.
    pub adapter: Option<Adapter>,
}

impl Adapter {
    fn factors<'a>(&self, arena: &'a Arena) -> Factors<'a> {
        Factors {
            a: arena.part(&self.a),
            b: arena.part(&self.b),
            r: self.a.shape[0],
            scale: self.scale,
        }
    }
}

impl Linear {
    fn mask<'a>(&self, adapter: &Adapter, dropout: Option<Dropout<'a>>) -> Option<Mask<'a>> {
        dropout.filter(|_| adapter.dropout > 0.0).map(|d| Mask {
            p: adapter.dropout,
            key: [d.draw.seed, name_key(&self.path)],
            step: d.draw.step,
            tokens: d.origins,
        })
    }

    /// y (N, out) and the adapter's u (N, R).
    ///
    /// # Errors
    /// When the shapes disagree.
    pub fn forward(
        &self,
        cx: &Cx,
        arena: &Arena,
        x: &Buf,
        dropout: Option<Dropout<'_>>,
    ) -> Result<(Buf, Option<Buf>)> {
        let y = linear::forward(cx, x, &self.weight, self.bias.as_ref())?;
        self.adapt(cx, arena, x, dropout, y)
    }

    /// As [`Self::forward`], with y in f32 on a device too and with room for `rows` rows: for chunks of logits.
    ///
    /// # Errors
    /// When the shapes disagree.
    pub fn logits(
        &self,
        cx: &Cx,
        arena: &Arena,
        x: &Buf,
        dropout: Option<Dropout<'_>>,
        rows: usize,
    ) -> Result<(Buf, Option<Buf>)> {
        let y = linear::forward_f32(cx, x, &self.weight, self.bias.as_ref(), rows)?;
        self.adapt(cx, arena, x, dropout, y)
    }

    fn adapt(
        &self,
        cx: &Cx,
        arena: &Arena,
        x: &Buf,
        dropout: Option<Dropout<'_>>,
        mut y: Buf,
    ) -> Result<(Buf, Option<Buf>)> {
        let mut u = None;
        if let Some(a) = &self.adapter {
            let mask = self.mask(a, dropout);
            u = Some(lora::forward(cx, x, a.factors(arena), mask.as_ref(), &mut y)?);
        }
        cx.round(&mut y)?;
        Ok((y, u))
    }

    /// Adds the adapter's gradients to the arena, and the input's gradient to `dx` where it is wanted.
    ///
    /// # Errors
    /// When the shapes disagree.
    #[expect(clippy::too_many_arguments, reason = "the op's inputs, what it saved and its results")]
    pub fn backward(
        &self,
        cx: &Cx,
        arena: &mut Arena,
        x: &Buf,
        u: Option<&Buf>,
        dropout: Option<Dropout<'_>>,
        dy: &Buf,
        mut dx: Option<&mut Buf>,
    ) -> Result<()> {
        if let (Some(a), Some(u)) = (&self.adapter, u) {
            let mask = self.mask(a, dropout);
            let (parts, gradients) = arena.parts_and_gradients(&a.a, &a.b);
            let f = Factors { a: parts[0], b: parts[1], r: a.a.shape[0], scale: a.scale };
            lora::backward(cx, x, u, f, mask.as_ref(), dy, gradients, dx.as_deref_mut())?;
        }
        match dx {
            Some(dx) => linear::backward(cx, dy, &self.weight, dx),
            None => Ok(()),
        }
    }
}
