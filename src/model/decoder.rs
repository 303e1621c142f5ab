//! The whole decoder: embedding, layers, final norm, head; training passes and decoding with a cache.
//!
//! The head runs over labelled tokens only (`head.rs`).

use super::batch::Rows;
use super::cache::LayerCache;
use super::layer::{Keeping, Layer, Pass};
use super::linear::{Draw, Dropout, Linear};
use super::{DecoderSpec, Tokens};
use crate::ops::attention::Span;
use crate::ops::{Buf, Cx, Mirror, Vector, Weight, embedding, rms_norm, rope, rows};
use crate::optim::Arena;
use candle_core::{Result, bail};
use std::sync::Arc;

/// A decoder-only language model.
#[derive(Debug)]
pub struct Decoder {
    /// The shape.
    pub spec: DecoderSpec,
    /// Token embedding (V, C).
    pub embed: Arc<Weight>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// Final RMSNorm weight (C).
    pub norm: Vector,
    /// The head (V, C).
    pub head: Linear,
    /// Inverse rotary frequencies (D/2) and the factor on cos and sin.
    pub frequencies: (Vec<f32>, f32),
}

/// How a training pass runs.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    /// What decides the dropout masks; `None` drops nothing.
    pub draw: Option<Draw>,
    /// What layers keep for the backward pass.
    pub keep: Keeping,
}

/// The labelled tokens of a micro-batch.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    /// Rows of the micro-batch whose next token is a target, ascending.
    pub rows: Vec<u32>,
    /// The targets.
    pub targets: Vec<u32>,
    /// The coefficient of each target's loss; its gradient is scaled by it.
    pub coefficients: Vec<f32>,
}

impl Decoder {
    /// Rotary tables for sequences of up to `positions` tokens.
    ///
    /// # Errors
    /// When the copy to a device fails.
    pub fn rope_table(&self, cx: &Cx, positions: usize) -> Result<rope::Table> {
        rope::Table::new(cx, &self.frequencies.0, self.frequencies.1, positions)
    }

    /// All linear layers in the order of [`DecoderSpec::linear_paths`].
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.layers
            .iter_mut()
            .flat_map(|l| {
                [&mut l.q, &mut l.k, &mut l.v, &mut l.o, &mut l.gate, &mut l.up, &mut l.down]
            })
            .chain([&mut self.head])
    }

    /// All linear layers in the order of [`DecoderSpec::linear_paths`].
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(Layer::linears).chain([&self.head])
    }

    /// The first layer with an adapter, their number if there is none: gradients end there, and what is before it keeps nothing.
    fn first_adapted(&self) -> usize {
        let adapted = |l: &Layer| l.linears().iter().any(|l| l.adapter.is_some());
        self.layers.iter().position(adapted).unwrap_or(self.layers.len())
    }

    /// One forward and backward pass: returns each target's negative log-probability and adds to the arena's gradients the
    /// gradient of Σ coefficient·nll.
    ///
    /// # Errors
    /// When shapes disagree or an id lies outside the vocabulary.
    pub fn train_pass(
        &self,
        cx: &Cx,
        arena: &mut Arena,
        rope: &rope::Table,
        tokens: &Tokens,
        labels: &Labels,
        how: Training,
    ) -> Result<Vec<f32>> {
        let rows = self.rows(cx, tokens)?;
        let dropout = how.draw.map(|draw| Dropout { draw, origins: &rows.origins });
        let pass = Pass { cx, spec: &self.spec, rope, rows: &rows, dropout };
        let mut x = embedding::forward(cx, &self.embed, &rows.ids)?;
        let (frozen, trained) = self.layers.split_at(self.first_adapted());
        for layer in frozen {
            x = layer.output(pass, arena, x, None)?;
        }
        let mut saved = Vec::with_capacity(trained.len());
        for (i, layer) in trained.iter().enumerate() {
            let keep = how.keep.of(i, trained.len());
            let (y, s) = layer.forward(pass, arena, x, keep)?;
            saved.push(s);
            x = y;
        }
        let (h, r) = rms_norm::forward(cx, &x, &self.norm, self.spec.norm_eps)?;
        let mut dh = cx.zeros(h.shape())?;
        let nll = self.head_pass(pass, arena, &h, labels, Some(&mut dh))?;
        drop(h);
        let mut dx = cx.zeros(x.shape())?;
        rms_norm::backward(cx, &mut dh, &x, &self.norm, &r, &mut dx)?;
        drop((dh, x));
        for (i, (layer, s)) in trained.iter().zip(saved).enumerate().rev() {
            match layer.backward(pass, arena, s, dx, i == 0)? {
                Some(next) => dx = next,
                None => break,
            }
        }
        Ok(nll)
    }

    /// Each target's negative log-probability, without gradients or dropout.
    ///
    /// # Errors
    /// When shapes disagree or an id lies outside the vocabulary.
    pub fn eval_pass(
        &self,
        cx: &Cx,
        arena: &mut Arena,
        rope: &rope::Table,
        tokens: &Tokens,
        labels: &Labels,
    ) -> Result<Vec<f32>> {
        let rows = self.rows(cx, tokens)?;
        let pass = Pass { cx, spec: &self.spec, rope, rows: &rows, dropout: None };
        let h = self.hidden(pass, arena)?;
        self.head_pass(pass, arena, &h, labels, None)
    }

    /// All logits (N, V) of a micro-batch: for tests and short inputs only.
    ///
    /// # Errors
    /// When shapes disagree or an id lies outside the vocabulary.
    pub fn logits(
        &self,
        cx: &Cx,
        arena: &Arena,
        rope: &rope::Table,
        tokens: &Tokens,
    ) -> Result<Buf> {
        let rows = self.rows(cx, tokens)?;
        let pass = Pass { cx, spec: &self.spec, rope, rows: &rows, dropout: None };
        let h = self.hidden(pass, arena)?;
        let rows = h.rows();
        Ok(self.head.logits(cx, arena, &h, None, rows)?.0)
    }

    /// The first module whose output for these tokens holds a value that is not finite, without dropout.
    ///
    /// # Errors
    /// When shapes disagree or the device fails.
    pub fn first_not_finite(
        &self,
        cx: &Cx,
        arena: &Arena,
        rope: &rope::Table,
        tokens: &Tokens,
    ) -> Result<Option<String>> {
        let broken = |x: &Buf| x.to_f32().map(|v| v.iter().any(|v| !v.is_finite()));
        let rows = self.rows(cx, tokens)?;
        let pass = Pass { cx, spec: &self.spec, rope, rows: &rows, dropout: None };
        let mut x = embedding::forward(cx, &self.embed, &rows.ids)?;
        if broken(&x)? {
            return Ok(Some("model.embed_tokens".into()));
        }
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.output(pass, arena, x, None)?;
            if broken(&x)? {
                return Ok(Some(format!("model.layers.{i}")));
            }
        }
        let h = self.final_norm(cx, &x)?;
        if broken(&h)? {
            return Ok(Some("model.norm".into()));
        }
        let first = rows::gather(cx, &h, &Mirror::new(cx, vec![0u32])?)?;
        let logits = self.head.logits(cx, arena, &first, None, 1)?.0;
        Ok(broken(&logits)?.then(|| "lm_head".into()))
    }

    fn rows<'a>(&self, cx: &Cx, tokens: &'a Tokens) -> Result<Rows<'a>> {
        tokens.rows(cx, self.spec.attention(), tokens.len())
    }

    fn hidden(&self, pass: Pass<'_>, arena: &Arena) -> Result<Buf> {
        let mut x = embedding::forward(pass.cx, &self.embed, &pass.rows.ids)?;
        for layer in &self.layers {
            x = layer.output(pass, arena, x, None)?;
        }
        self.final_norm(pass.cx, &x)
    }

    fn final_norm(&self, cx: &Cx, x: &Buf) -> Result<Buf> {
        Ok(rms_norm::forward(cx, x, &self.norm, self.spec.norm_eps)?.0)
    }

    /// An empty cache for a sequence of up to `capacity` tokens.
    ///
    /// # Errors
    /// When the size overflows.
    pub fn cache(&self, cx: &Cx, capacity: usize) -> Result<Vec<LayerCache>> {
        let width = self.spec.kv_heads * self.spec.head_size;
        (0..self.layers.len()).map(|_| LayerCache::new(cx, capacity, width)).collect()
    }

    /// The logits (V) that follow `ids`, the next tokens of the sequence in `cache`.
    ///
    /// # Errors
    /// When `ids` is empty, an id lies outside the vocabulary, or the cache is full.
    pub fn decode(
        &self,
        cx: &Cx,
        arena: &Arena,
        rope: &rope::Table,
        ids: &[u32],
        cache: &mut [LayerCache],
    ) -> Result<Vec<f32>> {
        let Some(seen) = cache.first().map(LayerCache::len).filter(|_| !ids.is_empty()) else {
            bail!("decoding needs at least one token and one layer");
        };
        let positions = (seen as u32..).take(ids.len()).collect();
        let spans = vec![Span { q: 0..ids.len(), k: 0..seen + ids.len() }];
        let tokens = Tokens { ids: ids.to_vec(), positions, spans, ..Tokens::default() };
        let capacity = cache.first().map_or(0, LayerCache::capacity);
        if seen + ids.len() > capacity {
            bail!("the cache holds {capacity} tokens; {} do not fit", seen + ids.len());
        }
        let rows = tokens.rows(cx, self.spec.attention(), capacity)?;
        let pass = Pass { cx, spec: &self.spec, rope, rows: &rows, dropout: None };
        let mut x = embedding::forward(cx, &self.embed, &rows.ids)?;
        for (layer, cache) in self.layers.iter().zip(cache) {
            x = layer.output(pass, arena, x, Some(cache))?;
        }
        let last = rows::gather(cx, &x, &Mirror::new(cx, vec![ids.len() as u32 - 1])?)?;
        let h = self.final_norm(cx, &last)?;
        self.head.logits(cx, arena, &h, None, 1)?.0.to_f32()
    }
}
