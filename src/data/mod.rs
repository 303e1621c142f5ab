//! Rows to token ids, labels and batches.
