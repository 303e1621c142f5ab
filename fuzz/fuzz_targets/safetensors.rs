#![no_main]

vft_fuzz::target!("safetensors");
