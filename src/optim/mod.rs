//! The arena of trainable slices and what updates it.
