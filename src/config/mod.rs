//! YAML and command line to a checked [`RunConfig`].
//!
//! text → `yaml` tree with places → `values` by the table of [`keys`] → `reader` → [`RunConfig`]. Every problem of a file is
//! reported at once. Keys and their meaning are LitGPT's; scalars follow its rules (`scalar`).

mod choices;
pub mod class;
mod compat;
mod foreign;
pub mod keys;
mod load;
pub mod near;
mod overrides;
mod reader;
mod resolved;
mod rivals;
mod run_config;
mod scalar;
mod values;
mod yaml;

pub use crate::secret::Secret;
pub use choices::*;
pub use run_config::*;
