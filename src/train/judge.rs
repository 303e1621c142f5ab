//! The lowest validation loss so far, and when to stop waiting for a lower one.

/// What a validation loss means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the lowest so far.
    Best,
    /// It is not; the run goes on.
    GoOn,
    /// It is not, and neither were the ones before: the run ends.
    Stop,
}

/// Compares validation losses.
#[derive(Debug, Clone, Copy)]
pub struct Judge {
    lowest: f64,
    since: usize,
    patience: Option<usize>,
}

impl Judge {
    /// Stops after `patience` validations in a row without a lower loss; never if there is none.
    pub fn new(patience: Option<usize>) -> Self {
        Self { lowest: f64::INFINITY, since: 0, patience }
    }

    /// What it knows: the lowest loss, and the validations since.
    pub fn memory(&self) -> (Option<f64>, usize) {
        (Some(self.lowest).filter(|l| l.is_finite()), self.since)
    }

    /// With the memory of the run that is taken up.
    #[must_use]
    pub fn with_memory(self, (lowest, since): (Option<f64>, usize)) -> Self {
        Self { lowest: lowest.unwrap_or(f64::INFINITY), since, ..self }
    }

    /// Judges the loss of a validation.
    pub fn see(&mut self, loss: f64) -> Verdict {
        if loss < self.lowest {
            (self.lowest, self.since) = (loss, 0);
            return Verdict::Best;
        }
        self.since += 1;
        if self.patience.is_some_and(|p| self.since >= p) { Verdict::Stop } else { Verdict::GoOn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_validations_without_a_lower_loss() {
        let mut judge = Judge::new(Some(2));
        let verdicts = [3.0, 3.5, 2.0, 2.0, 2.5].map(|loss| judge.see(loss));
        use Verdict::{Best, GoOn, Stop};
        assert_eq!(verdicts, [Best, GoOn, Best, GoOn, Stop]);
    }
}
