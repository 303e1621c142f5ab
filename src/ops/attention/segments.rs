//! The backward pass's tasks: segments of the packed rows of one (span, key/value head), each with a share of its keys' gradients.
//!
//! A long span has several segments, so that one sequence with few heads fills the cores; their `dK` and `dV` are summed apart, in f32,
//! and added in order afterwards. Segments depend on shapes alone, so the bits are the same for any number of threads.

use super::{Heads, Span};
use crate::ops::Cx;
use crate::ops::lines::Buffer;
use crate::ops::shared::Shared;
use crate::ops::spread::spread;
use candle_core::Result;
use rayon::prelude::*;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::ops::Range;

/// Keys whose parts are added up together.
const KEYS: usize = 48;

/// A segment of the packed rows of one (span, key/value head).
pub(super) struct Task<'a> {
    pub span: &'a Span,
    pub kv_head: usize,
    pub rows: Range<usize>,
    /// The keys that any of the rows sees.
    pub keys: Range<usize>,
    /// Where the f32 `dK` and `dV` of the keys lie among those of all tasks; none where the span
    /// has no other segment.
    sums: Option<Range<usize>>,
}

/// How a kernel goes through a segment.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Packed rows that segments are multiples of.
    pub chunk: usize,
    /// f32 values of a key's `dK` and `dV` together.
    pub width: usize,
}

thread_local! {
    static SUMS: RefCell<Buffer> = RefCell::default();
}

/// Runs `segment`, which is to fill the task's sums, for each task of the spans, and `write` with the parts of all tasks of a (span, head)
/// for each of the span's keys, counted inside it. `queries` is how many q has, those outside the spans included.
///
/// # Errors
/// When there is no memory for the sums.
pub(super) fn each<'a>(
    cx: &Cx,
    (spans, queries): (&'a [Span], usize),
    heads: Heads,
    layout: Layout,
    segment: impl Fn(&Task<'a>, &mut [f32]) + Sync,
    write: impl Fn(Range<usize>, &[(&Task<'a>, &[f32])]) + Sync,
) -> Result<()> {
    let (tasks, total) = tasks(spans, heads, layout);
    // The long tasks first, so that no long one is left for the end.
    let mut order: Vec<&Task<'a>> = tasks.iter().collect();
    order.sort_by_key(|task| Reverse(task.rows.len() * task.keys.len()));

    // As much as any batch takes, so that the next one finds it in the pool again.
    let tokens = cx.room(queries, usize::MAX);
    let most = most_sums(tokens, cx.longest_sequence(tokens), heads, layout.width).max(total);
    let mut sums = cx.alloc_f32_rows(&[total], most)?;
    let shared = Shared::new(sums.f32_mut()?);
    spread(&order, |task| {
        if let Some(range) = &task.sums {
            // SAFETY: every task has a range of its own.
            return segment(task, unsafe { shared.part(range.clone()) });
        }
        SUMS.with_borrow_mut(|buffer| {
            let sums = buffer.take(task.keys.len() * layout.width);
            segment(task, sums);
            write(0..task.span.k.len(), &[(task, sums)]);
        });
    });
    // The segments of a (span, head) are neighbours, in order.
    let same = |a: &Task<'_>, b: &Task<'_>| a.span == b.span && a.kv_head == b.kv_head;
    let groups = tasks.chunk_by(same).filter(|group| group[0].sums.is_some());
    let groups: Vec<_> = groups.collect();
    spread(&groups, |group| {
        let parts: Vec<(&Task<'a>, &[f32])> = group
            .iter()
            .filter_map(|task| Some((task, task.sums.clone()?)))
            // SAFETY: the tasks are done; from here on the sums are only read.
            .map(|(task, range)| (task, unsafe { &*shared.part(range) }))
            .collect();
        let keys = group[0].span.k.len();
        (0..keys.div_ceil(KEYS)).into_par_iter().for_each(|block| {
            write(block * KEYS..(block * KEYS + KEYS).min(keys), &parts);
        });
    });
    Ok(())
}

/// The tasks of all spans, in order, and how many values their sums are.
fn tasks(spans: &[Span], heads: Heads, layout: Layout) -> (Vec<Task<'_>>, usize) {
    let mut tasks: Vec<_> = spans
        .iter()
        .flat_map(|span| (0..heads.kv_heads).map(move |kv_head| (span, kv_head)))
        .flat_map(|(span, kv_head)| segments(span, kv_head, heads, layout.chunk))
        .collect();
    let mut total = 0;
    for task in &mut tasks {
        if let Some(sums) = &mut task.sums {
            *sums = total..total + task.keys.len() * layout.width;
            total = sums.end;
        }
    }
    (tasks, total)
}

/// Elements of the sums of a batch's segments as far as they are touched: the buffer has room for rounded lengths too.
pub(super) fn summed(tokens: usize, longest: usize, heads: Heads, width: usize) -> usize {
    match heads.segment_count(longest) {
        // A segment sees the keys up to its end: half of them, one with another.
        count if count > 1 => tokens * heads.kv_heads * (count + 1) * width / 2,
        _ => 0,
    }
}

/// No fewer elements than the segments of spans take that have so many queries in all and the longest so many, each with as many keys
/// as queries; for groups of up to 512 heads.
fn most_sums(tokens: usize, longest: usize, heads: Heads, width: usize) -> usize {
    let segments = heads.segment_count(longest);
    if segments < 2 {
        return 0;
    }
    // Of n segments of equal length, but for rounding, the i-th sees i/n of the keys: (n + 1)/2 times all of them, K and V. Rounding
    // up lengths and keys takes no more than the keys once more each.
    tokens * heads.kv_heads * (segments + 3) * width / 2
}

/// Divides the packed rows of a (span, head) in whole chunks, by their number alone.
fn segments(
    span: &Span,
    kv_head: usize,
    heads: Heads,
    chunk: usize,
) -> impl Iterator<Item = Task<'_>> {
    let group = heads.group();
    let all = span.q.len() * group;
    let (chunks, count) = (all.div_ceil(chunk), heads.segment_count(span.q.len()));
    let cut = move |i: usize| (i * chunks / count * chunk).min(all);
    // A span without queries still has a task: its keys get zeros.
    (0..count).map(move |i| {
        let rows = cut(i)..cut(i + 1);
        let position = |row: usize| span.offset() + row / group;
        let keys = match rows.clone().last() {
            Some(last) => heads.first_key(position(rows.start))..position(last) + 1,
            None => 0..0,
        };
        let sums = (count > 1).then_some(0..0);
        Task { span, kv_head, rows, keys, sums }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const CHUNK: usize = 192;

    #[test]
    fn segments_are_all_rows_in_parts_that_differ_by_a_chunk_at_most() {
        for (queries, group) in [(0, 1), (1, 9), (511, 3), (769, 3), (1024, 4), (4099, 1)] {
            let heads = Heads { heads: group, kv_heads: 1, size: 2, window: None };
            let span = Span { q: 0..queries, k: 0..queries };
            let tasks: Vec<_> = segments(&span, 0, heads, CHUNK).collect();
            assert_eq!(tasks.len(), heads.segment_count(queries));
            let mut end = 0;
            for rows in tasks.iter().map(|task| &task.rows) {
                assert_eq!(rows.start, end);
                end = rows.end;
            }
            assert_eq!(end, queries * group);
            let chunks = || tasks.iter().map(|task| task.rows.len().div_ceil(CHUNK));
            assert!(chunks().max() <= chunks().min().map(|least| least + 1), "{queries} x {group}");
        }
    }

    const THREE: Heads = Heads { heads: 3, kv_heads: 1, size: 16, window: None };

    /// Runs segments of spans of these lengths, without a kernel.
    fn run(cx: &Cx, lengths: &[usize]) {
        let mut start = 0;
        let span = |t: &usize| {
            start += t;
            Span { q: start - t..start, k: start - t..start }
        };
        let spans: Vec<_> = lengths.iter().map(span).collect();
        let layout = Layout { chunk: CHUNK, width: 32 };
        each(cx, (&spans, start), THREE, layout, |_, sums| sums.fill(0.0), |_, _| {}).unwrap();
    }

    #[test]
    fn batches_of_other_lengths_find_their_sums_in_the_pool() {
        let cx = Cx::cpu(DType::F32, 1).unwrap();
        cx.set_token_capacity(2000);
        cx.set_longest_sequence(1999);
        run(&cx, &[700]);
        let (before, bytes) = (cx.fresh_allocations(), cx.pooled_bytes());
        assert!(bytes > 2000 * 16 * 4, "{bytes} bytes are no room for segments");
        for lengths in [&[1999][..], &[683, 1300], &[5], &[1400]] {
            run(&cx, lengths);
        }
        assert_eq!(cx.fresh_allocations(), before);
    }

    #[test]
    fn the_values_that_are_planned_are_those_of_the_segments() {
        let layout = Layout { chunk: CHUNK, width: 32 };
        for (group, length) in [(3, 700), (3, 2048), (1, 4096), (8, 300)] {
            let heads = Heads { heads: 2 * group, kv_heads: 2, size: 16, window: None };
            let spans = [Span { q: 0..length, k: 0..length }];
            let (_, taken) = tasks(&spans, heads, layout);
            let planned = summed(length, length, heads, layout.width);
            let ratio = planned as f64 / taken as f64;
            assert!((ratio - 1.0).abs() < 0.05, "{group} x {length}: {planned} of {taken}");
        }
    }

    #[test]
    fn batches_of_short_sequences_take_no_room() {
        let cx = Cx::cpu(DType::F32, 1).unwrap();
        cx.set_token_capacity(4000);
        cx.set_longest_sequence(380);
        run(&cx, &[380, 380]);
        assert!(cx.pooled_bytes() <= 64, "{} bytes", cx.pooled_bytes());
    }

    #[test]
    fn the_parts_of_a_key_are_those_of_the_segments_that_see_it() {
        let (cx, length) = (Cx::cpu(DType::F32, 2).unwrap(), 1000);
        let spans = [Span { q: 0..length, k: 0..length }];
        let heads = Heads { window: Some(300), ..THREE };
        let layout = Layout { chunk: CHUNK, width: 1 };
        let counts: Vec<_> = (0..length).map(|_| AtomicUsize::new(0)).collect();
        let write = |keys: Range<usize>, parts: &[(&Task<'_>, &[f32])]| {
            for key in keys {
                let seen = parts.iter().filter(|(task, _)| task.keys.contains(&key));
                let sum: f32 = seen.map(|(task, sums)| sums[key - task.keys.start]).sum();
                counts[key].fetch_add(sum as usize, Ordering::Relaxed);
            }
        };
        let segment = |task: &Task<'_>, sums: &mut [f32]| {
            sums.fill(0.0);
            for row in task.rows.clone() {
                heads.visible(row / 3).for_each(|key| sums[key - task.keys.start] += 1.0);
            }
        };
        each(&cx, (&spans, length), heads, layout, segment, write).unwrap();
        let counts: Vec<_> = counts.into_iter().map(AtomicUsize::into_inner).collect();
        let seen = |key: usize| 3 * 300.min(length - key);
        assert_eq!(counts, Vec::from_iter((0..length).map(seen)));
    }
}
