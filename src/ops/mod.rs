//! The math: every op has a forward and a backward.
