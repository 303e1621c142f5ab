//! Tasks of unequal size on all threads.

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

/// As [`spread`], on up to `most` threads, each of which calls `then` when no task is left to be taken: to help the others with theirs.
/// While there are tasks for all threads each takes its next one before it runs one, so that `run` may have that brought near.
pub(super) fn spread_then<T: Sync>(
    tasks: &[T],
    most: usize,
    run: impl Fn(&T, Option<&T>) + Sync,
    then: impl Fn() + Sync,
) {
    let (next, threads) = (AtomicUsize::new(0), rayon::current_num_threads().min(most));
    on_threads(most, || {
        let take = || tasks.get(next.fetch_add(1, Ordering::Relaxed));
        let mut own = take();
        while let Some(task) = own {
            let enough = next.load(Ordering::Relaxed) + threads <= tasks.len();
            let ahead = if enough { take() } else { None };
            run(task, ahead);
            own = ahead.or_else(take);
        }
        then();
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

    #[test]
    fn every_task_runs_once_where_threads_take_the_next() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        for tasks in [0, 1, 3, 4, 5, 9, 100] {
            let runs: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            let run = |run: &AtomicUsize, _: Option<&AtomicUsize>| {
                run.fetch_add(1, Ordering::Relaxed);
            };
            pool.install(|| spread_then(&runs, 4, run, || {}));
            let runs: Vec<_> = runs.into_iter().map(AtomicUsize::into_inner).collect();
            assert_eq!(runs, vec![1; tasks]);
        }
    }

    #[test]
    fn a_thread_knows_the_task_that_it_runs_next() {
        let seen = std::sync::Mutex::new(Vec::new());
        let run =
            |task: &u32, next: Option<&u32>| seen.lock().unwrap().push((*task, next.copied()));
        spread_then(&[4, 5, 6], 1, run, || {});
        assert_eq!(seen.into_inner().unwrap(), [(4, Some(5)), (5, Some(6)), (6, None)]);
    }

    #[test]
    fn every_thread_is_asked_to_help_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        for (most, helpers) in [(1, 1), (3, 3), (9, 4)] {
            let (runs, helps) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let count = |of: &AtomicUsize| of.fetch_add(1, Ordering::Relaxed);
            pool.install(|| {
                let run = |_: &(), _: Option<&()>| {
                    count(&runs);
                };
                let then = || {
                    count(&helps);
                };
                spread_then(&[(), ()], most, run, then);
            });
            assert_eq!([runs.into_inner(), helps.into_inner()], [2, helpers]);
        }
    }
}
