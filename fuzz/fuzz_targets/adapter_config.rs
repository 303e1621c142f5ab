#![no_main]

vft_fuzz::target!("adapter_config");
