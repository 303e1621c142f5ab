//! LoRA: its configuration, its names, its initial values.
