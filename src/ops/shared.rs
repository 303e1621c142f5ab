//! One array that parallel tasks write apart from each other.

use std::ops::Range;

/// A pointer to values whose parts belong to one task each.
pub struct Shared<T>(*mut T, usize);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}

// SAFETY: every task takes only parts that no other task takes: the promise of `slice`.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    #[inline]
    pub(super) fn new(values: &mut [T]) -> Self {
        Self(values.as_mut_ptr(), values.len())
    }

    /// `size` values at `at`.
    ///
    /// # Safety
    /// The array must outlive the slice, and no other task may touch these values meanwhile.
    #[inline]
    pub(super) unsafe fn slice<'a>(self, at: usize, size: usize) -> &'a mut [T] {
        assert!(at + size <= self.1, "a part outside the array");
        // SAFETY: inside the array (asserted); exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), size) }
    }

    /// The values of `range`.
    ///
    /// # Safety
    /// As [`Self::slice`].
    #[inline]
    pub(super) unsafe fn part<'a>(self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { self.slice(range.start, range.len()) }
    }

    /// The number of values.
    #[inline]
    pub(super) fn len(self) -> usize {
        self.1
    }

    /// The first value's address.
    #[inline]
    pub(super) fn base(self) -> *mut T {
        self.0
    }

    /// The address of value `at`.
    #[inline]
    pub(super) fn at(self, at: usize) -> *mut T {
        assert!(at < self.1.max(1), "a part outside the array");
        // SAFETY: inside the array (asserted).
        unsafe { self.0.add(at) }
    }
}
