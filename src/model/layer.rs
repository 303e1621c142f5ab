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
use super::linear::{Dropout, Linear};
use crate::ops::attention;
use crate::ops::rope::{self, Turn};
use crate::ops::{Buf, Cx, Vector, rms_norm, rows, swiglu};
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

impl Saved {
    /// In the dtype that activations are kept in.
    fn pack(self, cx: &Cx) -> Result<Self> {
        Ok(Self {
            x: cx.pack(self.x)?,
            q: cx.pack(self.q)?,
            k: cx.pack(self.k)?,
            v: cx.pack(self.v)?,
            o: cx.pack(self.o)?,
            x2: cx.pack(self.x2)?,
            gate: cx.pack(self.gate)?,
            up: cx.pack(self.up)?,
            ..self
        })
    }
}

impl Layer {
    /// The layer's output (N, C) and what the backward pass needs.
    ///
    /// # Errors
    /// When the shapes disagree.
    pub fn forward(&self, p: Pass<'_>, arena: &Arena, x: Buf) -> Result<(Buf, Saved)> {
        let (y, saved) = self.pass(p, arena, x, None)?;
        Ok((y, saved.pack(p.cx)?))
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
        let (mut h, r1) = rms_norm::forward(cx, &x, &self.norm1, p.spec.norm_eps)?;
        cx.round(&mut h)?;
        let (mut q, uq) = self.q.forward(cx, arena, &h, drop)?;
        let (mut k, uk) = self.k.forward(cx, arena, &h, drop)?;
        let (v, uv) = self.v.forward(cx, arena, &h, drop)?;
        drop_now(h);
        for x in [&mut q, &mut k] {
            rope::rotate(cx, x, p.rope, &p.rows.positions, Turn::Forward)?;
            cx.round(x)?;
        }
        let (keys, values) = match cache {
            Some(cache) => {
                cache.append(&k, &v)?;
                (cache.k(), cache.v())
            }
            None => (&k, &v),
        };
        let sight = &p.rows.sight;
        let (mut o, lse) = attention::forward(cx, &q, keys, values, sight, p.spec.attention())?;
        cx.round(&mut o)?;
        let (mut x2, uo) = self.o.forward(cx, arena, &o, drop)?;
        rows::add(cx, &mut x2, &x)?;
        cx.round(&mut x2)?;
        let (mut h, r2) = rms_norm::forward(cx, &x2, &self.norm2, p.spec.norm_eps)?;
        cx.round(&mut h)?;
        let (gate, ug) = self.gate.forward(cx, arena, &h, drop)?;
        let (up, uu) = self.up.forward(cx, arena, &h, drop)?;
        drop_now(h);
        let mut h = swiglu::forward(cx, &gate, &up)?;
        cx.round(&mut h)?;
        let (mut y, ud) = self.down.forward(cx, arena, &h, drop)?;
        rows::add(cx, &mut y, &x2)?;
        cx.round(&mut y)?;
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
        let n = dy.rows();

        // MLP: h = silu(gate)⊙up, y = x₂ + down(h)
        let (mut gate, mut up) = (cx.unpack(s.gate)?, cx.unpack(s.up)?);
        let mut h = swiglu::forward(cx, &gate, &up)?; // (N, F)
        cx.round(&mut h)?;
        let mut dh = cx.zeros(&[n, p.spec.ffn])?;
        self.down.backward(cx, arena, &h, ud.as_ref(), drop, &dy, Some(&mut dh))?;
        drop_now(h);
        cx.round(&mut dh)?;
        swiglu::backward(cx, &dh, &mut gate, &mut up)?;
        drop_now(dh);
        let (mut dgate, mut dup) = (gate, up);
        cx.round(&mut dgate)?;
        cx.round(&mut dup)?;
        let x2 = cx.unpack(s.x2)?;
        let mut h = rms_norm::recompute(cx, &x2, &self.norm2, &s.r2)?; // (N, C)
        cx.round(&mut h)?;
        let mut dh = cx.zeros(&[n, p.spec.hidden])?;
        self.gate.backward(cx, arena, &h, ug.as_ref(), drop, &dgate, Some(&mut dh))?;
        self.up.backward(cx, arena, &h, uu.as_ref(), drop, &dup, Some(&mut dh))?;
        drop_now((dgate, dup, h));
        cx.round(&mut dh)?;
        let mut dx2 = dy; // the residual path
        rms_norm::backward(cx, &dh, &x2, &self.norm2, &s.r2, &mut dx2)?;
        drop_now((dh, x2));
        cx.round(&mut dx2)?;

        // attention: x₂ = x + o(attend(q, k, v))
        let o = cx.unpack(s.o)?;
        let mut do_ = cx.zeros(&[n, p.spec.heads * p.spec.head_size])?;
        self.o.backward(cx, arena, &o, uo.as_ref(), drop, &dx2, Some(&mut do_))?;
        cx.round(&mut do_)?;
        let (q, k, v) = (cx.unpack(s.q)?, cx.unpack(s.k)?, cx.unpack(s.v)?);
        let saved = attention::Saved { q: &q, k: &k, v: &v, o: &o, lse: &s.lse };
        let (mut dq, mut dk, mut dv) =
            attention::backward(cx, &saved, &do_, &p.rows.sight, p.spec.attention())?;
        drop_now((q, k, v, o, do_));
        for x in [&mut dq, &mut dk] {
            rope::rotate(cx, x, p.rope, &p.rows.positions, Turn::Backward)?;
            cx.round(x)?;
        }
        cx.round(&mut dv)?;
        let x = cx.unpack(s.x)?;
        let mut h = rms_norm::recompute(cx, &x, &self.norm1, &s.r1)?;
        cx.round(&mut h)?;
        let mut dh = if first { None } else { Some(cx.zeros(&[n, p.spec.hidden])?) };
        for (linear, u, dy) in [(&self.q, uq, &dq), (&self.k, uk, &dk), (&self.v, uv, &dv)] {
            linear.backward(cx, arena, &h, u.as_ref(), drop, dy, dh.as_mut())?;
        }
        let Some(mut dh) = dh else { return Ok(None) };
        cx.round(&mut dh)?;
        let mut dx = dx2; // the residual path
        rms_norm::backward(cx, &dh, &x, &self.norm1, &s.r1, &mut dx)?;
        cx.round(&mut dx)?;
        Ok(Some(dx))
    }
}

/// Gives buffers back to the pool before the next one is taken.
fn drop_now<T>(_: T) {}
