//! Tensors into `model.safetensors`, or into `model-0000x-of-0000y.safetensors` and an index, as they are computed.
//!
//! A file begins as `checkpoint::tensors` says. Wide dtypes come first, so that every tensor lies aligned. The safetensors crate writes
//! tensors that are there; these are not yet. A shard is closed when the next tensor would take it over the limit, as in huggingface_hub's
//! `split_torch_state_dict_into_shards`.

use super::plan::Piece;
use super::proceed;
use crate::checkpoint::atomic::io_problem;
use crate::checkpoint::tensors::header;
use crate::error::{Problem, UserError};
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Bytes of a tensor that are copied at once.
const COPY: usize = 1 << 22;

/// Writes all tensors and, for several files, their index; returns the files' names.
pub(super) fn write(
    dir: &Path,
    pieces: &[Piece],
    shard_bytes: u64,
    stop: &AtomicBool,
) -> Result<Vec<String>> {
    let sizes: Vec<u64> = pieces.iter().map(|p| p.source.bytes().len() as u64).collect();
    let shards = split(&sizes, shard_bytes);
    let (mut names, mut map) = (Vec::new(), Map::new());
    for (i, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let pieces = &pieces[shard.clone()];
        write_file(&dir.join(&name), pieces, stop)?;
        map.extend(pieces.iter().map(|p| (p.name.clone(), Value::from(name.clone()))));
        names.push(name);
    }
    if names.len() > 1 {
        let total: u64 = sizes.iter().sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        let file = dir.join("model.safetensors.index.json");
        let text = serde_json::to_string_pretty(&index)? + "\n";
        fs::write(&file, text).map_err(|e| failed(&file, e))?;
    }
    Ok(names)
}

/// Ranges of tensors of at most `limit` bytes each; a larger tensor is alone.
fn split(sizes: &[u64], limit: u64) -> Vec<Range<usize>> {
    let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0u64);
    for (i, size) in sizes.iter().enumerate() {
        if i > start && bytes + size > limit {
            shards.push(start..i);
            (start, bytes) = (i, 0);
        }
        bytes += size;
    }
    shards.push(start..sizes.len());
    shards
}

fn write_file(path: &Path, pieces: &[Piece], stop: &AtomicBool) -> Result<()> {
    let io = |e| failed(path, e);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    let tensors = pieces
        .iter()
        .map(|p| (p.name.as_str(), p.source.dtype, &p.source.shape[..], p.source.bytes().len()));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = header(tensors, Some(metadata))
        .map_err(|e| UserError::from(Problem::in_file(path, format!("cannot be written: {e}"))))?;
    out.write_all(&header).map_err(io)?;
    let mut narrow = Vec::new();
    for piece in pieces {
        if piece.is_copy() {
            for part in piece.source.bytes().chunks(COPY) {
                proceed(stop)?;
                out.write_all(part).map_err(io)?;
                // An embedding is far larger than any linear: its pages would be the peak of the merge.
                piece.source.forget();
            }
        } else {
            piece.for_blocks(|values| {
                proceed(stop)?;
                piece.narrow(values, &mut narrow)?;
                Ok(out.write_all(&narrow).map_err(io)?)
            })?;
        }
        piece.source.forget();
    }
    out.into_inner().map_err(|e| io(e.into_error()))?;
    Ok(())
}

/// The error with its file; the kind stays, because a full disk has an exit code of its own.
fn failed(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), io_problem(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_ends_before_the_tensor_that_exceeds_it() {
        assert_eq!(split(&[4, 4, 4], 8), [0..2, 2..3]);
    }

    #[test]
    fn a_tensor_above_the_limit_is_alone() {
        assert_eq!(split(&[1, 9, 1], 4), [0..1, 1..2, 2..3]);
    }

    #[test]
    fn tensors_that_fill_the_limit_exactly_share_a_shard() {
        assert_eq!(split(&[4, 4], 8).len(), 1);
    }
}
