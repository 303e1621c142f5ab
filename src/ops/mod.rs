//! The math. Every op has a forward and a backward; none knows what model it works for.
//!
//! An op takes the context [`Cx`] and owned buffers ([`Buf`]). Backward passes *add* into their `dx` (beta = 1), so that a value
//! used twice needs no extra pass. On the CPU all ops compute in f32; in `bf16-true` the values between ops are rounded to bf16
//! ([`Cx::round`]) and what is kept for the backward pass is stored as bf16 ([`Cx::pack`]).
//!
//! On a CUDA device the same functions launch the kernels of `src/kernels`, which compute in f32 and store in the compute dtype.
//!
//! No result depends on the number of threads: work is cut into pieces by shape alone, and sums run in a fixed order.

pub mod attention;
pub mod bf16_gemm;
pub mod buf;
pub mod cross_entropy;
pub mod cx;
pub mod dropout;
pub mod embedding;
pub mod linear;
pub mod lora;
pub mod matmul;
pub mod mirror;
pub mod philox;
pub mod pool;
pub mod rms_norm;
pub mod rope;
pub mod rows;
mod shared;
pub mod simd;
pub mod swiglu;
pub mod weight;

pub use buf::Buf;
pub use cx::Cx;
pub use mirror::{Mirror, Vector};
pub use weight::Weight;
