//! `logs/csv/version_<n>/metrics.csv`: a row for every optimizer step and every evaluation, under the names of LitGPT's columns.
//!
//! `step` is the optimizer step, where LitGPT's file has the iteration. `iter_time` and `time` are seconds, of the step and since
//! the first step began; `total_tokens` counts from the first step. A cell without a value is empty: the rows of evaluations have
//! `step`, `val_loss` and `val_ppl` only. Numbers are written in the fewest digits that read back as the same number.

use super::log_file::LogFile;
use super::metrics::{EvalRecord, StepRecord};
use super::sink::{Sink, new_version};
use std::io;
use std::path::{Path, PathBuf};

/// The columns, in order.
const COLUMNS: [&str; 16] = [
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens",
    "target_tokens",
    "total_tokens",
    "tokens_per_s",
    "iter_time",
    "time",
    "peak_mem_bytes",
    "loss_scale",
    "skipped",
    "val_loss",
    "val_ppl",
];

/// The table.
pub(super) struct Csv {
    dir: PathBuf,
    file: Option<LogFile>,
    total_tokens: u64,
}

impl Csv {
    /// A table in a new version's folder in `dir`, of a run that has trained on so many tokens.
    pub(super) fn new(dir: &Path, tokens: u64) -> Self {
        Self { dir: dir.into(), file: None, total_tokens: tokens }
    }

    fn write(&mut self, row: [String; COLUMNS.len()]) -> io::Result<()> {
        if self.file.is_none() {
            let mut file = LogFile::create_new(&new_version(&self.dir)?.join("metrics.csv"))?;
            file.append((COLUMNS.join(",") + "\n").as_bytes())?;
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.append((row.join(",") + "\n").as_bytes())
    }
}

impl Sink for Csv {
    fn step(&mut self, r: &StepRecord) -> io::Result<()> {
        self.total_tokens += r.tokens as u64;
        self.write([
            r.step.to_string(),
            r.epoch.to_string(),
            r.loss.to_string(),
            r.lr.to_string(),
            r.grad_norm.to_string(),
            r.tokens.to_string(),
            r.target_tokens.to_string(),
            self.total_tokens.to_string(),
            r.tokens_per_s.to_string(),
            (r.tokens as f64 / r.tokens_per_s).to_string(),
            r.elapsed_s.to_string(),
            r.peak_mem_bytes.to_string(),
            r.loss_scale.map_or(String::new(), |s| s.to_string()),
            r.skipped.to_string(),
            String::new(),
            String::new(),
        ])
    }

    fn eval(&mut self, r: &EvalRecord) -> io::Result<()> {
        let mut row = [const { String::new() }; COLUMNS.len()];
        row[0] = r.step.to_string();
        row[COLUMNS.len() - 2] = r.val_loss.to_string();
        row[COLUMNS.len() - 1] = r.val_ppl.to_string();
        self.write(row)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sink::tests::{EVAL, STEP};
    use super::*;

    #[test]
    fn steps_and_evaluations_share_a_table() {
        let home = tempfile::tempdir().unwrap();
        let mut csv = Csv::new(&home.path().join("csv"), 100);
        csv.eval(&EvalRecord { step: 0, ..EVAL }).unwrap();
        csv.step(&STEP).unwrap();
        let skipped = StepRecord { step: 2, grad_norm: f64::INFINITY, skipped: true, ..STEP };
        csv.step(&StepRecord { loss_scale: Some(65536.0), ..skipped }).unwrap();
        let text = std::fs::read_to_string(home.path().join("csv/version_0/metrics.csv")).unwrap();
        assert_eq!(
            text,
            "step,epoch,loss,learning_rate,grad_norm,tokens,target_tokens,total_tokens,tokens_per_s,iter_time,time,\
             peak_mem_bytes,loss_scale,skipped,val_loss,val_ppl\n\
             0,,,,,,,,,,,,,,2,7.5\n\
             1,0.25,2.5,0.0002,0.75,100,40,200,50,2,2,1048576,,false,,\n\
             2,0.25,2.5,0.0002,inf,100,40,300,50,2,2,1048576,65536,true,,\n"
        );
    }
}
