//! Data sets ready to train on: stores of encoded rows, split, and put together.

mod look;

pub use look::Origin;

use super::census::Census;
use super::encode::Encoder;
use super::ingest::{Rows, ingest};
use super::mix::{Mix, Part};
use super::row::Columns;
use super::sampler::random_split;
use super::source::slice::SplitSlice;
use super::split::train_test_split;
use super::store::{Example, Store, Writer, cache};
use crate::config::OnBadRow;
use crate::config::class::Holdout;
use crate::error::{Problem, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// One set: its files and how its rows become samples.
pub struct Ask<'a> {
    /// Training files.
    pub train: Files,
    /// Validation files; `None` where rows are held out.
    pub val: Option<Files>,
    /// How rows are held out.
    pub holdout: Holdout,
    /// Whether what is held out are samples, not rows.
    pub by_sample: bool,
    /// Rows to take at most.
    pub most: Option<usize>,
    /// How rows become samples.
    pub encoder: Encoder<'a>,
    /// The user's names of columns.
    pub columns: Columns,
    /// How often its samples count in an epoch.
    pub weight: f64,
}

/// Files of a split.
#[derive(Debug, Clone)]
pub struct Files {
    /// The files, in order.
    pub paths: Vec<PathBuf>,
    /// The part of them that is meant.
    pub slice: Option<SplitSlice>,
}

/// What concerns all sets.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Seed of the split and of the order.
    pub seed: u64,
    /// Whether samples are trained in the order of the split (and shuffled) rather than of the file.
    pub shuffle: bool,
    /// What a row does that cannot be used.
    pub on_bad_row: OnBadRow,
}

/// A sample: the number of its store and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    store: u32,
    sample: u32,
}

/// Training and validation samples of all sets.
#[derive(Default)]
pub struct DataSet {
    stores: Vec<(Store, Vec<PathBuf>)>,
    /// Training samples, set by set, in the order of the split, or of the file if nothing is shuffled.
    train: Vec<Key>,
    /// Validation samples; may be none.
    val: Vec<Key>,
    parts: Vec<Part>,
    /// The first file of each set.
    names: Vec<PathBuf>,
    options: Option<Options>,
    /// What became of the rows, for each set.
    pub censuses: Vec<Census>,
    /// Sets that were found encoded.
    pub cached: usize,
}

impl DataSet {
    /// Reads, encodes and splits all sets.
    ///
    /// # Errors
    /// When a file is broken, rows have no known shape or are too long, or nothing is trained anywhere.
    pub fn load(asks: &[Ask<'_>], options: Options) -> Result<Self> {
        let mut data = Self { options: Some(options), ..Self::default() };
        for ask in asks {
            data.add(ask, options)?;
        }
        if data.train.is_empty() {
            let path =
                asks.first().and_then(|a| a.train.paths.first()).cloned().unwrap_or_default();
            let problem = Problem::in_file(path, "no row has a token to train on");
            let census = data.census();
            if let Some(why) = census.why_bad.filter(|_| census.bad.count == census.rows) {
                let message =
                    format!("none of its {} rows can be used; the first: {why}", census.rows);
                return Err(Problem { message, ..problem }.into());
            }
            let hint = "answers are empty, all labels are -100, or `train.max_seq_length` cuts every answer off";
            return Err(problem.hint(hint).into());
        }
        Ok(data)
    }

    fn add(&mut self, ask: &Ask<'_>, options: Options) -> Result<()> {
        let (mut census, train) = self.store(&ask.train, ask, options)?;
        let before = self.train.len();
        let all = 0..self.stores[train as usize].0.len();
        if let Some(files) = &ask.val {
            let (val_census, val) = self.store(files, ask, options)?;
            census.join(&val_census);
            self.train.extend(self.kept(train, all));
            self.val.extend(self.kept(val, 0..self.stores[val as usize].0.len()));
        } else {
            let (mut order, held_out) = self.held_out(train, ask, options.seed);
            if !options.shuffle {
                order.sort_unstable();
            }
            self.train.extend(self.kept(train, order));
            self.val.extend(self.kept(train, held_out));
        }
        self.parts.push(Part { samples: self.train.len() - before, weight: ask.weight });
        self.names.push(ask.train.paths.first().cloned().unwrap_or_default());
        self.censuses.push(census);
        Ok(())
    }

    /// The samples for training and for validation out of one store.
    fn held_out(&self, store: u32, ask: &Ask<'_>, seed: u64) -> (Vec<usize>, Vec<usize>) {
        let entries = self.stores[store as usize].0.entries();
        let rows = entries.last().map_or(0, |e| e.row as usize + 1);
        let units = if ask.by_sample { entries.len() } else { rows };
        let (train, val) = match ask.holdout {
            Holdout::Random(fraction) => random_split(units, fraction, seed),
            Holdout::TrainTest(0.0) => random_split(units, 0.0, seed),
            Holdout::TrainTest(fraction) => train_test_split(units, fraction, seed),
        };
        if ask.by_sample || rows == entries.len() {
            return (train, val);
        }
        let samples = |rows: Vec<usize>| {
            let of = |row: usize| {
                let from = entries.partition_point(|e| (e.row as usize) < row);
                let to = entries.partition_point(|e| e.row as usize <= row);
                from..to
            };
            rows.into_iter().flat_map(of).collect()
        };
        (samples(train), samples(val))
    }

    /// The keys of samples that train something.
    fn kept(&self, store: u32, samples: impl IntoIterator<Item = usize>) -> Vec<Key> {
        let entries = self.stores[store as usize].0.entries();
        let kept = samples.into_iter().filter(|i| entries[*i].targets > 0);
        kept.map(|i| Key { store, sample: i as u32 }).collect()
    }

    /// The store of files: found, or made.
    fn store(&mut self, files: &Files, ask: &Ask<'_>, options: Options) -> Result<(Census, u32)> {
        let rows = Rows {
            files: &files.paths,
            slice: files.slice.as_ref(),
            most: ask.most,
            columns: &ask.columns,
            on_bad_row: options.on_bad_row,
        };
        let bytes: u64 =
            files.paths.iter().filter_map(|p| fs::metadata(p).ok()).map(|m| m.len()).sum();
        let home = cache::home().filter(|_| bytes >= cache::SMALL);
        let (census, store) = match home {
            Some(home) => {
                let settings = ask.encoder.settings(
                    &ask.columns,
                    files.slice.as_ref(),
                    ask.most,
                    options.on_bad_row,
                );
                let settings: Vec<&[u8]> = settings.iter().map(Vec::as_slice).collect();
                let place = home.join(cache::key(&files.paths, &settings)?);
                match found(&place) {
                    Some(found) => {
                        self.cached += 1;
                        found
                    }
                    None => made(&place, &rows, &ask.encoder)?,
                }
            }
            None => {
                let mut writer = Writer::in_memory();
                let census = ingest(&rows, &ask.encoder, &mut writer)?;
                (census, writer.finish()?.unwrap_or_default())
            }
        };
        if store.is_empty() {
            let path = files.paths.first().cloned().unwrap_or_default();
            return Err(Problem::in_file(path, "holds no rows").into());
        }
        self.stores.push((store, files.paths.clone()));
        Ok((census, self.stores.len() as u32 - 1))
    }

    /// The number of stores: sets, and validation files apart from them.
    pub fn stores(&self) -> usize {
        self.stores.len()
    }

    /// The number of training samples, whatever their weights.
    pub fn train_len(&self) -> usize {
        self.train.len()
    }

    /// The number of validation samples.
    pub fn val_len(&self) -> usize {
        self.val.len()
    }

    /// The number of training samples in an epoch.
    pub fn per_epoch(&self) -> usize {
        super::mix::per_epoch(&self.parts)
    }

    /// The order of training samples in each epoch from the first.
    pub fn epochs(&self) -> Mix {
        let (seed, shuffle) = self.options.map_or((0, false), |o| (o.seed, o.shuffle));
        Mix::new(&self.parts, seed, shuffle)
    }

    /// A training sample.
    pub fn train(&self, i: usize) -> Example<'_> {
        self.example(self.train[i])
    }

    /// The tokens before the first answer of a validation sample, and those of the answer with what follows; `None` where nobody is
    /// asked.
    pub fn asked(&self, i: usize) -> Option<(&[u32], &[u32])> {
        let key = self.val[i];
        let store = &self.stores[key.store as usize].0;
        let prompt = store.entries()[key.sample as usize].prompt as usize;
        let ids = store.example(key.sample as usize).ids;
        (prompt > 0 && prompt < ids.len()).then(|| ids.split_at(prompt))
    }

    /// Whether any training sample has a prompt.
    pub fn asks(&self) -> bool {
        let prompt = |k: &Key| self.stores[k.store as usize].0.entries()[k.sample as usize].prompt;
        self.train.iter().any(|k| prompt(k) > 0)
    }

    /// A validation sample.
    pub fn val(&self, i: usize) -> Example<'_> {
        self.example(self.val[i])
    }

    fn example(&self, key: Key) -> Example<'_> {
        self.stores[key.store as usize].0.example(key.sample as usize)
    }

    /// A hash of all samples in their order, and of their weights.
    pub fn digest(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for part in &self.parts {
            hash.update(&(part.samples as u64).to_le_bytes()).update(&part.weight.to_le_bytes());
        }
        for keys in [&self.train, &self.val] {
            hash.update(&(keys.len() as u64).to_le_bytes());
            for key in keys {
                let example = self.example(*key);
                hash.update(&(example.ids.len() as u64).to_le_bytes());
                hash.update(bytemuck::cast_slice(example.ids));
                hash.update(bytemuck::cast_slice(example.labels));
            }
        }
        hash.finalize().to_hex().to_string()
    }

    /// What became of all rows.
    pub fn census(&self) -> Census {
        let mut all = Census::default();
        for census in &self.censuses {
            all.join(census);
        }
        all
    }
}

const CENSUS: &str = "census.json";

/// A store with its census; `None` when there is none or it is damaged.
fn found(place: &Path) -> Option<(Census, Store)> {
    let census = serde_json::from_slice(&fs::read(place.join(CENSUS)).ok()?).ok()?;
    Some((census, Store::open(place).ok()?))
}

fn made(place: &Path, rows: &Rows<'_>, encoder: &Encoder<'_>) -> Result<(Census, Store)> {
    let failed = |e: std::io::Error| cache::not_written(place, &e);
    if place.exists() {
        // What is there could not be read.
        fs::remove_dir_all(place).map_err(failed)?;
    }
    let aside = cache::aside(place)?;
    let mut writer = Writer::in_dir(aside.path())?;
    let census = ingest(rows, encoder, &mut writer)?;
    writer.finish()?;
    let json = serde_json::to_vec(&census).map_err(|e| failed(e.into()))?;
    fs::write(aside.path().join(CENSUS), json).map_err(failed)?;
    cache::settle(aside, place)?;
    Ok((census, Store::open(place)?))
}
