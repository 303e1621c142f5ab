//! What a run will leave on its disk at most, known before weights load: a disk that cannot hold it is told then, not after a night.
//!
//! Checkpoints hold the adapter, the optimizer's state and what stands beside them. A new one is whole before an old one goes, so there is one
//! more at a time than `train.save_total_limit` keeps; one more is for a run that is stopped between two of them. The last step's stays too: a run that
//! is asked for more steps goes on from there.

use crate::checkpoint::{find, parts};
use crate::config::{RunConfig, TiedHead};
use crate::error::{Problem, Result};
use crate::merge;
use crate::optim::OptimizerConfig;
use crate::train::finish::is_merged;
use std::ops::Range;
use std::path::Path;

/// Bytes of a step's records, in all files.
const RECORD: u64 = 1 << 10;
/// Bytes of the card and the curve.
const CARD: u64 = 128 << 10;
/// Bytes of a tensor's entry in the header of a file.
const HEADER: u64 = 256;

/// What decides how large a checkpoint is.
pub struct Sizes {
    /// Values of B and of A, by module.
    pub values: Vec<[usize; 2]>,
    /// What updates the adapter.
    pub optimizer: OptimizerConfig,
    /// Values of a head that merging makes out of an adapted embedding.
    pub untied: usize,
}

/// What is still to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPlan {
    /// Checkpoints that a run can be taken up from, and the bytes of one.
    pub checkpoints: (u64, u64),
    /// Adapters alone, `final` and `best`, and the bytes of one.
    pub adapters: (u64, u64),
    /// Bytes of merged weights.
    pub merged: u64,
    /// Bytes of records and of what describes the run.
    pub records: u64,
    /// Bytes that are free, where the system says so.
    pub free: Option<u64>,
}

impl DiskPlan {
    /// The plan of a run on the base `model` from the first of `steps` to the last.
    pub fn new(config: &RunConfig, model: &Path, sizes: &Sizes, steps: Range<usize>) -> Self {
        let block = fs4::allocation_granularity(&config.out_dir).unwrap_or(4096).max(1);
        let blocks = |bytes: u64| bytes.next_multiple_of(block);
        let values = || sizes.values.iter().flatten().copied();
        let header = HEADER * values().count() as u64;
        let weights = blocks(4 * values().sum::<usize>() as u64 + header);
        let state = blocks(sizes.optimizer.state_bytes(values()) + 2 * header);
        let adapter = weights + parts::besides(model, block);
        let out = |name: &str| config.out_dir.join(name).is_dir();
        let best = match config.train.save_best {
            false => 0,
            true if out("best") => 1,
            true => 2,
        };
        Self {
            checkpoints: (
                checkpoints(
                    find::steps(&config.out_dir).len() as u64,
                    saves(config.train.save_interval, &steps),
                    config.train.save_total_limit.map(|n| n as u64),
                ),
                adapter + state,
            ),
            adapters: (1 + best, adapter),
            merged: if config.save_merged && !is_merged(config) {
                let untied =
                    if config.merge.tied_head == TiedHead::Untie { sizes.untied } else { 0 };
                weight_bytes(model) + 4 * untied as u64 + merge::BESIDES
            } else {
                0
            },
            records: RECORD * steps.len() as u64 + CARD,
            // A file system that counts nothing, as some over a network, says nothing.
            free: fs4::statvfs(&config.out_dir)
                .ok()
                .filter(|s| s.total_space() > 0)
                .map(|s| s.available_space()),
        }
    }

    /// All of it.
    pub fn bytes(&self) -> u64 {
        let of = |(count, bytes): (u64, u64)| count.saturating_mul(bytes);
        of(self.checkpoints)
            .saturating_add(of(self.adapters))
            .saturating_add(self.merged)
            .saturating_add(self.records)
    }

    /// Refuses to begin what the disk cannot hold.
    ///
    /// # Errors
    /// When more is planned than is free.
    pub fn check(&self, out_dir: &Path) -> Result<()> {
        let (bytes, Some(free)) = (self.bytes(), self.free) else { return Ok(()) };
        if bytes <= free {
            return Ok(());
        }
        let Self { checkpoints, adapters, merged, records, .. } = *self;
        let merged = match merged {
            0 => String::new(),
            bytes => format!(", {} of merged weights", mib(bytes)),
        };
        let message = format!(
            "the run may write {} here, and {} are free: {} x {} of checkpoints, {} x {} of adapters{merged}, {} of records",
            mib(bytes),
            mib(free),
            checkpoints.0,
            mib(checkpoints.1),
            adapters.0,
            mib(adapters.1),
            mib(records),
        );
        let fewer = match checkpoints.0 {
            0..=2 => "",
            _ => "lower train.save_total_limit, raise train.save_interval, ",
        };
        let hint = format!("{fewer}free {}, or choose another `out_dir`", mib(bytes - free));
        Err(Problem::in_file(out_dir, message).hint(hint).into())
    }
}

/// Checkpoints that steps leave, the last one among them, and one for a run that is stopped.
fn saves(interval: Option<usize>, steps: &Range<usize>) -> u64 {
    let before = |step: usize, n: usize| step.saturating_sub(1) / n;
    let due = interval.map_or(0, |n| before(steps.end, n).saturating_sub(steps.start / n.max(1)));
    let trains = steps.start < steps.end;
    due as u64 + u64::from(trains) + u64::from(trains && interval.is_some())
}

/// Checkpoints more than there are now, at most at a time.
fn checkpoints(there: u64, saves: u64, most: Option<u64>) -> u64 {
    let at_a_time = most.map_or(u64::MAX, |most| most.max(1) + 1);
    // The next one is written before another goes, however many there are.
    saves.min(at_a_time.saturating_sub(there).max(1))
}

fn weight_bytes(model: &Path) -> u64 {
    let entries = std::fs::read_dir(model).into_iter().flatten().flatten();
    let weights =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors"));
    // Files of the Hub's cache are links.
    weights.filter_map(|p| std::fs::metadata(p).ok()).map(|m| m.len()).sum()
}

fn mib(bytes: u64) -> String {
    let tenths = (bytes.saturating_mul(10)).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(free: u64) -> DiskPlan {
        DiskPlan {
            checkpoints: (3, 2 << 20),
            adapters: (1, 1 << 20),
            merged: 0,
            records: 1 << 20,
            free: Some(free),
        }
    }

    #[test]
    fn a_run_that_fits_exactly_may_begin() {
        assert!(plan(8 << 20).check(Path::new("out")).is_ok());
    }

    #[test]
    fn what_is_missing_is_told_with_the_way_out() {
        let error = plan((8 << 20) - 1).check(Path::new("out")).unwrap_err().to_string();
        let message = "out: the run may write 8.0 MiB here, and 8.0 MiB are free: 3 x 2.0 MiB of checkpoints, 1 x 1.0 MiB of adapters, 1.0 MiB of records";
        assert!(error.starts_with(message), "{error}");
        assert!(error.contains("lower train.save_total_limit"), "{error}");
    }

    #[test]
    fn a_disk_that_says_nothing_is_no_obstacle() {
        assert!(DiskPlan { free: None, ..plan(0) }.check(Path::new("out")).is_ok());
    }

    #[test]
    fn checkpoints_in_between_the_last_and_one_for_a_stop_are_counted() {
        assert_eq!(saves(Some(4), &(0..12)), 3 + 1);
        assert_eq!(saves(Some(4), &(0..13)), 4 + 1);
    }

    #[test]
    fn a_run_taken_up_counts_what_is_to_come() {
        assert_eq!(saves(Some(4), &(8..17)), 3 + 1);
    }

    #[test]
    fn a_run_without_checkpoints_may_be_stopped() {
        assert_eq!(saves(None, &(0..9)), 1);
    }

    #[test]
    fn one_more_than_are_kept_is_there_for_a_moment() {
        assert_eq!(checkpoints(0, 9, Some(2)), 3);
    }

    #[test]
    fn checkpoints_that_are_there_take_no_room_again() {
        assert_eq!(checkpoints(2, 9, Some(2)), 1);
    }

    #[test]
    fn the_next_checkpoint_needs_room_however_many_are_there() {
        assert_eq!(checkpoints(5, 9, Some(2)), 1);
    }
}
