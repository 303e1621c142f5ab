//! How C is cut: into depth blocks by shapes and layouts alone, since they order the sums; into tasks by the number of threads too.
//!
//! Depth is cut into equal blocks of at most `DEPTH`. A task is a group of column panels; its rows are taken a few at a time by its thread
//! and by those that have nothing else left, each of which packs B's panels for itself. Where all depth blocks of the group fit into half
//! of an L2 cache they are packed once. Where they do not, each is packed again for each take, which is as long as leaves every
//! thread some. Where A has to be packed, by every column group, the groups are wide.

/// Longest depth block: C is read and written once per block. Two are 1,536, a common width, and adapters of ranks up to 16 in all.
const DEPTH: usize = 776;
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
/// Most tasks of a thread, unless the cache wants more.
const TASKS: usize = 8;
/// Fewest rows of a take: a multiple of every tile's.
const TAKE: usize = 96;
/// Takes of a thread, of all groups, where panels are packed for each take.
const TAKES: usize = 4;
/// Panels over which packing A is negligible.
const PANELS_PACKED: usize = 3;
/// Panels that a single thread goes through at once: a head's channels, in attention.
const PANELS_ALONE: usize = 2;

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) depth: usize,
    /// Depth whose panels are kept: all of it, or one block.
    pub(super) kept: usize,
    /// Columns of a task; the last one gets what is left.
    pub(super) cols: usize,
    /// Rows of a take.
    pub(super) take: usize,
}

/// The register tile that a product is computed with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) tile_rows: usize,
    pub(super) panel: usize,
    pub(super) lanes: usize,
}

impl Plan {
    /// For an (m, k) x (k, n) product, none of them 0; `packed`: A is not read in place; `threads` share it.
    pub(super) fn new([m, n, k]: [usize; 3], grid: Grid, packed: bool, threads: usize) -> Self {
        let depth = k.div_ceil(k.div_ceil(if packed { DEPTH_PACKED } else { DEPTH }));
        let work = m.saturating_mul(n.next_multiple_of(grid.lanes)).saturating_mul(k);
        let want = (work / GRAIN).clamp(1, most_tasks(threads));
        let panels = n.div_ceil(grid.panel);
        let narrowest = match (packed, threads) {
            (true, _) => PANELS_PACKED,
            (_, 1) => PANELS_ALONE,
            _ => 1,
        };
        let least = (narrowest * grid.panel).min(n.next_multiple_of(grid.lanes));
        let kept = if k * least <= GROUP { k } else { depth };
        let cached = (GROUP / (kept * grid.panel)).max(1);
        let group = cached.min(panels.div_ceil(want).max(narrowest));
        // As many groups as that takes, then evened out.
        let cols = panels.div_ceil(panels.div_ceil(group)) * grid.panel;
        let take = if kept == k {
            TAKE.max(GRAIN / (cols.min(n) * k))
        } else {
            let cuts = (TAKES * threads).div_ceil(n.div_ceil(cols));
            TAKE.max(m.div_ceil(cuts))
        };
        let take = if threads > 1 { take.next_multiple_of(grid.tile_rows) } else { m };
        Plan { depth, kept, cols, take }
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
