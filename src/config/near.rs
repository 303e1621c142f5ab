//! How alike two names are, for "did you mean"; what is too long for a slip of the hand is like nothing.
//!
//! The time and memory of the distance grow with the product of both lengths, and one of the two comes from a file.

use strsim::{damerau_levenshtein, normalized_damerau_levenshtein};

/// Bytes of a name that may be a mistyped one.
const LONGEST: usize = 100;
/// Bytes by which the length of a mistyped name differs.
const FEW: usize = 8;

/// 1 for equal names, 0 for names that have nothing in common, or whose lengths alone make them less than half alike.
pub fn alike(a: &str, b: &str) -> f64 {
    let (short, long) = (a.len().min(b.len()), a.len().max(b.len()));
    if long > LONGEST || short * 2 < long { 0.0 } else { normalized_damerau_levenshtein(a, b) }
}

/// The letters to put in, leave out, replace or swap; so many that nobody counts them where the lengths differ by more than a few.
pub fn edits(a: &str, b: &str) -> usize {
    let apart = a.len().abs_diff(b.len());
    if a.len().max(b.len()) > LONGEST || apart > FEW {
        usize::MAX
    } else {
        damerau_levenshtein(a, b)
    }
}

/// The one of `known` that `name` was most likely meant to be, if any is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let best = known.into_iter().map(|word| (alike(word, name), word));
    best.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.6).map(|(_, word)| word)
}
