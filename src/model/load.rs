//! From a model directory to a decoder: weights mapped or quantised tensor by tensor, adapters attached.
//!
//! On the CPU a dense weight stays as it lies in the file where its dtype serves (memory-mapped, never copied): any in f32, bf16 in
//! bf16. In mixed precision linear layers hold the values that products see, rounded once here; LitGPT keeps f32 and rounds at each
//! use, to the same values. Embedding, norms and biases are not rounded then, so a tied head of another dtype is a copy. With NF4 each
//! decoder linear is packed a few values at a time and its pages are given back before the next, so the peak is the packed model plus
//! one tensor as it lies in the file; embedding and head stay as they are, as in transformers with bitsandbytes.

use super::convert::{to_bf16, to_nf4};
use super::decoder::Decoder;
use super::layer::Layer;
use super::linear::{Adapter, Linear};
use super::{DecoderSpec, families, rope};
use crate::adapters::LoraConfig;
use crate::error::{Problem, UserError};
use crate::hub::config::HfConfig;
use crate::hub::safetensors::{Checkpoint, MappedTensor};
use crate::ops::attention::MOST_CHANNELS;
use crate::ops::cx::round;
use crate::ops::philox::{name_key, philox4x32, seed_key, unit};
use crate::ops::weight::{Weight, block_rows};
use crate::ops::{Cx, Vector};
use crate::optim::Arena;
use crate::quant;
use anyhow::{Context, Result};
use candle_core::DType;
use safetensors::Dtype;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tracing::trace;

/// The embedding's tensor, and a tied head's.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// The kinds of NF4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nf4 {
    /// f32 absmax per block of 64.
    Single,
    /// absmax quantised again to 8 bits per block of 256.
    Double,
}

/// Loads the decoder of a Hugging Face directory to where `cx` computes; `quantize` packs the decoder's linear layers.
///
/// # Errors
/// When the directory holds no model that vft knows, or a tensor is missing or of the wrong shape.
pub fn load(cx: &Cx, dir: &Path, quantize: Option<Nf4>) -> Result<Decoder> {
    let spec = families::spec(&HfConfig::load(dir)?)?;
    let problem = |message| UserError::from(Problem::in_file(dir.join("config.json"), message));
    if cx.gpu().is_some() && spec.head_size > MOST_CHANNELS {
        let message =
            format!("heads of {} channels; on CUDA at most {MOST_CHANNELS}", spec.head_size);
        return Err(problem(message).into());
    }
    let used = RefCell::default();
    let loader = Loader { cx, checkpoint: Checkpoint::open(dir)?, quantize, spec: &spec, used };
    let whole = [spec.vocab, spec.hidden];
    let embed = loader.dense(EMBEDDING, whole, cx.compute())?.table_to_device(cx)?;
    let embed = Arc::new(embed);
    let one_dtype = cx.products() == cx.compute() || cx.products() == embed.dtype();
    let head_weight = if spec.tied_head && one_dtype {
        embed.clone()
    } else {
        let name = if spec.tied_head { EMBEDDING } else { "lm_head.weight" };
        Arc::new(loader.dense(name, whole, cx.products())?.to_device(cx)?)
    };
    let layers = (0..spec.layers).map(|i| loader.layer(i)).collect::<Result<_>>()?;
    let norm = loader.vector("model.norm.weight", spec.hidden)?;
    let head = Linear { path: "lm_head".into(), weight: head_weight, bias: None, adapter: None };
    loader.nothing_left(dir)?;
    let frequencies = rope::frequencies(&spec);
    Ok(Decoder { embed, layers, norm, head, frequencies, spec: spec.clone() })
}

/// Bytes that a model's weights take where a context computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// All weights: mapped, copied or packed.
    pub resident: u64,
    /// What loading the largest tensor takes besides, for a moment.
    pub loading: u64,
    /// Scratch in which one use of a weight is widened or dequantised.
    pub scratch: u64,
}

/// What [`load`] will take, from the headers of the weights' files.
///
/// # Errors
/// When the headers cannot be read.
pub fn sizes(cx: &Cx, dir: &Path, quantize: Option<Nf4>) -> Result<Sizes> {
    let checkpoint = Checkpoint::open(dir)?;
    let (products, on_gpu) = (cx.products(), cx.gpu().is_some());
    let tied = families::spec(&HfConfig::load(dir)?)?.tied_head;
    let mut sizes = Sizes { resident: 0, loading: 0, scratch: 0 };
    let mut blocks = BTreeSet::new();
    for tensor in checkpoint.names().filter_map(|name| Some((name, checkpoint.tensor(name)?))) {
        let (name, tensor) = tensor;
        let stored = tensor.bytes().len() as u64;
        let elements: u64 = tensor.shape.iter().map(|n| *n as u64).product();
        let packed = quantize.filter(|_| name.ends_with("_proj.weight"));
        let of_file = dtype(tensor);
        let is_table = name == EMBEDDING;
        let to = if is_table && of_file != products { cx.compute() } else { products };
        let is_aligned = tensor.bytes().as_ptr().align_offset(of_file.size_in_bytes()) == 0;
        let in_place = !on_gpu && is_aligned && (to == DType::F32 || of_file == to);
        let as_operand = elements * products.size_in_bytes() as u64;
        sizes.resident += match packed {
            Some(kind) => {
                let scales = elements.div_ceil(quant::nf4::BLOCK as u64);
                elements / 2 + if kind == Nf4::Double { scales + scales / 64 } else { 4 * scales }
            }
            None if in_place => stored,
            None => elements * to.size_in_bytes() as u64,
        };
        // A tied head of rounded values beside an embedding that is not.
        let copied = is_table && tied && of_file != products && cx.compute() != products;
        if copied {
            sizes.resident += as_operand;
        }
        // The file's pages, and scales that are quantised again, beside what stays.
        if packed.is_some() || copied || !in_place {
            sizes.loading = sizes.loading.max(stored + elements / 16);
        }
        // A device dequantises a whole weight; f32 products widen a block of NF4 or f16, in one buffer for each size, and bf16 on its
        // way into panels (but for a few rows); bf16 products take either as it is.
        let kept = if to == DType::F32 { of_file } else { to };
        let needs_scratch = packed.is_some() || kept == DType::F16;
        if let (2, true) = (tensor.shape.len(), needs_scratch) {
            if on_gpu && packed.is_some() {
                sizes.scratch = sizes.scratch.max(as_operand);
            } else if !on_gpu && !cx.has_bf16_products() {
                let [rows, cols] = [tensor.shape[0], tensor.shape[1]];
                blocks.insert(4 * block_rows(rows, cols) * cols);
            }
        }
    }
    sizes.scratch += blocks.iter().sum::<usize>() as u64;
    Ok(sizes)
}

struct Loader<'a> {
    cx: &'a Cx,
    checkpoint: Checkpoint,
    quantize: Option<Nf4>,
    spec: &'a DecoderSpec,
    used: RefCell<BTreeSet<String>>,
}

impl Loader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<MappedTensor> {
        self.used.borrow_mut().insert(name.to_owned());
        Ok(self.checkpoint.expect(name, shape)?.clone())
    }

    /// Weights that the config does not account for would make another model without a word.
    fn nothing_left(&self, dir: &Path) -> Result<(), UserError> {
        let used = self.used.borrow();
        let needless = |name: &str| {
            name.ends_with("rotary_emb.inv_freq")
                || (self.spec.tied_head && name == "lm_head.weight")
        };
        let left: Vec<_> =
            self.checkpoint.names().filter(|n| !used.contains(*n) && !needless(n)).collect();
        let Some(first) = left.first() else { return Ok(()) };
        let message = format!(
            "the weights hold {} tensors that the model described by config.json does not have, such as `{first}`",
            left.len()
        );
        let hint = "config.json and weights do not belong together: look at num_hidden_layers, attention_bias and the architecture";
        Err(Problem::in_file(dir, message).hint(hint).into())
    }

    fn layer(&self, i: usize) -> Result<Layer> {
        let s = self.spec;
        let at = |leaf: &str| format!("model.layers.{i}.{leaf}");
        let (c, f) = (s.hidden, s.ffn);
        let (hd, kd) = (s.heads * s.head_size, s.kv_heads * s.head_size);
        Ok(Layer {
            norm1: self.vector(&at("input_layernorm.weight"), c)?,
            q: self.linear(at("self_attn.q_proj"), hd, c, s.qkv_bias)?,
            k: self.linear(at("self_attn.k_proj"), kd, c, s.qkv_bias)?,
            v: self.linear(at("self_attn.v_proj"), kd, c, s.qkv_bias)?,
            o: self.linear(at("self_attn.o_proj"), c, hd, s.o_bias)?,
            norm2: self.vector(&at("post_attention_layernorm.weight"), c)?,
            gate: self.linear(at("mlp.gate_proj"), f, c, s.mlp_bias)?,
            up: self.linear(at("mlp.up_proj"), f, c, s.mlp_bias)?,
            down: self.linear(at("mlp.down_proj"), c, f, s.mlp_bias)?,
        })
    }

    fn linear(&self, path: String, out: usize, inp: usize, bias: bool) -> Result<Linear> {
        let name = format!("{path}.weight");
        let weight = match self.quantize {
            None => self.dense(&name, [out, inp], self.cx.products())?,
            Some(kind) => {
                let tensor = self.tensor(&name, &[out, inp])?;
                let products = self.cx.products();
                let packed = to_nf4(&tensor, kind, products)
                    .ok_or_else(|| not_finite(&name, &tensor, products))?;
                trace!(name, "packed to NF4");
                Weight::nf4(packed, products, out, inp)?
            }
        };
        let bias = if bias { Some(self.vector(&format!("{path}.bias"), out)?) } else { None };
        let weight = Arc::new(weight.to_device(self.cx)?);
        Ok(Linear { path, weight, bias, adapter: None })
    }

    /// A weight whose values are those of the file or, where `to` is not f32, rounded to `to`.
    fn dense(&self, name: &str, [rows, cols]: [usize; 2], to: DType) -> Result<Weight> {
        let tensor = self.tensor(name, &[rows, cols])?;
        let dtype = dtype(&tensor);
        if to == DType::F32 || dtype == to {
            let bytes: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(Mapped(tensor.clone()));
            // Bytes that are not aligned for their dtype are copied below.
            if let Ok(weight) = Weight::dense(bytes, dtype, rows, cols) {
                return Ok(weight);
            }
        }
        if to == DType::BF16 {
            return Ok(Weight::from_bf16(to_bf16(&tensor), rows, cols)?);
        }
        let values = tensor.to_f32_vec();
        tensor.forget();
        Ok(Weight::from_f32(values, rows, cols)?)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vector> {
        let mut values = self.tensor(name, &[len])?.to_f32_vec();
        round(&mut values, self.cx.compute());
        Ok(Vector::new(self.cx, values)?)
    }
}

fn not_finite(name: &str, tensor: &MappedTensor, products: DType) -> UserError {
    let message = format!(
        "`{name}` holds values that are not finite in {products:?}: in NF4 they would become numbers"
    );
    let hint = "the base model is broken: get it again, or another revision of it; or its values are too large for this `precision`";
    Problem::in_file(&tensor.file, message).hint(hint).into()
}

fn dtype(tensor: &MappedTensor) -> DType {
    match tensor.dtype {
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::BF16,
        _ => DType::F16,
    }
}

struct Mapped(MappedTensor);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The factors of an adapter by module path: A (R, in) and B (out, R), f32.
pub type AdapterTensors = BTreeMap<String, (Vec<f32>, Vec<f32>)>;

/// Attaches a LoRA adapter to the modules named in `paths`: A from U(−1/√in, 1/√in) by (seed, tensor name), B zero; or both
/// from `tensors`.
///
/// # Errors
/// When `tensors` lacks a module or has one of another shape.
pub fn attach(
    decoder: &mut Decoder,
    arena: &mut Arena,
    lora: &LoraConfig,
    paths: &[String],
    seed: u64,
    tensors: Option<&AdapterTensors>,
) -> Result<()> {
    let (scale, dropout) = (lora.scale() as f32, lora.dropout as f32);
    for linear in decoder.linears_mut().filter(|l| paths.contains(&l.path)) {
        let (r, inp, out) = (lora.r, linear.weight.cols(), linear.weight.rows());
        let (name_a, name_b) = crate::adapters::names::peft_keys(&linear.path);
        let (a, b) = match tensors {
            Some(tensors) => {
                let missing = || format!("the adapter has no tensors for `{}`", linear.path);
                let (a, b) = tensors.get(&linear.path).with_context(missing)?.clone();
                if a.len() != r * inp || b.len() != out * r {
                    let message = format!(
                        "the adapter's tensors for `{}` do not have the shapes ({r}, {inp}) and ({out}, {r}) that this model wants",
                        linear.path
                    );
                    let hint = "the adapter belongs to another base model";
                    return Err(UserError::from(Problem::new(message).hint(hint)).into());
                }
                (a, b)
            }
            None => (kaiming_uniform(seed, &name_a, r, inp), vec![0.0; out * r]),
        };
        let a = arena.push(name_a, [r, inp], &a);
        let b = arena.push(name_b, [out, r], &b);
        linear.adapter = Some(Adapter { a, b, scale, dropout });
    }
    Ok(())
}

/// U(−1/√in, 1/√in), which is torch's `kaiming_uniform_(a=√5)`: PEFT's initial A.
fn kaiming_uniform(seed: u64, name: &str, rows: usize, cols: usize) -> Vec<f32> {
    let bound = 1.0 / (cols as f32).sqrt();
    let key = [seed_key(seed), name_key(name)];
    let words = (0..).flat_map(|i: u32| philox4x32([i, 0, 0, 0], key));
    words.take(rows * cols).map(|w| (unit(w) * 2.0 - 1.0) * bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_a_stays_within_kaimings_bound() {
        let worst = kaiming_uniform(1, "x", 16, 960).iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!((0.0320..0.032_28).contains(&worst), "{worst}");
    }

    #[test]
    fn another_name_gets_other_values() {
        assert_ne!(kaiming_uniform(1, "x", 2, 8), kaiming_uniform(1, "y", 2, 8));
    }
}
