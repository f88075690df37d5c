//! Matrix products: y = x · wᵀ, dx = dy · w, dw += dyᵀ · x. On the CPU each product is cut into tiles of the result; a tile is one
//! single-threaded call of the `gemm` crate over the whole depth, so that neither the tiles nor the order of any sum depends on
//! the number of threads. `rows` is another kernel for decoding, where each row's result must not depend on the other rows.

use super::split::{self, Shared};
use super::{LinearShape, Plus, simd};

/// A matrix in someone else's memory: element (i, j) stands at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// Rows that are contiguous, `row_stride` apart.
    pub fn rows(data: &'a [f32], row_stride: usize) -> Self {
        Self { data, row_stride, column_stride: 1 }
    }

    /// The matrix mirrored at its diagonal.
    pub fn transposed(self) -> Self {
        Self { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    /// From row `row` and column `column` on.
    pub fn from(self, row: usize, column: usize) -> Self {
        let start = (row * self.row_stride + column * self.column_stride).min(self.data.len());
        Self { data: &self.data[start..], ..self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// Where a product goes: rows of `columns` contiguous values, `row_stride` apart, from `start` on.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub memory: Shared<'a>,
    pub start: usize,
    pub row_stride: usize,
    pub rows: usize,
    pub columns: usize,
}

/// target = factor · a · b, added to what is there if `accumulate`; a is `[rows, depth]` and b `[depth, columns]`.
///
/// # Safety
/// No other task touches the target's elements meanwhile.
pub(crate) unsafe fn product(target: Target, a: View, b: View, depth: usize, factor: f32, accumulate: bool) {
    let Target { memory, start, row_stride, rows, columns } = target;
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(a.holds(rows, depth) && b.holds(depth, columns), "an operand is too short");
    assert!(start + (rows - 1) * row_stride + columns <= memory.len(), "the result does not fit");
    // SAFETY: all three matrices are inside their slices by the lines above, and the target is this task's alone.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            memory.at(start),
            1,
            row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Rows and columns of one tile of a result. Large enough that operands are packed seldom, small enough that there are tasks
/// for several threads.
fn tile(rows: usize, columns: usize) -> (usize, usize) {
    let (mut height, mut width) = (rows.min(256), columns.min(512));
    while rows.div_ceil(height) * columns.div_ceil(width) < 8 && height.max(width) > 64 {
        if height >= width {
            height = height.div_ceil(2).next_multiple_of(16);
        } else {
            width = width.div_ceil(2).next_multiple_of(16);
        }
    }
    (height, width)
}

/// result `[rows, columns]` (+)= a · b, tile by tile; `prepare` may write to a tile what the product is added to.
fn tiled(
    result: &mut [f32],
    [rows, columns, depth]: [usize; 3],
    a: View,
    b: View,
    accumulate: bool,
    prepare: impl Fn(std::ops::Range<usize>, std::ops::Range<usize>, Shared) + Sync,
) {
    let (height, width) = tile(rows.max(1), columns.max(1));
    let across = columns.div_ceil(width);
    let memory = Shared::new(&mut result[..rows * columns]);
    split::for_each(rows.div_ceil(height) * across, rows * columns * depth / 8, |i| {
        let (r, c) = (split::block(i / across, height, rows), split::block(i % across, width, columns));
        prepare(r.clone(), c.clone(), memory);
        let start = r.start * columns + c.start;
        let target = Target { memory, start, row_stride: columns, rows: r.len(), columns: c.len() };
        // SAFETY: tiles do not overlap.
        unsafe { product(target, a.from(r.start, 0), b.from(0, c.start), depth, 1.0, accumulate) };
    });
}

/// y = x · wᵀ + bias + residual.
pub fn forward(y: &mut [f32], x: &[f32], weight: &[f32], plus: Plus<[f32]>, shape: LinearShape) {
    let LinearShape { rows, inputs, outputs } = shape;
    let accumulate = plus.bias.is_some() || plus.residual.is_some();
    let (x, weight) = (View::rows(x, inputs), View::rows(weight, inputs).transposed());
    tiled(y, [rows, outputs, inputs], x, weight, accumulate, |r, c, y| {
        for row in r.filter(|_| accumulate) {
            // SAFETY: a row of this task's tile.
            let y = unsafe { y.part(row * outputs + c.start..row * outputs + c.end) };
            start_row(y, row, c.clone(), plus, outputs);
        }
    });
}

/// Columns `c` of bias + residual in one row.
fn start_row(y: &mut [f32], row: usize, c: std::ops::Range<usize>, plus: Plus<[f32]>, outputs: usize) {
    match plus.residual {
        Some(residual) => y.copy_from_slice(&residual[row * outputs + c.start..row * outputs + c.end]),
        None => y.fill(0.0),
    }
    if let Some(bias) = plus.bias {
        simd::add(y, &bias[c]);
    }
}

/// dx = dy · w.
pub fn backward_input(dx: &mut [f32], dy: &[f32], weight: &[f32], shape: LinearShape) {
    let LinearShape { rows, inputs, outputs } = shape;
    let (dy, weight) = (View::rows(dy, outputs), View::rows(weight, inputs));
    tiled(dx, [rows, inputs, outputs], dy, weight, false, |_, _, _| {});
}

/// dw += dyᵀ · x; dbias += column sums of dy.
pub fn backward_weight(dweight: &mut [f32], dbias: Option<&mut [f32]>, dy: &[f32], x: &[f32], shape: LinearShape) {
    let LinearShape { rows, inputs, outputs } = shape;
    let (dy_t, x) = (View::rows(dy, outputs).transposed(), View::rows(x, inputs));
    tiled(dweight, [outputs, inputs, rows], dy_t, x, true, |_, _, _| {});
    if let Some(dbias) = dbias {
        for row in dy[..rows * outputs].chunks_exact(outputs) {
            simd::add(&mut dbias[..outputs], row);
        }
    }
}

/// Output columns of one task of [`rows`].
const STRIP: usize = 64;

/// y = x · wᵀ + bias + residual, where every element is one dot product with a fixed order of its sum: a row's result does not
/// depend on what other rows there are. Weights are read once for all rows.
pub fn rows(y: &mut [f32], x: &[f32], weight: &[f32], plus: Plus<[f32]>, shape: LinearShape) {
    let LinearShape { rows, inputs, outputs } = shape;
    let memory = Shared::new(&mut y[..rows * outputs]);
    split::for_each(outputs.div_ceil(STRIP), rows * outputs * inputs / 8, |i| {
        let columns = split::block(i, STRIP, outputs);
        let mut sums = [0.0; 4 * STRIP];
        for first in (0..rows).step_by(4) {
            let count = (rows - first).min(4);
            let x = &x[first * inputs..(first + count) * inputs];
            dot_products(&mut sums, x, &weight[columns.start * inputs..columns.end * inputs], inputs);
            for row in 0..count {
                let at = (first + row) * outputs;
                // SAFETY: this task's columns of one row.
                let y = unsafe { memory.part(at + columns.start..at + columns.end) };
                start_row(y, first + row, columns.clone(), plus, outputs);
                simd::add(y, &sums[row * STRIP..row * STRIP + columns.len()]);
            }
        }
    });
}

simd::simd! {
    /// sums[r * STRIP + c] = x row r · w row c, for up to four rows of x.
    fn dot_products(sums: &mut [f32; 4 * STRIP], x: &[f32], weight: &[f32], depth: usize) {
        match x.len() / depth {
            1 => dot_block::<1, 8>(sums, x, weight, depth),
            2 => dot_block::<2, 4>(sums, x, weight, depth),
            3 => dot_block::<3, 4>(sums, x, weight, depth),
            _ => dot_block::<4, 4>(sums, x, weight, depth),
        }
    }
}

/// R rows of x against the rows of w, C at a time, so that R · C sums stand in registers. The order in which a sum is taken does not
/// depend on R or C: sixteen lanes over the depth, the last of them filled up with zeros, then the tree of `sum_lanes`.
#[inline(always)]
fn dot_block<const R: usize, const C: usize>(sums: &mut [f32; 4 * STRIP], x: &[f32], weight: &[f32], depth: usize) {
    let blocks = weight.chunks_exact(C * depth);
    let rest = blocks.remainder();
    let mut column = 0;
    for block in blocks {
        dot_tile::<R, C>(sums, column, x, block, depth);
        column += C;
    }
    for one in rest.chunks_exact(depth) {
        dot_tile::<R, 1>(sums, column, x, one, depth);
        column += 1;
    }
}

#[inline(always)]
fn dot_tile<const R: usize, const C: usize>(
    sums: &mut [f32; 4 * STRIP],
    column: usize,
    x: &[f32],
    weight: &[f32],
    depth: usize,
) {
    const LANES: usize = simd::LANES;
    let whole = depth / LANES;
    let x: [_; R] = std::array::from_fn(|r| padded_chunks(&x[r * depth..(r + 1) * depth], whole));
    let w: [_; C] = std::array::from_fn(|c| padded_chunks(&weight[c * depth..(c + 1) * depth], whole));
    let mut lanes = [[[0.0f32; LANES]; C]; R];
    for k in 0..whole {
        // SAFETY: `padded_chunks` gives exactly `whole` chunks. Checked access here would keep the sums out of registers.
        let x: [&[f32; LANES]; R] = std::array::from_fn(|r| unsafe { x[r].0.get_unchecked(k) });
        // SAFETY: the same.
        let w: [&[f32; LANES]; C] = std::array::from_fn(|c| unsafe { w[c].0.get_unchecked(k) });
        for r in 0..R {
            for c in 0..C {
                for i in 0..LANES {
                    lanes[r][c][i] = x[r][i].mul_add(w[c][i], lanes[r][c][i]);
                }
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            for i in 0..LANES {
                lanes[r][c][i] = x[r].1[i].mul_add(w[c].1[i], lanes[r][c][i]);
            }
            sums[r * STRIP + column + c] = simd::sum_lanes(lanes[r][c]);
        }
    }
}

/// `count` times sixteen values, and the rest with zeros after it.
#[inline(always)]
fn padded_chunks(x: &[f32], count: usize) -> (&[[f32; simd::LANES]], [f32; simd::LANES]) {
    let (whole, rest) = x.as_chunks();
    let mut last = [0.0; simd::LANES];
    last[..rest.len()].copy_from_slice(rest);
    (&whole[..count], last)
}

/// The plain form: three loops each.
pub mod reference {
    use super::{LinearShape, Plus};

    /// y = x · wᵀ + bias + residual.
    pub fn forward(y: &mut [f32], x: &[f32], weight: &[f32], plus: Plus<[f32]>, shape: LinearShape) {
        let LinearShape { rows, inputs, outputs } = shape;
        for n in 0..rows {
            for o in 0..outputs {
                let mut sum = plus.bias.map_or(0.0, |b| b[o]) + plus.residual.map_or(0.0, |r| r[n * outputs + o]);
                for i in 0..inputs {
                    sum += x[n * inputs + i] * weight[o * inputs + i];
                }
                y[n * outputs + o] = sum;
            }
        }
    }

    /// dx = dy · w.
    pub fn backward_input(dx: &mut [f32], dy: &[f32], weight: &[f32], shape: LinearShape) {
        let LinearShape { rows, inputs, outputs } = shape;
        for n in 0..rows {
            for i in 0..inputs {
                dx[n * inputs + i] = (0..outputs).map(|o| dy[n * outputs + o] * weight[o * inputs + i]).sum();
            }
        }
    }

    /// dw += dyᵀ · x; dbias += column sums of dy.
    pub fn backward_weight(
        dweight: &mut [f32],
        mut dbias: Option<&mut [f32]>,
        dy: &[f32],
        x: &[f32],
        shape: LinearShape,
    ) {
        let LinearShape { rows, inputs, outputs } = shape;
        for n in 0..rows {
            for o in 0..outputs {
                for i in 0..inputs {
                    dweight[o * inputs + i] += dy[n * outputs + o] * x[n * inputs + i];
                }
                if let Some(dbias) = dbias.as_deref_mut() {
                    dbias[o] += dy[n * outputs + o];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_gradient, bits, on_threads, random};
    use super::*;

    const SHAPES: [(usize, usize, usize); 6] = [(1, 1, 1), (3, 5, 7), (17, 33, 9), (64, 16, 80), (130, 70, 300), (300, 40, 5)];

    fn shape((rows, inputs, outputs): (usize, usize, usize)) -> LinearShape {
        LinearShape { rows, inputs, outputs }
    }

    #[test]
    fn forward_agrees_with_the_reference_with_and_without_bias_and_residual() {
        for s in SHAPES {
            let LinearShape { rows, inputs, outputs } = shape(s);
            let (x, w) = (random(1, rows * inputs), random(2, inputs * outputs));
            let (b, r) = (random(3, outputs), random(4, rows * outputs));
            for (bias, residual) in [(None, None), (Some(&b[..]), None), (None, Some(&r[..])), (Some(&b[..]), Some(&r[..]))] {
                let plus = Plus { bias, residual };
                let [mut fast, mut decode, mut plain] = [(); 3].map(|()| vec![f32::NAN; rows * outputs]);
                forward(&mut fast, &x, &w, plus, shape(s));
                super::rows(&mut decode, &x, &w, plus, shape(s));
                reference::forward(&mut plain, &x, &w, plus, shape(s));
                assert_close(&fast, &plain, 1e-5);
                assert_close(&decode, &plain, 1e-5);
            }
        }
    }

    #[test]
    fn backward_agrees_with_the_reference_and_accumulates() {
        for s in SHAPES {
            let LinearShape { rows, inputs, outputs } = shape(s);
            let (x, w, dy) = (random(1, rows * inputs), random(2, inputs * outputs), random(3, rows * outputs));
            let [mut fast, mut plain] = [(); 2].map(|()| vec![f32::NAN; rows * inputs]);
            backward_input(&mut fast, &dy, &w, shape(s));
            reference::backward_input(&mut plain, &dy, &w, shape(s));
            assert_close(&fast, &plain, 1e-5);
            let [mut fast, mut plain] = [(); 2].map(|()| (random(5, inputs * outputs), random(6, outputs)));
            backward_weight(&mut fast.0, Some(&mut fast.1), &dy, &x, shape(s));
            reference::backward_weight(&mut plain.0, Some(&mut plain.1), &dy, &x, shape(s));
            assert_close(&fast.0, &plain.0, 1e-5);
            assert_close(&fast.1, &plain.1, 1e-5);
        }
    }

    #[test]
    fn reference_gradient_is_that_of_finite_differences() {
        let s = shape((4, 3, 5));
        let (x, w, b, dy) = (random(1, 12), random(2, 15), random(3, 5), random(4, 20));
        let run = |x: &[f32], w: &[f32], b: &[f32]| {
            let mut y = vec![0.0; 20];
            reference::forward(&mut y, x, w, Plus { bias: Some(b), residual: None }, s);
            y
        };
        let (mut dx, mut dw, mut db) = (vec![0.0; 12], vec![0.0; 15], vec![0.0; 5]);
        reference::backward_input(&mut dx, &dy, &w, s);
        reference::backward_weight(&mut dw, Some(&mut db), &dy, &x, s);
        assert_gradient(&dx, &x, &dy, |x| run(x, &w, &b));
        assert_gradient(&dw, &w, &dy, |w| run(&x, w, &b));
        assert_gradient(&db, &b, &dy, |b| run(&x, &w, b));
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let s = shape((300, 70, 600));
        let (x, w, dy) = (random(1, 300 * 70), random(2, 70 * 600), random(3, 300 * 600));
        let run = || {
            let [mut y, mut dx, mut dw] = [300 * 600, 300 * 70, 70 * 600].map(|len| vec![0.0; len]);
            forward(&mut y, &x, &w, Plus::NOTHING, s);
            backward_input(&mut dx, &dy, &w, s);
            backward_weight(&mut dw, None, &dy, &x, s);
            [y, dx, dw].map(|v| bits(&v))
        };
        assert_eq!(on_threads(1, run), on_threads(2, run));
    }

    #[test]
    fn a_row_of_a_decoding_product_does_not_depend_on_the_others() {
        for (inputs, outputs) in [(128, 200), (37, 130)] {
            let (x, w) = (random(1, 17 * inputs), random(2, inputs * outputs));
            let run = |first: usize, rows: usize| {
                let mut y = vec![0.0; rows * outputs];
                let x = &x[first * inputs..(first + rows) * inputs];
                super::rows(&mut y, x, &w, Plus::NOTHING, LinearShape { rows, inputs, outputs });
                bits(&y)
            };
            let all = run(0, 17);
            for rows in 1..=6 {
                for first in 0..17 - rows {
                    assert_eq!(run(first, rows), all[first * outputs..(first + rows) * outputs]);
                }
            }
        }
    }
}
