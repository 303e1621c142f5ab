//! Diagnostics on standard error, off until `VFT_LOG` asks for them: `VFT_LOG=debug`, or `VFT_LOG=vft::model=trace`.

use crate::error::{Problem, Result};
use crate::secret::scrub;
use crate::terminal::harmless;
use std::io::{self, Write};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The environment variable that holds the filter, in tracing-subscriber's notation.
const VARIABLE: &str = "VFT_LOG";

/// Starts diagnostics as the environment says.
///
/// # Errors
/// When `VFT_LOG` is no filter.
pub fn start() -> Result<()> {
    let Some(text) = std::env::var_os(VARIABLE) else { return Ok(()) };
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::OFF.into())
        .parse(text.to_string_lossy())
        .map_err(|e| {
            Problem::new(format!("the environment variable {VARIABLE} is no filter: {e}"))
                .hint("write `VFT_LOG=debug`, or a module's: `VFT_LOG=vft::model=trace`")
        })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Scrubbed).init();
    Ok(())
}

/// Standard error, without secrets and what a terminal would obey; each write is a whole record.
struct Scrubbed;

impl Write for Scrubbed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        io::stderr().lock().write_all(harmless(&scrub(&text)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
