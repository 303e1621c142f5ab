//! How alike two names are, for "did you mean"; what is too long for a slip of the hand is like nothing.
//!
//! The time and memory of the distance grow with the product of both lengths, and one of the two comes from a file.

use strsim::{damerau_levenshtein, normalized_damerau_levenshtein};

/// Bytes of a name that may be a mistyped one.
const LONGEST: usize = 100;

/// 1 for equal names, 0 for names that have nothing in common.
pub fn alike(a: &str, b: &str) -> f64 {
    if a.len().max(b.len()) > LONGEST { 0.0 } else { normalized_damerau_levenshtein(a, b) }
}

/// The letters to put in, leave out, replace or swap.
pub fn edits(a: &str, b: &str) -> usize {
    if a.len().max(b.len()) > LONGEST { usize::MAX } else { damerau_levenshtein(a, b) }
}
