//! The `vft` binary.

#[global_allocator]
static ALLOCATOR: vft::budget::Counted = vft::budget::Counted;

fn main() {
    // candle's errors carry a backtrace where RUST_BACKTRACE asks for one, and write it behind their message.
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    vft::cli::quiet_panics();
    std::process::exit(vft::cli::main());
}
