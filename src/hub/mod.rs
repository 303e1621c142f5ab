//! A model directory: `config.json` and memory-mapped safetensors.

pub mod config;
pub mod rope;
pub mod safetensors;
