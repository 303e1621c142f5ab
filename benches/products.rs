//! The frozen products of a training step alone: `cargo bench --bench products -- DTYPE ROWS OUTxIN...` prints one line of JSON, for each
//! weight, bf16 as in a file, the seconds of y = x Wᵀ and of dx = dy W with ROWS rows in bf16 or f32, the least of a second's turns.
//!
//! Nothing else of a step is in it: no attention, no adapters, no loss. Each product runs alone; a step runs those that share an input
//! together, and adds up their dx where they lie.
#![expect(clippy::unwrap_used, reason = "a bench ends where something fails")]
#![expect(clippy::print_stdout, reason = "what it is for")]

mod shared;

use half::bf16;
use shared::{buf, dtype, least, noise};
use vft::ops::linear::{self, Back, Plus};
use vft::ops::{Cx, Weight};

fn main() {
    // Cargo adds an option of its own.
    let words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let words: Vec<String> = words.collect();
    let [name, rows, weights @ ..] = &words[..] else {
        println!("usage: cargo bench --bench products -- bf16|f32 ROWS OUTxIN...");
        return;
    };
    let (cx, rows) = (Cx::cpu(dtype(name), 0).unwrap(), rows.parse().unwrap());
    let found: Vec<String> = weights
        .iter()
        .map(|weight| {
            let (out, inp) = weight.split_once('x').unwrap();
            let (out, inp) = (out.parse().unwrap(), inp.parse().unwrap());
            let w = Weight::from_bf16(noise(out * inp).map(bf16::from_f32).collect(), out, inp)
                .unwrap();
            let (x, dy) = (buf(&cx, rows, inp), buf(&cx, rows, out));
            let seconds = |run: &(dyn Fn(&Cx) + Sync)| least(&cx, 1.0, |_| (), |cx, ()| run(cx));
            let y = seconds(&|cx| drop(linear::forward(cx, &x, &w, Plus::default()).unwrap()));
            let back = || Back { dy: &dy, weight: &w, low_rank: None };
            let dx = seconds(&|cx| drop(linear::backward(cx, &[back()]).unwrap()));
            format!("\"{weight}\": [{y:e}, {dx:e}]")
        })
        .collect();
    println!("{{{}}}", found.join(", "));
}
