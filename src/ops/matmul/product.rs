//! From products to passes: which summands share one, which operand is the left one, how elements are summed.
//!
//! An element's sum depends on shapes and layouts only, never on the task or thread that computes it, so the bits are the same for any
//! number of threads.

use super::block::FEW_ROWS;
use super::dots::FEW;
use super::run::{DotProducts, all, on};
use super::tile::{Out, Plus};
use super::view::{Into, Operand, View, ViewMut};
use crate::ops::prefetch::{Ahead, PLACES, Places};
use crate::ops::spread::share;
use pulp::Arch;
use rayon::prelude::*;

/// Most terms of a pass.
pub(super) const TERMS: usize = 8;

/// One summand: scale·A (m, k)·B (k, n).
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// A.
    pub a: View<'a>,
    /// B.
    pub b: Operand<'a>,
    /// The factor on it: on its sum where there is nothing else, on B's panels otherwise.
    pub scale: f32,
}

/// C (m, n) ← [C +] Σ terms + bias + residual.
#[derive(Debug)]
pub struct Product<'a> {
    /// C.
    pub c: ViewMut<'a>,
    /// Whether it is added to.
    pub into: Into,
    /// The summands.
    pub terms: &'a [Term<'a>],
    /// A value for each of the n columns.
    pub bias: Option<&'a [f32]>,
    /// A value for each element, row-major (m, n).
    pub residual: Option<View<'a>>,
}

/// What is computed in one pass: C ← [C +] s·Σ A·B, or with a factor on each of several B, and what is added.
pub(super) struct Pass<'a> {
    terms: [Term<'a>; TERMS],
    count: usize,
    /// Depth of all terms.
    pub(super) depth: usize,
    pub(super) c: Out,
}

impl<'a> Pass<'a> {
    /// A pass of one term: the factor is on its sum.
    fn one(term: Term<'a>, c: Out) -> Self {
        let (scale, terms) = (term.scale, [Term { scale: 1.0, ..term }; TERMS]);
        Pass { terms, count: 1, depth: term.a.cols, c: Out { scale, ..c } }
    }

    pub(super) fn terms(&self) -> &[Term<'a>] {
        &self.terms[..self.count]
    }
}

/// Runs products for an instruction set on rayon's current threads.
pub(super) fn run(arch: Arch, products: Vec<Product<'_>>, behind: Places) {
    let mut passes = Vec::with_capacity(products.len());
    for mut p in products {
        check(&p);
        if p.c.rows == 0 || p.c.cols == 0 {
            continue;
        }
        let plain = p.bias.is_none() && p.residual.is_none();
        if let ([term], true) = (p.terms, plain) {
            passes.extend(pass_of_one(arch, Out::new(&mut p.c, p.into), *term, true));
        } else if is_one_pass(&p) {
            passes.push(pass(&mut p));
        } else {
            one_by_one(arch, p);
        }
    }
    all(arch, &passes, behind, true);
}

/// One term, on rayon's current `threads` or on this one.
pub(super) fn run_one(arch: Arch, mut c: ViewMut<'_>, into: Into, term: Term<'_>, threads: bool) {
    check_term(&c, &term);
    if let Some(pass) = pass_of_one(arch, Out::new(&mut c, into), term, threads) {
        all(arch, &[pass], [Ahead::NOTHING; PLACES], threads);
    }
}

/// The pass that is left to be run for a term alone: none where it is made of dot products, or of nothing.
fn pass_of_one<'a>(arch: Arch, c: Out, term: Term<'a>, threads: bool) -> Option<Pass<'a>> {
    if c.rows == 0 || c.cols == 0 {
        return None;
    }
    if term.a.cols == 0 {
        if c.into == Into::Overwrite {
            // SAFETY: inside C, which is borrowed for as long as this runs.
            (0..c.rows)
                .for_each(|r| (0..c.cols).for_each(|i| unsafe { c.put::<false>(r, i, 0.0) }));
        }
        return None;
    }
    let (mut term, mut c) = (term, c);
    if let Operand::F32(b) = term.b {
        let dots = are_dots(&term.a, &b);
        if swap(&term.a, &b) {
            (term, c) = (Term { a: b.t(), b: Operand::F32(term.a.t()), ..term }, c.t());
        }
        if let (true, Operand::F32(b)) = (dots, term.b) {
            let c = Out { scale: term.scale, ..c };
            on(arch, DotProducts { few: term.a, many: b.t(), c, threads });
            return None;
        }
    }
    Some(Pass::one(term, c))
}

/// Whether what is summed and added is computed in one pass. Products of few rows or columns have ways of their own, for one term.
fn is_one_pass(p: &Product<'_>) -> bool {
    let read_in_place = p.terms.iter().all(|t| t.a.col_stride == 1 && t.a.cols > 0);
    p.c.rows.min(p.c.cols) > FEW_ROWS && (1..=TERMS).contains(&p.terms.len()) && read_in_place
}

fn pass<'a>(p: &mut Product<'a>) -> Pass<'a> {
    let mut terms = [p.terms[0]; TERMS];
    terms[..p.terms.len()].copy_from_slice(p.terms);
    let depth = p.terms.iter().map(|t| t.a.cols).sum();
    let residual = p.residual.map(|r| (r.data.as_ptr(), r.row_stride));
    let plus = Plus { bias: p.bias.map(<[f32]>::as_ptr), residual };
    let c = Out { plus, ..Out::new(&mut p.c, p.into) };
    Pass { terms, count: p.terms.len(), depth, c }
}

/// A pass for every summand.
fn one_by_one(arch: Arch, p: Product<'_>) {
    let Product { c: ViewMut { data, rows, cols, row_stride }, mut into, terms, bias, residual } =
        p;
    for term in terms {
        run_one(arch, ViewMut { data: &mut *data, rows, cols, row_stride }, into, *term, true);
        into = Into::Add;
    }
    if terms.is_empty() && into == Into::Overwrite {
        data.chunks_mut(row_stride).take(rows).for_each(|row| row[..cols].fill(0.0));
    }
    if bias.is_none() && residual.is_none() {
        return;
    }
    let some = share(rows, cols);
    data.par_chunks_mut(row_stride).take(rows).enumerate().with_min_len(some).for_each(
        |(r, row)| {
            let row = &mut row[..cols];
            if let Some(bias) = bias {
                row.iter_mut().zip(bias).for_each(|(c, b)| *c += b);
            }
            if let Some(residual) = residual {
                let from = &residual.data[r * residual.row_stride..];
                row.iter_mut().zip(from).for_each(|(c, x)| *c += x);
            }
        },
    );
}

fn check(p: &Product<'_>) {
    p.terms.iter().for_each(|t| check_term(&p.c, t));
    let (bias, residual) = (p.bias.is_none_or(|b| b.len() == p.c.cols), p.residual);
    let fits = |r: View<'_>| [r.rows, r.cols, r.col_stride] == [p.c.rows, p.c.cols, 1];
    assert!(bias && residual.is_none_or(fits), "what is added to {}x{}", p.c.rows, p.c.cols);
}

fn check_term(c: &ViewMut<'_>, t: &Term<'_>) {
    let (a, [b_rows, b_cols]) = (&t.a, t.b.shape());
    assert!(
        a.cols == b_rows && c.rows == a.rows && c.cols == b_cols,
        "matmul shapes disagree: {}x{} = {}x{} · {}x{}",
        c.rows,
        c.cols,
        a.rows,
        a.cols,
        b_rows,
        b_cols
    );
}

/// Whether k runs along contiguous memory in both operands and one of them is so thin that elements are dot products.
fn are_dots(a: &View<'_>, b: &View<'_>) -> bool {
    a.col_stride == 1 && b.row_stride == 1 && a.rows.min(b.cols) <= FEW
}

/// Whether Cᵀ = Bᵀ·Aᵀ is the better product. Dot products take the thin operand as A. Otherwise the operand beside a thin one
/// should be read in place, as a B contiguous along rows or an A contiguous along depth.
fn swap(a: &View<'_>, b: &View<'_>) -> bool {
    if are_dots(a, b) {
        return a.rows > b.cols;
    }
    let thin = a.rows.min(b.cols) <= FEW_ROWS;
    thin && if a.rows < b.cols { b.col_stride != 1 } else { a.col_stride != 1 }
}
