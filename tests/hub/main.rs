//! Downloads from a loopback server that speaks the Hub's HTTP: what is fetched and where it lies, what the user is told when it fails, and
//! that nothing a server sends leaves the cache or gets the token.
//!
//! That Python finds what is downloaded here: `scripts/check_hub_cache.py`.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod cuts;
mod files;
mod home;
mod hostile;
mod lies;
mod model;
mod python;
mod refusals;
mod run;
mod secrets;
mod server;
mod token;
