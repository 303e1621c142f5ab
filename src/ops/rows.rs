//! Whole rows: y += x, gathering rows by number and putting them back.

use super::value::{Value, by_type};
use super::{Buf, Cx, Mirror, simd};
use crate::gpu::Arg;
use candle_core::{Result, bail};
use rayon::prelude::*;

/// y += x.
///
/// # Errors
/// When the shapes disagree.
pub fn add(cx: &Cx, y: &mut Buf, x: &Buf) -> Result<()> {
    if y.shape() != x.shape() {
        bail!("add: {:?} and {:?}", y.shape(), x.shape());
    }
    if let Some(gpu) = cx.gpu() {
        let n = x.len();
        // SAFETY: add(T *y, const T *x, u64 n), both of n elements.
        return unsafe { gpu.each("add", n, &[y.arg()?, x.arg()?, Arg::U64(n as u64)]) };
    }
    by_type!(x.dtype(), add_cpu(y, x))
}

fn add_cpu<T: Value>(y: &mut Buf, x: &Buf) -> Result<()> {
    let chunks = T::of_mut(y)?.par_chunks_mut(1 << 14).zip(T::of(x)?.par_chunks(1 << 14));
    chunks.for_each(|(y, x)| {
        simd::vectorized(
            #[inline(always)]
            || {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = T::near(y.wide() + x.wide()));
            },
        );
    });
    Ok(())
}

/// The rows of `x` (N, C) that `rows` (n) names, as (n, C).
///
/// # Errors
/// When there is no such row.
pub fn gather(cx: &Cx, x: &Buf, rows: &Mirror<'_, u32>) -> Result<Buf> {
    check(x, rows)?;
    let (n, c) = (rows.len(), x.cols());
    let mut y = cx.alloc(&[n, c])?;
    if let Some(gpu) = cx.gpu() {
        let args = [y.arg()?, x.arg()?, rows.arg()?, Arg::U64(n as u64), Arg::I32(c as i32)];
        // SAFETY: gather(T *y, const T *table, const u32 *ids, u64 n, int c); every row exists (checked).
        unsafe { gpu.each("gather", n * c, &args) }?;
        return Ok(y);
    }
    by_type!(x.dtype(), gather_cpu(x, rows, &mut y))?;
    Ok(y)
}

fn gather_cpu<T: Value>(x: &Buf, rows: &[u32], y: &mut Buf) -> Result<()> {
    let (x, c) = (T::of(x)?, x.cols());
    for (y, &row) in T::of_mut(y)?.chunks_mut(c).zip(rows) {
        y.copy_from_slice(&x[row as usize * c..][..c]);
    }
    Ok(())
}

/// Writes the rows of `x` (n, C) over the distinct rows of `y` (N, C) that `rows` names.
///
/// # Errors
/// When there is no such row.
pub fn scatter(cx: &Cx, x: &Buf, rows: &Mirror<'_, u32>, y: &mut Buf) -> Result<()> {
    check(y, rows)?;
    let (n, c) = (rows.len(), y.cols());
    if x.shape() != [n, c] {
        bail!("scatter: {:?} for {n} rows of {c}", x.shape());
    }
    if let Some(gpu) = cx.gpu() {
        let args = [y.arg()?, x.arg()?, rows.arg()?, Arg::U64(n as u64), Arg::I32(c as i32)];
        // SAFETY: scatter(T *y, const T *x, const u32 *rows, u64 n, int c); every row exists (checked).
        return unsafe { gpu.each("scatter", n * c, &args) };
    }
    by_type!(x.dtype(), scatter_cpu(x, rows, y))
}

fn scatter_cpu<T: Value>(x: &Buf, rows: &[u32], y: &mut Buf) -> Result<()> {
    let c = x.cols();
    let y = T::of_mut(y)?;
    for (x, &row) in T::of(x)?.chunks(c).zip(rows) {
        y[row as usize * c..][..c].copy_from_slice(x);
    }
    Ok(())
}

fn check(x: &Buf, rows: &Mirror<'_, u32>) -> Result<()> {
    match rows.iter().find(|r| **r as usize >= x.rows()) {
        Some(row) => bail!("row {row} lies outside a buffer of {} rows", x.rows()),
        None => Ok(()),
    }
}
