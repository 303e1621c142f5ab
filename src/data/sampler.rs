//! The order of rows: torch's, so that a run sees its data as LitGPT's would.
//!
//! torch's CPU generator is MT19937. `randperm(n)` swaps `r[i]` with `r[i + z mod (n − i)]`; a shuffling DataLoader draws an int64
//! (two words) for its workers' seed at the start of each epoch, then the order, and at the end an order that nobody uses.
//! torch 2.x `aten/src/ATen/native/TensorFactories.cpp`, `utils/data/{sampler,dataloader}.py`

use rand_mt::Mt;

/// `torch.randperm(n, generator=…)`.
fn randperm(mt: &mut Mt, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in 0..n.saturating_sub(1) {
        let z = mt.next_u32() as usize % (n - i);
        order.swap(i, i + z);
    }
    order
}

/// An order of `n` numbers: `torch.randperm(n, generator=torch.Generator().manual_seed(seed))`.
pub fn permutation(n: usize, seed: u64) -> Vec<usize> {
    randperm(&mut Mt::new(seed as u32), n)
}

/// Row numbers of the training and validation parts: `random_split(data, [1 − fraction, fraction])`.
pub fn random_split(n: usize, fraction: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let (train, val) = ((n as f64 * (1.0 - fraction)).floor(), (n as f64 * fraction).floor());
    let (mut train, val) = (train as usize, val as usize);
    // What flooring left over goes to the parts in turn, the first one first.
    train += (n - train - val).div_ceil(2);
    let mut order = randperm(&mut Mt::new(seed as u32), n);
    let val = order.split_off(train);
    (order, val)
}

/// The order of `n` rows in each epoch from the first: `DataLoader(shuffle=True, generator=…)`.
pub struct Epochs {
    mt: Mt,
    n: usize,
    shuffle: bool,
}

impl Epochs {
    /// For `n` rows and the data's seed.
    pub fn new(n: usize, seed: u64, shuffle: bool) -> Self {
        Self { mt: Mt::new(seed as u32), n, shuffle }
    }
}

impl Iterator for Epochs {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        if !self.shuffle {
            return Some((0..self.n).collect());
        }
        let _worker_seed = self.mt.next_u64();
        let order = randperm(&mut self.mt, self.n);
        let _unused = randperm(&mut self.mt, self.n);
        Some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // torch 2.x: g = torch.Generator().manual_seed(42); torch.randperm(10, generator=g)
    #[test]
    fn randperm_is_torchs() {
        assert_eq!(randperm(&mut Mt::new(42), 10), [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]);
    }

    // torch 2.x: random_split(range(37), [0.9, 0.1]) has lengths 34 and 3
    #[test]
    fn split_lengths_are_torchs() {
        let (train, val) = random_split(37, 0.1, 42);
        assert_eq!((train.len(), val.len()), (34, 3));
    }

    // torch 2.x: random_split(range(37), [0.9, 0.1], Generator().manual_seed(42))[1].indices
    #[test]
    fn split_rows_are_torchs() {
        assert_eq!(random_split(37, 0.1, 42).1, [1, 5, 33]);
    }

    // torch 2.x: DataLoader(range(8), shuffle=True, generator=Generator().manual_seed(7)), two epochs
    #[test]
    fn epoch_orders_are_torchs() {
        let epochs: Vec<_> = Epochs::new(8, 7, true).take(2).collect();
        assert_eq!(epochs, [[1, 2, 3, 5, 7, 4, 6, 0], [7, 2, 1, 3, 0, 5, 6, 4]]);
    }

    #[test]
    fn no_fraction_means_no_validation() {
        assert_eq!(random_split(5, 0.0, 1).1.len(), 0);
    }

    #[test]
    fn unshuffled_rows_come_in_order() {
        assert_eq!(Epochs::new(3, 1, false).next().unwrap(), [0, 1, 2]);
    }
}
