//! `metrics.jsonl`: one object per optimizer step and per evaluation; `samples.jsonl`: one per sample answer.

use super::log_file::LogFile;
use crate::error::{Problem, Result};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

/// One optimizer step.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// The gradients overflowed in f16: nothing was updated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
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

/// The last step of a file of records; `None` where there is none that can be read.
pub fn last_step(path: &Path) -> Option<StepRecord> {
    let text = std::fs::read_to_string(Some(path).filter(|p| p.is_file())?).ok()?;
    text.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

/// Bytes of records that are kept in memory while their file cannot be written: hours of steps.
const MOST_WAITING: usize = 16 << 20;

/// A file of records, one a line, made with the first: a run that ends before leaves nothing.
///
/// A file that cannot be written stops no run. It is told once ([`Self::complaint`]); the records wait in memory, and with each that comes all are
/// tried again, so that after a disk was full for a while none is missing and none is doubled. What a checkpoint notes of the file are the
/// bytes that lie on disk. So a run that dies while records wait, and is taken up, lacks the lines from the failure to that checkpoint, and only
/// those; adapter and optimizer do not depend on them.
pub struct JsonLines {
    dir: PathBuf,
    path: PathBuf,
    keep: Option<u64>,
    state: RefCell<State>,
}

/// What is written, and what waits.
#[derive(Default)]
struct State {
    file: Option<LogFile>,
    waiting: Vec<u8>,
    /// Whether the file could not be written the last time.
    failing: bool,
    /// Whether so much waits that the rest is let go.
    full: bool,
    complaint: Option<String>,
}

impl JsonLines {
    /// The file `name` in a run's directory.
    pub fn new(out_dir: &Path, name: &str) -> Self {
        let path = out_dir.join(name);
        Self { dir: out_dir.into(), path, keep: None, state: RefCell::default() }
    }

    /// Goes on after the first `bytes` bytes of the file that is there.
    #[must_use]
    pub fn after(mut self, bytes: u64) -> Self {
        self.keep = Some(bytes);
        self
    }

    /// The bytes of the file, all of them on disk but those that wait.
    pub fn settled(&self) -> u64 {
        let state = &mut *self.state.borrow_mut();
        let tried = if state.waiting.is_empty() { Ok(()) } else { self.flush(state) };
        let Some(file) = &state.file else { return self.keep.unwrap_or(0) };
        match tried.and_then(|()| file.settled()) {
            Ok(bytes) => bytes,
            Err(e) => {
                let bytes = file.len();
                self.failed(state, &e);
                bytes
            }
        }
    }

    /// What went wrong since it was asked last, for the user; a file that fails again and again is told once.
    pub fn complaint(&self) -> Option<String> {
        self.state.borrow_mut().complaint.take()
    }

    /// Appends one record as a line, and those that wait.
    ///
    /// # Errors
    /// When another run's file lies there: two runs in one directory would spoil each other.
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(record)
            .map_err(|e| Problem::in_file(&self.path, format!("cannot be written: {e}")))?;
        let state = &mut *self.state.borrow_mut();
        if state.waiting.len() + line.len() < MOST_WAITING {
            state.waiting.extend(line.as_bytes());
            state.waiting.push(b'\n');
        } else if !state.full {
            state.full = true;
            let path = self.path.display();
            state.complaint = Some(format!("{path}: too many records wait; later ones are lost"));
        }
        if state.file.is_none() && self.keep.is_none() && self.path.is_file() {
            let problem = Problem::in_file(&self.dir, "another run began in this directory");
            return Err(problem.hint("choose another `out_dir`; nothing in it was changed").into());
        }
        if let Err(e) = self.flush(state) {
            self.failed(state, &e);
        }
        Ok(())
    }

    /// Writes what waits.
    fn flush(&self, state: &mut State) -> io::Result<()> {
        let file = match &mut state.file {
            Some(file) => file,
            empty => empty.insert(match self.keep {
                Some(keep) => LogFile::after(&self.path, keep)?,
                None => LogFile::create_new(&self.path)?,
            }),
        };
        file.append(&state.waiting)?;
        state.waiting.clear();
        if std::mem::take(&mut state.failing) && !state.full {
            let path = self.path.display();
            state.complaint = Some(format!("{path} can be written again; no record is missing"));
        }
        Ok(())
    }

    fn failed(&self, state: &mut State, error: &io::Error) {
        if !std::mem::replace(&mut state.failing, true) {
            state.complaint = Some(format!(
                "{}: cannot be written: {error}; the run goes on, and its records wait for the file",
                self.path.display()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const EVAL: EvalRecord = EvalRecord { step: 1, val_loss: 2.0, val_ppl: 7.5 };

    /// Three records; `spoil` and `mend` come after the first and the second. What is told, and the file's lines.
    fn three(spoil: impl FnOnce(&Path), mend: impl FnOnce(&Path)) -> (Vec<String>, usize, u64) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("m");
        let mut lines = JsonLines::new(home.path(), "m");
        let mut told = Vec::new();
        lines.write(&EVAL).unwrap();
        spoil(&path);
        lines.write(&EVAL).unwrap();
        told.extend(lines.complaint());
        lines.settled();
        told.extend(lines.complaint());
        mend(&path);
        lines.write(&EVAL).unwrap();
        told.extend(lines.complaint());
        let text = fs::read_to_string(&path).unwrap_or_default();
        (told, text.lines().count(), lines.settled())
    }

    #[test]
    fn a_file_that_works_is_not_told() {
        assert_eq!(three(|_| (), |_| ()).0, [""; 0]);
    }

    #[test]
    fn records_wait_for_a_file_that_comes_back() {
        let aside = |p: &Path| p.with_extension("aside");
        let (told, lines, bytes) = three(
            |p| {
                fs::rename(p, aside(p)).unwrap();
                fs::create_dir(p).unwrap();
            },
            |p| {
                fs::remove_dir(p).unwrap();
                fs::rename(aside(p), p).unwrap();
            },
        );
        assert_eq!((told.len(), lines), (2, 3), "{told:?}");
        assert!(told[1].contains("can be written again; no record is missing"), "{told:?}");
        assert_eq!(bytes, 3 * "{\"step\":1,\"val_loss\":2.0,\"val_ppl\":7.5}\n".len() as u64);
    }

    #[test]
    fn a_file_that_goes_is_told_once() {
        let (told, lines, bytes) = three(|p| fs::remove_file(p).unwrap(), |_| ());
        assert_eq!((told.len(), lines), (1, 0), "{told:?}");
        // What was on disk before: a resume keeps no more than there is.
        assert_eq!(bytes, "{\"step\":1,\"val_loss\":2.0,\"val_ppl\":7.5}\n".len() as u64);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_once_and_stops_nothing() {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", home.path().join("m")).unwrap();
        let mut lines = JsonLines::new(home.path(), "m").after(0);
        let mut told = Vec::new();
        for _ in 0..3 {
            lines.write(&EVAL).unwrap();
            told.extend(lines.complaint());
        }
        assert_eq!((told.len(), lines.settled()), (1, 0));
        assert!(told[0].contains("No space left on device"), "{told:?}");
    }

    #[test]
    fn another_runs_file_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("m"), b"x").unwrap();
        let error = JsonLines::new(home.path(), "m").write(&EVAL).unwrap_err().to_string();
        assert!(error.contains("another run began in this directory"), "{error}");
    }
}
