//! One array that parallel tasks write apart from each other.

/// A pointer to f32 values whose parts belong to one task each.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32, usize);

// SAFETY: every task takes only parts that no other task takes: the promise of `slice`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr(), values.len())
    }

    /// `size` values at `at`.
    ///
    /// # Safety
    /// The array must outlive the slice, and no other task may touch these values meanwhile.
    pub(super) unsafe fn slice<'a>(self, at: usize, size: usize) -> &'a mut [f32] {
        assert!(at + size <= self.1, "a part outside the array");
        // SAFETY: inside the array (asserted); exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), size) }
    }

    /// The address of value `at`.
    pub(super) fn at(self, at: usize) -> *mut f32 {
        assert!(at < self.1.max(1), "a part outside the array");
        // SAFETY: inside the array (asserted).
        unsafe { self.0.add(at) }
    }
}
