//! A linear layer: a frozen weight and, where one is wanted, an adapter whose factors are slices of the arena.

use crate::ops::dropout::Mask;
use crate::ops::linear::{Back, Plus};
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

    /// y (N, out), with the residual stream added where one is given, and the adapter's u (N, R).
    ///
    /// # Errors
    /// When the shapes disagree.
    pub fn forward(
        &self,
        cx: &Cx,
        arena: &Arena,
        x: &Buf,
        dropout: Option<Dropout<'_>>,
        residual: Option<&Buf>,
    ) -> Result<(Buf, Option<Buf>)> {
        let u = self.inner(cx, arena, x, dropout)?;
        let plus = Plus { residual, ..self.plus(arena, u.as_ref()) };
        Ok((linear::forward(cx, x, &self.weight, plus)?, u))
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
        let u = self.inner(cx, arena, x, dropout)?;
        let plus = self.plus(arena, u.as_ref());
        Ok((linear::forward_f32(cx, x, &self.weight, plus, rows)?, u))
    }

    fn inner(
        &self,
        cx: &Cx,
        arena: &Arena,
        x: &Buf,
        dropout: Option<Dropout<'_>>,
    ) -> Result<Option<Buf>> {
        let Some(a) = &self.adapter else { return Ok(None) };
        let mask = self.mask(a, dropout);
        lora::forward(cx, x, a.factors(arena), mask.as_ref()).map(Some)
    }

    fn plus<'a>(&'a self, arena: &'a Arena, u: Option<&'a Buf>) -> Plus<'a> {
        let low_rank = self.adapter.as_ref().zip(u).map(|(a, u)| (u, a.factors(arena)));
        Plus { bias: self.bias.as_ref(), low_rank, residual: None }
    }
}

/// What a layer gave forwards (its adapter's u) and gets backwards.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// The layer.
    pub linear: &'a Linear,
    /// Its adapter's u (N, R), where it was kept.
    pub u: Option<&'a Buf>,
    /// The output's gradient (N, out).
    pub dy: &'a Buf,
}

/// The adapters' du (N, R) of each output: the first part of a layer's way back.
///
/// # Errors
/// When the shapes disagree.
pub fn outer(cx: &Cx, arena: &Arena, outputs: &[Output<'_>]) -> Result<Vec<Option<Buf>>> {
    let du = |out: &Output<'_>| {
        let adapter = out.linear.adapter.as_ref();
        adapter.map(|a| lora::backward(cx, out.dy, a.factors(arena))).transpose()
    };
    outputs.iter().map(du).collect()
}

/// dx (N, in) of the input that the layers share.
///
/// # Errors
/// When the shapes disagree.
pub fn backward(
    cx: &Cx,
    arena: &Arena,
    outputs: &[Output<'_>],
    dus: &[Option<Buf>],
    dropout: Option<Dropout<'_>>,
) -> Result<Buf> {
    let adapter = |out: &Output<'_>| out.linear.adapter.clone();
    let masks: Vec<_> = outputs
        .iter()
        .map(|out| out.linear.adapter.as_ref().and_then(|a| out.linear.mask(a, dropout)))
        .collect();
    let parts: Vec<_> = outputs
        .iter()
        .zip(dus.iter().zip(&masks))
        .map(|(out, (du, mask))| Back {
            dy: out.dy,
            weight: &out.linear.weight,
            low_rank: adapter(out)
                .zip(du.as_ref())
                .map(|(a, du)| (du, a.factors(arena), mask.as_ref())),
        })
        .collect();
    linear::backward(cx, &parts)
}

/// Adds the adapters' gradients to the arena, from the layers' input `x` (N, in).
///
/// # Errors
/// When the shapes disagree.
pub fn gradients(
    cx: &Cx,
    arena: &mut Arena,
    x: &Buf,
    outputs: &[Output<'_>],
    dus: &[Option<Buf>],
    dropout: Option<Dropout<'_>>,
) -> Result<()> {
    for (out, du) in outputs.iter().zip(dus) {
        let (Some(a), Some(du)) = (&out.linear.adapter, du) else { continue };
        let mask = out.linear.mask(a, dropout);
        let again = match out.u {
            Some(_) => None,
            None => Some(lora::forward(cx, x, a.factors(arena), mask.as_ref())?),
        };
        let Some(u) = out.u.or(again.as_ref()) else { continue };
        let (_, gradients) = arena.parts_and_gradients(&a.a, &a.b);
        let seen = lora::Seen { x, mask: mask.as_ref(), u, du, dy: out.dy };
        lora::gradients(cx, seen, a.scale, gradients)?;
    }
    Ok(())
}
