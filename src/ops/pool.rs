//! Free storage, to be taken again: after its second step a run allocates no buffer.

use candle_core::{CpuStorage, Error, Result};
use half::bf16;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Free storage by dtype and capacity in elements.
#[derive(Default)]
pub struct Pool {
    f32: Mutex<HashMap<usize, Vec<Vec<f32>>>>,
    bf16: Mutex<HashMap<usize, Vec<Vec<bf16>>>>,
    fresh: AtomicUsize,
    bytes: AtomicUsize,
}

impl Pool {
    /// An f32 buffer of `len` elements of any content, with room for `capacity`.
    ///
    /// # Errors
    /// When there is no memory left.
    pub(super) fn f32(&self, len: usize, capacity: usize) -> Result<Vec<f32>> {
        self.take(&self.f32, len, capacity)
    }

    /// A bf16 buffer of `len` elements of any content, with room for `capacity`.
    ///
    /// # Errors
    /// When there is no memory left.
    pub(super) fn bf16(&self, len: usize, capacity: usize) -> Result<Vec<bf16>> {
        self.take(&self.bf16, len, capacity)
    }

    /// How many buffers were newly allocated so far.
    pub(super) fn fresh(&self) -> usize {
        self.fresh.load(Ordering::Relaxed)
    }

    /// Bytes of all buffers that were ever allocated: none is given back to the system.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn give_back(&self, storage: CpuStorage) {
        match storage {
            CpuStorage::F32(v) => put(&self.f32, v),
            CpuStorage::BF16(v) => put(&self.bf16, v),
            _ => {}
        }
    }

    fn take<T: Copy + Default + bytemuck::Zeroable>(
        &self,
        list: &Mutex<HashMap<usize, Vec<Vec<T>>>>,
        len: usize,
        capacity: usize,
    ) -> Result<Vec<T>> {
        let found = list.lock().ok().and_then(|mut l| l.get_mut(&capacity).and_then(Vec::pop));
        let mut v = match found {
            Some(v) => v,
            None => {
                self.fresh.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(capacity * size_of::<T>(), Ordering::Relaxed);
                fresh(capacity)?
            }
        };
        // A buffer given back keeps its capacity but may have been cut to a shorter length; only that growth is filled.
        v.resize(len, T::default());
        Ok(v)
    }
}

fn fresh<T: bytemuck::Zeroable>(capacity: usize) -> Result<Vec<T>> {
    bytemuck::try_zeroed_vec(capacity).map_err(|()| {
        let gib = (capacity * size_of::<T>()) as f64 / f64::from(1 << 30);
        Error::Msg(format!(
            "out of memory: the system gives no further {gib:.2} GiB; lower train.micro_batch_size or train.max_seq_length"
        ))
    })
}

fn put<T>(list: &Mutex<HashMap<usize, Vec<Vec<T>>>>, v: Vec<T>) {
    if v.capacity() == 0 {
        return;
    }
    if let Ok(mut list) = list.lock() {
        list.entry(v.capacity()).or_default().push(v);
    }
}
