//! How work is cut so that the result does not depend on the number of threads: into parts whose
//! number and size follow from the shapes alone, each computed by one task from start to end.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

/// Below so many elementary operations (50 µs or so) one thread is done before another is awake.
const WORTH_WAKING: usize = 1 << 18;
/// Elementary operations of one task.
const TASK: usize = 1 << 15;

/// A slice that several tasks write to, each its own part.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Shared` gives access only through `part` and `at`, whose callers promise that parts do
// not overlap.
unsafe impl Send for Shared<'_> {}
// SAFETY: the same.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Takes the slice for as long as the tasks run.
    pub fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// Elements `range` of the slice.
    ///
    /// # Safety
    /// No other live part overlaps this one.
    ///
    /// # Panics
    /// If the range is not inside the slice.
    pub unsafe fn part(self, range: Range<usize>) -> &'a mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside the slice by the line above, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The address of element `index`, for a matrix whose rows are interleaved with those of other
    /// parts.
    ///
    /// # Panics
    /// If the slice has no such element.
    pub fn at(self, index: usize) -> *mut f32 {
        assert!(index < self.len);
        // SAFETY: inside the slice by the line above.
        unsafe { self.start.add(index) }
    }

    /// Elements of the whole slice.
    pub fn len(self) -> usize {
        self.len
    }
}

/// Calls `task` with each number below `count`; on several threads if the whole costs more than
/// waking them.
pub fn for_each(count: usize, cost: usize, task: impl Fn(usize) + Sync + Send) {
    if count < 2 || cost < WORTH_WAKING {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().for_each(task);
    }
}

/// The `index`-th block of at most `size` out of `0..len`.
pub fn block(index: usize, size: usize, len: usize) -> Range<usize> {
    index * size..len.min((index + 1) * size)
}

/// Cuts a long slice into blocks of whole rows, and works on them side by side. `task` gets the
/// rows and their part.
pub fn for_each_rows(
    slice: &mut [f32],
    width: usize,
    task: impl Fn(Range<usize>, &mut [f32]) + Sync + Send,
) {
    let rows = slice.len() / width.max(1);
    let size = rows_a_block(width);
    let shared = Shared::new(slice);
    for_each(rows.div_ceil(size), rows * width, |i| {
        let range = block(i, size, rows);
        // SAFETY: blocks do not overlap.
        let part = unsafe { shared.part(range.start * width..range.end * width) };
        task(range, part);
    });
}

/// Rows of `width` values that make one task.
pub fn rows_a_block(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}
