//! What weight-decomposed adapters (DoRA, Liu et al. 2024, arXiv 2402.09353) need beside products: the
//! norm of each row of W + s B A, columns times a number each (a map's outputs by m / ‖W + s B A‖), and
//! the sums over columns that are the gradient of m. The norm is a constant of the backward pass
//! (section 4.3 of the paper; PEFT has it so).

use super::matmul::{Target, View, product};
use super::split::{self, Shared};
use super::{ColumnShape, Factor, LinearShape, LowRank, Plus, RowNormShape, RowNorms, simd};

/// Rows of a weight that one task takes, and columns of a sum.
const BLOCK: usize = 32;

/// The norms of rows of W + s B A, and magnitudes over norms. A row of zeros has none: its norm is
/// infinite, so that it stays what it is in place of becoming no number.
pub fn row_norms(
    into: RowNorms<[f32]>,
    magnitudes: &[f32],
    weight: &[f32],
    low: LowRank<[f32]>,
    shape: RowNormShape,
) {
    let RowNormShape { inputs, outputs, rows, ranks } = shape;
    let norms = Shared::new(into.norms);
    let ratios = Shared::new(into.ratios);
    let up = View::rows(&low.up[ranks.start * outputs..], outputs).transposed();
    let down = View::rows(&low.down[ranks.start * inputs..], inputs);
    let cost = rows.len() * inputs * ranks.len();
    split::for_each(rows.len().div_ceil(BLOCK), cost, |i| {
        let block = split::block(i, BLOCK, rows.len());
        let block = rows.start + block.start..rows.start + block.end;
        let mut moved = weight[block.start * inputs..block.end * inputs].to_vec();
        let memory = Shared::new(&mut moved);
        let (rows, columns) = (block.len(), inputs);
        let target = Target { memory, start: 0, row_stride: inputs, rows, columns };
        // SAFETY: the block is this task's own.
        unsafe {
            product(target, up.from(block.start, 0), down, ranks.len(), low.scale, true);
        }
        for (row, moved) in block.zip(moved.chunks_exact(inputs)) {
            let norm = simd::dot(moved, moved).sqrt();
            let norm = if norm == 0.0 { f32::INFINITY } else { norm };
            // SAFETY: this task's rows.
            unsafe {
                norms.part(row..row + 1)[0] = norm;
                ratios.part(row..row + 1)[0] = magnitudes[row] / norm;
            }
        }
    });
}

/// y (+)= columns of x, each times its factor, plus a bias and a residual.
pub fn scale_columns(
    y: &mut [f32],
    x: &[f32],
    factor: Factor<[f32]>,
    plus: Plus<[f32]>,
    shape: ColumnShape,
    accumulate: bool,
) {
    let ColumnShape { first, rows, count, from, to } = shape;
    let y = &mut y[first * to.width..(first + rows) * to.width];
    split::for_each_rows(y, to.width, |range, y| {
        for (row, y) in range.zip(y.chunks_exact_mut(to.width)) {
            let row = first + row;
            let y = &mut y[to.first..to.first + count];
            let x = &x[row * from.width + from.first..][..count];
            if !accumulate {
                y.fill(0.0);
            }
            match factor {
                Factor::Number(factor) => {
                    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
                }
                Factor::Each(factors) => {
                    let factors = &factors[from.first..from.first + count];
                    y.iter_mut().zip(x).zip(factors).for_each(|((y, x), f)| *y += f * x);
                }
            }
            if let Some(bias) = plus.bias {
                simd::add(y, &bias[to.first..to.first + count]);
            }
            if let Some(residual) = plus.residual {
                simd::add(y, &residual[row * to.width + to.first..][..count]);
            }
        }
    });
}

/// sums += the column sums of a ∘ b, each over its divisor.
pub fn column_products(
    sums: &mut [f32],
    [a, b]: [&[f32]; 2],
    divisors: &[f32],
    shape: LinearShape,
) {
    let LinearShape { rows, outputs, .. } = shape;
    let sums = Shared::new(&mut sums[..outputs]);
    split::for_each(outputs.div_ceil(BLOCK), rows * outputs, |i| {
        let columns = split::block(i, BLOCK, outputs);
        let mut totals = [0.0; BLOCK];
        for row in 0..rows {
            let at = row * outputs + columns.start..row * outputs + columns.end;
            let pairs = a[at.clone()].iter().zip(&b[at]);
            totals.iter_mut().zip(pairs).for_each(|(total, (a, b))| *total += a * b);
        }
        // SAFETY: this task's columns.
        let sums = unsafe { sums.part(columns.clone()) };
        for ((sum, total), divisor) in sums.iter_mut().zip(totals).zip(&divisors[columns]) {
            *sum += total / divisor;
        }
    });
}

/// The plain form: one value after the other.
pub mod reference {
    use super::{ColumnShape, Factor, LinearShape, LowRank, Plus, RowNormShape, RowNorms};

    /// See [`super::row_norms`].
    pub fn row_norms(
        into: RowNorms<[f32]>,
        magnitudes: &[f32],
        weight: &[f32],
        low: LowRank<[f32]>,
        shape: RowNormShape,
    ) {
        let RowNormShape { inputs, outputs, rows, ranks } = shape;
        for o in rows {
            let mut squares = 0.0;
            for i in 0..inputs {
                let mut product = 0.0;
                for r in ranks.clone() {
                    product += low.up[r * outputs + o] * low.down[r * inputs + i];
                }
                squares += (weight[o * inputs + i] + low.scale * product).powi(2);
            }
            into.norms[o] = if squares == 0.0 { f32::INFINITY } else { squares.sqrt() };
            into.ratios[o] = magnitudes[o] / into.norms[o];
        }
    }

    /// See [`super::scale_columns`].
    pub fn scale_columns(
        y: &mut [f32],
        x: &[f32],
        factor: Factor<[f32]>,
        plus: Plus<[f32]>,
        shape: ColumnShape,
        accumulate: bool,
    ) {
        let ColumnShape { first, rows, count, from, to } = shape;
        for row in first..first + rows {
            for column in 0..count {
                let (of_x, of_y) = (from.first + column, to.first + column);
                let factor = match factor {
                    Factor::Number(factor) => factor,
                    Factor::Each(factors) => factors[of_x],
                };
                let at = row * to.width + of_y;
                let before = if accumulate { y[at] } else { 0.0 };
                y[at] = before
                    + factor * x[row * from.width + of_x]
                    + plus.bias.map_or(0.0, |bias| bias[of_y])
                    + plus.residual.map_or(0.0, |residual| residual[at]);
            }
        }
    }

    /// See [`super::column_products`].
    pub fn column_products(
        sums: &mut [f32],
        [a, b]: [&[f32]; 2],
        divisors: &[f32],
        shape: LinearShape,
    ) {
        let LinearShape { rows, outputs, .. } = shape;
        for o in 0..outputs {
            let total: f32 = (0..rows).map(|n| a[n * outputs + o] * b[n * outputs + o]).sum();
            sums[o] += total / divisors[o];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, bits, on_threads, random};
    use super::super::{Columns, LinearShape};
    use super::*;

    #[test]
    fn norms_are_those_of_the_rows_and_agree_with_the_reference_on_any_number_of_threads() {
        let (inputs, outputs, ranks) = (70, 101, 9);
        let mut weight = random(1, inputs * outputs);
        let (down, mut up) = (random(2, ranks * inputs), random(3, ranks * outputs));
        // A row that adds up to nothing.
        weight[50 * inputs..51 * inputs].fill(0.0);
        (0..ranks).for_each(|r| up[r * outputs + 50] = 0.0);
        let magnitudes = random(4, outputs);
        let run = |is_fast: bool| {
            let (mut norms, mut ratios) = (vec![-1.0; outputs], vec![-1.0; outputs]);
            let into = RowNorms { norms: &mut norms[..], ratios: &mut ratios[..] };
            let low = LowRank { down: &down[..], up: &up[..], scale: 0.5 };
            let shape = RowNormShape { inputs, outputs, rows: 3..99, ranks: 2..7 };
            if is_fast {
                row_norms(into, &magnitudes, &weight, low, shape);
            } else {
                reference::row_norms(into, &magnitudes, &weight, low, shape);
            }
            [norms, ratios]
        };
        let plain = run(false);
        let fast = on_threads(1, || run(true));
        assert_eq!(fast.each_ref().map(|v| bits(v)), on_threads(2, || run(true)).map(|v| bits(&v)));
        for (fast, plain) in fast.iter().zip(&plain) {
            let finite = |values: &[f32]| {
                values.iter().map(|x| if x.is_finite() { *x } else { 1e9 }).collect::<Vec<_>>()
            };
            for (fast, plain) in finite(fast).iter().zip(finite(plain)) {
                assert!((fast - plain).abs() <= 1e-5 * plain.abs(), "{fast} {plain}");
            }
        }
        assert_eq!(
            (fast[0][50], fast[1][50], fast[0][2], fast[0][99]),
            (f32::INFINITY, 0.0, -1.0, -1.0)
        );
        // 3² + 4² = 5², by hand.
        let (mut norms, mut ratios) = ([0.0], [0.0]);
        let into = RowNorms { norms: &mut norms[..], ratios: &mut ratios[..] };
        let low = LowRank { down: &[1.0, 2.0][..], up: &[2.0][..], scale: 0.5 };
        let shape = RowNormShape { inputs: 2, outputs: 1, rows: 0..1, ranks: 0..1 };
        row_norms(into, &[10.0], &[2.0, 2.0], low, shape);
        assert_eq!((norms, ratios), ([5.0], [2.0]));
    }

    #[test]
    fn columns_and_their_sums_agree_with_the_reference_on_any_number_of_threads() {
        let (rows, wide, narrow) = (300, 131, 40);
        let (x, start) = (random(1, rows * wide), random(2, rows * narrow));
        let (each, bias, residual) = (random(3, wide), random(4, narrow), random(5, rows * narrow));
        let shape = ColumnShape {
            first: 4,
            rows: 290,
            count: 33,
            from: Columns { width: wide, first: 90 },
            to: Columns { width: narrow, first: 5 },
        };
        for factor in [Factor::Number(-1.0), Factor::Each(&each[..])] {
            for (accumulate, plus) in [
                (true, Plus::NOTHING),
                (false, Plus { bias: Some(&bias[..]), residual: Some(&residual[..]) }),
            ] {
                let run = || {
                    let mut y = start.clone();
                    scale_columns(&mut y, &x, factor, plus, shape, accumulate);
                    y
                };
                let mut plain = start.clone();
                reference::scale_columns(&mut plain, &x, factor, plus, shape, accumulate);
                assert_close(&on_threads(1, run), &plain, 1e-6);
                assert_eq!(bits(&on_threads(1, run)), bits(&on_threads(2, run)));
            }
        }
        let shape = LinearShape::new(rows, 1, wide);
        let (other, divisors) = (random(6, rows * wide), random(7, wide));
        let run = || {
            let mut sums = each.clone();
            column_products(&mut sums, [&x, &other], &divisors, shape);
            sums
        };
        let mut plain = each.clone();
        reference::column_products(&mut plain, [&x, &other], &divisors, shape);
        assert_close(&on_threads(1, run), &plain, 1e-5);
        assert_eq!(bits(&on_threads(1, run)), bits(&on_threads(2, run)));
    }
}
