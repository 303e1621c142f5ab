//! `vft selftest`: does this machine compute what it should, and how fast.
//!
//! Every op with fresh random inputs and odd shapes against plain f64 loops (`reference.rs`), into buffers that held NaN; whole
//! training steps against the same in f32 on the CPU; then what the heavy ops reach beside a copy and a plain product.

pub mod case;
pub mod ops;
pub mod reference;
pub mod speed;
pub mod steps;

use crate::model::load::Nf4;
use crate::ops::Cx;
use anyhow::Result;
use candle_core::DType;
use case::Line;
use speed::{Limits, Speed};
use std::fmt::Write;
use steps::Training;

/// What was found in one context.
pub struct Report {
    /// Every check.
    pub lines: Vec<Line>,
    /// The machine's limits and the ops' rates, where they were measured.
    pub speeds: Option<(Limits, Vec<Speed>)>,
}

/// Checks everything in `cx`; with `timed`, measures too.
///
/// # Errors
/// When something fails rather than errs.
pub fn run(cx: &Cx, seed: u64, timed: bool) -> Result<Report> {
    cx.poison();
    let mut lines = cx.install(|| ops::Checks::run(cx, seed))?;
    // In f32 on the CPU the steps would be compared with themselves.
    let is_reference = cx.gpu().is_none() && cx.products() == DType::F32;
    let bases = [None, Some(Nf4::Single), Some(Nf4::Double)];
    let all = bases.map(|quantize| (quantize, false)).into_iter().chain([(None, true)]);
    for (quantize, is_large) in all.filter(|_| !is_reference) {
        let training = Training { seed, weights: cx.products(), quantize, is_large };
        lines.extend(steps::check(cx, training)?);
    }
    let speeds = if timed { Some(cx.install(|| speed::measure(cx, seed))?) } else { None };
    Ok(Report { lines, speeds })
}

impl Report {
    /// Whether every check is within its limit.
    pub fn passes(&self) -> bool {
        self.lines.iter().all(Line::passes)
    }

    /// The tables as text.
    pub fn table(&self) -> String {
        let mut text = format!("{:<34} {:<30} {:>9} {:>9}\n", "check", "shape", "error", "limit");
        for line in &self.lines {
            let verdict = if line.passes() { "ok" } else { "WRONG" };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<34} {:<30} {:>9.1e} {:>9.0e}  {verdict}",
                line.what, line.shape, line.error, line.limit
            );
        }
        let Some((limits, speeds)) = &self.speeds else { return text };
        let _ = writeln!(
            text,
            "\nmeasured limits: copy {:.0} GB/s, product {:.2} TFLOP/s\n\n{:<34} {:<30} {:>14} {:>7}",
            limits.copy / 1e9,
            limits.gemm / 1e12,
            "speed",
            "shape",
            "reached",
            "share"
        );
        for s in speeds {
            let (reached, limit) = if s.rate.flops {
                (format!("{:.2} TFLOP/s", s.rate.per_second / 1e12), limits.gemm)
            } else {
                (format!("{:.0} GB/s", s.rate.per_second / 1e9), limits.copy)
            };
            let share = 100.0 * s.rate.per_second / limit;
            let _ = writeln!(text, "{:<34} {:<30} {reached:>14} {share:>6.0}%", s.what, s.shape);
        }
        text
    }
}
