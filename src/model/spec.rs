//! What a decoder looks like, as data.

use crate::hub::rope::RopeScaling;
use crate::ops::attention::Heads;

/// A pre-norm decoder with RMSNorm, rotary embedding, grouped query attention and SwiGLU.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// Vocabulary size V.
    pub vocab: usize,
    /// Hidden size C.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads K.
    pub kv_heads: usize,
    /// Head size D.
    pub head_size: usize,
    /// Feed-forward size F.
    pub ffn: usize,
    /// ε of every RMSNorm.
    pub norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Sliding window of attention in positions.
    pub sliding_window: Option<usize>,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether the head is the embedding.
    pub tied_head: bool,
    /// Positions that the model was made for.
    pub context: usize,
}

impl DecoderSpec {
    /// The attention's heads and window.
    pub fn attention(&self) -> Heads {
        Heads {
            heads: self.heads,
            kv_heads: self.kv_heads,
            size: self.head_size,
            window: self.sliding_window,
        }
    }

    /// Outputs and inputs of the linear layer of a path.
    pub fn linear_shape(&self, path: &str) -> [usize; 2] {
        let (c, f) = (self.hidden, self.ffn);
        let (qd, kd) = (self.heads * self.head_size, self.kv_heads * self.head_size);
        match path.rsplit('.').next().unwrap_or(path) {
            "q_proj" => [qd, c],
            "k_proj" | "v_proj" => [kd, c],
            "o_proj" => [c, qd],
            "gate_proj" | "up_proj" => [f, c],
            "down_proj" => [c, f],
            _ => [self.vocab, c],
        }
    }

    /// The module paths of all linear layers in the order of the forward pass, the head last.
    pub fn linear_paths(&self) -> Vec<String> {
        (0..self.layers).flat_map(in_layer).chain(["lm_head".to_owned()]).collect()
    }

    /// The first layer with a module that is `adapted`, their number if there is none: those before it keep nothing for a backward pass.
    pub fn first_adapted(&self, adapted: &dyn Fn(&str) -> bool) -> usize {
        let has = |i: &usize| in_layer(*i).iter().any(|path| adapted(path));
        (0..self.layers).find(has).unwrap_or(self.layers)
    }
}

/// The module paths of a layer's linear layers in the order of the forward pass.
fn in_layer(i: usize) -> [String; 7] {
    [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    .map(|leaf| format!("model.layers.{i}.{leaf}"))
}
