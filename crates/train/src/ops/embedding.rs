//! Rows of a table by number, and the gradient's way back: token ids pick rows of the embedding,
//! and counted positions pick rows of the residual stream for the head.

use super::simd;
use super::split::{self, Shared};

/// y row i = table row `ids[i]`.
pub fn gather(y: &mut [f32], table: &[f32], ids: &[u32], width: usize) {
    split::for_each_rows(&mut y[..ids.len() * width], width, |range, y| {
        for (y, &id) in y.chunks_exact_mut(width).zip(&ids[range]) {
            y.copy_from_slice(&table[id as usize * width..(id as usize + 1) * width]);
        }
    });
}

/// Columns of one task of [`scatter_add`].
const COLUMNS: usize = 64;

/// dtable row `ids[i]` += dy row i. Ids may repeat: each task has some columns of all rows and goes
/// through them in order.
pub fn scatter_add(dtable: &mut [f32], dy: &[f32], ids: &[u32], width: usize) {
    let dtable = Shared::new(dtable);
    split::for_each(width.div_ceil(COLUMNS), ids.len() * width, |i| {
        let columns = split::block(i, COLUMNS, width);
        for (row, &id) in ids.iter().enumerate() {
            let at = id as usize * width;
            // SAFETY: these columns of every row are this task's alone.
            let dtable = unsafe { dtable.part(at + columns.start..at + columns.end) };
            simd::add(dtable, &dy[row * width + columns.start..row * width + columns.end]);
        }
    });
}

/// The plain form.
pub mod reference {
    /// See [`super::gather`].
    pub fn gather(y: &mut [f32], table: &[f32], ids: &[u32], width: usize) {
        for (row, &id) in ids.iter().enumerate() {
            for i in 0..width {
                y[row * width + i] = table[id as usize * width + i];
            }
        }
    }

    /// See [`super::scatter_add`].
    pub fn scatter_add(dtable: &mut [f32], dy: &[f32], ids: &[u32], width: usize) {
        for (row, &id) in ids.iter().enumerate() {
            for i in 0..width {
                dtable[id as usize * width + i] += dy[row * width + i];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradient, bits, on_threads, random};
    use super::*;

    /// 900 ids below 50: most rows are picked several times.
    fn ids() -> Vec<u32> {
        random(9, 900).iter().map(|x| ((x + 1.0) * 25.0) as u32).collect()
    }

    #[test]
    fn agrees_with_the_reference_bit_for_bit() {
        for width in [1, 70, 129] {
            let (table, dy) = (random(1, 50 * width), random(2, 900 * width));
            let [mut fast, mut plain] =
                [(); 2].map(|()| (vec![f32::NAN; 900 * width], random(3, 50 * width)));
            gather(&mut fast.0, &table, &ids(), width);
            scatter_add(&mut fast.1, &dy, &ids(), width);
            reference::gather(&mut plain.0, &table, &ids(), width);
            reference::scatter_add(&mut plain.1, &dy, &ids(), width);
            assert_eq!(fast, plain, "both only copy, and add in the same order");
        }
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        let (ids, table, dy) = ([2, 0, 2, 1], random(1, 4 * 3), random(2, 4 * 3));
        let mut found = vec![0.0; 12];
        scatter_add(&mut found, &dy, &ids, 3);
        assert_gradient(&found, &table, &dy, |table| {
            let mut y = vec![0.0; 12];
            reference::gather(&mut y, table, &ids, 3);
            y
        });
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let dy = random(2, 900 * 200);
        let once = || {
            let mut dtable = vec![0.0; 50 * 200];
            scatter_add(&mut dtable, &dy, &ids(), 200);
            bits(&dtable)
        };
        assert_eq!(on_threads(1, once), on_threads(2, once));
    }
}
