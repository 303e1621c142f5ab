//! The `vft` binary.

#[global_allocator]
static ALLOCATOR: vft::budget::Counted = vft::budget::Counted;

fn main() {
    vft::cli::quiet_panics();
    std::process::exit(vft::cli::main());
}
