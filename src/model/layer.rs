//! One decoder layer and its hand-written backward pass.
//!
//! ```text
//! x ─ norm₁ ─ q,k,v ─ rope ─ attention ─ o ─(+x)─ x₂ ─ norm₂ ─ gate,up ─ silu⊙ ─ down ─(+x₂)─ y
//! ```
//!
//! Kept for the backward pass per token: x, x₂ (C each), q, attention output (H·D each), k, v (K·D each), gate, up (F each) and
//! the small r, log-sum-exp and adapter products. Norm outputs and the SwiGLU product are computed again.

use super::DecoderSpec;
use super::batch::Rows;
use super::cache::LayerCache;
use super::linear::{self, Dropout, Linear, Output};
use crate::ops::attention;
use crate::ops::rope::{self, Turn};
use crate::ops::{Buf, Cx, Vector, rms_norm, swiglu};
use crate::optim::Arena;
use candle_core::Result;

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
    r1: Buf,
    q: Buf,
    k: Buf,
    v: Buf,
    o: Buf,
    lse: Buf,
    x2: Buf,
    r2: Buf,
    gate: Buf,
    up: Buf,
    /// Adapter products of q, k, v, o, gate, up, down.
    u: [Option<Buf>; 7],
}

impl Layer {
    /// The layer's output (N, C) and what the backward pass needs.
    ///
    /// # Errors
    /// When the shapes disagree.
    pub fn forward(&self, p: Pass<'_>, arena: &Arena, x: Buf) -> Result<(Buf, Saved)> {
        self.pass(p, arena, x, None)
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
        Ok(self.pass(p, arena, x, cache)?.0)
    }

    fn pass(
        &self,
        p: Pass<'_>,
        arena: &Arena,
        x: Buf,
        cache: Option<&mut LayerCache>,
    ) -> Result<(Buf, Saved)> {
        let (cx, drop) = (p.cx, p.dropout);
        let (h, r1) = rms_norm::forward(cx, &x, &self.norm1, p.spec.norm_eps)?;
        let (mut q, uq) = self.q.forward(cx, arena, &h, drop, None)?;
        let (mut k, uk) = self.k.forward(cx, arena, &h, drop, None)?;
        let (v, uv) = self.v.forward(cx, arena, &h, drop, None)?;
        drop_now(h);
        for x in [&mut q, &mut k] {
            rope::rotate(cx, x, p.rope, &p.rows.positions, Turn::Forward)?;
        }
        let (keys, values) = match cache {
            Some(cache) => {
                cache.append(&k, &v)?;
                (cache.k(), cache.v())
            }
            None => (&k, &v),
        };
        let sight = &p.rows.sight;
        let (o, lse) = attention::forward(cx, &q, keys, values, sight, p.spec.attention())?;
        let (x2, uo) = self.o.forward(cx, arena, &o, drop, Some(&x))?;
        let (h, r2) = rms_norm::forward(cx, &x2, &self.norm2, p.spec.norm_eps)?;
        let (gate, ug) = self.gate.forward(cx, arena, &h, drop, None)?;
        let (up, uu) = self.up.forward(cx, arena, &h, drop, None)?;
        drop_now(h);
        let h = swiglu::forward(cx, &gate, &up)?;
        let (y, ud) = self.down.forward(cx, arena, &h, drop, Some(&x2))?;
        let u = [uq, uk, uv, uo, ug, uu, ud];
        Ok((y, Saved { x, r1, q, k, v, o, lse, x2, r2, gate, up, u }))
    }

    /// Turns dy (N, C) into dx and adds the adapters' gradients to the arena; `None` for dx when `first` (nothing before the
    /// first layer trains).
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
        let (cx, drop) = (p.cx, p.dropout);
        let [uq, uk, uv, uo, ug, uu, ud] = s.u;

        // MLP: h = silu(gate)⊙up, y = x₂ + down(h)
        let (mut gate, mut up) = (s.gate, s.up);
        let h = swiglu::forward(cx, &gate, &up)?; // (N, F)
        let dh =
            wanted(linear::backward(cx, arena, &h, &[output(&self.down, &ud, &dy)], drop, true)?)?;
        drop_now(h);
        swiglu::backward(cx, &dh, &mut gate, &mut up)?;
        drop_now(dh);
        let (dgate, dup) = (gate, up);
        let h = rms_norm::recompute(cx, &s.x2, &self.norm2, &s.r2)?; // (N, C)
        let outputs = [output(&self.gate, &ug, &dgate), output(&self.up, &uu, &dup)];
        let dh = wanted(linear::backward(cx, arena, &h, &outputs, drop, true)?)?;
        drop_now((dgate, dup, h));
        let mut dx2 = dy; // the residual path
        rms_norm::backward(cx, &dh, &s.x2, &self.norm2, &s.r2, &mut dx2)?;
        drop_now((dh, s.x2));

        // attention: x₂ = x + o(attend(q, k, v))
        let outputs = [output(&self.o, &uo, &dx2)];
        let do_ = wanted(linear::backward(cx, arena, &s.o, &outputs, drop, true)?)?;
        let saved = attention::Saved { q: &s.q, k: &s.k, v: &s.v, o: &s.o, lse: &s.lse };
        let (mut dq, mut dk, dv) =
            attention::backward(cx, &saved, &do_, &p.rows.sight, p.spec.attention())?;
        drop_now((s.q, s.k, s.v, s.o, do_));
        for x in [&mut dq, &mut dk] {
            rope::rotate(cx, x, p.rope, &p.rows.positions, Turn::Backward)?;
        }
        let h = rms_norm::recompute(cx, &s.x, &self.norm1, &s.r1)?;
        let outputs =
            [output(&self.q, &uq, &dq), output(&self.k, &uk, &dk), output(&self.v, &uv, &dv)];
        let Some(dh) = linear::backward(cx, arena, &h, &outputs, drop, !first)? else {
            return Ok(None);
        };
        let mut dx = dx2; // the residual path
        rms_norm::backward(cx, &dh, &s.x, &self.norm1, &s.r1, &mut dx)?;
        Ok(Some(dx))
    }
}

/// Gives buffers back to the pool before the next one is taken.
fn drop_now<T>(_: T) {}

fn output<'a>(linear: &'a Linear, u: &'a Option<Buf>, dy: &'a Buf) -> Output<'a> {
    Output { linear, u: u.as_ref(), dy }
}

/// A gradient that was asked for.
fn wanted(dx: Option<Buf>) -> Result<Buf> {
    dx.ok_or_else(|| candle_core::Error::Msg("a layer gave no input gradient".into()))
}
