//! A model directory: config.json, memory-mapped safetensors, tokenizer files.
