//! A run without a model: records, checkpoints, the best and the final adapter, written as a run writes them.

use std::path::{Path, PathBuf};
use vft::adapters::LoraConfig;
use vft::adapters::names::peft_keys;
use vft::checkpoint::disk::Disk;
use vft::checkpoint::find;
use vft::checkpoint::parts::Parts;
use vft::checkpoint::peft;
use vft::checkpoint::run_state::{RunState, Surroundings};
use vft::optim::Arena;
use vft::optim::state::{State, Values};

pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const CARD: &str = "# a card\n";

/// The bytes of the records of so many steps.
pub(crate) fn records(steps: usize) -> Vec<u8> {
    (1..=steps).flat_map(|step| record(step).into_bytes()).collect()
}

pub(crate) fn record(step: usize) -> String {
    format!("{{\"step\": {step}}}\n")
}

/// The adapter and the optimizer after a step: every number tells the step.
fn arena(step: usize) -> Arena {
    let mut arena = Arena::default();
    let (a, b) = peft_keys("x");
    arena.push(a, [1, 3], &[step as f32; 3]);
    arena.push(b, [2, 1], &[step as f32; 2]);
    arena
}

fn optimizer(step: usize) -> State<'static> {
    State { t: step as i32, arrays: vec![("m".into(), Values::F32(vec![step as f32; 4].into()))] }
}

fn state(step: usize) -> RunState {
    RunState {
        format: RunState::FORMAT,
        step,
        tokens: 10 * step as u64,
        elapsed_s: 0.5,
        updates: step as i32,
        loss_scale: (1.0, 0),
        lowest: (None, 0),
        val_loss: None,
        evaluated: 0,
        bytes: [(METRICS.to_owned(), records(step).len() as u64)].into(),
        config: [("seed".to_owned(), "1".to_owned())].into(),
        data: "rows".into(),
        early: false,
        adapter: None,
        surroundings: Surroundings {
            device: "cpu".into(),
            instruction_set: "avx2".into(),
            vft: "0.1.0".into(),
        },
        base: "weights".into(),
    }
}

/// Writes the checkpoint `name` of a step.
pub(crate) fn save(
    disk: &dyn Disk,
    out: &Path,
    tokenizer: &Path,
    name: &str,
    step: usize,
) -> anyhow::Result<()> {
    let lora = LoraConfig { r: 1, alpha: 2.0, dropout: 0.0 };
    let modules = ["x".to_owned()];
    let optimizer = name.starts_with("step-").then(|| optimizer(step));
    Parts {
        arena: &arena(step),
        lora: &lora,
        paths: &modules,
        modules: &modules,
        base: &vft::checkpoint::peft::Base { name: "base", revision: None },
        tokenizer,
        template: vft::checkpoint::chat_template::Template::OfTheTokenizer,
        config: "seed: 1\n",
        state: &state(step),
        optimizer: optimizer.as_ref(),
    }
    .write(disk, &out.join(name))
}

pub(crate) fn step_name(step: usize) -> String {
    format!("step-{step:08}")
}

/// An empty directory, in memory where the system has a place for that.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let in_memory = memory.is_dir().then(|| tempfile::tempdir_in(memory).ok()).flatten();
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// A directory with the one file of a tokenizer.
pub(crate) fn tokenizer(home: &Path) -> PathBuf {
    let dir = home.join("model");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("tokenizer.json"), "{}\n").unwrap();
    dir
}

/// The step of the checkpoint `dir`, all of whose parts are of that step.
pub(crate) fn step_of(dir: &Path) -> Result<usize, String> {
    let found = find::check(dir).map_err(|e| e.to_string())?;
    let step = found.step;
    let adapter = peft::read(dir).map_err(|e| e.to_string())?;
    let values = &adapter.tensors["x"];
    if *values != (vec![step as f32; 3], vec![step as f32; 2]) {
        return Err(format!("the adapter of step {step} holds {values:?}"));
    }
    let arrays = found.optimizer(dir).map_err(|e| e.to_string())?;
    if arrays.is_some_and(|a| a != optimizer(step)) {
        return Err(format!("the optimizer is not that of step {step}"));
    }
    Ok(step)
}
