#![no_main]

vft_fuzz::target!("model_config");
