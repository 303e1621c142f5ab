#![no_main]

vft_fuzz::target!("run_manifest");
