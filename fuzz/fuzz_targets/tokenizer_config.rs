#![no_main]

vft_fuzz::target!("tokenizer_config");
