//! The head over labelled tokens: per-token losses and, with coefficients, the hidden states' gradient, at once. The (N, V) logits
//! never exist: the vocabulary is taken in parts ([`crate::ops::head`]), or rows are: where the head has an adapter, on a device, and
//! in bf16 on a processor without its products.

use super::Decoder;
use super::decoder::Labels;
use super::layer::Pass;
use super::linear::{self, Dropout, Output};
use crate::ops::{Buf, Cx, Mirror, cross_entropy, head, rows};
use crate::optim::Arena;
use candle_core::Result;

/// f32 elements of a chunk of logits: 32 MiB.
const LOGITS: usize = 1 << 23;

/// Rows of a chunk of logits.
pub(super) fn chunk(vocab: usize) -> usize {
    (LOGITS / vocab.max(1)).max(1)
}

impl Decoder {
    /// Whether the head is nothing but a weight that the pass over the vocabulary takes.
    pub(crate) fn head_is_plain(&self, cx: &Cx) -> bool {
        let head = &self.head;
        head.adapter.is_none() && head.bias.is_none() && head::applies(cx, &head.weight)
    }

    /// [`Self::head_pass`] over parts of the vocabulary.
    fn plain_head_pass(
        &self,
        cx: &Cx,
        h: &Buf,
        labels: &Labels,
        mut dh: Option<&mut Buf>,
    ) -> Result<Vec<f32>> {
        let mut nll = vec![0.0; labels.rows.len()];
        for (i, chosen) in labels.rows.chunks(head::ROWS).enumerate() {
            let at = i * head::ROWS..i * head::ROWS + chosen.len();
            let rows = Mirror::new(cx, chosen)?;
            let x = rows::gather(cx, h, &rows)?;
            let coefficients = dh.as_ref().map(|_| &labels.coefficients[at.clone()]);
            let (targets, nll) = (&labels.targets[at.clone()], &mut nll[at]);
            let dx = head::forward_backward(cx, &x, &self.head.weight, targets, coefficients, nll)?;
            if let (Some(dx), Some(dh)) = (dx, dh.as_deref_mut()) {
                rows::scatter(cx, &dx, &rows, dh)?;
            }
        }
        Ok(nll)
    }

    /// The head over the labelled rows of `h` (N, C) in chunks; with `dh`, also its backward pass.
    pub(super) fn head_pass(
        &self,
        pass: Pass<'_>,
        arena: &mut Arena,
        h: &Buf,
        labels: &Labels,
        mut dh: Option<&mut Buf>,
    ) -> Result<Vec<f32>> {
        let (cx, v) = (pass.cx, self.spec.vocab);
        if self.head_is_plain(cx) {
            return self.plain_head_pass(cx, h, labels, dh);
        }
        let chunk = chunk(v);
        let mut nll = vec![0.0; labels.rows.len()];
        for (i, chosen) in labels.rows.chunks(chunk).enumerate() {
            let at = i * chunk..i * chunk + chosen.len();
            let rows = Mirror::new(cx, chosen)?;
            let x = rows::gather(cx, h, &rows)?;
            let origins: Vec<_> = match pass.dropout {
                Some(d) => chosen.iter().map(|r| d.origins[*r as usize]).collect(),
                None => Vec::new(),
            };
            let origins = Mirror::new(cx, origins)?;
            let dropout = pass.dropout.map(|d| Dropout { origins: &origins, ..d });
            let (logits, u) =
                self.head.logits(cx, arena, &x, dropout, cx.room(chosen.len(), chunk))?;
            let targets = Mirror::new(cx, &labels.targets[at.clone()])?;
            let coefficients = match dh {
                Some(_) => Some(Mirror::new(cx, &labels.coefficients[at.clone()])?),
                None => None,
            };
            let dz = cross_entropy::forward_backward(
                cx,
                logits,
                &targets,
                coefficients.as_ref(),
                &mut nll[at],
            )?;
            let (Some(dh), Some(dz)) = (dh.as_deref_mut(), dz) else { continue };
            let outputs = [Output { linear: &self.head, u: u.as_ref(), dy: &dz }];
            let dus = linear::outer(cx, arena, &outputs)?;
            let dx = linear::backward(cx, arena, &outputs, &dus, dropout)?;
            linear::gradients(cx, arena, &x, &outputs, &dus, dropout)?;
            rows::scatter(cx, &dx, &rows, dh)?;
        }
        Ok(nll)
    }
}
