//! Memory that outlives a call: buffers that only grow, and outputs shared between tasks.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};

/// One cache line; a vector of these starts on a 64-byte boundary, so no panel load crosses a line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

// SAFETY: 64 bytes of plain words, no padding (size equals alignment); all zero bits are a value.
unsafe impl Zeroable for Line {}
// SAFETY: as above; every bit pattern is a value, and the type is `Copy` and `'static`.
unsafe impl Pod for Line {}

/// A buffer without a type of its own, kept in a thread local: once it has grown to the largest
/// shape met, later calls allocate nothing (and take no page faults).
#[derive(Default)]
pub(super) struct Buffer(Vec<Line>);

impl Buffer {
    /// The first `len` elements, holding whatever the last use left there.
    pub(super) fn take<T: Pod>(&mut self, len: usize) -> &mut [T] {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 16]));
        }
        &mut bytemuck::cast_slice_mut(&mut self.0[..lines])[..len]
    }

    /// The first `len` elements, set to zero.
    pub(super) fn zeroed<T: Pod>(&mut self, len: usize) -> &mut [T] {
        let part = self.take(len);
        part.fill(T::zeroed());
        part
    }
}

/// An output that tasks write to at the same time, each in its own elements.
///
/// The elements of one head are strided in memory, so `chunks_mut` cannot divide them.
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, and `part` leaves the disjointness to its caller.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(super) fn new(all: &'a mut [T]) -> Self {
        Shared { start: all.as_mut_ptr(), len: all.len(), life: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    #[allow(clippy::mut_from_ref, reason = "the caller keeps the parts apart")]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds by the check, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
