//! `logs/tensorboard/version_<n>/events.out.tfevents.<time>.<host>.<process>.<n>`: event files that TensorBoard reads.
//!
//! A file is a row of TFRecords: length (u64), masked CRC32C of the length, data, masked CRC32C of the data, all little endian; a
//! checksum c is masked as rotr(c, 15) + 0xa282ead8. Each record is one `Event` message: wall_time = 1 (double), step = 2 (int64,
//! absent at 0), file_version = 3, summary = 5, source_metadata = 10; the first has the version `brain.Event:2`, the others a
//! `Summary` of one `Value`: tag = 1, simple_value = 2 (float). So torch's `SummaryWriter.add_scalar` writes them.
//! tensorflow `core/lib/io/record_writer.h`, `core/util/event.proto`, `core/framework/summary.proto`
//!
//! A record goes to the system in one write, so the file of a run that was killed reads up to its last record.

use super::log_file::LogFile;
use super::metrics::{EvalRecord, StepRecord};
use super::sink::{Sink, new_version};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file.
pub(super) struct TensorBoard {
    dir: PathBuf,
    file: Option<LogFile>,
}

impl TensorBoard {
    /// An event file in a new version's folder in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), file: None }
    }

    fn write(&mut self, step: usize, scalars: &[(&str, f64)]) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = now.as_secs_f64();
        let mut bytes = Vec::new();
        if self.file.is_none() {
            let dir = new_version(&self.dir)?;
            let (host, process) = (host_name(), std::process::id());
            let name = format!("events.out.tfevents.{:010}.{host}.{process}.0", now.as_secs());
            self.file = Some(LogFile::create_new(&dir.join(name))?);
            record(&mut bytes, &version_event(time, "vft"));
        }
        for (tag, value) in scalars {
            record(&mut bytes, &scalar_event(time, step as i64, tag, *value as f32));
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.append(&bytes)
    }
}

impl Sink for TensorBoard {
    fn step(&mut self, r: &StepRecord) -> io::Result<()> {
        let mut scalars = vec![
            ("loss", r.loss),
            ("learning_rate", r.lr),
            ("grad_norm", r.grad_norm),
            ("epoch", r.epoch),
            ("tokens", r.tokens as f64),
            ("tokens_per_s", r.tokens_per_s),
            ("peak_mem_bytes", r.peak_mem_bytes as f64),
        ];
        scalars.extend(r.loss_scale.map(|s| ("loss_scale", f64::from(s))));
        self.write(r.step, &scalars)
    }

    fn eval(&mut self, r: &EvalRecord) -> io::Result<()> {
        self.write(r.step, &[("val_loss", r.val_loss), ("val_ppl", r.val_ppl)])
    }
}

/// The machine's name as it may stand in a file's name.
fn host_name() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = text.trim().chars().map(plain).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

/// Appends a TFRecord.
fn record(out: &mut Vec<u8>, data: &[u8]) {
    let masked = |bytes: &[u8]| {
        crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    };
    let length = (data.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length));
    out.extend(data);
    out.extend(masked(data));
}

/// The first event of a file; `writer` wrote it.
fn version_event(time: f64, writer: &str) -> Vec<u8> {
    let mut event = Vec::new();
    fixed64(&mut event, 1, time.to_bits());
    bytes(&mut event, 3, b"brain.Event:2");
    let mut source = Vec::new();
    bytes(&mut source, 1, writer.as_bytes());
    bytes(&mut event, 10, &source);
    event
}

/// A number of a step.
fn scalar_event(time: f64, step: i64, tag: &str, value: f32) -> Vec<u8> {
    let (mut scalar, mut summary, mut event) = (Vec::new(), Vec::new(), Vec::new());
    bytes(&mut scalar, 1, tag.as_bytes());
    key(&mut scalar, 2, FIXED_32);
    scalar.extend(value.to_le_bytes());
    bytes(&mut summary, 1, &scalar);
    fixed64(&mut event, 1, time.to_bits());
    if step != 0 {
        key(&mut event, 2, VARINT);
        varint(&mut event, step as u64);
    }
    bytes(&mut event, 5, &summary);
    event
}

// Protocol buffers: a field is its number and wire type, then its value.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn fixed64(out: &mut Vec<u8>, field: u64, bits: u64) {
    key(out, field, FIXED_64);
    out.extend(bits.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend(value);
}

#[cfg(test)]
mod tests {
    use super::super::sink::tests::{EVAL, STEP};
    use super::*;

    /// scripts/fixtures/event_file.py: the events, and the file that torch's `SummaryWriter` made of them.
    const EVENTS: &str = include_str!("../../tests/fixtures/tensorboard/events.json");
    const FILE: &[u8] = include_bytes!("../../tests/fixtures/tensorboard/events.out.tfevents");

    #[test]
    fn the_bytes_are_those_of_torch() {
        let f: serde_json::Value = serde_json::from_str(EVENTS).unwrap();
        let mut ours = Vec::new();
        let time = f["first_time"].as_f64().unwrap();
        record(&mut ours, &version_event(time, f["writer"].as_str().unwrap()));
        for e in f["events"].as_array().unwrap() {
            let value: f64 = e[3].as_str().unwrap().parse().unwrap();
            let (time, step) = (e[0].as_f64().unwrap(), e[1].as_i64().unwrap());
            record(&mut ours, &scalar_event(time, step, e[2].as_str().unwrap(), value as f32));
        }
        assert!(ours == FILE);
    }

    /// Tags of the records in a file, whose framing is checked on the way.
    fn records(file: &[u8]) -> usize {
        let (mut rest, mut n) = (file, 0);
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let mut again = Vec::new();
            record(&mut again, &rest[12..12 + length]);
            assert_eq!(rest[..16 + length], again);
            (rest, n) = (&rest[16 + length..], n + 1);
        }
        n
    }

    #[test]
    fn each_record_is_on_disk_before_the_next() {
        let home = tempfile::tempdir().unwrap();
        let mut log = TensorBoard::new(home.path());
        let mut after = Vec::new();
        for step in 0..2 {
            log.eval(&EvalRecord { step, ..EVAL }).unwrap();
            log.step(&STEP).unwrap();
            let dir = std::fs::read_dir(home.path().join("version_0")).unwrap();
            let files: Vec<_> = dir.map(|e| e.unwrap().path()).collect();
            assert_eq!(files.len(), 1);
            after.push(records(&std::fs::read(&files[0]).unwrap()));
        }
        // The version, then two and seven scalars a round.
        assert_eq!(after, [10, 19]);
    }
}
