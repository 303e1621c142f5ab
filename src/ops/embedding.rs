//! Embedding look-up: `y[t] = E[ids[t]]`.
//!
//! ids: (N), E: (V, C) frozen, y: (N, C) f32.

use super::{Buf, Cx, Weight};
use candle_core::{Result, bail};

/// The rows of `table` that `ids` name.
///
/// # Errors
/// When an id lies outside the table.
pub fn forward(cx: &Cx, table: &Weight, ids: &[u32]) -> Result<Buf> {
    let c = table.cols();
    let mut y = cx.alloc(&[ids.len(), c])?;
    for (&id, y) in ids.iter().zip(y.f32_mut()?.chunks_mut(c)) {
        let id = id as usize;
        if id >= table.rows() {
            bail!("token id {id} lies outside the embedding of {} rows", table.rows());
        }
        table.read_rows(id, id + 1, y)?;
    }
    Ok(y)
}
