//! Tasks of unequal size on all threads.

mod rows;

pub(super) use rows::{ByRows, Takes, spread_rows};

use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Elements of a task of equal ones at least.
const LEAST: usize = 4096;

/// Runs every task on rayon's current threads, each of which takes the next one when it has done its last: put the large ones first,
/// and no thread is left with a large one in the end. Cutting the list in halves, as rayon does, knows nothing of sizes.
pub(super) fn spread<T: Sync>(tasks: &[T], run: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    on_threads(tasks.len(), || {
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            run(task);
        }
    });
}

/// Calls `take` once for each of up to `most` of rayon's current threads.
fn on_threads(most: usize, take: impl Fn() + Sync) {
    let threads = rayon::current_num_threads().min(most);
    if threads < 2 {
        return take();
    }
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| take());
}

/// Rows of a task where all are equal: several tasks for each thread, so that none waits long for another in the end, but none so small
/// that to hand it out costs more than it does.
pub(super) fn share(rows: usize, cols: usize) -> usize {
    rows.div_ceil(8 * rayon::current_num_threads()).max(LEAST.div_ceil(cols.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for tasks in [0, 1, 2, 100] {
            let runs: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            spread(&runs, |run| {
                run.fetch_add(1, Ordering::Relaxed);
            });
            let runs: Vec<_> = runs.into_iter().map(AtomicUsize::into_inner).collect();
            assert_eq!(runs, vec![1; tasks]);
        }
    }
}
