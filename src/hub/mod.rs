//! A model directory: `config.json` and memory-mapped safetensors; models and datasets of the Hugging Face Hub.

pub mod config;
pub mod fingerprint;
pub mod remote;
pub mod rope;
pub mod safetensors;
