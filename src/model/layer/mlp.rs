//! The feed-forward half: y = x₂ + down(silu(gate)⊙up) with gate, up of norm₂(x₂).

use super::super::linear;
use super::{Layer, Pass, adapted, output};
use crate::ops::{Buf, rms_norm, swiglu};
use crate::optim::Arena;
use candle_core::Result;

/// What the backward pass needs besides x₂.
pub(super) struct Gated {
    r: Buf,
    gate: Buf,
    up: Buf,
    /// Adapter products of gate and up.
    u: [Option<Buf>; 2],
    /// That of down, where down was computed.
    u_down: Option<Buf>,
}

impl Layer {
    /// gate and up (N, F each) of x₂.
    pub(super) fn mlp_gate(&self, p: Pass<'_>, arena: &Arena, x2: &Buf) -> Result<Gated> {
        let (cx, dropout) = (p.cx, p.dropout);
        let (h, r) = rms_norm::forward(cx, x2, &self.norm2, p.spec.norm_eps)?;
        let [(gate, ug), (up, uu)] =
            linear::forward(cx, arena, &h, [&self.gate, &self.up], dropout, None)?;
        Ok(Gated { r, gate, up, u: [ug, uu], u_down: None })
    }

    /// y (N, C), and what was given where the backward pass is to have it.
    pub(super) fn mlp_down(
        &self,
        p: Pass<'_>,
        arena: &Arena,
        x2: &Buf,
        gated: Gated,
        keep: bool,
    ) -> Result<(Buf, Option<Gated>)> {
        let h = swiglu::forward(p.cx, &gated.gate, &gated.up)?;
        let kept = keep.then_some(gated);
        let [(y, u_down)] = linear::forward(p.cx, arena, &h, [&self.down], p.dropout, Some(x2))?;
        Ok((y, kept.map(|g| Gated { u_down, ..g })))
    }

    /// Turns dy into dx₂; `None` when it `ends` here, because nothing before trains.
    pub(super) fn mlp_backward(
        &self,
        p: Pass<'_>,
        arena: &mut Arena,
        x2: &Buf,
        s: Gated,
        dy: Buf,
        ends: bool,
    ) -> Result<Option<Buf>> {
        let (cx, dropout) = (p.cx, p.dropout);
        let (mut gate, mut up, [ug, uu], ud) = (s.gate, s.up, s.u, s.u_down);
        let dy_rounded = cx.operand(&dy)?;
        let outputs = [output(&self.down, &ud, &dy_rounded)];
        let dus = linear::outer(cx, arena, &outputs)?;
        if ends && !adapted(&[&self.gate, &self.up]) {
            let h = swiglu::forward(cx, &gate, &up)?;
            linear::gradients(cx, arena, &h, &outputs, &dus, dropout)?;
            return Ok(None);
        }
        let mut h = linear::backward(cx, arena, &outputs, &dus, dropout)?; // (N, F): dh
        swiglu::backward(cx, &mut h, &mut gate, &mut up)?;
        linear::gradients(cx, arena, &h, &outputs, &dus, dropout)?;
        drop((h, dus, dy_rounded));
        let (dgate, dup) = (cx.into_operand(gate)?, cx.into_operand(up)?);
        let outputs = [output(&self.gate, &ug, &dgate), output(&self.up, &uu, &dup)];
        let dus = linear::outer(cx, arena, &outputs)?;
        let (h, dx2) = if ends {
            (rms_norm::recompute(cx, x2, &self.norm2, &s.r)?, None)
        } else {
            cx.prefetch(&[x2]);
            let mut h = linear::backward(cx, arena, &outputs, &dus, dropout)?; // (N, C): dh
            let mut dx2 = dy; // the residual path
            rms_norm::backward(cx, &mut h, x2, &self.norm2, &s.r, &mut dx2)?;
            (h, Some(dx2))
        };
        linear::gradients(cx, arena, &h, &outputs, &dus, dropout)?;
        Ok(dx2)
    }
}
