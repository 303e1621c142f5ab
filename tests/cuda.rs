//! The binary on a CUDA device: `bash scripts/cuda_on_cpu.sh cargo test --features cuda --test cuda --test parity`.
//!
//! The script plays the device on the CPU and can play broken machines (`played`); on a real card `cargo test --features cuda --test
//! cuda -- --skip played`. `VFT_TEST_ROOT` and `VFT_TEST_BIN` are the repository and the binary where the tests run elsewhere than
//! they were built.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

fn place(variable: &str, built: &str) -> PathBuf {
    std::env::var_os(variable).map_or(built.into(), PathBuf::from)
}

fn vft(args: &[&str], machine: &[(&str, &str)]) -> Output {
    let mut command = Command::new(place("VFT_TEST_BIN", env!("CARGO_BIN_EXE_vft")));
    command.current_dir(place("VFT_TEST_ROOT", env!("CARGO_MANIFEST_DIR")));
    command.args(args).envs(machine.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The smoke run's first steps: its records and what it said.
fn smoke(more: &[&str], machine: &[(&str, &str)]) -> (Output, Vec<Value>) {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let mut args = vec!["finetune", "--config", "configs/smoke.yml", "--out_dir"];
    args.push(out.to_str().unwrap());
    args.extend(["--train.max_steps", "4", "--eval.initial_validation", "false"]);
    args.extend(more);
    let output = vft(&args, machine);
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    (output, text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
}

fn losses(records: &[Value]) -> Vec<f64> {
    records.iter().filter_map(|r| r["loss"].as_f64()).collect()
}

fn assert_selftest_passes(machine: &[(&str, &str)]) {
    let output = vft(&["selftest", "--device", "cuda", "--quick"], machine);
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}\n{}", stderr(&output));
}

#[test]
fn selftest_passes() {
    assert_selftest_passes(&[]);
}

/// The final adapter of a run of six steps, taken up after the fourth or whole.
fn adapter(more: &[&str], is_cut: bool) -> Vec<u8> {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let run = || {
        let mut args = vec!["finetune", "--config", "configs/smoke.yml", "--out_dir"];
        args.push(out.to_str().unwrap());
        args.extend(["--train.max_steps", "6", "--train.save_interval", "4", "--device", "cuda"]);
        args.extend(["--lora_dropout", "0.1", "--eval.max_new_tokens", "3", "--resume", "auto"]);
        args.extend(more);
        let output = vft(&args, &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stderr(&output)
    };
    run();
    if is_cut {
        for dir in ["final", "step-00000006"] {
            std::fs::remove_dir_all(out.join(dir)).unwrap();
        }
        assert!(run().contains("taken up after step 4"));
    }
    std::fs::read(out.join("final/adapter_model.safetensors")).unwrap()
}

#[test]
fn a_run_that_is_taken_up_ends_in_the_same_bytes() {
    for more in [
        &["--precision", "32-true"][..],
        &["--precision", "bf16-true", "--quantize", "bnb.nf4-dq"],
        &["--precision", "16-true", "--optimizer.class_path", "AdamW8bit"],
    ] {
        assert_eq!(adapter(more, true), adapter(more, false), "{more:?}");
    }
}

fn assert_same_run(more: &[&str], tolerance: f64) {
    let run = |device| {
        let (output, records) = smoke(&[more, &["--device", device]].concat(), &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        losses(&records)
    };
    let (cuda, cpu) = (run("cuda"), run("cpu"));
    assert_eq!(cuda.len(), 4);
    for (cuda, cpu) in cuda.iter().zip(&cpu) {
        assert!((cuda / cpu - 1.0).abs() < tolerance, "cuda {cuda}, cpu {cpu}");
    }
}

#[test]
fn a_run_with_dropout_is_the_cpus() {
    assert_same_run(&["--precision", "32-true", "--lora_dropout", "0.1"], 1e-5);
}

#[test]
fn a_qlora_run_is_the_cpus() {
    assert_same_run(&["--precision", "bf16-true", "--quantize", "bnb.nf4-dq"], 1e-2);
}

/// Adam with a small eps takes the sign of a first gradient: rounding would grow to whole steps.
#[test]
fn a_mixed_run_with_dropout_is_the_cpus() {
    let adam = ["--optimizer.eps", "0.1", "--optimizer.lr", "0.01"];
    let more = [&["--precision", "bf16-mixed", "--lora_dropout", "0.1"][..], &adam].concat();
    assert_same_run(&more, 1e-3);
}

#[test]
fn f16_records_its_loss_scale() {
    for precision in ["16-true", "16-mixed"] {
        let (output, records) = smoke(&["--device", "cuda", "--precision", precision], &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(records[0]["loss_scale"].as_f64(), Some(65536.0), "{precision}");
    }
}

#[test]
fn f16_losses_are_those_of_f32() {
    let run = |precision| losses(&smoke(&["--device", "cuda", "--precision", precision], &[]).1);
    let single = run("32-true");
    for precision in ["16-true", "16-mixed"] {
        let half = run(precision);
        assert_eq!(half.len(), single.len(), "{precision}");
        for (half, single) in half.iter().zip(&single) {
            assert!((half / single - 1.0).abs() < 5e-3, "{precision} {half}, f32 {single}");
        }
    }
}

/// What needs a device that is played: machines that lack something, orders that a card does not choose.
mod played {
    use super::{assert_selftest_passes, smoke, stderr, vft};
    use std::path::Path;
    use std::process::Command;

    /// The folder of the played libraries.
    fn played() -> String {
        std::env::var("VFT_CUDA_ON_CPU").expect("run by scripts/cuda_on_cpu.sh")
    }

    #[test]
    fn no_kernel_needs_its_threads_in_order() {
        played();
        assert_selftest_passes(&[("VFT_FAKE_BACKWARDS", "1")]);
    }

    fn assert_refused(machine: &[(&str, &str)], more: &[&str], parts: &[&str]) {
        played();
        let (output, _) = smoke(&[&["--device", "cuda"], more].concat(), machine);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    }

    #[test]
    fn a_missing_driver_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let path = empty.path().to_str().unwrap();
        assert_refused(&[("LD_LIBRARY_PATH", path)], &[], &["libcuda.so.1", "driver 580"]);
    }

    #[test]
    fn a_missing_cublas_is_named() {
        let some = tempfile::tempdir().unwrap();
        let driver = Path::new(&played()).join("libcuda.so.1");
        std::os::unix::fs::symlink(driver, some.path().join("libcuda.so.1")).unwrap();
        let path = some.path().to_str().unwrap();
        assert_refused(&[("LD_LIBRARY_PATH", path)], &[], &["libcublas.so.13", "LD_LIBRARY_PATH"]);
    }

    #[test]
    fn an_old_driver_is_refused() {
        let parts = ["supports CUDA 12.4", "driver 580"];
        assert_refused(&[("VFT_FAKE_DRIVER", "12040")], &[], &parts);
    }

    #[test]
    fn hidden_cards_are_named() {
        let machine = [("VFT_FAKE_INIT", "100"), ("CUDA_VISIBLE_DEVICES", "7")];
        assert_refused(&machine, &[], &["CUDA_VISIBLE_DEVICES is \"7\"", "nvidia-smi -L"]);
    }

    #[test]
    fn the_toolkits_stub_is_named() {
        let parts = ["stub", "LD_LIBRARY_PATH", "(CUDA_ERROR_STUB_LIBRARY"];
        assert_refused(&[("VFT_FAKE_INIT", "34")], &[], &parts);
    }

    /// FABRIC_NOT_READY of CUDA 13.1, as a driver says that does not know it; and a status that no cuBLAS has.
    #[test]
    fn codes_that_nobody_knows_are_told() {
        assert_refused(&[("VFT_FAKE_INIT", "919")], &[], &["does not start (error 919)"]);
        assert_refused(
            &[("VFT_FAKE_CUBLAS", "99")],
            &[],
            &["starting cuBLAS failed: cuBLAS status 99"],
        );
    }

    #[test]
    fn a_library_without_its_functions_is_named() {
        let libs = tempfile::tempdir().unwrap();
        let source = libs.path().join("empty.c");
        std::fs::write(&source, "int empty;").unwrap();
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let library = libs.path().join("libcuda.so.1");
        let mut command = Command::new(compiler);
        assert!(
            command.arg("-shared").arg("-o").arg(library).arg(source).status().unwrap().success()
        );
        let path = libs.path().to_str().unwrap();
        assert_refused(
            &[("LD_LIBRARY_PATH", path)],
            &[],
            &["libcuda.so.1", "no function `cuInit`"],
        );
    }

    #[test]
    fn memory_that_others_hold_is_not_planned_with() {
        let machine = [("VFT_FAKE_MEMORY", "64"), ("VFT_FAKE_TAKEN", "63")];
        assert_refused(&machine, &[], &["1 are free", "CUDA itself and other processes hold 0.06"]);
    }

    #[test]
    fn a_device_that_is_not_there_is_refused() {
        assert_refused(&[], &["--device", "cuda:3"], &["no device cuda:3", "nvidia-smi -L"]);
    }

    #[test]
    fn an_old_card_is_refused() {
        assert_refused(&[("VFT_FAKE_CAPABILITY", "70")], &[], &["compute capability 7.0"]);
    }

    #[test]
    fn bf16_on_a_t4_is_refused_with_the_way_out() {
        for (bf16, f16) in
            [("bf16-true", "`precision: 16-true`"), ("bf16-mixed", "`precision: 16-mixed`")]
        {
            let more = ["--precision", bf16];
            assert_refused(&[("VFT_FAKE_CAPABILITY", "75")], &more, &[bf16, f16]);
        }
    }

    #[test]
    fn a_t4_answers_in_f16_without_being_told() {
        played();
        let args =
            ["generate", "--base", "configs/smoke/model", "--device", "cuda", "--prompt", "a b"];
        let output = vft(&args, &[("VFT_FAKE_CAPABILITY", "75")]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("precision: 16-true, because"), "{text}");
    }

    /// A run of one step, in `out` of the folder given back.
    fn finished(config: &str, more: &[&str], machine: &[(&str, &str)]) -> tempfile::TempDir {
        played();
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("run.yml"), config).unwrap();
        let (file, out) = (home.path().join("run.yml"), home.path().join("out"));
        let mut args = vec!["finetune", "--config", file.to_str().unwrap(), "--out_dir"];
        args.extend([out.to_str().unwrap(), "--checkpoint_dir", "configs/smoke/model"]);
        args.extend(["--data.path", "configs/smoke/data.jsonl", "--train.max_steps", "1"]);
        args.extend(["--eval.initial_validation", "false", "--eval.max_new_tokens", "2"]);
        args.extend(more);
        let output = vft(&args, machine);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        home
    }

    const SMOKE: &str = include_str!("../configs/smoke.yml");

    #[test]
    fn a_model_card_names_the_precision_that_was_chosen() {
        let config = SMOKE.replace("precision: 32-true\n", "");
        let home = finished(&config, &["--device", "cuda"], &[("VFT_FAKE_CAPABILITY", "75")]);
        let card = std::fs::read_to_string(home.path().join("out/final/README.md")).unwrap();
        assert!(card.contains("| `precision` | `16-true` |"), "{card}");
    }

    #[test]
    fn a_run_of_another_card_is_made_again_on_the_first() {
        let home = finished(SMOKE, &["--device", "cuda:3"], &[("VFT_FAKE_DEVICES", "4")]);
        let manifest = home.path().join("out/final/manifest.json");
        let output = vft(&["reproduce", manifest.to_str().unwrap()], &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }

    #[test]
    fn a_precision_without_a_card_says_why_there_is_none() {
        played();
        let more = ["--device", "auto", "--precision", "16-true"];
        let (output, _) = smoke(&more, &[("VFT_FAKE_DRIVER", "12040")]);
        let text = stderr(&output);
        assert!(text.contains("needs a CUDA device: the NVIDIA driver is too old"), "{text}");
    }

    #[test]
    fn too_little_memory_says_what_to_lower() {
        let parts = ["CUDA out of memory", "train.micro_batch_size"];
        assert_refused(&[("VFT_FAKE_MEMORY", "1")], &[], &parts);
    }

    #[test]
    fn auto_falls_back_to_the_cpu_and_says_why() {
        played();
        let (output, _) = smoke(&["--device", "auto"], &[("VFT_FAKE_DRIVER", "12040")]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("device: cpu, because the NVIDIA driver is too old"), "{text}");
    }
}
