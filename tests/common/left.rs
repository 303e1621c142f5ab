//! What a run leaves that must not depend on when it was interrupted.

use serde_json::Value;
use std::path::Path;

/// The records in a text without what a clock or a meter gave.
pub(crate) fn records(text: &str) -> Vec<Value> {
    let record = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        for name in ["tokens_per_s", "elapsed_s", "peak_mem_bytes"] {
            record.as_object_mut().unwrap().remove(name);
        }
        record
    };
    text.lines().map(record).collect()
}

/// The bytes of the final adapter, and the records of the run.
pub(crate) fn left(out: &Path) -> (Vec<u8>, Vec<Value>) {
    let adapter = std::fs::read(out.join("final/adapter_model.safetensors")).unwrap();
    (adapter, records(&std::fs::read_to_string(out.join("metrics.jsonl")).unwrap()))
}
