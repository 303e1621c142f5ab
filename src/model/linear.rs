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

    /// y (N, out) in f32 everywhere, with room for `rows` rows, and the adapter's u (N, R): for chunks of logits.
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
        let rounded = cx.operand(x)?;
        let u = inner(cx, arena, [x, &rounded], &[self], dropout)?.pop().flatten();
        let plus = self.plus(arena, u.as_ref());
        Ok((linear::forward_f32(cx, &rounded, &self.weight, plus, rows)?, u))
    }

    fn plus<'a>(&'a self, arena: &'a Arena, u: Option<&'a Buf>) -> Plus<'a> {
        let low_rank = self.adapter.as_ref().zip(u).map(|(a, u)| (u, a.factors(arena)));
        Plus { bias: self.bias.as_ref(), low_rank, residual: None }
    }
}

/// The adapters' u (N, R) of layers that share an input: as it is, for what drops some of it first, and as an operand of products.
fn inner(
    cx: &Cx,
    arena: &Arena,
    [x, rounded]: [&Buf; 2],
    layers: &[&Linear],
    dropout: Option<Dropout<'_>>,
) -> Result<Vec<Option<Buf>>> {
    let adapters = || layers.iter().filter_map(|l| Some((l, l.adapter.as_ref()?)));
    let masks: Vec<_> = adapters().map(|(l, a)| l.mask(a, dropout)).collect();
    let of = adapters().zip(&masks).map(|((_, a), mask)| (a.factors(arena), mask.as_ref()));
    let x = if masks.iter().any(Option::is_some) { x } else { rounded };
    let mut us = lora::forward(cx, x, &of.collect::<Vec<_>>())?.into_iter();
    Ok(layers.iter().map(|l| l.adapter.as_ref().and_then(|_| us.next())).collect())
}

/// y (N, out), with the residual stream added where one is given, and the adapter's u (N, R), of each of the layers that share
/// the input `x`.
///
/// # Errors
/// When the shapes disagree.
pub fn forward<const L: usize>(
    cx: &Cx,
    arena: &Arena,
    x: &Buf,
    layers: [&Linear; L],
    dropout: Option<Dropout<'_>>,
    residual: Option<&Buf>,
) -> Result<[(Buf, Option<Buf>); L]> {
    let rounded = cx.operand(x)?;
    let us = inner(cx, arena, [x, &rounded], &layers, dropout)?;
    let maps = layers
        .iter()
        .zip(&us)
        .map(|(l, u)| (&*l.weight, Plus { residual, ..l.plus(arena, u.as_ref()) }));
    let ys = linear::forward_all(cx, &rounded, &maps.collect::<Vec<_>>())?;
    let pairs: Vec<_> = ys.into_iter().zip(us).collect();
    pairs.try_into().map_err(|_| candle_core::Error::Msg("a layer gave no output".into()))
}

/// What a layer gave forwards (its adapter's u) and gets backwards. All that is done with `dy` are products, so it is best
/// rounded for them once ([`Cx::operand`]).
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
    let adapter = |out: &Output<'_>| out.linear.adapter.as_ref().map(|a| a.factors(arena));
    let all: Vec<_> = outputs.iter().filter_map(|out| Some((out.dy, adapter(out)?))).collect();
    let mut dus = lora::backward(cx, &all)?.into_iter();
    Ok(outputs.iter().map(|out| adapter(out).and_then(|_| dus.next())).collect())
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
            low_rank: out
                .linear
                .adapter
                .as_ref()
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
    let adapted = || {
        let of = |(out, du): (&'_ Output<'_>, &'_ Option<Buf>)| {
            out.linear.adapter.is_some() && du.is_some()
        };
        outputs.iter().zip(dus).filter(move |pair| of(*pair))
    };
    let masks: Vec<_> = adapted()
        .map(|(out, _)| out.linear.adapter.as_ref().and_then(|a| out.linear.mask(a, dropout)))
        .collect();
    // What is dropped is dropped before it is rounded.
    let rounded = if masks.iter().all(Option::is_some) { None } else { Some(cx.operand(x)?) };
    let rounded = rounded.as_deref().unwrap_or(x);
    let missing: Vec<_> = adapted().filter(|(o, _)| o.u.is_none()).map(|(o, _)| o.linear).collect();
    let again = inner(cx, arena, [x, rounded], &missing, dropout)?;
    let (mut seen, mut slices, mut again) = (Vec::new(), Vec::new(), again.iter().flatten());
    for ((out, du), mask) in adapted().zip(&masks) {
        let (Some(a), Some(du)) = (&out.linear.adapter, du) else { continue };
        let Some(u) = out.u.or_else(|| again.next()) else { continue };
        let (x, mask) = (if mask.is_some() { x } else { rounded }, mask.as_ref());
        seen.push(lora::Seen { x, mask, u, du, dy: out.dy, scale: a.scale });
        slices.push([&a.a, &a.b]);
    }
    let gradients = arena.gradients(&slices)?;
    lora::gradients(cx, seen.into_iter().zip(gradients).collect())
}
