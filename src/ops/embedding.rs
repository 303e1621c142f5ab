//! Embedding look-up: `y[t] = E[ids[t]]`.
//!
//! ids: (N), E: (V, C) frozen, y: (N, C).

use super::value::{Value, by_type};
use super::{Buf, Cx, Mirror, Weight};
use crate::gpu::Arg;
use candle_core::{DType, Result, bail};

/// The rows of `table` that `ids` name.
///
/// # Errors
/// When an id lies outside the table.
pub fn forward(cx: &Cx, table: &Weight, ids: &Mirror<'_, u32>) -> Result<Buf> {
    let (n, c) = (ids.len(), table.cols());
    if let Some(id) = ids.iter().find(|id| **id as usize >= table.rows()) {
        bail!("token id {id} lies outside the embedding of {} rows", table.rows());
    }
    let mut y = cx.alloc(&[n, c])?;
    if let Some(gpu) = cx.gpu() {
        let rows = table.on_gpu(cx)?;
        let (rows, dtype) = rows.arg()?;
        let args = [y.arg()?, rows, ids.arg()?, Arg::U64(n as u64), Arg::I32(c as i32)];
        // SAFETY: gather(T *y, const T *table, const u32 *ids, u64 n, int c), gather_wide with float *y; every id lies inside the
        // table (checked).
        unsafe {
            if dtype == y.dtype() {
                gpu.each("gather", n * c, &args)?;
            } else if y.dtype() == DType::F32 {
                gpu.each_of(dtype, "gather_wide", n * c, &args)?;
            } else {
                bail!("embedding: a table of {dtype:?} for {y:?}");
            }
        }
        return Ok(y);
    }
    by_type!(y.dtype(), on_cpu(table, ids, &mut y))?;
    Ok(y)
}

fn on_cpu<T: Value>(table: &Weight, ids: &[u32], y: &mut Buf) -> Result<()> {
    let mut row = vec![0.0; table.cols()];
    for (&id, y) in ids.iter().zip(T::of_mut(y)?.chunks_mut(table.cols())) {
        table.read_rows(id as usize, id as usize + 1, &mut row)?;
        y.iter_mut().zip(&row).for_each(|(y, v)| *y = T::near(*v));
    }
    Ok(())
}
