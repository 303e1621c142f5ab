//! The buffers of a training pass in the order in which it takes them and gives them back: a mirror of `layer/{attend,mlp}.rs`, `head.rs`
//! and `decoder.rs`. The first adapted layer's way back counts as a whole, wherever it ends: that tells only where no layer comes after it.

use super::Shape;
use super::ledger::{Held, Ledger};
use crate::model::layer::Keep;
use crate::ops::head;

/// What a layer keeps.
struct Kept {
    x2: Held,
    attended: Option<Vec<Held>>,
    gated: Option<(Vec<Held>, Option<Held>)>,
}

struct Pass<'a> {
    s: &'a Shape<'a>,
    l: Ledger,
}

/// The ledger of one forward and backward pass.
pub(super) fn train(shape: &Shape<'_>) -> Ledger {
    let mut pass = Pass { s: shape, l: Ledger::default() };
    pass.train();
    pass.l
}

impl Pass<'_> {
    fn act(&mut self, cols: usize) -> Held {
        self.l.take(self.s.tokens * cols, self.s.size)
    }

    fn operand(&mut self, cols: usize) -> Held {
        self.l.take(self.s.tokens * cols, self.s.operand)
    }

    /// A value's copy that is rounded for products, in mixed precision.
    fn rounded(&mut self, cols: usize) -> Option<Held> {
        (self.s.operand < self.s.size).then(|| self.operand(cols))
    }

    /// Rounds the values of `cols` columns among `held` for products, and gives them back as they were.
    fn round(&mut self, held: &mut [Held], cols: usize) {
        let wide = (self.s.tokens * cols * self.s.size, self.s.size);
        for held in held.iter_mut().filter(|held| **held == wide) {
            if let Some(rounded) = self.rounded(cols) {
                self.l.give([*held]);
                *held = rounded;
            }
        }
    }

    fn f32(&mut self, cols: usize) -> Held {
        self.l.take(self.s.tokens * cols, 4)
    }

    fn has(&self, layer: usize, leaf: &str) -> bool {
        (self.s.adapted)(&format!("model.layers.{layer}.{leaf}"))
    }

    /// An adapter's dropped input, as it is and rounded.
    fn dropped(&mut self, input: usize) -> Vec<Held> {
        if !self.s.dropout {
            return Vec::new();
        }
        let dropped = self.act(input);
        [dropped].into_iter().chain(self.rounded(input)).collect()
    }

    /// An adapter's u, with the dropped input beside it for a moment.
    fn inner(&mut self, layer: usize, leaf: &str, input: usize) -> Option<Held> {
        if !self.has(layer, leaf) {
            return None;
        }
        let dropped = self.dropped(input);
        let u = self.operand(self.s.rank);
        self.l.give(dropped);
        Some(u)
    }

    fn linear(&mut self, layer: usize, leaf: &str, input: usize, out: usize) -> Vec<Held> {
        let u = self.inner(layer, leaf, input);
        let y = self.act(out);
        u.into_iter().chain([y]).collect()
    }

    /// What the attention half keeps, without what its output projection adds.
    fn attention(&mut self, i: usize) -> Vec<Held> {
        let s = self.s.spec;
        let (c, qd, kd) = (s.hidden, s.heads * s.head_size, s.kv_heads * s.head_size);
        let h = self.act(c);
        let mut kept = vec![self.f32(1)];
        let rounded = self.rounded(c);
        for (leaf, out) in
            [("self_attn.q_proj", qd), ("self_attn.k_proj", kd), ("self_attn.v_proj", kd)]
        {
            kept.extend(self.linear(i, leaf, c, out));
        }
        self.l.give([h].into_iter().chain(rounded));
        kept.extend([self.act(qd), self.f32(s.heads)]);
        kept
    }

    /// x₂, and what the attention half keeps.
    fn attend(&mut self, i: usize) -> (Held, Vec<Held>) {
        let s = self.s.spec;
        let qd = s.heads * s.head_size;
        let mut kept = self.attention(i);
        let rounded = self.rounded(qd);
        kept.extend(self.inner(i, "self_attn.o_proj", qd));
        let x2 = self.act(s.hidden);
        self.l.give(rounded);
        (x2, kept)
    }

    fn gate(&mut self, i: usize) -> Vec<Held> {
        let (c, f) = (self.s.spec.hidden, self.s.spec.ffn);
        let h = self.act(c);
        let mut kept = vec![self.f32(1)];
        let rounded = self.rounded(c);
        for leaf in ["mlp.gate_proj", "mlp.up_proj"] {
            kept.extend(self.linear(i, leaf, c, f));
        }
        self.l.give([h].into_iter().chain(rounded));
        kept
    }

    fn forward(&mut self, i: usize, keep: Keep) -> Kept {
        let (c, f) = (self.s.spec.hidden, self.s.spec.ffn);
        let (x2, attended) = self.attend(i);
        let u = (self.s.tokens * self.s.rank * self.s.operand, self.s.operand);
        let gone = |held: &Held| match keep {
            Keep::All => false,
            Keep::Attention => *held == u,
            Keep::Residual => true,
        };
        let (gone, attended): (Vec<_>, Vec<_>) = attended.into_iter().partition(gone);
        self.l.give(gone);
        let attended = (keep != Keep::Residual).then_some(attended);
        let gated = self.gate(i);
        let h = self.act(f);
        let gated = if keep == Keep::All {
            Some(gated)
        } else {
            self.l.give(gated);
            None
        };
        let rounded = self.rounded(f);
        let u = self.inner(i, "mlp.down_proj", f);
        self.act(c); // y, the next layer's x
        self.l.give([h].into_iter().chain(rounded));
        let gated = match gated {
            Some(gated) => Some((gated, u)),
            None => {
                self.l.give(u);
                None
            }
        };
        Kept { x2, attended, gated }
    }

    /// du of the adapters among `leaves`.
    fn outer(&mut self, i: usize, leaves: &[&str]) -> Vec<Held> {
        let adapted = leaves.iter().filter(|leaf| self.has(i, leaf)).count();
        (0..adapted).map(|_| self.operand(self.s.rank)).collect()
    }

    /// The gradient of an input that goes through masked adapters.
    fn masked(&mut self, dus: &[Held], input: usize) {
        if self.s.dropout && !dus.is_empty() {
            let passed = self.act(input);
            self.l.give([passed]);
        }
    }

    /// Scratch of the adapters' gradients, some of whose u were not kept.
    fn gradients(&mut self, dus: &[Held], input: usize, missing: usize) {
        if dus.is_empty() {
            return;
        }
        let rounded = if self.s.dropout { None } else { self.rounded(input) };
        let mut us = Vec::new();
        for _ in 0..missing {
            let dropped = self.dropped(input);
            us.push(self.operand(self.s.rank));
            self.l.give(dropped);
        }
        let mut held = self.dropped(input);
        if self.s.operand == 2 {
            held.extend([self.operand(self.s.rank), self.operand(self.s.rank)]); // transposed
        }
        self.l.give(held.into_iter().chain(rounded).chain(us));
    }

    /// A layer that keeps nothing.
    fn output(&mut self, i: usize) {
        let (c, f) = (self.s.spec.hidden, self.s.spec.ffn);
        let (x2, attended) = self.attend(i);
        self.give_x();
        self.l.give(attended);
        let gated = self.gate(i);
        let h = self.act(f);
        self.l.give(gated);
        let rounded = self.rounded(f);
        self.act(c); // y, the next layer's x
        self.l.give([h, x2].into_iter().chain(rounded));
    }

    /// Gives back what a layer was given.
    fn give_x(&mut self) {
        self.l.give([(self.s.tokens * self.s.spec.hidden * self.s.size, self.s.size)]);
    }

    fn backward(&mut self, i: usize, kept: Kept, first: bool) {
        let s = self.s.spec;
        let (c, f) = (s.hidden, s.ffn);
        let (qd, kd) = (s.heads * s.head_size, s.kv_heads * s.head_size);
        let lean = kept.gated.is_none();
        let (mut gated, u_down) = match kept.gated {
            Some(kept) => kept,
            None => (self.gate(i), None),
        };
        let dy = self.rounded(c);
        let dus = self.outer(i, &["mlp.down_proj"]);
        let h = self.act(f);
        self.masked(&dus, f);
        self.gradients(&dus, f, usize::from(u_down.is_none()));
        self.l.give([h].into_iter().chain(dus).chain(dy));
        self.round(&mut gated, f);
        let dus = self.outer(i, &["mlp.gate_proj", "mlp.up_proj"]);
        let h = self.act(c); // dh, then the norm's output
        self.masked(&dus, c);
        self.gradients(&dus, c, 0);
        self.l.give([h, kept.x2].into_iter().chain(dus).chain(gated).chain(u_down));

        let computed_again = kept.attended.is_none();
        let attended = match kept.attended {
            Some(attended) => attended,
            None => self.attention(i),
        };
        let dy = self.rounded(c);
        let dus = self.outer(i, &["self_attn.o_proj"]);
        let dout = self.act(qd);
        self.masked(&dus, qd);
        self.gradients(&dus, qd, usize::from(lean));
        self.l.give(dus.into_iter().chain(dy));
        let mut grads = [self.act(qd), self.act(kd), self.act(kd)];
        self.l.give([dout]);
        // What attention kept but the adapters' u and r, which stay to the end; they are small.
        self.l.give(attended);
        for (dx, cols) in grads.iter_mut().zip([qd, kd, kd]) {
            self.round(std::slice::from_mut(dx), cols);
        }
        let leaves = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let dus = self.outer(i, &leaves);
        let h = self.act(c); // dh, then the norm's output
        if !first {
            self.masked(&dus, c);
        }
        self.gradients(&dus, c, if lean && !computed_again { dus.len() } else { 0 });
        self.l.give([h]);
        self.l.give(dus.into_iter().chain(grads));
        self.give_x();
    }

    fn head(&mut self) {
        let (c, v) = (self.s.spec.hidden, self.s.spec.vocab);
        let x = self.act(c);
        let rounded = self.rounded(c);
        let held = if self.s.plain_head {
            let (rows, width) = (self.s.tokens.min(head::ROWS), head::width(v));
            // Probabilities lie beside the logits or, in f32, in their place; there the targets' rows of W are copied.
            let p = self.l.take(rows * head::stride(width), self.s.operand);
            let other = if self.s.operand < 4 { self.l.take(rows * width, 4) } else { self.act(c) };
            vec![p, other, self.l.take(rows * c, 4), self.l.take(rows * c, self.s.size)]
        } else {
            let rows = self.s.tokens.min(crate::model::head::chunk(v));
            let mut held = vec![self.l.take(rows * v, 4)];
            if self.s.operand < 4 {
                held.push(self.l.take(rows * v, self.s.operand));
            }
            held.push(self.act(c));
            held
        };
        self.l.give(held.into_iter().chain([x]).chain(rounded));
    }

    fn train(&mut self) {
        let c = self.s.spec.hidden;
        self.act(c); // x
        let layers = self.s.spec.layers;
        let first = self.s.spec.first_adapted(self.s.adapted);
        (0..first).for_each(|i| self.output(i));
        let mut kept = Vec::with_capacity(layers - first);
        for i in first..layers {
            let layer = self.forward(i, self.s.keep.of(i - first, layers - first));
            kept.push(layer);
        }
        let (h, r, dh) = (self.act(c), self.f32(1), self.act(c));
        self.head();
        self.l.give([h]);
        let dx = self.act(c);
        self.l.give([dh]);
        self.give_x();
        for (i, kept) in kept.into_iter().enumerate().rev() {
            self.backward(first + i, kept, i == 0);
        }
        self.l.give([dx, r]);
    }
}
