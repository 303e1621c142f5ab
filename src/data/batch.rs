//! A micro-batch: sequences laid end to end, without padding.

use super::store::Example;

/// N tokens of S sequences.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Token ids (N).
    pub ids: Vec<u32>,
    /// The next token to predict (N); -100 where there is none: masked, or a sequence's last token.
    pub targets: Vec<i32>,
    /// Weight of each target's loss (N); 0 where there is none.
    pub weights: Vec<f32>,
    /// First row of each sequence, and N (S + 1).
    pub seq_starts: Vec<usize>,
    /// The sample that each sequence is (S).
    pub sample_ids: Vec<u64>,
}

impl Batch {
    /// Lays examples end to end; labels move one place so that each row knows its next token.
    pub fn collate<'a>(examples: impl IntoIterator<Item = (Example<'a>, u64)>) -> Self {
        let mut batch = Self { seq_starts: vec![0], ..Self::default() };
        for (example, id) in examples {
            let next = example.labels.iter().skip(1).copied().chain([-100]);
            batch.ids.extend(example.ids);
            for target in next.take(example.ids.len()) {
                batch.targets.push(target);
                batch.weights.push(if target == -100 { 0.0 } else { 1.0 });
            }
            batch.seq_starts.push(batch.ids.len());
            batch.sample_ids.push(id);
        }
        batch
    }

    /// The number of targets.
    pub fn target_tokens(&self) -> usize {
        self.weights.iter().filter(|w| **w != 0.0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_does_not_predict_the_next_ones_first_token() {
        let [a, b] = [
            Example { ids: &[1, 2], labels: &[1, 2] },
            Example { ids: &[3, 4, 5], labels: &[3, 4, 5] },
        ];
        let batch = Batch::collate([(a, 0), (b, 1)]);
        assert_eq!(batch.targets, [2, -100, 4, 5, -100]);
    }
}
