//! Split strings: `train`, `train[:90%]`, `train[1000:]`, `train_sft[-10%:]`.
//!
//! As in `datasets`: percentages are rounded to the closest row (halves to the even one), negative boundaries count from the end,
//! boundaries beyond the end are the end. <https://huggingface.co/docs/datasets/loading#slice-splits>

use std::ops::Range;

/// A split, or a part of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitSlice {
    /// The split's name.
    pub split: String,
    from: Option<Boundary>,
    to: Option<Boundary>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Boundary {
    number: i64,
    percent: bool,
}

impl Boundary {
    fn parse(text: &str) -> Result<Self, String> {
        let (digits, percent) = text.strip_suffix('%').map_or((text, false), |t| (t, true));
        let number = digits.replace('_', "").parse();
        let number =
            number.map_err(|_| format!("`{text}` is neither a number of rows nor a percentage"))?;
        if percent && !(-100..=100).contains(&number) {
            return Err(format!("`{text}` lies outside -100% to 100%"));
        }
        Ok(Self { number, percent })
    }

    fn row(self, rows: usize) -> usize {
        let n = rows as i128;
        let at = if self.percent {
            // Hundredths of rows; halves go to the even row, as Python rounds.
            let hundredths = i128::from(self.number) * n;
            let (down, rest) = (hundredths.div_euclid(100), hundredths.rem_euclid(100));
            down + i128::from(rest > 50 || (rest == 50 && down % 2 != 0))
        } else {
            self.number.into()
        };
        let at = if at < 0 { n + at } else { at };
        usize::try_from(at.clamp(0, n)).unwrap_or(rows)
    }
}

impl SplitSlice {
    /// Reads a split string.
    ///
    /// # Errors
    /// A message without place.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form =
            || format!("`{text}` is no split; write `train`, `train[:90%]` or `train[1000:2000]`");
        if text.contains('+') {
            return Err(format!("`{text}` joins splits; name each as a data set of its own"));
        }
        let (name, range) = match text.split_once('[') {
            None => (text, None),
            Some((name, rest)) => (name, Some(rest.strip_suffix(']').ok_or_else(form)?)),
        };
        let word = |c: char| c.is_alphanumeric() || "_.-".contains(c);
        if name.is_empty() || !name.chars().all(word) {
            return Err(form());
        }
        let (mut from, mut to) = (None, None);
        if let Some(range) = range {
            let (a, b) = range.split_once(':').ok_or_else(form)?;
            let boundary = |t: &str| (!t.is_empty()).then(|| Boundary::parse(t)).transpose();
            (from, to) = (boundary(a.trim())?, boundary(b.trim())?);
            if let (Some(a), Some(b)) = (from, to)
                && a.percent != b.percent
            {
                return Err(format!("`{text}` mixes rows and percentages"));
            }
        }
        Ok(Self { split: name.into(), from, to })
    }

    /// Whether it is the whole split, so that the number of rows need not be known.
    pub fn is_whole(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    /// The rows of a split of `rows` rows.
    pub fn range(&self, rows: usize) -> Range<usize> {
        let from = self.from.map_or(0, |b| b.row(rows));
        let to = self.to.map_or(rows, |b| b.row(rows));
        from..to.max(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_forms_are_told() {
        for text in [
            "train[",
            "train[5]",
            "[1:2]",
            "train[:x]",
            "a b",
            "train[:101%]",
            "train[1:50%]",
            "a+b",
        ] {
            let error = SplitSlice::parse(text).unwrap_err();
            assert!(
                error.contains(text.split(['[', ']', ':']).next_back().unwrap()),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn an_empty_part_is_empty() {
        assert_eq!(SplitSlice::parse("train[8:3]").unwrap().range(10), 8..8);
    }
}
