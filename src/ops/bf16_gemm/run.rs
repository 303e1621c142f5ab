//! Cutting products into tasks: a panel of columns, whose rows are taken by its thread and by those that have nothing else left.

use super::few;
use super::kernel::{self, ROWS, Segment, Tiles};
use super::panel;
use super::sink::Sink;
use super::source::{self, Source};
use super::{narrow, outer};
use crate::ops::Cx;
use crate::ops::lines::Buffer;
use crate::ops::prefetch::{Ahead, Lines, Places};
use crate::ops::spread::{ByRows, Takes, spread_rows};
use candle_core::{Result, bail};
use half::bf16;
use std::cell::RefCell;
use std::ops::Range;

/// Words of a panel that are laid out at once: 320 KiB, a part of the L2 cache.
const PANEL: usize = 80 << 10;
/// Most rows whose sums are kept between parts of a long inner dimension: takes of so many.
const SUM_ROWS: usize = 576;
/// Panels below which such takes are smaller, so that every thread has work.
const FEW_PANELS: usize = 8;
/// Most parts of the inner dimension: terms.
const TERMS: usize = 8;
/// Rows that a thread takes of a panel at a time, or a part of them: a multiple of every tile's.
const TAKE: usize = 96;

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
    let behind = cx.take_prefetch();
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
    spread_rows(products.into_iter().flat_map(tasks).collect(), behind, Task::run);
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

/// Pairs of a panel that are laid out at once: parts begin where blocks of NF4 do.
fn depth(vectors: usize) -> usize {
    PANEL / (vectors * 16) / 64 * 64
}

/// One panel.
struct Task<'a> {
    product: &'a Product<'a>,
    /// Pairs of the inner dimension.
    inner: usize,
    vectors: usize,
    columns: Range<usize>,
    takes: Takes,
    /// Its part of what the ops behind the product read.
    behind: Places,
}

fn tasks<'a>(p: &'a Product<'a>) -> impl Iterator<Item = Task<'a>> {
    let vectors = vectors(p.columns);
    let inner = p.terms.iter().map(|t| t.source.inner().div_ceil(2)).sum();
    // A panel of several parts is laid out again for each take.
    let take = if inner <= depth(vectors) {
        TAKE
    } else {
        let cuts = FEW_PANELS.div_ceil(p.columns.div_ceil(vectors * 16).max(1));
        p.rows.div_ceil(cuts).next_multiple_of(TAKE).clamp(TAKE, SUM_ROWS)
    };
    (0..p.columns).step_by(vectors * 16).map(move |first| Task {
        product: p,
        inner,
        vectors,
        columns: first..(first + vectors * 16).min(p.columns),
        takes: Takes::new(p.rows, take),
        behind: [Ahead::NOTHING; _],
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

impl ByRows for Task<'_> {
    fn takes(&self) -> &Takes {
        &self.takes
    }

    fn work(&self) -> usize {
        self.inner * self.columns.len() * self.product.rows
    }

    fn set_behind(&mut self, behind: Places) {
        self.behind = behind;
    }
}

impl Task<'_> {
    /// Computes what nobody else has taken; asks towards the end for the weights of the task that its thread runs next.
    fn run(&self, next: Option<&Self>) {
        match self.vectors {
            1 => self.run_with::<1>(next),
            2 => self.run_with::<2>(next),
            3 => self.run_with::<3>(next),
            _ => self.run_with::<4>(next),
        }
    }

    fn run_with<const V: usize>(&self, next: Option<&Self>) {
        let (p, pairs, depth) = (self.product, self.inner, depth(V));
        let Some(mut range) = self.takes.take() else { return };
        SCRATCH.with_borrow_mut(|s| {
            let panel = s.panel.take::<u32>(PANEL);
            let sums =
                s.sums.take::<f32>(if pairs > depth { self.takes.most() * V * 16 } else { 0 });
            let empty = Segment { x: &[], stride: 0, at: 0, pairs: 0 };
            let (mut segments, mut count, mut laid) = ([empty; TERMS], 0, None);
            let ahead = next.map_or([Ahead::NOTHING; TERMS], Self::places);
            let mut lines = Lines::NONE;
            loop {
                for part in (0..pairs).step_by(depth).map(|at| at..(at + depth).min(pairs)) {
                    if laid != Some(part.start) {
                        count = self.lay_out::<V>(&part, panel, &mut segments, &mut s.rows);
                        laid = Some(part.start);
                        // All rows that are left meet a panel that is laid out once; these alone meet the last of several parts.
                        let rows = if pairs > depth { range.len() } else { p.rows - range.start };
                        let first = part.start == 0 && range.start == 0;
                        let behind = if first { &self.behind[..] } else { &[] };
                        let ahead = if part.end == pairs { &ahead[..] } else { &[] };
                        lines = Lines::new(behind, ahead, part.len() * rows.div_ceil(ROWS[V]));
                    }
                    let tiles = Tiles {
                        segments: &segments[..count],
                        panel,
                        rows: p.rows,
                        range: range.clone(),
                        columns: p.columns,
                        first_column: self.columns.start,
                        width: self.columns.len(),
                        sums: sums.as_mut_ptr(),
                        first: part.start == 0,
                        last: part.end == pairs,
                        sink: &p.sink,
                    };
                    // SAFETY: the context has bf16 products (checked in `run`), so the processor has the instructions; the sink fits and
                    // these rows and columns were taken once; `sums` has room for as many rows wherever there are several parts.
                    unsafe { kernel::run::<V>(&tiles, &mut lines) };
                }
                match self.takes.take() {
                    Some(next) => range = next,
                    None => return,
                }
            }
        });
    }

    /// Lays out a part of the inner dimension: how many of the terms reach into it.
    fn lay_out<'a, const V: usize>(
        &'a self,
        part: &Range<usize>,
        panel: &mut [u32],
        segments: &mut [Segment<'a>; TERMS],
        scratch: &mut Vec<bf16>,
    ) -> usize {
        let (mut count, mut at, mut before) = (0, 0, 0);
        for term in self.product.terms {
            let own = term.source.inner().div_ceil(2);
            let (lo, hi) = (part.start.max(before), part.end.min(before + own));
            if lo < hi {
                let own = lo - before..hi - before;
                let words = own.len() * V * 16;
                let to = &mut panel[at..at + words];
                panel::fill::<V>(to, &term.source, self.columns.clone(), own.clone(), scratch);
                let x = &term.x[2 * own.start..];
                segments[count] = Segment { x, stride: term.stride, at, pairs: own.len() };
                count += 1;
                at += words;
            }
            before += own;
        }
        count
    }

    /// Where its weights lie.
    fn places(&self) -> [Ahead; TERMS] {
        let mut places = [Ahead::NOTHING; TERMS];
        for (place, term) in places.iter_mut().zip(self.product.terms) {
            *place = term.source.place(self.columns.clone());
        }
        places
    }
}
