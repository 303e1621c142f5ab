//! A run takes no more memory after step 50 than it took before, however long it goes on.
//!
//! 400 steps; `VFT_STEPS=10000` for more. Rows of all lengths, one at a time so that the longest is met in the first epochs (buffers are touched as far as the
//! longest row goes), evaluations with samples, checkpoints, records of every step.

use serde_json::Value;
use std::process::Command;

/// What the peak of resident memory may grow by: Linux counts pages for each processor apart and adds them up in batches, so that a reading is wrong by up
/// to 32 pages for each; a run that loses 4 KiB a step would be at 1.4 MiB after 400.
const NOISE: u64 = 1 << 20;

fn steps() -> usize {
    std::env::var("VFT_STEPS").ok().and_then(|v| v.parse().ok()).unwrap_or(400)
}

#[test]
fn a_long_run_takes_no_more_memory_than_its_first_steps() {
    let home = tempfile::tempdir().unwrap();
    let words = ["một", "hai", "ba", "bốn", "năm", "sáu", "bảy"];
    let row = |n: usize| {
        let text: Vec<&str> = (0..2 + n * 7 % 29).map(|i| words[(i * n + i) % 7]).collect();
        let row = serde_json::json!({"instruction": text.join(" "), "output": words[n % 7]});
        row.to_string() + "\n"
    };
    let rows = home.path().join("rows.jsonl");
    std::fs::write(&rows, (0..84).map(row).collect::<String>()).unwrap();
    let (rows, out) = (rows.to_str().unwrap(), home.path().join("out"));
    let steps = steps().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "configs/smoke.yml", "--out_dir", out.to_str().unwrap()])
        .args(["--data.path", rows, "--train.epochs", "1000000", "--train.max_steps", &steps])
        .args(["--train.global_batch_size", "4", "--train.micro_batch_size", "1"])
        .args(["--optimizer.lr", "1e-4", "--lora_dropout", "0.1", "--eval.max_new_tokens", "4"])
        .args(["--train.save_interval", "20", "--train.save_total_limit", "2"])
        .args(["--eval.interval", "15", "--device", "cpu", "--threads", "2"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let peaks: Vec<u64> = records.filter_map(|r| r["peak_mem_bytes"].as_u64()).collect();
    assert_eq!(peaks.len().to_string(), steps);
    for step in [1, 10, 50, 100, 200, 400, 1000, 2000, 5000, 10_000] {
        if let Some(peak) = peaks.get(step - 1) {
            println!("step {step}: {peak} bytes");
        }
    }
    let (then, last) = (peaks[49], peaks[peaks.len() - 1]);
    assert!(last <= then + NOISE, "{then} bytes at step 50, {last} at the end");
}
