//! The `vft` binary.

fn main() {
    vft::cli::quiet_panics();
    std::process::exit(vft::cli::main());
}
