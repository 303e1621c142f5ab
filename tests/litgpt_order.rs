//! The order of rows against LitGPT's loaders (`scripts/fixtures/litgpt_data.py`), splits against `datasets` (`hf_split.py`).
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use serde_json::Value;
use std::path::Path;
use vft::data::sampler::Epochs;
use vft::data::split::train_test_split;

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/litgpt")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn numbers(value: &Value) -> Vec<usize> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn epochs_of_every_class_are_litgpts() {
    let mut runs = 0;
    for folder in std::fs::read_dir(fixtures().join("data")).unwrap() {
        let file = folder.unwrap().path().join("expected.json");
        if !file.exists() {
            continue;
        }
        let class = json(&file);
        for run in list(&class["runs"]) {
            let seed = run["init_args"].get("seed").unwrap_or(&class["defaults"]["seed"]);
            let order = Epochs::new(list(&run["train"]).len(), seed.as_u64().unwrap(), true);
            let expected: Vec<_> = list(&run["epochs"]).iter().map(numbers).collect();
            assert_eq!(order.take(2).collect::<Vec<_>>(), expected, "{}", class["class_path"]);
            runs += 1;
        }
    }
    assert_eq!(runs, 22);
}

#[test]
fn permutations_are_numpys() {
    for case in list(&json(&fixtures().join("split.json"))["permutations"]) {
        // With everything in it the test part is the permutation.
        let (n, seed) = (case["n"].as_u64().unwrap() as usize, case["seed"].as_u64().unwrap());
        assert_eq!(train_test_split(n, 1.0, seed).1, numbers(&case["permutation"]), "{n} {seed}");
    }
}

#[test]
fn splits_are_datasets() {
    for case in list(&json(&fixtures().join("split.json"))["splits"]) {
        let (n, seed) = (case["n"].as_u64().unwrap() as usize, case["seed"].as_u64().unwrap());
        let (train, test) = train_test_split(n, case["test_size"].as_f64().unwrap(), seed);
        for (ours, theirs) in [(train, &case["train"]), (test, &case["test"])] {
            let first = &ours[..ours.len().min(12)];
            let expected = (theirs["rows"].as_u64().unwrap() as usize, numbers(&theirs["first"]));
            assert_eq!((ours.len(), first.to_vec()), expected, "{n} {seed}");
        }
    }
}
