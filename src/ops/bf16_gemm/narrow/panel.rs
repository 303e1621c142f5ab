//! The panel of eight columns: four neighbours of the inner dimension of a column are one of eight 64-bit words.
//!
//! ```text
//! (quads, 8) words of 64 bits      word c of quad q = M[4q][c], M[4q + 1][c], M[4q + 2][c], M[4q + 3][c]
//! ```

use super::LANES;
use crate::ops::bf16_gemm::source::Source;
use half::bf16;

type Quad = [bf16; 4];

/// Writes the panel of up to eight columns from `first` on; what is missing is zero. `scratch` is reused between calls.
pub(super) fn lay_out(
    panel: &mut [u32],
    source: &Source<'_>,
    first: usize,
    scratch: &mut Vec<bf16>,
) {
    let (panel, _): (&mut [Quad], _) = bytemuck::cast_slice_mut(panel).as_chunks_mut();
    let (panel, _): (&mut [[Quad; LANES]], _) = panel.as_chunks_mut();
    let columns = (source.out() - first).min(LANES);
    if source.transposed {
        of_rows(panel, source, first..first + columns, scratch);
    } else {
        of_columns(panel, source, first..first + columns, scratch);
    }
}

/// Columns of the panel are rows of the matrix: a row's quads lie one after the other.
fn of_rows(
    panel: &mut [[Quad; LANES]],
    source: &Source<'_>,
    columns: std::ops::Range<usize>,
    scratch: &mut Vec<bf16>,
) {
    let inner = source.inner();
    // Behind an inner dimension that is no multiple of four lie zeros.
    scratch.clear();
    scratch.resize(inner.next_multiple_of(4), bf16::ZERO);
    for c in 0..LANES {
        if c < columns.len() {
            source.stored.read((columns.start + c) * inner, &mut scratch[..inner]);
        } else {
            scratch.fill(bf16::ZERO);
        }
        let (quads, _) = scratch.as_chunks();
        for (to, quad) in panel.iter_mut().zip(quads) {
            to[c] = *quad;
        }
    }
}

/// Columns of the panel are columns of the matrix: four rows are transposed.
fn of_columns(
    panel: &mut [[Quad; LANES]],
    source: &Source<'_>,
    columns: std::ops::Range<usize>,
    scratch: &mut Vec<bf16>,
) {
    let cols = source.cols;
    scratch.clear();
    scratch.resize(source.rows.next_multiple_of(4) * cols, bf16::ZERO);
    source.stored.read(0, &mut scratch[..source.rows * cols]);
    for (to, rows) in panel.iter_mut().zip(scratch.chunks_exact(4 * cols)) {
        let mut four = [[bf16::ZERO; LANES]; 4];
        for (i, row) in four.iter_mut().enumerate() {
            let from = &rows[i * cols..][columns.clone()];
            match from.as_array() {
                Some(whole) => *row = *whole,
                None => row[..from.len()].copy_from_slice(from),
            }
        }
        *to = std::array::from_fn(|c| std::array::from_fn(|i| four[i][c]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::bf16_gemm::source::Stored;

    #[test]
    fn words_are_quads_of_a_column() {
        for (rows, cols, first) in [(12, 8, 0), (13, 8, 0), (9, 16, 8), (7, 3, 0), (8, 11, 8)] {
            let values: Vec<_> = (0..rows * cols).map(|i| bf16::from_bits(i as u16 + 1)).collect();
            let turned: Vec<_> =
                (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect();
            let columns = Source::columns(Stored::Bf16(&values), rows, cols);
            let by_rows = Source::rows(Stored::Bf16(&turned), cols, rows);
            for source in [columns, by_rows] {
                let mut panel = vec![u32::MAX; rows.div_ceil(4) * 16];
                lay_out(&mut panel, &source, first, &mut Vec::new());
                let at = |i: usize, c: usize| {
                    if i < rows && first + c < cols {
                        values[i * cols + first + c]
                    } else {
                        bf16::ZERO
                    }
                };
                let wanted: Vec<_> = (0..rows.div_ceil(4))
                    .flat_map(|q| (0..LANES * 4).map(move |j| (4 * q + j % 4, j / 4)))
                    .map(|(i, c)| at(i, c))
                    .collect();
                assert_eq!(bytemuck::cast_slice::<_, bf16>(&panel), wanted, "{rows} x {cols}");
            }
        }
    }
}
