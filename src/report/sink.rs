//! Where a run's numbers go: `metrics.jsonl` always, and what `logger_name` asks for besides.
//!
//! Loggers write below `logs/<logger>/version_<n>`, LitGPT's place, and begin with the first record. A run stops for neither: a logger
//! that fails is told once and given up; `metrics.jsonl`, the run's own account, is told once and its records wait until it can be written
//! ([`JsonLines`]).

use super::csv::Csv;
use super::metrics::{EvalRecord, JsonLines, StepRecord};
use super::tensorboard::TensorBoard;
use crate::error::Result;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// A logger beside `metrics.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggerName {
    /// A table with one row a step.
    Csv,
    /// Event files that TensorBoard reads.
    TensorBoard,
}

/// What takes records; each call leaves a file that can be read.
pub(super) trait Sink {
    /// One optimizer step.
    fn step(&mut self, record: &StepRecord) -> io::Result<()>;
    /// One evaluation.
    fn eval(&mut self, record: &EvalRecord) -> io::Result<()>;
}

/// A logger that still works, and what it is called.
struct Logger {
    sink: Box<dyn Sink>,
    name: &'static str,
    dir: PathBuf,
}

/// All sinks of a run.
pub struct Sinks<'a> {
    metrics: JsonLines,
    logger: Option<Logger>,
    tell: Box<dyn Fn(&str) + 'a>,
}

impl<'a> Sinks<'a> {
    /// The sinks of a run in `out_dir`; of one that is taken up so many bytes of `metrics.jsonl` are kept, and so many tokens counted; `tell`
    /// shows a line to the user. Nothing is created before the first record.
    pub fn open(
        out_dir: &Path,
        logger: Option<LoggerName>,
        (after, tokens): (Option<u64>, u64),
        tell: impl Fn(&str) + 'a,
    ) -> Self {
        let logger = logger.map(|kind| {
            let (name, folder) = match kind {
                LoggerName::Csv => ("csv", "csv"),
                LoggerName::TensorBoard => ("TensorBoard", "tensorboard"),
            };
            let dir = out_dir.join("logs").join(folder);
            let sink: Box<dyn Sink> = match kind {
                LoggerName::Csv => Box::new(Csv::new(&dir, tokens)),
                LoggerName::TensorBoard => Box::new(TensorBoard::new(&dir)),
            };
            Logger { sink, name, dir }
        });
        let metrics = JsonLines::new(out_dir, "metrics.jsonl");
        let metrics = match after {
            Some(bytes) => metrics.after(bytes),
            None => metrics,
        };
        Self { metrics, logger, tell: Box::new(tell) }
    }

    /// The bytes of `metrics.jsonl` that lie on disk.
    pub fn settled(&self) -> u64 {
        let bytes = self.metrics.settled();
        self.complain();
        bytes
    }

    fn complain(&self) {
        if let Some(complaint) = self.metrics.complaint() {
            (self.tell)(&format!("note: {complaint}"));
        }
    }

    /// Writes a step.
    ///
    /// # Errors
    /// When `metrics.jsonl` is another run's.
    pub fn step(&mut self, record: &StepRecord) -> Result<()> {
        self.metrics.write(record)?;
        self.complain();
        self.log(|sink| sink.step(record));
        Ok(())
    }

    /// Writes an evaluation.
    ///
    /// # Errors
    /// When `metrics.jsonl` is another run's.
    pub fn eval(&mut self, record: &EvalRecord) -> Result<()> {
        self.metrics.write(record)?;
        self.complain();
        self.log(|sink| sink.eval(record));
        Ok(())
    }

    fn log(&mut self, write: impl FnOnce(&mut dyn Sink) -> io::Result<()>) {
        let Some(logger) = &mut self.logger else { return };
        if let Err(e) = write(&mut *logger.sink) {
            (self.tell)(&format!(
                "note: the {} logger is given up: {}: cannot be written: {e}; the run goes on with `metrics.jsonl`",
                logger.name,
                logger.dir.display()
            ));
            self.logger = None;
        }
    }
}

/// Makes the first `version_<n>` in `dir` that is not there yet: no run writes into another's logs.
pub(super) fn new_version(dir: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(dir)?;
    let mut n = 0usize;
    loop {
        let version = dir.join(format!("version_{n}"));
        match std::fs::create_dir(&version) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => n += 1,
            made => return made.map(|()| version),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    pub(in crate::report) const STEP: StepRecord = StepRecord {
        step: 1,
        epoch: 0.25,
        lr: 2e-4,
        loss: 2.5,
        grad_norm: 0.75,
        tokens: 100,
        target_tokens: 40,
        tokens_per_s: 50.0,
        elapsed_s: 2.0,
        peak_mem_bytes: 1 << 20,
        loss_scale: None,
        skipped: false,
    };
    pub(in crate::report) const EVAL: EvalRecord =
        EvalRecord { step: 1, val_loss: 2.0, val_ppl: 7.5 };

    /// Fails at every record and counts them.
    struct Broken<'a>(&'a Cell<usize>);

    impl Sink for Broken<'_> {
        fn step(&mut self, _: &StepRecord) -> io::Result<()> {
            self.0.set(self.0.get() + 1);
            Err(ErrorKind::StorageFull.into())
        }
        fn eval(&mut self, _: &EvalRecord) -> io::Result<()> {
            self.0.set(self.0.get() + 1);
            Err(ErrorKind::StorageFull.into())
        }
    }

    /// What is told, and how many lines `metrics.jsonl` has, after a step, an evaluation and a step.
    fn three_records(prepare: impl FnOnce(&Path, &mut Sinks)) -> (Vec<String>, usize) {
        let home = tempfile::tempdir().unwrap();
        let told = RefCell::new(Vec::new());
        let mut sinks = Sinks::open(home.path(), Some(LoggerName::Csv), (None, 0), |line: &str| {
            told.borrow_mut().push(line.to_owned());
        });
        prepare(home.path(), &mut sinks);
        sinks.step(&STEP).unwrap();
        sinks.eval(&EVAL).unwrap();
        sinks.step(&StepRecord { step: 2, ..STEP }).unwrap();
        drop(sinks);
        let lines = std::fs::read_to_string(home.path().join("metrics.jsonl")).unwrap();
        (told.into_inner(), lines.lines().count())
    }

    /// A logger that is leaked so that it may borrow from the test.
    fn broken() -> &'static Cell<usize> {
        Box::leak(Box::new(Cell::new(0)))
    }

    fn break_logger(sinks: &mut Sinks, calls: &'static Cell<usize>) {
        sinks.logger =
            Some(Logger { sink: Box::new(Broken(calls)), name: "csv", dir: "logs".into() });
    }

    #[test]
    fn a_logger_that_fails_is_told_once() {
        let (told, _) = three_records(|_, sinks| break_logger(sinks, broken()));
        assert_eq!(
            told,
            ["note: the csv logger is given up: logs: cannot be written: no storage space; \
              the run goes on with `metrics.jsonl`"]
        );
    }

    #[test]
    fn a_logger_that_fails_is_not_asked_again() {
        let calls = broken();
        three_records(|_, sinks| break_logger(sinks, calls));
        assert_eq!(calls.get(), 1);
    }

    #[test]
    fn metrics_go_on_without_the_logger() {
        assert_eq!(three_records(|_, sinks| break_logger(sinks, broken())).1, 3);
    }

    #[test]
    fn a_file_in_the_place_of_the_logs_ends_the_logger_alone() {
        let (told, lines) = three_records(|home, _| std::fs::write(home.join("logs"), "").unwrap());
        assert_eq!((told.len(), lines), (1, 3));
    }

    #[test]
    fn a_working_logger_is_not_told() {
        assert_eq!(three_records(|_, _| ()).0, [""; 0]);
    }

    #[test]
    fn nothing_is_written_before_the_first_record() {
        let home = tempfile::tempdir().unwrap();
        drop(Sinks::open(home.path(), Some(LoggerName::TensorBoard), (None, 0), |_: &str| ()));
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn logs_of_another_run_are_left_alone() {
        let home = tempfile::tempdir().unwrap();
        new_version(home.path()).unwrap();
        assert_eq!(new_version(home.path()).unwrap(), home.path().join("version_1"));
    }
}
