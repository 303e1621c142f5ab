//! Memory that outlives a call: buffers that only grow.

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
