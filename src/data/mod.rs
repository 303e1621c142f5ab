//! Rows to token ids, labels and batches: [`source`] → [`row`] → [`example`] → [`dataset`] → [`sampler`] → [`batch`].

pub mod batch;
pub mod dataset;
pub mod example;
pub mod row;
pub mod sampler;
pub mod source;
pub mod split;
pub mod style;
pub mod template;
pub mod tokenizer;
