//! Fixtures, a place to merge into, comparisons.

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use vft::hub::safetensors::Checkpoint;
use vft::merge::{BaseWeights, MergeAsk, MergeReport, SHARD_BYTES, TiedHead, merge};

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/merge").join(name)
}

/// A place to merge into.
pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.path("merged")
    }

    pub(crate) fn entries(&self) -> usize {
        fs::read_dir(self.0.path()).unwrap().count()
    }
}

/// A merge with the defaults; `change` changes what a test is about.
pub(crate) fn merge_with(
    out: &Path,
    base: &Path,
    adapter: &Path,
    change: impl FnOnce(&mut MergeAsk<'_>),
) -> anyhow::Result<MergeReport> {
    let stop = AtomicBool::new(false);
    let mut ask = MergeAsk {
        base,
        adapter,
        out,
        replace: false,
        base_weights: BaseWeights::Original,
        tied_head: TiedHead::Untie,
        shard_bytes: SHARD_BYTES,
        stop: &stop,
    };
    change(&mut ask);
    merge(&ask)
}

/// A merge of fixtures.
pub(crate) fn merged(
    base: &str,
    adapter: &str,
    change: impl FnOnce(&mut MergeAsk<'_>),
) -> (Home, Checkpoint) {
    let home = Home::new();
    let base = fixture(base);
    merge_with(&home.out(), &base, &base.join(adapter), change).unwrap();
    let checkpoint = Checkpoint::open(&home.out()).unwrap();
    (home, checkpoint)
}

pub(crate) fn config(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap()
}

pub(crate) fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.names().collect()
}

/// The tensors of a group of `expected.safetensors` by the model's names.
pub(crate) fn expected(case: &str, group: &str) -> BTreeMap<String, Vec<f32>> {
    let file = Checkpoint::open_file(&fixture(case).join("expected.safetensors")).unwrap();
    let prefix = format!("{group}.");
    let of_group = |name: &str| {
        Some((name.strip_prefix(&prefix)?.to_owned(), file.tensor(name)?.to_f32_vec()))
    };
    let found: BTreeMap<_, _> = file.names().filter_map(of_group).collect();
    assert!(!found.is_empty(), "{case} has no {group}");
    found
}

/// Every tensor of a group, within `tolerance` of the largest value.
pub(crate) fn assert_near(ours: &Checkpoint, want: &BTreeMap<String, Vec<f32>>, tolerance: f32) {
    for (name, want) in want {
        let got = ours.tensor(name).unwrap().to_f32_vec();
        let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert_eq!(got.len(), want.len(), "{name}");
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= tolerance * largest, "{name}: {got} is not {want}");
        }
    }
}

/// The bf16 base in f16.
pub(crate) fn write_f16_base(dir: &Path) {
    let base = Checkpoint::open(&fixture("bf16")).unwrap();
    let narrow = |name| base.tensor(name).unwrap().to_f32_vec().into_iter().map(f16::from_f32);
    let bytes = |name| narrow(name).flat_map(f16::to_le_bytes).collect::<Vec<u8>>();
    let tensors: Vec<_> = base.names().map(|name| (name, bytes(name))).collect();
    let view = |(name, bytes)| {
        let shape = base.tensor(name).unwrap().shape.clone();
        (name, TensorView::new(Dtype::F16, shape, bytes).unwrap())
    };
    let views: Vec<_> = tensors.iter().map(|(name, bytes)| view((*name, bytes))).collect();
    fs::create_dir(dir).unwrap();
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    let mut json = config(&fixture("bf16"));
    json["dtype"] = json!("float16");
    fs::write(dir.join("config.json"), json.to_string()).unwrap();
}
