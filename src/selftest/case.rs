//! What a check is made of: fresh random inputs, an error, a limit; and how something is timed.

use crate::ops::Cx;
use crate::ops::cx::rounded;
use crate::ops::philox::{philox4x32, unit};
use candle_core::{DType, Result};
use std::time::Instant;

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Line {
    /// What was computed.
    pub what: String,
    /// The sizes.
    pub shape: String,
    /// Relative L2 error; NaN where something was not written.
    pub error: f64,
    /// The error that is allowed.
    pub limit: f64,
}

impl Line {
    /// Whether the error is within its limit; NaN is not.
    pub fn passes(&self) -> bool {
        self.error <= self.limit
    }
}

/// Random inputs by seed and a running number.
pub struct Inputs {
    seed: u64,
    drawn: u32,
    dtype: DType,
}

impl Inputs {
    /// Inputs for ops whose products multiply values of `dtype`.
    pub fn new(seed: u64, dtype: DType) -> Self {
        Self { seed, drawn: 0, dtype }
    }

    /// `n` values in −1..1 that the dtype holds exactly.
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        let dtype = self.dtype;
        self.wide(n).into_iter().map(|x| rounded(x, dtype)).collect()
    }

    /// `n` values in −1..1 in f32: norm weights, biases, parameters, logits.
    pub fn wide(&mut self, n: usize) -> Vec<f32> {
        self.drawn += 1;
        let key = [(self.seed as u32) ^ self.drawn, (self.seed >> 32) as u32];
        let words = (0..).flat_map(|i: u32| philox4x32([i, 0, 0, 0x5e1f], key));
        words.take(n).map(|w| unit(w) * 2.0 - 1.0).collect()
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.wide(1)[0] + 1.0) / 2.0 * n as f32) as usize % n
    }
}

/// The relative L2 error that one op may have whose results are of `dtype`: storing a result rounds each value once, a product of
/// products twice.
pub fn limit(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 4e-3,
        DType::F16 => 6e-4,
        _ => 1e-5,
    }
}

/// ‖ours − theirs‖ / ‖theirs‖.
pub fn error(ours: &[f32], theirs: &[f64]) -> f64 {
    if ours.len() != theirs.len() {
        return f64::NAN;
    }
    let far: f64 = ours.iter().zip(theirs).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let norm: f64 = theirs.iter().map(|b| b * b).sum();
    (far / norm.max(1e-300)).sqrt()
}

/// Seconds that `f` takes on its own, the best of several after a warm-up.
pub fn seconds(cx: &Cx, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    let wait = || cx.gpu().map_or(Ok(()), |gpu| gpu.synchronize());
    f()?;
    wait()?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        // Several in a row, so that the launch is hidden as in a run.
        for _ in 0..4 {
            f()?;
        }
        wait()?;
        best = best.min(start.elapsed().as_secs_f64() / 4.0);
    }
    Ok(best)
}
