//! Tells the binary what it was built from; with the feature `cuda`: compiles `src/kernels` to one image for every supported card.

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
    origin();
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        // Whether sources differ from their commit is looked up again when one changes; not where that would compile kernels again.
        println!("cargo:rerun-if-changed=src");
        return;
    }
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.fatbin");
    let nvcc = nvcc();
    check_version(&nvcc);
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

/// The commit and whether files differ from it, the compiler, the target: what manifests of runs name. Empty where it is not known.
fn origin() {
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        output.status.success().then_some(text)
    };
    let root = env("CARGO_MANIFEST_DIR");
    let real = |path: &str| Path::new(path).canonicalize().ok();
    // A copy of the sources inside of another project's repository is not that repository's commit.
    let top = run("git", &["rev-parse", "--show-toplevel"]).filter(|top| real(top) == real(&root));
    let (commit, modified) = match top {
        Some(_) => {
            for name in ["HEAD", "logs/HEAD"] {
                let path = run("git", &["rev-parse", "--git-path", name]).unwrap_or_default();
                if Path::new(&path).exists() {
                    println!("cargo:rerun-if-changed={path}");
                }
            }
            let status = run("git", &["status", "--porcelain", "--untracked-files=no"]);
            let modified = status.map(|s| if s.is_empty() { "false" } else { "true" });
            (run("git", &["rev-parse", "HEAD"]), modified)
        }
        // What `cargo package` notes.
        None => {
            let noted = std::fs::read_to_string(".cargo_vcs_info.json").unwrap_or_default();
            let sha = noted.split("\"sha1\": \"").nth(1).and_then(|s| s.split('"').next());
            let dirty = noted.contains("\"dirty\": true");
            (sha.map(str::to_owned), sha.map(|_| if dirty { "true" } else { "false" }))
        }
    };
    let rustc = run(&env("RUSTC"), &["--version"]).unwrap_or_default();
    println!("cargo:rustc-env=VFT_COMMIT={}", commit.unwrap_or_default());
    println!("cargo:rustc-env=VFT_MODIFIED={}", modified.unwrap_or_default());
    println!("cargo:rustc-env=VFT_RUSTC={rustc}");
    println!("cargo:rustc-env=VFT_TARGET={}", env("TARGET"));
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

/// Refuses an nvcc before 13.0; one after it makes PTX that the promised driver does not take.
fn check_version(nvcc: &Path) {
    let Ok(said) = Command::new(nvcc).arg("--version").output() else { return };
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let release = said.split("release ").nth(1).and_then(|s| s.split(',').next());
    let parts: Option<Vec<u32>> = release.map(|r| r.split('.').flat_map(str::parse).collect());
    match parts.as_deref() {
        Some([13, 0]) | None => {}
        Some(found) if found < &[13, 0][..] => {
            let release = release.unwrap_or_default();
            fail(&format!(
                "{} is of CUDA {release}; the feature `cuda` needs nvcc 13.0: install that toolkit, or run\n  \
                 bash scripts/cuda-toolkit.sh && source ~/.cache/vft/cuda-13.0/env.sh",
                nvcc.display()
            ));
        }
        Some(_) => println!(
            "cargo::warning=nvcc {}: cards later than compute capability 9.0 will need a newer driver than 580",
            release.unwrap_or_default()
        ),
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={}", message.replace('\n', "\ncargo::error="));
    std::process::exit(1);
}
