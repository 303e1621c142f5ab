//! Attention over sequences laid end to end, and of queries after keys that a cache holds.

use super::Checks;
use crate::ops::attention::{self, Heads, Saved, Sight, Span};
use crate::selftest::reference;
use candle_core::Result;

impl Checks<'_> {
    /// Sequences of `lengths` queries, each after `cached` keys that have no queries here: with some, decoding.
    pub(super) fn attention(
        &mut self,
        lengths: &[usize],
        cached: usize,
        window: Option<usize>,
        size: usize,
    ) -> Result<()> {
        let heads = Heads { heads: 6, kv_heads: 2, size, window };
        let n: usize = lengths.iter().sum();
        let nk = n + cached * lengths.len();
        let (qw, kw) = (heads.heads * size, heads.kv_heads * size);
        let inputs = &mut self.inputs;
        let (q, k) = (inputs.values(n * qw), inputs.values(nk * kw));
        let (v, dout) = (inputs.values(nk * kw), inputs.values(n * qw));
        let (mut q_end, mut k_end) = (0, 0);
        let span = |t: &usize| {
            q_end += t;
            k_end += t + cached;
            Span { q: q_end - t..q_end, k: k_end - t - cached..k_end }
        };
        let spans: Vec<Span> = lengths.iter().map(span).collect();
        let theirs =
            reference::Attention { q: &q, k: &k, v: &v, dout: &dout, spans: &spans, heads }.all();
        let sight = Sight::new(self.cx, &spans, heads, n, nk)?;
        let (qb, kb) = (self.buf(&q, qw)?, self.buf(&k, kw)?);
        let (vb, db) = (self.buf(&v, kw)?, self.buf(&dout, qw)?);
        let (o, lse) = attention::forward(self.cx, &qb, &kb, &vb, &sight, heads)?;
        let saved = Saved { q: &qb, k: &kb, v: &vb, o: &o, lse: &lse };
        let (dq, dk, dv) = attention::backward(self.cx, &saved, &db, &sight, heads)?;
        let what = if window.is_some() { "attention with a window" } else { "attention" };
        let what = if cached > 0 { format!("{what}, cached") } else { what.into() };
        let shape = format!("{lengths:?}, 6 of 2 heads of {size}");
        for ((name, ours), theirs) in
            ["", " dq", " dk", " dv"].iter().zip([o, dq, dk, dv]).zip(theirs)
        {
            self.check(&format!("{what}{name}"), shape.clone(), &ours.to_f32()?, &theirs);
        }
        Ok(())
    }
}
