//! The attention half: x₂ = x + o(attend(q, k, v)) with q, k, v of norm₁(x).

use super::super::cache::LayerCache;
use super::super::linear;
use super::{Layer, Pass, adapted, output};
use crate::ops::attention;
use crate::ops::rope::{self, Turn};
use crate::ops::{Buf, rms_norm};
use crate::optim::Arena;
use candle_core::Result;

/// What the backward pass needs besides x.
pub(super) struct Attended {
    r: Buf,
    q: Buf,
    k: Buf,
    v: Buf,
    o: Buf,
    lse: Buf,
    /// Adapter products of q, k, v, where they were kept.
    u: [Option<Buf>; 3],
    /// That of the output projection, where it was computed and kept.
    u_o: Option<Buf>,
}

impl Attended {
    /// Without the adapters' products, which are soon computed again.
    pub(super) fn without_products(self) -> Self {
        Self { u: [None, None, None], u_o: None, ..self }
    }
}

impl Layer {
    /// x₂ (N, C) of x, and what the backward pass needs.
    pub(super) fn attend(
        &self,
        p: Pass<'_>,
        arena: &Arena,
        x: &Buf,
        cache: Option<&mut LayerCache>,
    ) -> Result<(Buf, Attended)> {
        let attended = self.attention(p, arena, x, cache)?;
        let o = &attended.o;
        let [(x2, u_o)] = linear::forward(p.cx, arena, o, [&self.o], p.dropout, Some(x))?;
        Ok((x2, Attended { u_o, ..attended }))
    }

    /// Everything of [`Self::attend`] but the output projection, which nobody needs again.
    pub(super) fn attention(
        &self,
        p: Pass<'_>,
        arena: &Arena,
        x: &Buf,
        cache: Option<&mut LayerCache>,
    ) -> Result<Attended> {
        let (cx, dropout) = (p.cx, p.dropout);
        let (h, r) = rms_norm::forward(cx, x, &self.norm1, p.spec.norm_eps)?;
        let [(mut q, uq), (mut k, uk), (v, uv)] =
            linear::forward(cx, arena, &h, [&self.q, &self.k, &self.v], dropout, None)?;
        drop(h);
        rope::rotate(cx, [&mut q, &mut k], p.rope, &p.rows.positions, Turn::Forward)?;
        let (keys, values) = match cache {
            Some(cache) => {
                cache.append(&k, &v)?;
                (cache.k(), cache.v())
            }
            None => (&k, &v),
        };
        let sight = &p.rows.sight;
        let (o, lse) = attention::forward(cx, &q, keys, values, sight, p.spec.attention())?;
        Ok(Attended { r, q, k, v, o, lse, u: [uq, uk, uv], u_o: None })
    }

    /// Turns dx₂ into dx; `None` when `first`, as in [`Self::backward`].
    pub(super) fn attend_backward(
        &self,
        p: Pass<'_>,
        arena: &mut Arena,
        x: &Buf,
        s: Attended,
        dx2: Buf,
        first: bool,
    ) -> Result<Option<Buf>> {
        let (cx, dropout) = (p.cx, p.dropout);
        let ([uq, uk, uv], uo) = (s.u, s.u_o);
        let dy = cx.operand(&dx2)?;
        let outputs = [output(&self.o, &uo, &dy)];
        let dus = linear::outer(cx, arena, &outputs)?;
        if first && !adapted(&[&self.q, &self.k, &self.v]) {
            linear::gradients(cx, arena, &s.o, &outputs, &dus, dropout)?;
            return Ok(None);
        }
        cx.prefetch(&[&s.q, &s.k, &s.v, &s.o]);
        let do_ = linear::backward(cx, arena, &outputs, &dus, dropout)?;
        linear::gradients(cx, arena, &s.o, &outputs, &dus, dropout)?;
        drop((dus, dy));
        let saved = attention::Saved { q: &s.q, k: &s.k, v: &s.v, o: &s.o, lse: &s.lse };
        let (mut dq, mut dk, dv) =
            attention::backward(cx, &saved, &do_, &p.rows.sight, p.spec.attention())?;
        drop((s.q, s.k, s.v, s.o, do_));
        rope::rotate(cx, [&mut dq, &mut dk], p.rope, &p.rows.positions, Turn::Backward)?;
        let (dq, dk, dv) = (cx.into_operand(dq)?, cx.into_operand(dk)?, cx.into_operand(dv)?);
        let outputs =
            [output(&self.q, &uq, &dq), output(&self.k, &uk, &dk), output(&self.v, &uv, &dv)];
        let dus = linear::outer(cx, arena, &outputs)?;
        let (h, dx) = if first {
            (rms_norm::recompute(cx, x, &self.norm1, &s.r)?, None)
        } else {
            cx.prefetch(&[x]);
            let mut h = linear::backward(cx, arena, &outputs, &dus, dropout)?; // (N, C): dh
            let mut dx = dx2; // the residual path
            rms_norm::backward(cx, &mut h, x, &self.norm1, &s.r, &mut dx)?;
            (h, Some(dx))
        };
        linear::gradients(cx, arena, &h, &outputs, &dus, dropout)?;
        Ok(dx)
    }
}
