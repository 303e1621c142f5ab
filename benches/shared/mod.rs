//! What benches that print seconds have in common.
#![expect(clippy::unwrap_used, reason = "a bench ends where something fails")]

use candle_core::DType;
use std::time::{Duration, Instant};
use vft::ops::{Buf, Cx};

/// The dtype of values between ops by its name: bf16 or f32.
pub(crate) fn dtype(name: &str) -> DType {
    match name {
        "bf16" => DType::BF16,
        "f32" => DType::F32,
        _ => panic!("{name} is neither bf16 nor f32"),
    }
}

/// Values from -1 to 1 that repeat late.
pub(crate) fn noise(n: usize) -> impl Iterator<Item = f32> {
    (0..n).map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0)
}

/// Such values, (rows, cols).
pub(crate) fn buf(cx: &Cx, rows: usize, cols: usize) -> Buf {
    cx.from_slice(&noise(rows * cols).collect::<Vec<_>>(), &[rows, cols]).unwrap()
}

/// Seconds of `run` on what `prepare` gives, whose own time does not count: the least of so many seconds' turns, on the context's threads.
pub(crate) fn least<T>(
    cx: &Cx,
    seconds: f64,
    prepare: impl Fn(&Cx) -> T + Sync,
    mut run: impl FnMut(&Cx, T) + Send,
) -> f64 {
    cx.install(|| {
        run(cx, prepare(cx));
        let (begun, mut least) = (Instant::now(), f64::INFINITY);
        while begun.elapsed() < Duration::from_secs_f64(seconds) {
            let operands = prepare(cx);
            let start = Instant::now();
            run(cx, operands);
            least = least.min(start.elapsed().as_secs_f64());
        }
        least
    })
}
