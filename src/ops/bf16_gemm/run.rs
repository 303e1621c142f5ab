//! Cutting products into tasks: a panel of columns by a range of rows.

use super::few;
use super::kernel::{self, Ahead, ROWS, Segment, Tiles};
use super::panel;
use super::sink::Sink;
use super::source::{self, Source};
use super::{narrow, outer};
use crate::ops::Cx;
use crate::ops::lines::Buffer;
use crate::ops::spread::spread;
use candle_core::{Result, bail};
use half::bf16;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::ops::Range;

/// Words of a panel that are laid out at once: 320 KiB, a part of the L2 cache.
const PANEL: usize = 80 << 10;
/// Rows whose sums are kept between parts of a long inner dimension.
const SUM_ROWS: usize = 512;
/// Most parts of the inner dimension: terms.
const TERMS: usize = 8;
/// Panels below which rows are cut too, so that every thread has work; and rows of such a cut (a multiple of every tile's).
const FEW_PANELS: usize = 8;
const CUT: usize = 48;

/// One summand: x (rows, inner) with rows `stride` elements apart, against a matrix. An odd inner dimension needs a stride (and
/// a last row) of one more, of any finite content.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// Activations.
    pub x: &'a [bf16],
    /// Elements from one row to the next.
    pub stride: usize,
    /// The matrix.
    pub source: Source<'a>,
}

/// sink (rows, columns) ← Σ terms.
pub struct Product<'a> {
    /// Rows of every x.
    pub rows: usize,
    /// Columns of every source.
    pub columns: usize,
    /// The summands, at most eight.
    pub terms: &'a [Term<'a>],
    /// What becomes of the sums.
    pub sink: Sink<'a>,
}

/// Runs products that write apart from each other on rayon's current threads: all of a kind at once.
///
/// # Errors
/// When shapes disagree or the processor lacks the instructions.
pub fn run(cx: &Cx, products: &[Product<'_>]) -> Result<()> {
    source::check(cx)?;
    for p in products {
        check(p)?;
    }
    if products.iter().all(few::applies) {
        // SAFETY: a context has bf16 products only where the processor has the instructions; shapes were checked.
        unsafe { few::run(products) };
        return Ok(());
    }
    let (outer, products): (Vec<_>, Vec<_>) = products.iter().partition(|p| outer::applies(p));
    let (narrow, products): (Vec<_>, Vec<_>) =
        products.into_iter().partition(|p| narrow::applies(p));
    // SAFETY: as above.
    unsafe {
        outer::run(&outer);
        narrow::run(&narrow);
    }
    let mut tasks: Vec<_> = products.into_iter().flat_map(tasks).collect();
    tasks.sort_by_key(|(p, _, columns, rows)| {
        Reverse(
            p.terms.iter().map(|t| t.source.inner()).sum::<usize>() * columns.len() * rows.len(),
        )
    });
    spread(&tasks, |(p, vectors, columns, rows)| match vectors {
        1 => panel_task::<1>(p, columns.clone(), rows.clone()),
        2 => panel_task::<2>(p, columns.clone(), rows.clone()),
        3 => panel_task::<3>(p, columns.clone(), rows.clone()),
        _ => panel_task::<4>(p, columns.clone(), rows.clone()),
    });
    Ok(())
}

fn check(p: &Product<'_>) -> Result<()> {
    let fits = |t: &Term<'_>| {
        let even = t.source.inner().next_multiple_of(2);
        t.source.is_whole()
            && t.source.out() == p.columns
            && (p.rows == 0 || (p.rows - 1) * t.stride + even <= t.x.len())
    };
    if p.terms.len() > TERMS || !p.terms.iter().all(fits) || !p.sink.fits(p.rows, p.columns) {
        bail!("bf16 product: {} terms do not make {} x {}", p.terms.len(), p.rows, p.columns);
    }
    Ok(())
}

/// Vectors of a panel: what leaves the fewest lanes empty.
fn vectors(columns: usize) -> usize {
    match columns {
        0..=16 => 1,
        17..=32 => 2,
        _ if columns.next_multiple_of(64) < columns.next_multiple_of(48) => 4,
        _ => 3,
    }
}

type Task<'a> = (&'a Product<'a>, usize, Range<usize>, Range<usize>);

fn tasks<'a>(p: &'a Product<'a>) -> impl Iterator<Item = Task<'a>> {
    let vectors = vectors(p.columns);
    let width = vectors * 16;
    let panels = p.columns.div_ceil(width);
    let cuts = if panels < FEW_PANELS { FEW_PANELS.div_ceil(panels.max(1)) } else { 1 };
    let cut = p.rows.div_ceil(cuts).next_multiple_of(CUT).max(CUT);
    (0..panels).flat_map(move |i| {
        let columns = i * width..((i + 1) * width).min(p.columns);
        (0..p.rows)
            .step_by(cut)
            .map(move |row| (p, vectors, columns.clone(), row..(row + cut).min(p.rows)))
    })
}

#[derive(Default)]
struct Scratch {
    panel: Buffer,
    sums: Buffer,
    rows: Vec<bf16>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The first weight of the columns that this thread will most likely take next: other threads take those in between.
fn ahead(p: &Product<'_>, columns: Range<usize>) -> Ahead {
    let next = (columns.start + rayon::current_num_threads() * columns.len()).min(p.columns);
    let next = next..(next + columns.len()).min(p.columns);
    match p.terms.first() {
        Some(term) if !next.is_empty() => term.source.place(next),
        _ => Ahead::NOTHING,
    }
}

fn panel_task<const V: usize>(p: &Product<'_>, columns: Range<usize>, rows: Range<usize>) {
    let depth = PANEL / (V * 16);
    let pairs: usize = p.terms.iter().map(|t| t.source.inner().div_ceil(2)).sum();
    let block = if pairs > depth { SUM_ROWS.next_multiple_of(ROWS[V]) } else { rows.len() };
    SCRATCH.with_borrow_mut(|s| {
        let panel = s.panel.take::<u32>(PANEL);
        let sums = s.sums.take::<f32>(if pairs > depth { block * V * 16 } else { 0 });
        for row in rows.clone().step_by(block.max(1)) {
            let range = row..(row + block).min(rows.end);
            let mut done = 0;
            while done < pairs {
                let part = done..(done + depth).min(pairs);
                let empty = Segment { x: &[], stride: 0, at: 0, pairs: 0 };
                let (mut segments, mut count, mut at, mut before) = ([empty; TERMS], 0, 0, 0);
                for term in p.terms {
                    let own = term.source.inner().div_ceil(2);
                    let (lo, hi) = (part.start.max(before), part.end.min(before + own));
                    if lo < hi {
                        let own = lo - before..hi - before;
                        let words = own.len() * V * 16;
                        panel::fill::<V>(
                            &mut panel[at..at + words],
                            &term.source,
                            columns.clone(),
                            own.clone(),
                            &mut s.rows,
                        );
                        let x = &term.x[2 * own.start..];
                        segments[count] = Segment { x, stride: term.stride, at, pairs: own.len() };
                        count += 1;
                        at += words;
                    }
                    before += own;
                }
                let tiles = Tiles {
                    segments: &segments[..count],
                    panel,
                    rows: p.rows,
                    range: range.clone(),
                    columns: p.columns,
                    first_column: columns.start,
                    width: columns.len(),
                    sums: sums.as_mut_ptr(),
                    first: part.start == 0,
                    last: part.end == pairs,
                    sink: &p.sink,
                    ahead: if part.end == pairs {
                        ahead(p, columns.clone())
                    } else {
                        Ahead::NOTHING
                    },
                };
                // SAFETY: the context has bf16 products (checked in `run`), so the processor has the instructions; the sink fits and this task
                // alone has these rows and columns; `sums` has room for `block` rows wherever there are several parts.
                unsafe { kernel::run::<V>(&tiles) };
                done = part.end;
            }
        }
    });
}
