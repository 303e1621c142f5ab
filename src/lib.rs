//! vft finetunes language models with LoRA and 4-bit QLoRA from one binary and one YAML file.
//!
//! The folders mirror the data flow; each may use only what stands below it in this list
//! (`tests/architecture.rs` enforces it):
//!
//! `cli` → `train` → `merge` → `checkpoint` → `optim` → `model` → `adapters` → `ops` → `quant` and `gpu`, with `hub`, `data`,
//! `config` and `report` beside them.
//!
//! Dimensions, everywhere: B sequences, N tokens in a batch, T tokens of a sequence, C hidden size, H query heads, K key/value
//! heads, D head size, F feed-forward size, V vocabulary, R LoRA rank. A *step* is one optimizer step, an *iteration* one
//! micro-batch. `x` is an input, `y` an output, `dx` the gradient of the loss with respect to `x`.

pub mod adapters;
pub mod budget;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod gpu;
pub mod hex;
pub mod hub;
pub mod merge;
pub mod model;
pub mod ops;
pub mod optim;
pub mod quant;
pub mod report;
pub mod scratch;
pub mod secret;
pub mod selftest;
pub mod small_file;
pub mod terminal;
pub mod train;
