//! The math. Every op has a forward and a backward; none knows what model it works for.
//!
//! An op takes the context [`Cx`] and owned buffers ([`Buf`]). Backward passes *add* into their `dx` (beta = 1), so that a value
//! used twice needs no extra pass. Values between ops are stored in the compute dtype ([`value::Value`] on the CPU); every op
//! sums in f32 and rounds when it stores. Products take their operands in a dtype of their own ([`operand`]).
//!
//! On a CUDA device the same functions launch the kernels of `src/kernels`.
//!
//! No result depends on the number of threads: whoever computes an element sums all of it, in an order that its shape alone decides.
//! On the CPU it depends on the instruction set ([`isa`]).

pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod bf16_gemm;
pub mod buf;
pub mod cross_entropy;
pub mod cx;
pub mod dropout;
pub mod embedding;
pub mod head;
pub mod isa;
pub mod linear;
mod lines;
pub mod lora;
pub mod matmul;
pub mod mirror;
pub mod nf4;
pub mod on_gpu;
pub mod operand;
pub mod philox;
pub mod pool;
mod prefetch;
pub mod rms_norm;
pub mod rope;
pub mod rows;
mod shared;
pub mod simd;
mod spread;
pub mod swiglu;
pub mod value;
pub mod weight;

pub use buf::Buf;
pub use cx::Cx;
pub use mirror::{Mirror, Vector};
pub use weight::Weight;
