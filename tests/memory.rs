//! A run takes no more memory however long it goes on: the line through its memory is level from step 50 on.
//!
//! 400 steps; `VFT_STEPS=10000` for more. Rows of all lengths, one at a time so that the longest is met in the first epochs (buffers are touched as far as the
//! longest row goes), evaluations with samples, checkpoints, records of every step.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::fs::{File, read_to_string};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Steps before a run has met all of its lengths, evaluations and checkpoints.
const WARM: usize = 50;

/// Parts of the run after that. What lives at the end of a step is the least that a part takes: what saves and evaluations take for a while
/// is above it.
const PARTS: usize = 20;

/// What the line through the least of each part may rise by from its first step to its last. Without a leak it rises by at most 100 KiB in 10,000
/// steps and 50 KiB in 400, a few pages of the allocator's at a time (`benches/results`). A leak of 100 bytes a step comes to 970 KiB in
/// 10,000 steps, one of 4 KiB a step to 1,400 KiB in 400.
const MOST: f64 = 256.0 * 1024.0;

fn steps() -> usize {
    std::env::var("VFT_STEPS").ok().and_then(|v| v.parse().ok()).unwrap_or(400)
}

/// The bytes of a process that no file stands behind. They are counted page by page when asked for; resident memory is added up in batches, and
/// what was read of files comes and goes with it.
fn live_bytes(pid: u32) -> Option<u64> {
    let text = read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Anonymous:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The steps that a run has done, counted as its records come.
struct Steps {
    records: Option<File>,
    rest: String,
    done: usize,
}

impl Steps {
    fn look(&mut self, metrics: &Path) -> usize {
        if self.records.is_none() {
            self.records = File::open(metrics).ok();
        }
        if let Some(records) = &mut self.records {
            records.read_to_string(&mut self.rest).unwrap();
            let whole = self.rest.rfind('\n').map_or(0, |at| at + 1);
            self.done += self.rest.drain(..whole).as_str().matches("grad_norm").count();
        }
        self.done
    }
}

/// How much the line of least squares through `points` rises a step.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let both: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    both / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
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
    let (steps, metrics) = (steps(), out.join("metrics.jsonl"));
    let mut run = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "configs/smoke.yml", "--out_dir", out.to_str().unwrap()])
        .args(["--data.path", rows, "--train.epochs", "1000000"])
        .args(["--train.max_steps", &steps.to_string()])
        .args(["--train.global_batch_size", "4", "--train.micro_batch_size", "1"])
        .args(["--optimizer.lr", "1e-4", "--lora_dropout", "0.1", "--eval.max_new_tokens", "4"])
        .args(["--train.save_interval", "20", "--train.save_total_limit", "2"])
        .args(["--eval.interval", "15", "--device", "cpu", "--threads", "2"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut done = Steps { records: None, rest: String::new(), done: 0 };
    let (mut least, mut samples) = (vec![u64::MAX; PARTS], 0);
    let status = loop {
        if let Some(status) = run.try_wait().unwrap() {
            break status;
        }
        let step = done.look(&metrics);
        if let (WARM.., Some(bytes)) = (step, live_bytes(run.id())) {
            let part = (step - WARM) * PARTS / (steps - WARM + 1);
            least[part] = least[part].min(bytes);
            samples += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success());
    assert_eq!(done.look(&metrics), steps);
    assert!(least.iter().all(|bytes| *bytes < u64::MAX), "a part without a sample: {least:?}");
    let length = (steps - WARM) as f64;
    let middle = |part: usize| WARM as f64 + length * (part as f64 + 0.5) / PARTS as f64;
    for (part, bytes) in least.iter().enumerate() {
        println!("about step {:.0}: {bytes} bytes", middle(part));
    }
    let points: Vec<_> = least.iter().enumerate().map(|(i, b)| (middle(i), *b as f64)).collect();
    let slope = slope(&points);
    println!("{slope:.2} bytes a step, {:.0} in all ({samples} samples)", slope * length);
    assert!(slope * length < MOST, "{slope:.1} bytes a step: {least:?}");
}
