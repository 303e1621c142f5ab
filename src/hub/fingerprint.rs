//! What tells the weights of two model directories apart without reading all of them: `config.json`, and of each tensor its name, dtype, shape
//! and three pieces of its values. A model that was trained or merged differs in all values of the tensors that it differs in.

use super::safetensors::Checkpoint;
use crate::error::{Problem, Result};
use crate::small_file::{self, DESCRIPTION};
use std::path::Path;

/// Bytes of a piece: of the beginning, the middle and the end of a tensor.
const PIECE: usize = 4 << 10;

/// The fingerprint in hexadecimal digits.
///
/// # Errors
/// When a file cannot be read.
pub fn fingerprint(dir: &Path) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    let config = dir.join("config.json");
    let text = small_file::bytes(&config, DESCRIPTION)
        .map_err(|e| Problem::in_file(&config, format!("cannot be read: {e}")))?;
    hash.update(&text);
    let weights = Checkpoint::open(dir)?;
    for name in weights.names() {
        let Some(tensor) = weights.tensor(name) else { continue };
        let bytes = tensor.bytes();
        hash.update(format!("{name} {:?} {:?} ", tensor.dtype, tensor.shape).as_bytes());
        for start in [0, bytes.len() / 2, bytes.len().saturating_sub(PIECE)] {
            hash.update(&bytes[start..bytes.len().min(start + PIECE)]);
        }
        tensor.forget();
    }
    Ok(hash.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{Dtype, TensorView};
    use std::fs;

    /// The fingerprint of a model of three tensors, the second of which is filled with `value`.
    fn of(value: u8) -> String {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("config.json"), "{}").unwrap();
        let values = [7, value, 7].map(|v| vec![v; 4 << 20]);
        let view = |v| TensorView::new(Dtype::U8, vec![4 << 20], v).unwrap();
        let tensors = ["a", "b", "c"].into_iter().zip(values.iter().map(|v| view(v)));
        let bytes = safetensors::serialize(tensors, None).unwrap();
        fs::write(home.path().join("model.safetensors"), bytes).unwrap();
        fingerprint(home.path()).unwrap()
    }

    #[test]
    fn one_other_tensor_in_the_middle_is_seen() {
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn the_place_does_not_matter() {
        assert_eq!(of(1), of(1));
    }
}
