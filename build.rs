//! With the feature `cuda`: compiles `src/kernels` to one image for every supported card.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for T4, A100, RTX 30, RTX 40 and L4, H100; PTX of the last for later cards.
const TARGETS: [&str; 5] = [
    "arch=compute_75,code=sm_75",
    "arch=compute_80,code=sm_80",
    "arch=compute_86,code=sm_86",
    "arch=compute_89,code=sm_89",
    "arch=compute_90,code=[sm_90,compute_90]",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/kernels");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.fatbin");
    let nvcc = nvcc();
    let mut command = Command::new(&nvcc);
    command.args(["-fatbin", "-O3", "-std=c++17", "--compress-mode=size", "-o"]).arg(&out);
    for target in TARGETS {
        command.args(["-gencode", target]);
    }
    match command.arg("src/kernels/kernels.cu").output() {
        Ok(done) if done.status.success() => {}
        Ok(done) => {
            fail(&format!("{} failed:\n{}", nvcc.display(), String::from_utf8_lossy(&done.stderr)))
        }
        Err(e) => fail(&format!(
            "{} cannot be started: {e}\nThe feature `cuda` needs nvcc 13.0: install the CUDA toolkit, or run\n  \
             bash scripts/cuda-toolkit.sh && source ~/.cache/vft/cuda-13.0/env.sh",
            nvcc.display()
        )),
    }
}

/// `NVCC`, else the toolkit named by `CUDA_HOME` or `CUDA_PATH`, else the usual place, else PATH.
fn nvcc() -> PathBuf {
    if let Some(path) = std::env::var_os("NVCC") {
        return path.into();
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    let places = homes.map(PathBuf::from).chain([Path::new("/usr/local/cuda").into()]);
    places.map(|home| home.join("bin/nvcc")).find(|p| p.exists()).unwrap_or_else(|| "nvcc".into())
}

fn fail(message: &str) -> ! {
    println!("cargo::error={}", message.replace('\n', "\ncargo::error="));
    std::process::exit(1);
}
