//! On a device: a warp a (row, head); see `kernels/attention.cuh`.

use super::{Heads, Saved, Sight};
use crate::gpu::Arg;
use crate::ops::on_gpu::OnGpu;
use crate::ops::{Buf, Cx};
use candle_core::Result;

/// o and the log-sum-exp.
pub(super) fn forward(
    cx: &Cx,
    gpu: &OnGpu,
    [q, k, v]: [&Buf; 3],
    sight: &Sight<'_>,
    heads: Heads,
) -> Result<(Buf, Buf)> {
    let h = heads.heads;
    let (o, lse) = (cx.alloc(q.shape())?, cx.alloc_f32(&[q.rows(), h])?);
    let [n, hs, kvs, ds, s] = heads.args(q.rows())?;
    let keys = sight.on_device()?.0;
    let args = [o.arg()?, lse.arg()?, q.arg()?, k.arg()?, v.arg()?, keys, n, hs, kvs, ds, s];
    // SAFETY: attention_forward(T *o, float *lse, const T *q, const T *k, const T *v, const u32 *keys, u64 n, int heads,
    // int kv_heads, int d, float scale), a warp for each (row, head); shapes and spans are checked.
    unsafe { gpu.each("attention_forward", q.rows() * h * 32, &args) }?;
    Ok((o, lse))
}

/// dq, dk, dv.
pub(super) fn backward(
    cx: &Cx,
    gpu: &OnGpu,
    saved: &Saved<'_>,
    dout: &Buf,
    sight: &Sight<'_>,
    heads: Heads,
) -> Result<(Buf, Buf, Buf)> {
    let Saved { q, k, v, o, lse } = saved;
    let dq = cx.alloc(q.shape())?;
    let (nq, nk, units) = (q.rows(), k.rows(), q.rows() * heads.heads);
    let (dk, dv) = (cx.alloc(k.shape())?, cx.alloc(v.shape())?);
    let delta = cx.alloc_f32(&[nq, heads.heads])?;
    let (keys, queries) = sight.on_device()?;
    let [n, h, kv, d, scale] = heads.args(nq)?;
    let (q, k, v, dout, lse) = (q.arg()?, k.arg()?, v.arg()?, dout.arg()?, lse.arg()?);
    let args = [delta.arg()?, dout, o.arg()?, Arg::U64(units as u64), d];
    // SAFETY: attention_delta(float *delta, const T *dout, const T *o, u64 units, int d), a warp for each (row, head).
    unsafe { gpu.each("attention_delta", units * 32, &args) }?;
    let args = [dq.arg()?, q, k, v, dout, lse, delta.arg()?, keys, n, h, kv, d, scale];
    // SAFETY: attention_backward_q(T *dq, const T *q, const T *k, const T *v, const T *dout, const float *lse,
    // const float *delta, const u32 *keys, u64 n, int heads, int kv_heads, int d, float scale), a warp for each (row, head).
    unsafe { gpu.each("attention_backward_q", units * 32, &args) }?;
    let n = Arg::U64(nk as u64);
    let args =
        [dk.arg()?, dv.arg()?, q, k, v, dout, lse, delta.arg()?, queries, n, h, kv, d, scale];
    // SAFETY: attention_backward_kv(T *dk, T *dv, const T *q, const T *k, const T *v, const T *dout, const float *lse,
    // const float *delta, const u32 *queries, u64 n, int heads, int kv_heads, int d, float scale), a warp for each (key row,
    // key/value head).
    unsafe { gpu.each("attention_backward_kv", nk * heads.kv_heads * 32, &args) }?;
    Ok((dq, dk, dv))
}
