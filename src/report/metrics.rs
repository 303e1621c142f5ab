//! `metrics.jsonl`: one object per optimizer step and per evaluation; `samples.jsonl`: one per sample answer.

use crate::error::{Problem, Result};
use serde::Serialize;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// One optimizer step.
#[derive(Debug, Clone, Serialize)]
pub struct StepRecord {
    /// Step from 1.
    pub step: usize,
    /// Epochs seen after this step.
    pub epoch: f64,
    /// The learning rate that this step used.
    pub lr: f64,
    /// Token-weighted mean loss of the step.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Tokens in the step.
    pub tokens: usize,
    /// Trained tokens in the step.
    pub target_tokens: usize,
    /// Tokens per second of this step.
    pub tokens_per_s: f64,
    /// Seconds since the first step began.
    pub elapsed_s: f64,
    /// Peak memory so far: of the device where a run computes on one, else of the process.
    pub peak_mem_bytes: u64,
    /// The loss scale, in f16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// The gradients overflowed in f16: nothing was updated.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// One evaluation.
#[derive(Debug, Clone, Serialize)]
pub struct EvalRecord {
    /// Steps done.
    pub step: usize,
    /// Token-weighted mean loss.
    pub val_loss: f64,
    /// exp(val_loss).
    pub val_ppl: f64,
}

/// A sample answer of an evaluation.
#[derive(Debug, Clone, Serialize)]
pub struct SampleRecord {
    /// Steps done.
    pub step: usize,
    /// What the model was given.
    pub prompt: String,
    /// What it answered.
    pub answer: String,
    /// What the row answers.
    pub expected: String,
}

/// A file of records, one a line, made with the first: a run that ends before leaves nothing.
pub struct JsonLines {
    dir: PathBuf,
    path: PathBuf,
    file: Option<File>,
    keep: Option<u64>,
}

impl JsonLines {
    /// The file `name` in a run's directory.
    pub fn new(out_dir: &Path, name: &str) -> Self {
        Self { dir: out_dir.into(), path: out_dir.join(name), file: None, keep: None }
    }

    /// Goes on after the first `bytes` bytes of the file that is there.
    #[must_use]
    pub fn after(mut self, bytes: u64) -> Self {
        self.keep = Some(bytes);
        self
    }

    /// The bytes of the file, all of them on disk.
    ///
    /// # Errors
    /// When the file cannot be flushed.
    pub fn settled(&self) -> Result<u64> {
        let failed =
            |e: std::io::Error| Problem::in_file(&self.path, format!("cannot be written: {e}"));
        match &self.file {
            Some(file) => {
                file.sync_all().map_err(failed)?;
                Ok(file.metadata().map_err(failed)?.len())
            }
            None => Ok(self.keep.unwrap_or(0)),
        }
    }

    fn open(&self) -> Result<File> {
        if let Some(keep) = self.keep {
            let open = || {
                let mut file = File::options().append(true).create(true).open(&self.path)?;
                // A line that was cut off by a crash goes with what came after the checkpoint.
                let there = file.metadata()?.len();
                let whole = if there < keep { whole_lines(&self.path)? } else { keep };
                file.set_len(whole)?;
                file.flush()?;
                Ok(file)
            };
            return open().map_err(|e: std::io::Error| {
                Problem::in_file(&self.path, format!("cannot be opened: {e}")).into()
            });
        }
        match File::create_new(&self.path) {
            Ok(file) => Ok(file),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                let problem = Problem::in_file(&self.dir, "another run began in this directory");
                Err(problem.hint("choose another `out_dir`; nothing in it was changed").into())
            }
            Err(e) => Err(Problem::in_file(&self.path, format!("cannot be created: {e}")).into()),
        }
    }

    /// Appends one record as a line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let path = self.path.clone();
        let failed =
            |e: &dyn std::fmt::Display| Problem::in_file(&path, format!("cannot be written: {e}"));
        let line = serde_json::to_string(record).map_err(|e| failed(&e))? + "\n";
        if self.file.is_none() {
            self.file = Some(self.open()?);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let before = file.metadata().map_err(|e| failed(&e))?.len();
        file.write_all(line.as_bytes()).map_err(|e| {
            // The error at hand is the one to report; half a line is no record.
            let _ = file.set_len(before);
            failed(&e)
        })?;
        Ok(())
    }
}

/// Bytes of a file up to the end of its last whole line.
fn whole_lines(path: &Path) -> std::io::Result<u64> {
    let text = std::fs::read(path)?;
    Ok(text.iter().rposition(|b| *b == b'\n').map_or(0, |last| last as u64 + 1))
}
