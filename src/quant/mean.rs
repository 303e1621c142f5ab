//! The mean of f32 values in the order in which torch's CPU backend adds them, so that an offset is equal bit for bit.
//!
//! Eight lanes, four accumulators each, cascaded every 16 rows or more; what is left over is added one by one. (With several
//! threads torch cuts sums of 32,768 values and more; this is the order of one thread.)
//! torch 2.x `aten/src/ATen/native/cpu/SumKernel.cpp::cascade_sum`

const LANES: usize = 8;
const ROWS: usize = 4;
const LEVELS: usize = 4;

type Lane<const L: usize> = [f32; L];

/// torch's `x.mean()`.
pub fn mean(x: &[f32]) -> f32 {
    if x.is_empty() {
        return 0.0;
    }
    sum(x) / x.len() as f32
}

fn sum(x: &[f32]) -> f32 {
    if x.len() < LANES {
        return row_sum::<1>(x)[0];
    }
    let whole = x.len() / LANES * LANES;
    let tail = x[whole..].iter().fold(0.0, |s, v| s + v);
    row_sum::<LANES>(&x[..whole]).iter().fold(tail, |s, v| s + v)
}

fn add<const L: usize>(to: &mut Lane<L>, from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
}

/// The sum of vectors of L values.
fn row_sum<const L: usize>(x: &[f32]) -> Lane<L> {
    let groups = x.len() / L / ROWS;
    let mut sums = cascade::<L>(x, groups);
    for v in x[groups * ROWS * L..].chunks(L) {
        add(&mut sums[0], v);
    }
    for k in 1..ROWS {
        let row = sums[k];
        add(&mut sums[0], &row);
    }
    sums[0]
}

/// Four running sums over groups of four vectors; partial sums move up a level every `step` groups.
fn cascade<const L: usize>(x: &[f32], groups: usize) -> [Lane<L>; ROWS] {
    let power = (groups.next_power_of_two().trailing_zeros() as usize / LEVELS).max(4);
    let step = 1usize << power;
    let mut levels = [[[0.0f32; L]; ROWS]; LEVELS];
    for i in 0..groups {
        for (row, v) in levels[0].iter_mut().zip(x[i * ROWS * L..].chunks(L)) {
            add(row, v);
        }
        let done = i + 1;
        if !done.is_multiple_of(step) {
            continue;
        }
        for j in 1..LEVELS {
            let below = std::mem::replace(&mut levels[j - 1], [[0.0; L]; ROWS]);
            for (row, below) in levels[j].iter_mut().zip(&below) {
                add(row, below);
            }
            if done & ((step - 1) << (j * power)) != 0 {
                break;
            }
        }
    }
    let mut total = levels[0];
    for level in &levels[1..] {
        for (total, row) in total.iter_mut().zip(level) {
            add(total, row);
        }
    }
    total
}
