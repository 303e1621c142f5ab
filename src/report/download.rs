//! A download as it goes: a bar on a terminal, a line for each file elsewhere.

use super::{beside_a_bar, print_note};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;

/// The download at hand on standard error.
#[derive(Default)]
pub struct Download {
    bar: Mutex<Option<ProgressBar>>,
}

impl Download {
    fn with_bar(&self, work: impl FnOnce(&mut Option<ProgressBar>)) {
        if let Ok(mut bar) = self.bar.lock() {
            work(&mut bar);
        }
    }

    /// A file begins.
    pub fn file(&self, name: &str, bytes: Option<u64>) {
        let size = bytes.map_or_else(String::new, |b| format!(" ({:.1} MB)", b as f64 / 1e6));
        if !std::io::stderr().is_terminal() {
            return print_note(format_args!("downloading {name}{size}"));
        }
        let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr());
        let text = "{bar:24} {bytes}/{total_bytes} | {bytes_per_sec} | {msg} | eta {eta}";
        bar.set_style(
            ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(beside_a_bar(name));
        self.with_bar(|place| *place = Some(bar));
    }

    /// Bytes of the file that are here.
    pub fn at(&self, bytes: u64) {
        self.with_bar(|bar| {
            if let Some(bar) = bar {
                bar.set_position(bytes);
            }
        });
    }

    /// The file is whole.
    pub fn done(&self) {
        self.with_bar(|bar| {
            if let Some(bar) = bar.take() {
                bar.finish();
            }
        });
    }

    /// A line for the user.
    pub fn note(&self, text: &str) {
        let mut shown = false;
        self.with_bar(|bar| {
            if let Some(bar) = bar {
                bar.println(beside_a_bar(text));
                shown = true;
            }
        });
        if !shown {
            print_note(text);
        }
    }
}
