//! Matrix products: y = x · wᵀ, dx = dy · w, dw += dyᵀ · x. On the CPU each product is cut into
//! tiles of the result; a tile is one single-threaded call of the `gemm` crate over the whole
//! depth, so that neither the tiles nor the order of any sum depends on the number of threads.
//! `rows` is another kernel for decoding, where each row's result must not depend on the other
//! rows.

use std::ops::Range;

use super::simd::{self, Vector};
use super::split::{self, Shared};
use super::tiles::{Tile, tiles};
use super::{LinearShape, Plus};

/// A matrix in someone else's memory: element (i, j) stands at `i * row_stride + j *
/// column_stride`.
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
        rows == 0
            || columns == 0
            || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
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

/// target = factor · a · b, added to what is there if `accumulate`; a is `[rows, depth]` and b
/// `[depth, columns]`.
///
/// # Safety
/// No other task touches the target's elements meanwhile.
pub(crate) unsafe fn product(
    target: Target,
    a: View,
    b: View,
    depth: usize,
    factor: f32,
    accumulate: bool,
) {
    let Target { memory, start, row_stride, rows, columns } = target;
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(a.holds(rows, depth) && b.holds(depth, columns), "an operand is too short");
    assert!(start + (rows - 1) * row_stride + columns <= memory.len(), "the result does not fit");
    // SAFETY: all three matrices are inside their slices by the lines above, and the target is this
    // task's alone.
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

/// result `[rows, columns]` (+)= a · b, tile by tile, where `runs` are the rows; `prepare` may write
/// to a tile what the product is added to.
fn tiled(
    result: &mut [f32],
    runs: &[Range<usize>],
    [columns, depth]: [usize; 2],
    [a, b]: [View; 2],
    accumulate: bool,
    prepare: impl Fn(Range<usize>, Range<usize>, Shared) + Sync,
) {
    let rows = runs.last().map_or(0, |run| run.end);
    let tiles = tiles(runs, [columns, depth]);
    let memory = Shared::new(&mut result[..rows * columns]);
    split::for_each(tiles.len(), rows * columns * depth / 16, |i| {
        let Tile { rows: r, columns: c, depth: step } = tiles[i].clone();
        prepare(r.clone(), c.clone(), memory);
        let start = r.start * columns + c.start;
        let target = Target { memory, start, row_stride: columns, rows: r.len(), columns: c.len() };
        for k in (0..depth).step_by(step.max(1)) {
            let (a, b) = (a.from(r.start, k), b.from(k, c.start));
            let accumulate = accumulate || k > 0;
            // SAFETY: tiles do not overlap.
            unsafe { product(target, a, b, step.min(depth - k), 1.0, accumulate) };
        }
    });
}

/// y = x · wᵀ + bias + residual.
pub fn forward(y: &mut [f32], x: &[f32], weight: &[f32], plus: Plus<[f32]>, shape: LinearShape) {
    let all = 0..shape.rows;
    forward_of_runs(y, x, weight, plus, shape, std::slice::from_ref(&all));
}

/// The same, the rows of each run as it has them alone.
pub fn forward_of_runs(
    y: &mut [f32],
    x: &[f32],
    weight: &[f32],
    plus: Plus<[f32]>,
    shape: LinearShape,
    runs: &[Range<usize>],
) {
    let LinearShape { inputs, outputs, .. } = shape;
    let accumulate = plus.bias.is_some() || plus.residual.is_some();
    let (x, weight) = (View::rows(x, inputs), View::rows(weight, inputs).transposed());
    tiled(y, runs, [outputs, inputs], [x, weight], accumulate, |r, c, y| {
        for row in r.filter(|_| accumulate) {
            // SAFETY: a row of this task's tile.
            let y = unsafe { y.part(row * outputs + c.start..row * outputs + c.end) };
            start_row(y, row, c.clone(), plus, outputs);
        }
    });
}

/// Columns `c` of bias + residual in one row.
fn start_row(y: &mut [f32], row: usize, c: Range<usize>, plus: Plus<[f32]>, outputs: usize) {
    match plus.residual {
        Some(residual) => {
            y.copy_from_slice(&residual[row * outputs + c.start..row * outputs + c.end])
        }
        None => y.fill(0.0),
    }
    if let Some(bias) = plus.bias {
        simd::add(y, &bias[c]);
    }
}

/// dx (+)= dy · w.
pub fn backward_input(
    dx: &mut [f32],
    dy: &[f32],
    weight: &[f32],
    shape: LinearShape,
    accumulate: bool,
) {
    let all = 0..shape.rows;
    backward_input_of_runs(dx, dy, weight, shape, accumulate, std::slice::from_ref(&all));
}

/// The same, the rows of each run as it has them alone.
pub fn backward_input_of_runs(
    dx: &mut [f32],
    dy: &[f32],
    weight: &[f32],
    shape: LinearShape,
    accumulate: bool,
    runs: &[Range<usize>],
) {
    let LinearShape { inputs, outputs, .. } = shape;
    let operands = [View::rows(dy, outputs), View::rows(weight, inputs)];
    tiled(dx, runs, [inputs, outputs], operands, accumulate, |_, _, _| {});
}

/// dw += dyᵀ · x; dbias += column sums of dy.
pub fn backward_weight(
    dweight: &mut [f32],
    dbias: Option<&mut [f32]>,
    dy: &[f32],
    x: &[f32],
    shape: LinearShape,
) {
    let LinearShape { rows, inputs, outputs, .. } = shape;
    let operands = [View::rows(dy, outputs).transposed(), View::rows(x, inputs)];
    let all = 0..outputs;
    let all = std::slice::from_ref(&all);
    tiled(dweight, all, [inputs, rows], operands, true, |_, _, _| {});
    if let Some(dbias) = dbias {
        for row in dy[..rows * outputs].chunks_exact(outputs) {
            simd::add(&mut dbias[..outputs], row);
        }
    }
}

/// Most output columns of one task of [`rows`], a multiple of all the numbers of columns that are
/// taken at once, and most rows that are.
const STRIP: usize = 96;
const ROWS: usize = 8;

/// The sums of one strip.
type Sums = [[f32; STRIP]; ROWS];

/// y = x · wᵀ + bias + residual, where every element is one dot product with a fixed order of its
/// sum: a row's result does not depend on what other rows there are. A strip of the weights stays
/// in cache for all rows.
pub fn rows(y: &mut [f32], x: &[f32], weight: &[f32], plus: Plus<[f32]>, shape: LinearShape) {
    let LinearShape { rows, inputs, outputs, .. } = shape;
    let memory = Shared::new(&mut y[..rows * outputs]);
    let strip = ((128 << 10) / inputs).clamp(24, STRIP) / 24 * 24;
    // Few rows wait for memory: a weight costs as much as some multiplications.
    split::for_each(outputs.div_ceil(strip), (rows + 6) * outputs * inputs / 16, |i| {
        let columns = split::block(i, strip, outputs);
        let weight = &weight[columns.start * inputs..columns.end * inputs];
        let mut sums = [[0.0; STRIP]; ROWS];
        let mut first = 0;
        while first < rows {
            let count = match rows - first {
                ROWS.. => ROWS,
                4..ROWS => 4,
                few => few,
            };
            dot_products(&mut sums, &x[first * inputs..(first + count) * inputs], weight, inputs);
            for (row, sums) in (first..first + count).zip(&sums) {
                // SAFETY: this task's columns of one row.
                let y = unsafe {
                    memory.part(row * outputs + columns.start..row * outputs + columns.end)
                };
                start_row(y, row, columns.clone(), plus, outputs);
                simd::add(y, &sums[..columns.len()]);
            }
            first += count;
        }
    });
}

/// sums[r][c] = x row r · w row c, for one to four or [`ROWS`] rows of x and at most [`STRIP`] rows
/// of w.
fn dot_products(sums: &mut Sums, x: &[f32], weight: &[f32], depth: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};

        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
        fn avx512(sums: &mut Sums, x: &[f32], weight: &[f32], depth: usize) {
            // SAFETY: this function has the features of the vector.
            unsafe { dot_rows::<__m512>(sums, x, weight, depth) }
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2(sums: &mut Sums, x: &[f32], weight: &[f32], depth: usize) {
            // SAFETY: this function has the features of the vector.
            unsafe { dot_rows::<[__m256; 2]>(sums, x, weight, depth) }
        }
        match simd::level() {
            // SAFETY: the processor has been asked for these features.
            simd::Level::Avx512 => return unsafe { avx512(sums, x, weight, depth) },
            // SAFETY: the same.
            simd::Level::Avx2 => return unsafe { avx2(sums, x, weight, depth) },
            simd::Level::Baseline => {}
        }
    }
    // SAFETY: plain arrays need no features.
    unsafe { dot_rows::<[f32; simd::LANES]>(sums, x, weight, depth) }
}

/// As many sums stand in registers as keep the multipliers busy.
///
/// # Safety
/// The processor has the features of the vector.
#[inline(always)]
unsafe fn dot_rows<V: Vector>(sums: &mut Sums, x: &[f32], weight: &[f32], depth: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.len() / depth {
            1 => dot_blocks::<V, 1, 8>(sums, x, weight, depth),
            2 => dot_blocks::<V, 2, 4>(sums, x, weight, depth),
            3 => dot_blocks::<V, 3, 4>(sums, x, weight, depth),
            4 => dot_blocks::<V, 4, 4>(sums, x, weight, depth),
            _ => dot_blocks::<V, ROWS, 3>(sums, x, weight, depth),
        }
    }
}

/// R rows of x against the rows of w, C at a time. The order in which a sum is taken does not
/// depend on R or C: the short rest of the depth, filled up with zeros, then sixteen lanes at a
/// time, then the tree of `sum_lanes`.
///
/// # Safety
/// The processor has the features of the vector.
#[inline(always)]
unsafe fn dot_blocks<V: Vector, const R: usize, const C: usize>(
    sums: &mut Sums,
    x: &[f32],
    weight: &[f32],
    depth: usize,
) {
    let blocks = weight.chunks_exact(C * depth);
    let rest = blocks.remainder();
    let mut column = 0;
    for block in blocks {
        // SAFETY: the caller's promise.
        let tile = unsafe { dot_tile::<V, R, C>(x, block, depth) };
        for (r, tile) in tile.iter().enumerate() {
            sums[r][column..column + C].copy_from_slice(tile);
        }
        column += C;
    }
    for one in rest.chunks_exact(depth) {
        // SAFETY: the caller's promise.
        let tile = unsafe { dot_tile::<V, R, 1>(x, one, depth) };
        for (r, tile) in tile.iter().enumerate() {
            sums[r][column] = tile[0];
        }
        column += 1;
    }
}

/// # Safety
/// The processor has the features of the vector.
#[inline(always)]
unsafe fn dot_tile<V: Vector, const R: usize, const C: usize>(
    x: &[f32],
    weight: &[f32],
    depth: usize,
) -> [[f32; C]; R] {
    let whole = depth / simd::LANES;
    let x: [_; R] = std::array::from_fn(|r| chunks(&x[r * depth..(r + 1) * depth], whole));
    let w: [_; C] = std::array::from_fn(|c| chunks(&weight[c * depth..(c + 1) * depth], whole));
    // SAFETY: the caller's promise, and `chunks` gives exactly `whole` of them; checked access here
    // would keep the sums out of registers.
    unsafe {
        let mut sums = [[V::zero(); C]; R];
        // The short rest comes first, while no sum is in a register that its copying would need.
        if depth > whole * simd::LANES {
            let w = w.map(|w| padded(w.1));
            for (x, sums) in x.iter().zip(&mut sums) {
                let x = V::load(&padded(x.1));
                for c in 0..C {
                    sums[c] = sums[c].plus_product(x, V::load(&w[c]));
                }
            }
        }
        for k in 0..whole {
            let mut column = [V::zero(); C];
            for c in 0..C {
                column[c] = V::load(w[c].0.get_unchecked(k));
            }
            for r in 0..R {
                let x = V::load(x[r].0.get_unchecked(k));
                for c in 0..C {
                    sums[r][c] = sums[r][c].plus_product(x, column[c]);
                }
            }
        }
        // No closures here: the compiler may leave one outside of the function that has the
        // vector's features.
        let mut tile = [[0.0; C]; R];
        for r in 0..R {
            for c in 0..C {
                tile[r][c] = sums[r][c].sum();
            }
        }
        tile
    }
}

/// `count` times sixteen values, and the rest.
#[inline(always)]
fn chunks(x: &[f32], count: usize) -> (&[[f32; simd::LANES]], &[f32]) {
    let (whole, rest) = x.as_chunks();
    (&whole[..count], rest)
}

/// Zeros after a short rest.
fn padded(rest: &[f32]) -> [f32; simd::LANES] {
    let mut all = [0.0; simd::LANES];
    all[..rest.len()].copy_from_slice(rest);
    all
}

/// The plain form: three loops each.
pub mod reference {
    use super::{LinearShape, Plus};

    /// y = x · wᵀ + bias + residual.
    pub fn forward(
        y: &mut [f32],
        x: &[f32],
        weight: &[f32],
        plus: Plus<[f32]>,
        shape: LinearShape,
    ) {
        let LinearShape { rows, inputs, outputs, .. } = shape;
        for n in 0..rows {
            for o in 0..outputs {
                let mut sum = plus.bias.map_or(0.0, |b| b[o])
                    + plus.residual.map_or(0.0, |r| r[n * outputs + o]);
                for i in 0..inputs {
                    sum += x[n * inputs + i] * weight[o * inputs + i];
                }
                y[n * outputs + o] = sum;
            }
        }
    }

    /// dx (+)= dy · w.
    pub fn backward_input(
        dx: &mut [f32],
        dy: &[f32],
        weight: &[f32],
        shape: LinearShape,
        accumulate: bool,
    ) {
        let LinearShape { rows, inputs, outputs, .. } = shape;
        for n in 0..rows {
            for i in 0..inputs {
                let sum: f32 =
                    (0..outputs).map(|o| dy[n * outputs + o] * weight[o * inputs + i]).sum();
                dx[n * inputs + i] = if accumulate { dx[n * inputs + i] + sum } else { sum };
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
        let LinearShape { rows, inputs, outputs, .. } = shape;
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

    const SHAPES: [(usize, usize, usize); 6] =
        [(1, 1, 1), (3, 5, 7), (17, 33, 9), (64, 16, 80), (130, 70, 300), (300, 40, 5)];

    fn shape((rows, inputs, outputs): (usize, usize, usize)) -> LinearShape {
        LinearShape::new(rows, inputs, outputs)
    }

    #[test]
    fn forward_agrees_with_the_reference_with_and_without_bias_and_residual() {
        for s in SHAPES {
            let LinearShape { rows, inputs, outputs, .. } = shape(s);
            let (x, w) = (random(1, rows * inputs), random(2, inputs * outputs));
            let (b, r) = (random(3, outputs), random(4, rows * outputs));
            for (bias, residual) in [
                (None, None),
                (Some(&b[..]), None),
                (None, Some(&r[..])),
                (Some(&b[..]), Some(&r[..])),
            ] {
                let plus = Plus { bias, residual };
                let [mut fast, mut decode, mut plain] =
                    [(); 3].map(|()| vec![f32::NAN; rows * outputs]);
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
            let LinearShape { rows, inputs, outputs, .. } = shape(s);
            let (x, w, dy) =
                (random(1, rows * inputs), random(2, inputs * outputs), random(3, rows * outputs));
            for (start, accumulate) in
                [(vec![f32::NAN; rows * inputs], false), (random(4, rows * inputs), true)]
            {
                let [mut fast, mut plain] = [start.clone(), start];
                backward_input(&mut fast, &dy, &w, shape(s), accumulate);
                reference::backward_input(&mut plain, &dy, &w, shape(s), accumulate);
                assert_close(&fast, &plain, 1e-5);
            }
            let [mut fast, mut plain] =
                [(); 2].map(|()| (random(5, inputs * outputs), random(6, outputs)));
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
        reference::backward_input(&mut dx, &dy, &w, s, false);
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
            backward_input(&mut dx, &dy, &w, s, false);
            backward_weight(&mut dw, None, &dy, &x, s);
            [y, dx, dw].map(|v| bits(&v))
        };
        assert_eq!(on_threads(1, run), on_threads(2, run));
    }

    #[test]
    fn runs_end_to_end_get_the_bits_that_each_gets_alone() {
        // One row, few rows, rows that are no whole tile, more than one tile.
        let unlike = vec![0..1, 1..8, 8..108, 108..508, 508..538];
        // Those whose tiles are joined, and one in between whose tiles are not.
        let alike = vec![0..30, 30..62, 62..64, 64..92, 92..121, 121..150, 150..350, 350..538];
        // The depths are cut differently for small and for large products, and their rests differ.
        for (inputs, outputs) in
            [(48, 5), (700, 130), (37, 600), (1025, 140), (514, 96), (1100, 1030), (1024, 140)]
        {
            for runs in [&unlike, &alike] {
                check_runs(LinearShape::new(538, inputs, outputs), runs);
            }
        }
    }

    fn check_runs(s: LinearShape, runs: &[Range<usize>]) {
        let LinearShape { inputs, outputs, .. } = s;
        let (x, w) = (random(1, s.rows * inputs), random(2, inputs * outputs));
        let (dy, bias) = (random(3, s.rows * outputs), random(4, outputs));
        let plus = Plus { bias: Some(&bias[..]), residual: Some(&dy[..]) };
        let (mut y, mut dx) = (vec![0.0; s.rows * outputs], x.clone());
        forward_of_runs(&mut y, &x, &w, plus, s, runs);
        backward_input_of_runs(&mut dx, &dy, &w, s, true, runs);
        for run in runs {
            let alone = LinearShape::new(run.len(), inputs, outputs);
            let (ins, outs) =
                (run.start * inputs..run.end * inputs, run.start * outputs..run.end * outputs);
            let plus = Plus { residual: Some(&dy[outs.clone()]), ..plus };
            let (mut own_y, mut own_dx) = (vec![0.0; outs.len()], x[ins.clone()].to_vec());
            forward(&mut own_y, &x[ins.clone()], &w, plus, alone);
            backward_input(&mut own_dx, &dy[outs.clone()], &w, alone, true);
            assert_eq!(bits(&own_y), bits(&y[outs]), "{run:?} of {s:?}");
            assert_eq!(bits(&own_dx), bits(&dx[ins]), "{run:?} of {s:?}");
        }
    }

    #[test]
    fn a_row_of_a_decoding_product_does_not_depend_on_the_others() {
        for (inputs, outputs) in [(128, 200), (37, 130)] {
            let (x, w) = (random(1, 17 * inputs), random(2, inputs * outputs));
            let run = |first: usize, rows: usize| {
                let mut y = vec![0.0; rows * outputs];
                let x = &x[first * inputs..(first + rows) * inputs];
                super::rows(&mut y, x, &w, Plus::NOTHING, LinearShape::new(rows, inputs, outputs));
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
