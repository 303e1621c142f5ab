//! The `vft` binary.

fn main() {
    std::process::exit(vft::cli::main());
}
