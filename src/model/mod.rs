//! The decoder, built from a spec.
