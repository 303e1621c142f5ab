//! The decoder, built from a spec that a family reads out of `config.json`.
//!
//! [`families`] maps each architecture to a [`DecoderSpec`]; [`Decoder`] runs whatever the spec says. Forward passes keep what the
//! hand-written backward passes need and nothing else: the wide tensors that are cheap to compute again (norm outputs, the SwiGLU
//! product) are computed again.
//!
//! [`crate::optim::Arena`] stands below the model rather than above it: a linear layer names the slices of its adapter and adds their
//! gradients where they lie, so that no gradient is copied. The optimizer itself knows nothing of models.

pub mod batch;
pub mod cache;
pub(crate) mod convert;
pub mod decoder;
pub mod families;
pub mod footprint;
pub mod generate;
mod head;
pub mod layer;
pub mod linear;
pub mod load;
pub mod rope;
pub mod sample;
pub mod spec;

pub use batch::Tokens;
pub use decoder::Decoder;
pub use spec::DecoderSpec;
