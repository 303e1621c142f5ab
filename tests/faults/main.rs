//! Saves that go wrong: the power goes, bytes rot, the disk fills.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod binary;
#[path = "../common/checkpoint.rs"]
#[expect(dead_code, reason = "what a checkpoint holds is compared elsewhere")]
mod checkpoint;
#[path = "../common/dice.rs"]
mod dice;
mod disk;
mod full;
#[path = "../common/left.rs"]
mod left;
mod power;
mod rot;
mod run;
mod small;
