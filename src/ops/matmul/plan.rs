//! How C is cut: into depth blocks by shapes and layouts alone, since they order the sums; into tasks by the number of threads too.
//!
//! Depth is cut into equal blocks of at most `DEPTH`. A task covers a block of rows and a group of column panels whose packed B stays
//! in the L2 cache. Every row block packs its own B, so columns are cut before rows, and rows not below what makes that negligible
//! unless tasks would be few; where A has to be packed, by every column group, rows come first.

/// Longest depth block: C is read and written once per block.
const DEPTH: usize = 768;
/// The same where A is packed: shorter blocks leave room for wider groups, which pack A less often.
const DEPTH_PACKED: usize = 384;
/// Floats of a column group's packed B: half of a 1 MiB L2.
const GROUP: usize = 128 << 10;
/// Multiply-adds worth a task of their own (some 5 µs).
const GRAIN: usize = 512 << 10;
/// Elements worth a task of dot products, which read each from memory (some 10 µs).
const GRAIN_DOTS: usize = 128 << 10;
/// Columns of such a task come in multiples of a cache line of C, which two tasks would pass to and fro.
const COLUMNS: usize = 16;
/// Most tasks of a thread, unless the cache wants more: each packs its own B.
const TASKS: usize = 8;
/// Tasks to be had from columns before rows are cut.
const COLUMNS_FIRST: usize = 16;
/// Tasks for which rows are not cut below what makes packing negligible.
const ENOUGH: usize = 16;
/// Rows over which packing B is negligible, and the fewest of a task.
const ROWS: [usize; 2] = [128, 64];
/// Panels over which packing A is negligible.
const PANELS_PACKED: usize = 3;

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) depth: usize,
    /// Rows and columns of a task; the last ones get what is left.
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_blocks: usize,
    pub(super) col_groups: usize,
}

/// The register tile that a product is computed with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) tile_rows: usize,
    pub(super) panel: usize,
    pub(super) lanes: usize,
}

impl Plan {
    /// For an (m, k) x (k, n) product, none of them 0; `packed`: A is not read in place;
    /// `threads` share it.
    pub(super) fn new(
        m: usize,
        n: usize,
        k: usize,
        grid: Grid,
        packed: bool,
        threads: usize,
    ) -> Self {
        let depth = k.div_ceil(k.div_ceil(if packed { DEPTH_PACKED } else { DEPTH }));
        let work = m.saturating_mul(n.next_multiple_of(grid.lanes)).saturating_mul(k);
        let want = (work / GRAIN).clamp(1, most_tasks(threads));
        let rows_first = if packed { want } else { want / COLUMNS_FIRST };
        let rows_first = rows_first.clamp(1, m.div_ceil(ROWS[0]));
        let narrowest = if packed { PANELS_PACKED } else { 1 };
        let panels = n.div_ceil(grid.panel);
        let cached = (GROUP / (depth * grid.panel)).max(1);
        let group = cached.min(panels.div_ceil(want.div_ceil(rows_first)).max(narrowest));
        // As many groups as that takes, then evened out.
        let cols = panels.div_ceil(panels.div_ceil(group)) * grid.panel;
        let col_groups = n.div_ceil(cols);
        let enough = col_groups * m.div_ceil(ROWS[0]) >= ENOUGH;
        let fewest = if enough { ROWS[0] } else { ROWS[1] };
        // Groups that threads take evenly need no more tasks than half of those wanted.
        let blocks = if col_groups.is_multiple_of(threads) {
            want / col_groups
        } else {
            want.div_ceil(col_groups)
        };
        let row_blocks = blocks.clamp(1, m.div_ceil(fewest));
        let rows = m.div_ceil(row_blocks).next_multiple_of(grid.tile_rows);
        Plan { depth, rows, cols, row_blocks: m.div_ceil(rows), col_groups }
    }
}

/// Tasks for so many threads: a single one takes all in one.
fn most_tasks(threads: usize) -> usize {
    if threads > 1 { threads * TASKS } else { 1 }
}

/// Columns of a task of dot products, for `n` rows of `k` elements.
pub(super) fn dot_columns(n: usize, k: usize, threads: usize) -> usize {
    let want = (n.saturating_mul(k) / GRAIN_DOTS).clamp(1, most_tasks(threads));
    n.div_ceil(want).next_multiple_of(COLUMNS)
}
