//! Products of so few rows that laying out panels would be the work: each row of a weight is read once, against all of them.

use super::kernel;
use super::run::Product;
use super::source::Stored;
use half::bf16;
use rayon::prelude::*;
use std::cell::RefCell;

/// Rows up to which a product is made of dot products.
pub(super) const FEW: usize = 4;
/// Columns of a task.
const COLUMNS: usize = 16;

thread_local! {
    static ROW: RefCell<Vec<bf16>> = const { RefCell::new(Vec::new()) };
}

/// Whether the product is one for this file: few rows, every factor seen by its rows.
pub(super) fn applies(p: &Product<'_>) -> bool {
    p.rows <= FEW && p.terms.iter().all(|t| t.source.transposed)
}

/// Runs products that [`applies`] to.
///
/// # Safety
/// The processor has what the kernel needs; shapes were checked.
pub(super) unsafe fn run(products: &[Product<'_>]) {
    let tasks: Vec<_> = products
        .iter()
        .flat_map(|p| (0..p.columns).step_by(COLUMNS).map(move |first| (p, first)))
        .collect();
    tasks.into_par_iter().for_each(|(p, first)| {
        ROW.with_borrow_mut(|scratch| {
            for column in first..(first + COLUMNS).min(p.columns) {
                let mut sums = [0.0; FEW];
                for term in p.terms {
                    let k = term.source.cols;
                    let x = |r: usize| &term.x[r * term.stride..][..k];
                    // One row is decoding: the commonest by far.
                    if let (1, Stored::Nf4(q)) = (p.rows, term.source.stored)
                        && let Some(sum) = q.dot_bf16(column * k, x(0))
                    {
                        sums[0] += sum;
                        continue;
                    }
                    let row = match term.source.stored {
                        Stored::Bf16(values) => &values[column * k..][..k],
                        stored => {
                            scratch.resize(k, bf16::ZERO);
                            stored.read(column * k, scratch);
                            &scratch[..]
                        }
                    };
                    for (r, sum) in sums.iter_mut().enumerate().take(p.rows) {
                        // SAFETY: the processor has the instructions (the caller's promise).
                        *sum += unsafe { kernel::dot(x(r), row) };
                    }
                }
                for (r, sum) in sums.iter().enumerate().take(p.rows) {
                    // SAFETY: inside the sink (checked); this task alone writes this column.
                    unsafe { p.sink.put(p.rows, p.columns, (r, column), *sum) };
                }
            }
        });
    });
}
