//! Memory-mapped safetensors, one file or shards named by an index.
//!
//! The header is checked by the safetensors crate (offsets inside the file, no overlap, sizes that match). A shard must be a plain
//! file name of the model's own directory: an index that points elsewhere is refused, and so is a link that leaves the directory,
//! except into the `blobs` folder of a Hugging Face cache.

use crate::error::{Problem, Result};
use crate::small_file;
use half::f16;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest index that is read.
const INDEX_BYTES: u64 = 16 << 20;

/// A tensor inside a mapped file; cheap to clone.
#[derive(Clone)]
pub struct MappedTensor {
    mmap: Arc<Mmap>,
    range: Range<usize>,
    /// The stored dtype.
    pub dtype: Dtype,
    /// The shape.
    pub shape: Vec<usize>,
    /// The file that it lies in.
    pub file: PathBuf,
}

impl MappedTensor {
    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.mmap[self.range.clone()]
    }

    /// Gives the pages back to the system: what is not needed again should not count as this process's memory.
    pub fn forget(&self) {
        #[cfg(unix)]
        {
            const PAGE: usize = 4096;
            let (start, end) =
                (self.range.start.next_multiple_of(PAGE), self.range.end / PAGE * PAGE);
            if start < end {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: the mapping is read-only and of a file: what is given back is read again when it is touched.
                let _ = unsafe { self.mmap.unchecked_advise_range(advice, start, end - start) };
            }
        }
    }

    /// All values as f32; f32, bf16 and f16 are exact, other dtypes give an empty vector (see [`Checkpoint::expect`]).
    pub fn to_f32_vec(&self) -> Vec<f32> {
        let known = matches!(self.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16);
        let mut values = vec![0.0; if known { self.shape.iter().product() } else { 0 }];
        self.widen(0, &mut values);
        values
    }

    /// Elements from `start` on as f32, exactly; of f32, bf16 and f16.
    ///
    /// # Panics
    /// When the range exceeds the tensor, or values of another dtype are asked for.
    pub fn widen(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.bitsize() / 8;
        let bytes = &self.bytes()[start * size..][..out.len() * size];
        let pairs = || bytes.as_chunks().0.iter().map(|c| u16::from_le_bytes(*c));
        match self.dtype {
            Dtype::BF16 => {
                let wide = pairs().map(|bits| f32::from_bits(u32::from(bits) << 16));
                out.iter_mut().zip(wide).for_each(|(o, v)| *o = v);
            }
            Dtype::F16 => {
                let wide = pairs().map(|bits| f16::from_bits(bits).to_f32());
                out.iter_mut().zip(wide).for_each(|(o, v)| *o = v);
            }
            Dtype::F32 => {
                let wide = bytes.as_chunks().0.iter().map(|c| f32::from_le_bytes(*c));
                out.iter_mut().zip(wide).for_each(|(o, v)| *o = v);
            }
            other => assert!(out.is_empty(), "{other:?} is not widened"),
        }
    }
}

/// All tensors of a model directory or of one file.
pub struct Checkpoint {
    root: PathBuf,
    tensors: BTreeMap<String, MappedTensor>,
}

/// Whether a directory holds weights that [`Checkpoint::open`] reads.
pub fn holds_weights(dir: &Path) -> bool {
    ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| dir.join(name).exists())
}

impl Checkpoint {
    /// Maps `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// When neither is there, a shard is missing or lies outside the directory, or a file is damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        let (single, index) =
            (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
        let files = if index.is_file() {
            let names = shard_names(&index)?;
            names.iter().map(|name| shard_path(dir, &index, name)).collect::<Result<Vec<_>>>()?
        } else if single.exists() {
            vec![single]
        } else {
            let problem =
                Problem::in_file(dir, "holds no model.safetensors and no index of shards");
            let pickled = dir.join("pytorch_model.bin").exists();
            return Err(problem
                .hint(if pickled {
                    "pickled weights are not read; save the model once with transformers' `save_pretrained`"
                } else {
                    "point `checkpoint_dir` at a Hugging Face model directory with safetensors weights"
                })
                .into());
        };
        let mut tensors = BTreeMap::new();
        for file in &files {
            for (name, tensor) in map_file(file)? {
                if tensors.insert(name.clone(), tensor).is_some() {
                    let message = format!("tensor `{name}` lies in two shards");
                    return Err(Problem::in_file(file, message).into());
                }
            }
        }
        Ok(Self { root: dir.to_path_buf(), tensors })
    }

    /// Maps one safetensors file.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn open_file(file: &Path) -> Result<Self> {
        Ok(Self { root: file.to_path_buf(), tensors: map_file(file)?.into_iter().collect() })
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&MappedTensor> {
        self.tensors.get(name)
    }

    /// A floating-point tensor by name, of the shape that the config asks for.
    ///
    /// # Errors
    /// When it is missing, of another shape, or of a dtype other than f32, bf16 and f16.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<&MappedTensor> {
        let tensor = self
            .tensor(name)
            .ok_or_else(|| Problem::in_file(&self.root, format!("tensor `{name}` is missing")))?;
        if tensor.shape != shape {
            let message = format!(
                "tensor `{name}` has shape {:?}; config.json asks for {shape:?}",
                tensor.shape
            );
            return Err(Problem::in_file(&tensor.file, message).into());
        }
        if !matches!(tensor.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16) {
            let message =
                format!("tensor `{name}` is {:?}; f32, bf16 and f16 are read", tensor.dtype);
            return Err(Problem::in_file(&tensor.file, message).into());
        }
        Ok(tensor)
    }
}

fn map_file(file: &Path) -> Result<Vec<(String, MappedTensor)>> {
    let problem =
        |e: &dyn std::fmt::Display| Problem::in_file(file, format!("cannot be read: {e}"));
    // A pipe or a device would keep the reader waiting.
    if file.exists() && !file.is_file() {
        return Err(Problem::in_file(file, "is no regular file").into());
    }
    let handle = File::open(file).map_err(|e| problem(&e))?;
    // SAFETY: the map is read-only. Another process that truncates the file meanwhile would end this one with a bus error, as for
    // every program that maps its weights; no write of ours can reach it.
    let mmap = Arc::new(unsafe { Mmap::map(&handle) }.map_err(|e| problem(&e))?);
    let damaged = |e: &dyn std::fmt::Display| {
        Problem::in_file(file, format!("is no intact safetensors file: {e}"))
            .hint("download or copy it again; its size should match the source's")
    };
    let views = SafeTensors::deserialize(&mmap).map_err(|e| damaged(&e))?;
    let base = mmap.as_ptr() as usize;
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let start = view.data().as_ptr() as usize - base;
        let range = start..start + view.data().len();
        let shape = view.shape().to_vec();
        let file = file.to_path_buf();
        (name, MappedTensor { mmap: mmap.clone(), range, dtype: view.dtype(), shape, file })
    };
    Ok(views.tensors().into_iter().map(tensor).collect())
}

fn shard_names(index: &Path) -> Result<BTreeSet<String>> {
    let problem = |message: String| Problem::in_file(index, message);
    let text = small_file::text(index, INDEX_BYTES)
        .map_err(|e| problem(format!("cannot be read: {e}")))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|e| Problem::at(index, e.line(), e.column(), format!("is no valid JSON: {e}")))?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| problem("`weight_map` is missing".into()))?;
    let name = |(tensor, v): (&String, &Value)| {
        v.as_str()
            .map(str::to_owned)
            .ok_or_else(|| problem(format!("`{tensor}` names no file")).into())
    };
    map.iter().map(name).collect()
}

fn shard_path(dir: &Path, index: &Path, name: &str) -> Result<PathBuf> {
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(['/', '\\', '\0', ':'])
        && Path::new(name).file_name().is_some_and(|f| f == name);
    if !plain {
        let message = format!("shard `{}` is no plain file name", name.escape_default());
        let hint = "shards lie beside their index; a path in an index is not followed";
        return Err(Problem::in_file(index, message).hint(hint).into());
    }
    let path = dir.join(name);
    let missing =
        |e| Problem::in_file(&path, format!("is named by the index but cannot be read: {e}"));
    let real = path.canonicalize().map_err(missing)?;
    let home = dir.canonicalize().map_err(missing)?;
    // The repository's own blobs, and those that all repositories of the cache share.
    let repo = home.parent().filter(|p| p.ends_with("snapshots")).and_then(Path::parent);
    let in_blobs = |b: &Path| real.starts_with(b.join("blobs"));
    let known = repo.is_some_and(|r| in_blobs(r) || r.parent().is_some_and(in_blobs));
    if !real.starts_with(&home) && !known {
        let message = "is a link that leaves the model's directory";
        return Err(Problem::in_file(&path, message).into());
    }
    Ok(path)
}
