//! Tasks of a product: the rows of each are taken a few at a time, by its thread and by those that have nothing else left.

use super::on_threads;
use crate::ops::prefetch::Places;
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows of a task, of which each thread takes some that nobody else gets.
pub(in crate::ops) struct Takes {
    /// The first row that nobody has taken.
    next: AtomicUsize,
    some: usize,
    rows: usize,
}

impl Takes {
    /// `some` of so many `rows` at a time.
    pub(in crate::ops) fn new(rows: usize, some: usize) -> Self {
        Self { next: AtomicUsize::new(0), some, rows }
    }

    /// Rows that nobody else gets.
    pub(in crate::ops) fn take(&self) -> Option<Range<usize>> {
        let Self { next, some, rows } = self;
        if next.load(Ordering::Relaxed) >= *rows {
            return None;
        }
        let row = next.fetch_add(*some, Ordering::Relaxed);
        (row < *rows).then(|| row..(row + some).min(*rows))
    }

    /// Rows that are taken at a time, at most.
    pub(in crate::ops) fn most(&self) -> usize {
        self.some
    }

    /// How often rows can be taken.
    fn count(&self) -> usize {
        self.rows.div_ceil(self.some)
    }
}

/// A task whose rows are taken.
pub(in crate::ops) trait ByRows: Sync {
    /// Its rows.
    fn takes(&self) -> &Takes;
    /// What all of it costs, in a unit that all tasks share.
    fn work(&self) -> usize;
    /// Gives it its part of what the ops behind the product read.
    fn set_behind(&mut self, behind: Places);
}

/// Runs tasks on rayon's current threads, the large ones first: `run` computes what nobody else has taken of one, and knows which its
/// thread runs next. Each task has a part of what is `behind` them prefetched.
pub(in crate::ops) fn spread_rows<T: ByRows>(
    mut tasks: Vec<T>,
    behind: Places,
    run: impl Fn(&T, Option<&T>) + Sync,
) {
    let count = tasks.len();
    for (i, task) in tasks.iter_mut().enumerate() {
        task.set_behind(behind.map(|place| place.part(i, count)));
    }
    tasks.sort_by_key(|task| Reverse(task.work()));
    let takes = tasks.iter().map(|task| task.takes().count()).sum();
    // What is not done yet when no task is left was, as a rule, taken last; some of it may not have begun.
    let last = count.saturating_sub(4 * rayon::current_num_threads());
    let help = || tasks[last..].iter().for_each(|task| run(task, None));
    spread_then(&tasks, takes, &run, help);
}

/// Runs every task, each thread its next one when it has done its last, on up to `most` threads, each of which calls `then` when no task
/// is left: to help the others with theirs. While there are tasks for all threads each takes its next one before it runs one, so that
/// `run` may have that brought near.
fn spread_then<T: Sync>(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::prefetch::{Ahead, PLACES};
    use std::sync::Mutex;

    #[test]
    fn every_row_is_taken_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        for (rows, some) in [(0, 3), (1, 3), (9, 3), (1000, 7)] {
            let takes = Takes::new(rows, some);
            let taken = pool.broadcast(|_| {
                let mut taken = Vec::new();
                while let Some(rows) = takes.take() {
                    assert!(rows.len() <= some);
                    taken.extend(rows);
                }
                taken
            });
            let mut taken = taken.concat();
            taken.sort_unstable();
            assert_eq!(taken, Vec::from_iter(0..rows), "{some} at a time");
        }
    }

    struct Task {
        takes: Takes,
        work: usize,
        behind: usize,
    }

    impl ByRows for Task {
        fn takes(&self) -> &Takes {
            &self.takes
        }

        fn work(&self) -> usize {
            self.work
        }

        fn set_behind(&mut self, behind: Places) {
            self.behind = behind[0].bytes;
        }
    }

    /// Work and bytes to prefetch of each task that a single thread runs, in order.
    fn runs() -> Vec<(usize, usize)> {
        let task = |work| Task { takes: Takes::new(1, 1), work, behind: 0 };
        let mut behind = [Ahead::NOTHING; PLACES];
        let bytes = [0u8; 1000];
        behind[0] = Ahead::all(&bytes);
        let runs = Mutex::new(Vec::new());
        let run = |t: &Task, _: Option<&Task>| runs.lock().unwrap().push((t.work, t.behind));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        pool.install(|| spread_rows(Vec::from([1, 6, 3, 5, 2, 4].map(task)), behind, run));
        runs.into_inner().unwrap()
    }

    #[test]
    fn large_tasks_run_first_and_the_last_are_helped_with() {
        let work: Vec<_> = runs().into_iter().map(|(work, _)| work).collect();
        assert_eq!(work, [6, 5, 4, 3, 2, 1, 4, 3, 2, 1]);
    }

    #[test]
    fn all_that_is_behind_is_shared_out() {
        let bytes: usize = runs()[..6].iter().map(|(_, behind)| behind).sum();
        assert_eq!(bytes, 1000);
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
        let seen = Mutex::new(Vec::new());
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
