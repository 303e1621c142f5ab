//! AdamW whose moments take a byte each: bitsandbytes' `AdamW8bit` and, without paging, `PagedAdamW8bit`.
//!
//! Blocks of 256 elements share a scale: m = `D[code]`·absmax with the signed dynamic map D, v with the unsigned one. A step decodes a
//! block, m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², p ← p·(1 − lr·wd) − (lr/(1−β₁ᵗ))·m / (√v/√(1−β₂ᵗ) + ε) with the values
//! before they are rounded, and encodes each to the nearest entry at the block's new absmax. A slice of fewer than 4096 elements keeps
//! 32-bit moments; a slice's last block may be short and is never shared.
//! Dettmers et al. 2021, arXiv:2110.02861 · bitsandbytes 0.50 `backends/cpu/ops.py`, `backends/triton/kernels_optim.py`
//!
//! Its CUDA kernel decays after the step (lr²·wd apart) and moves a code of m that lost its sign, at most the entry beside zero.
//! Its CPU quantiser looks codes up in 65,536 bins, which cannot tell the lower entries of the maps apart: up to 7 codes off below 1e-5.

use super::adamw::AdamWConfig;
use super::arena::{Arena, PIECE, Slice};
use super::state::Place;
use crate::gpu::{Arg, Memory, NULL};
use crate::ops::{Buf, Cx, simd};
use crate::quant::blockwise::{BLOCK, Blockwise};
use crate::quant::dynamic_map::dynamic_map;
use candle_core::{Result, bail};
use rayon::prelude::*;
use std::sync::LazyLock;

/// Slices of fewer elements keep 32-bit moments: bitsandbytes' `min_8bit_size`.
const MIN_8BIT_SIZE: usize = 4096;

static SIGNED: LazyLock<Blockwise> = LazyLock::new(|| Blockwise::new(true));
static UNSIGNED: LazyLock<Blockwise> = LazyLock::new(|| Blockwise::new(false));

/// The codes of a moment and the scales of its blocks.
pub type Codes = (Vec<u8>, Vec<f32>);

/// The optimizer's state.
pub struct AdamW8bit {
    config: AdamWConfig,
    states: States,
    /// Updates done.
    pub t: i32,
}

/// Both moments, where the arena is: those of 8-bit slices one after the other, then those of the others.
enum States {
    Host(Host),
    Device(Device),
}

#[derive(Default)]
struct Host {
    codes: [Vec<u8>; 2],
    absmax: [Vec<f32>; 2],
    wide: [Vec<f32>; 2],
}

struct Device {
    /// Where each block of the arena has its states: from 0 on, or the complement among the wide ones.
    place: Memory,
    codes: [Memory; 2],
    absmax: [Memory; 2],
    wide: [Memory; 2],
    maps: Memory,
}

/// What a slice's states are.
fn is_8bit(elements: usize) -> bool {
    elements >= MIN_8BIT_SIZE
}

/// Bytes of the states of a slice.
pub(super) fn state_bytes(elements: usize) -> usize {
    let padded = elements.next_multiple_of(BLOCK);
    if is_8bit(elements) { 2 * padded + 8 * padded / BLOCK } else { 8 * padded }
}

/// Elements of the 8-bit slices and of the others, with what pads their last blocks.
fn sizes(slices: &[Slice]) -> [usize; 2] {
    let mut sizes = [0; 2];
    for slice in slices {
        let n = slice.range().len();
        sizes[usize::from(!is_8bit(n))] += n.next_multiple_of(BLOCK);
    }
    sizes
}

/// A piece of a slice with its states.
struct Task<'a> {
    p: &'a mut [f32],
    g: &'a [f32],
    states: Part<'a>,
}

enum Part<'a> {
    Codes { codes: [&'a mut [u8]; 2], absmax: [&'a mut [f32]; 2] },
    Wide([&'a mut [f32]; 2]),
}

/// The numbers of a step.
#[derive(Clone, Copy)]
struct Numbers {
    factor: f32,
    step_size: f32,
    root2: f32,
    decay: f32,
    b1: f32,
    c1: f32,
    b2: f32,
    c2: f32,
    eps: f32,
}

impl AdamW8bit {
    /// Fresh state for an arena.
    ///
    /// # Errors
    /// When a device has no memory left.
    pub fn new(config: AdamWConfig, cx: &Cx, arena: &Arena) -> Result<Self> {
        let [narrow, wide] = sizes(arena.slices());
        let states = match cx.gpu() {
            Some(gpu) if arena.device.is_some() => {
                let zeros = |bytes: usize| {
                    let memory = Memory::new(gpu, bytes)?;
                    memory.fill(0)?;
                    Ok::<_, candle_core::Error>(memory)
                };
                let maps = [dynamic_map(true), dynamic_map(false)].concat();
                States::Device(Device {
                    place: Memory::upload(gpu, &places(arena.slices()))?,
                    codes: [zeros(narrow)?, zeros(narrow)?],
                    absmax: [zeros(4 * narrow / BLOCK)?, zeros(4 * narrow / BLOCK)?],
                    wide: [zeros(4 * wide)?, zeros(4 * wide)?],
                    maps: Memory::upload(gpu, &maps)?,
                })
            }
            _ => States::Host(Host {
                codes: [vec![0; narrow], vec![0; narrow]],
                absmax: [vec![0.0; narrow / BLOCK], vec![0.0; narrow / BLOCK]],
                wide: [vec![0.0; wide], vec![0.0; wide]],
            }),
        };
        Ok(Self { config, states, t: 0 })
    }

    /// The count of updates and the arrays of the state.
    pub(super) fn places(&mut self) -> Result<(&mut i32, Vec<(&'static str, Place<'_>)>)> {
        let numbers = |m| Place::DeviceF32(m, m.bytes() / size_of::<f32>());
        let [codes, absmax, wide] = match &mut self.states {
            States::Host(Host { codes: [mc, vc], absmax: [ma, va], wide: [m, v] }) => [
                [Place::U8(mc), Place::U8(vc)],
                [Place::F32(ma), Place::F32(va)],
                [Place::F32(m), Place::F32(v)],
            ],
            States::Device(Device { codes, absmax, wide, .. }) => [
                codes.each_ref().map(|c| Place::DeviceU8(c, c.bytes())),
                absmax.each_ref().map(numbers),
                wide.each_ref().map(numbers),
            ],
        };
        let ([mc, vc], [ma, va], [m, v]) = (codes, absmax, wide);
        let names = [("m.codes", mc), ("v.codes", vc), ("m.absmax", ma), ("v.absmax", va)];
        Ok((&mut self.t, names.into_iter().chain([("m", m), ("v", v)]).collect()))
    }

    /// One update with the arena's gradients times `factor` (clipping) at learning rate `lr`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self, cx: &Cx, arena: &mut Arena, lr: f64, factor: f32) -> Result<()> {
        self.t += 1;
        let AdamWConfig { betas: [b1, b2], eps, weight_decay } = self.config;
        let n = Numbers {
            factor,
            step_size: (lr / (1.0 - b1.powi(self.t))) as f32,
            root2: (1.0 - b2.powi(self.t)).sqrt() as f32,
            decay: (1.0 - lr * weight_decay) as f32,
            b1: b1 as f32,
            c1: (1.0 - b1) as f32,
            b2: b2 as f32,
            c2: (1.0 - b2) as f32,
            eps: eps as f32,
        };
        match &mut self.states {
            States::Host(host) => {
                tasks(arena, host)?.into_par_iter().for_each(|task| update(task, &n));
                Ok(())
            }
            States::Device(states) => on_device(cx, arena, states, &n),
        }
    }

    /// The codes and scales of a slice's moments, m and v; none where they are of 32 bits.
    ///
    /// # Errors
    /// When the device fails.
    pub fn codes(&self, arena: &Arena, slice: &Slice) -> Result<Option<[Codes; 2]>> {
        let n = slice.range().len();
        if !is_8bit(n) {
            return Ok(None);
        }
        let before: Vec<_> =
            arena.slices().iter().take_while(|s| s.start < slice.start).cloned().collect();
        let [first, _] = sizes(&before);
        let (block, blocks) = (first / BLOCK, n.div_ceil(BLOCK));
        let of = |i: usize| -> Result<Codes> {
            Ok(match &self.states {
                States::Host(h) => (
                    h.codes[i][first..first + n].to_vec(),
                    h.absmax[i][block..block + blocks].to_vec(),
                ),
                States::Device(d) => {
                    (d.codes[i].download(first, n)?, d.absmax[i].download(4 * block, blocks)?)
                }
            })
        };
        Ok(Some([of(0)?, of(1)?]))
    }
}

/// Where each block of the arena has its states.
fn places(slices: &[Slice]) -> Vec<i32> {
    let (mut next, mut places) = ([0i32; 2], Vec::new());
    for slice in slices {
        let n = slice.range().len();
        for _ in 0..n.div_ceil(BLOCK) {
            let at = &mut next[usize::from(!is_8bit(n))];
            places.push(if is_8bit(n) { *at } else { !*at });
            *at += 1;
        }
    }
    places
}

/// The first `n` elements, taken off.
fn take<'a, T>(rest: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let (first, others) = std::mem::take(rest).split_at_mut(n);
    *rest = others;
    first
}

/// The arena in pieces of whole blocks, each of one slice.
fn tasks<'a>(arena: &'a mut Arena, host: &'a mut Host) -> Result<Vec<Task<'a>>> {
    let [narrow, wide] = sizes(&arena.slices);
    if arena.params.len() != narrow + wide
        || [host.codes[0].len(), host.wide[0].len()] != [narrow, wide]
    {
        bail!("the arena has grown since the optimizer was made");
    }
    let (mut p, mut g) = (&mut arena.params[..], &arena.grads[..]);
    let mut codes = host.codes.each_mut().map(Vec::as_mut_slice);
    let mut absmax = host.absmax.each_mut().map(Vec::as_mut_slice);
    let mut moments = host.wide.each_mut().map(Vec::as_mut_slice);
    let mut tasks = Vec::new();
    for slice in &arena.slices {
        let elements = slice.range().len();
        let mut left = elements.next_multiple_of(BLOCK);
        while left > 0 {
            let n = left.min(PIECE);
            left -= n;
            let (grads, rest) = g.split_at(n);
            g = rest;
            let states = if is_8bit(elements) {
                Part::Codes {
                    codes: codes.each_mut().map(|c| take(c, n)),
                    absmax: absmax.each_mut().map(|a| take(a, n / BLOCK)),
                }
            } else {
                Part::Wide(moments.each_mut().map(|m| take(m, n)))
            };
            tasks.push(Task { p: take(&mut p, n), g: grads, states });
        }
    }
    Ok(tasks)
}

fn update(task: Task<'_>, n: &Numbers) {
    let Task { p, g, states } = task;
    let (signed, unsigned) = (&*SIGNED, &*UNSIGNED);
    simd::vectorized(
        #[inline(always)]
        || match states {
            Part::Wide([m, v]) => step(p, g, m, v, n),
            Part::Codes { codes: [mc, vc], absmax: [ma, va] } => {
                let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
                let blocks = p.chunks_exact_mut(BLOCK).zip(g.chunks_exact(BLOCK));
                let mc = mc.chunks_exact_mut(BLOCK).zip(ma);
                let vc = vc.chunks_exact_mut(BLOCK).zip(va);
                for (((p, g), (mc, ma)), (vc, va)) in blocks.zip(mc).zip(vc) {
                    signed.decode(mc, *ma, &mut m);
                    unsigned.decode(vc, *va, &mut v);
                    step(p, g, &mut m, &mut v, n);
                    *ma = signed.encode(&m, mc);
                    *va = unsigned.encode(&v, vc);
                }
            }
        },
    );
}

#[inline(always)]
fn step(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], n: &Numbers) {
    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        let g = g * n.factor;
        *m = *m * n.b1 + n.c1 * g;
        *v = *v * n.b2 + n.c2 * g * g;
        *p = *p * n.decay - n.step_size * *m / (v.sqrt() / n.root2 + n.eps);
    }
}

fn on_device(cx: &Cx, arena: &Arena, states: &Device, n: &Numbers) -> Result<()> {
    let (Some(on), Some(gpu)) = (&arena.device, cx.gpu()) else { return Ok(()) };
    let [m8, v8] = states.codes.each_ref().map(Arg::from);
    let [m_absmax, v_absmax] = states.absmax.each_ref().map(Arg::from);
    let [m32, v32] = states.wide.each_ref().map(Arg::from);
    let args = [
        on.params.arg()?,
        on.copy.as_ref().map_or(Ok(NULL), Buf::arg)?,
        on.grads.arg()?,
        Arg::from(&states.place),
        m8,
        v8,
        m_absmax,
        v_absmax,
        m32,
        v32,
        Arg::from(&states.maps),
        Arg::F32(n.factor),
        Arg::F32(n.step_size),
        Arg::F32(n.root2),
        Arg::F32(n.decay),
        Arg::F32(n.b1),
        Arg::F32(n.c1),
        Arg::F32(n.b2),
        Arg::F32(n.c2),
        Arg::F32(n.eps),
    ];
    let blocks = arena.params.len() / BLOCK;
    if blocks == 0 {
        return Ok(());
    }
    // SAFETY: adamw8bit(float *p, T *copy, const float *g, const int *place, u8 *m8, u8 *v8, float *m_absmax, float *v_absmax,
    // float *m32, float *v32, const float *maps, float scale, float step_size, float root2, float decay, float b1, float c1,
    // float b2, float c2, float eps), p, copy and g of 256 elements for each block, place of one, the states as place counts
    // them, maps of 512.
    unsafe { gpu.by_row_of(cx.products(), "adamw8bit", blocks, &args) }
}
