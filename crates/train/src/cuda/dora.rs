//! Launch code of what weight-decomposed adapters need beside products; see `ops/dora.rs`.

use anyhow::{Context as _, Result};

use super::Cuda;
use super::driver::{Address, Arguments, Grid};
use super::memory::Tensor;
use super::norm::{check_width, reduce_columns};
use crate::ops::{ColumnShape, Factor, LinearShape, LowRank, Plus, RowNormShape, RowNorms};

/// Rows that one block of `row_norms` takes; NORM_ROWS in dora.cu.
const NORM_ROWS: usize = 8;

/// `ColumnTask` in dora.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct ColumnTask {
    y: Address,
    x: Address,
    factors: Address,
    bias: Address,
    residual: Address,
    number: f32,
    rows: i32,
    count: i32,
    x_width: i32,
    y_width: i32,
    add: i32,
}

impl Cuda {
    /// Norms of rows, and magnitudes over norms.
    pub(super) fn norms_of_rows(
        &self,
        into: RowNorms<'_, Tensor>,
        magnitudes: &Tensor,
        weight: &Tensor,
        low: LowRank<'_, Tensor>,
        shape: RowNormShape,
    ) -> Result<()> {
        let RowNormShape { inputs, outputs, rows, ranks } = shape;
        check_width("the width of what an adapter reads", inputs)?;
        let exact =
            magnitudes.master.as_ref().context("magnitudes are read as they are trained")?;
        let exact = |row: usize| exact.from(row);
        let wide = outputs.is_multiple_of(8) && rows.start.is_multiple_of(8);
        let arguments = Arguments::new()
            .with(into.norms.from(rows.start))
            .with(into.ratios.from(rows.start))
            .with(exact(rows.start))
            .with(weight.from(rows.start * inputs))
            .with(low.down.from(ranks.start * inputs))
            .with(low.up.from(ranks.start * outputs + rows.start))
            .with(low.scale)
            .with(rows.len() as i32)
            .with(inputs as i32)
            .with(outputs as i32)
            .with(ranks.len() as i32)
            .with(i32::from(wide));
        let blocks = rows.len().div_ceil(NORM_ROWS);
        self.driver.launch("row_norms", Grid::line(blocks, 256), arguments)
    }

    /// Columns times their factors.
    pub(super) fn columns_scaled(
        &self,
        [y, x]: [&Tensor; 2],
        factor: Factor<'_, Tensor>,
        plus: Plus<'_, Tensor>,
        shape: ColumnShape,
        accumulate: bool,
    ) -> Result<()> {
        let ColumnShape { first, rows, count, from, to } = shape;
        if rows * count == 0 {
            return Ok(());
        }
        let (factors, number) = match factor {
            Factor::Number(number) => (0, number),
            Factor::Each(factors) => (factors.from(from.first), 0.0),
        };
        let at_y = first * to.width + to.first;
        let task = ColumnTask {
            y: y.from(at_y),
            x: x.from(first * from.width + from.first),
            factors,
            bias: plus.bias.map_or(0, |bias| bias.from(to.first)),
            residual: plus.residual.map_or(0, |residual| residual.from(at_y)),
            number,
            rows: rows as i32,
            count: count as i32,
            x_width: from.width as i32,
            y_width: to.width as i32,
            add: i32::from(accumulate),
        };
        let places = [count, from.width, from.first, to.width, to.first];
        let (kernel, each) = match places.iter().all(|place| place.is_multiple_of(8)) {
            true => ("scale_columns_8", 8),
            false => ("scale_columns_1", 1),
        };
        self.driver.launch(kernel, self.over(rows * count / each), Arguments::new().with(task))
    }

    /// Column sums of products.
    pub(super) fn products_of_columns(
        &self,
        sums: &Tensor,
        [a, b]: [&Tensor; 2],
        divisors: &Tensor,
        shape: LinearShape,
    ) -> Result<()> {
        let LinearShape { rows, outputs, .. } = shape;
        check_width("the width of what an adapter makes", outputs)?;
        let count = rows.min(2 * self.driver.facts().multiprocessors as usize);
        let parts = self.pool.take(count * outputs * 4)?;
        let arguments = Arguments::new()
            .with(parts.at)
            .with(a.from(shape.y()))
            .with(b.from(shape.y()))
            .with(divisors.at())
            .with(rows as i32)
            .with(outputs as i32);
        self.driver.launch("column_products", Grid::line(count, 256), arguments)?;
        reduce_columns(&*self.driver, sums.at(), parts.at, count, outputs)
    }
}
