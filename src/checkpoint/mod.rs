//! What a run leaves on disk: adapters in PEFT's format, written aside and renamed into place.

pub mod atomic;
pub mod chat_template;
pub mod disk;
pub mod find;
pub mod manifest;
pub mod out_dir;
pub mod parts;
pub mod peft;
pub mod room;
pub mod run_manifest;
pub mod run_state;
pub(crate) mod tensors;
