//! Rows to token ids, labels and batches.
//!
//! [`source`] (files → rows) → [`row`] (shapes → turns) → [`style`], [`template`] (turns → text) → [`encode`] (text → ids, labels) →
//! [`ingest`] → [`store`] → [`dataset`] (splits) → [`mix`] (order) → [`batch`]. [`shipped`]: the chat template that goes with the adapter.

pub mod batch;
pub mod census;
pub mod dataset;
pub mod encode;
pub mod ingest;
pub mod mix;
mod namespaces;
pub mod preview;
pub mod row;
pub mod sampler;
pub mod shipped;
pub mod source;
pub mod split;
pub mod store;
pub mod style;
pub mod template;
pub mod tokenizer;
