//! What this machine can at most: `cargo bench --bench limits` prints one line of JSON. The register peak is that of products of
//! registers alone, on all threads at once; the latency is that of a value passed to another core and back, halved. The memory's
//! bandwidth is that of all threads at once, each copying 64 MiB to another 64 MiB: bytes read plus written, without what a cache
//! reads in order to write.
#![expect(clippy::unwrap_used, reason = "a bench ends where something fails")]
#![expect(clippy::print_stdout, reason = "what it is for")]

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const ACCUMULATORS: usize = 24;
/// Floats of an array that is copied: more than a core's share of any cache.
const FLOATS: usize = 16 << 20;

#[cfg(target_arch = "x86_64")]
mod peak {
    use super::ACCUMULATORS;
    use std::arch::x86_64::*;
    use std::hint::black_box;
    use std::time::Instant;

    macro_rules! peak {
        ($name:ident, $features:literal, $flops:literal, |$sum:ident, $x:ident, $y:ident| $product:expr) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(n: usize) -> f64 {
                let ($x, $y) = (
                    _mm512_set1_epi32(black_box(0x3f80_3f80)),
                    _mm512_set1_epi32(black_box(0x3e80_3e80)),
                );
                let mut sums = [_mm512_setzero_ps(); ACCUMULATORS];
                let start = Instant::now();
                for _ in 0..n {
                    for $sum in &mut sums {
                        *$sum = $product;
                    }
                }
                let seconds = start.elapsed().as_secs_f64();
                let mut all = _mm512_setzero_ps();
                for sum in sums {
                    all = _mm512_add_ps(all, sum);
                }
                black_box(_mm512_reduce_add_ps(all));
                (n * ACCUMULATORS * $flops) as f64 / seconds / 1e9
            }
        };
    }

    peak!(bf16, "avx512f,avx512bf16", 64, |sum, x, y| {
        // SAFETY: vectors of 64 bytes under two names.
        let (x, y) = unsafe {
            (
                std::mem::transmute::<__m512i, __m512bh>(x),
                std::mem::transmute::<__m512i, __m512bh>(y),
            )
        };
        _mm512_dpbf16_ps(*sum, x, y)
    });
    peak!(f32, "avx512f", 32, |sum, x, y| {
        _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y), *sum)
    });
}

/// What all threads reach together, the best of three.
fn on_all(threads: usize, run: impl Fn() -> f64 + Sync) -> f64 {
    let once = || -> f64 {
        std::thread::scope(|s| {
            let handles: Vec<_> = (0..threads).map(|_| s.spawn(&run)).collect();
            handles.into_iter().map(|h| h.join().unwrap()).sum()
        })
    };
    (0..3).map(|_| once()).fold(0.0, f64::max)
}

/// GB/s of one thread while the others copy too.
fn copy(start: &Barrier) -> f64 {
    const COPIES: usize = 8;
    let (from, mut to) = (vec![1.0f32; FLOATS], vec![0.0f32; FLOATS]);
    // The system gives pages as they are first written: not while the time is taken.
    to.copy_from_slice(&from);
    start.wait();
    let started = Instant::now();
    for _ in 0..COPIES {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    (2 * COPIES * size_of_val(&from[..])) as f64 / started.elapsed().as_secs_f64() / 1e9
}

/// Nanoseconds from one core to another.
fn latency() -> f64 {
    const TURNS: usize = 1_000_000;
    let turn = AtomicUsize::new(0);
    let wait = |odd: usize| {
        for i in 0..TURNS {
            while turn.load(Ordering::Acquire) != 2 * i + odd {
                std::hint::spin_loop();
            }
            turn.store(2 * i + odd + 1, Ordering::Release);
        }
    };
    let start = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| wait(0));
        s.spawn(|| wait(1));
    });
    start.elapsed().as_nanos() as f64 / (2 * TURNS) as f64
}

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut bf16, mut f32) = (0.0, 0.0);
    #[cfg(target_arch = "x86_64")]
    {
        const ROUNDS: usize = 20_000_000;
        if is_x86_feature_detected!("avx512bf16") {
            // SAFETY: the processor has the instructions.
            bf16 = on_all(threads, || unsafe { peak::bf16(ROUNDS) });
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: as above.
            f32 = on_all(threads, || unsafe { peak::f32(ROUNDS) });
        }
    }
    let start = Barrier::new(threads);
    let memory = on_all(threads, || copy(&start));
    let latency = if threads > 1 { latency() } else { 0.0 };
    println!(
        "{{\"threads\": {threads}, \"bf16_gflops\": {bf16:.0}, \"f32_gflops\": {f32:.0}, \"core_to_core_ns\": {latency:.0}, \"memory_gb_s\": {memory:.1}}}"
    );
}
