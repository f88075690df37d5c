//! Launch code of the norms, of sums and fills over columns, and of dropout.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, bail};
use artifact::bail_user;

use super::driver::{Address, Arguments, Driver, Grid};
use super::memory::{Dtype, Pool, Tensor};
use crate::ops::{HeadNormShape, LinearShape, Mask, NormGradients, NormKind, NormShape};

fn kind(kind: NormKind) -> i32 {
    match kind {
        NormKind::Rms => 0,
        NormKind::RmsPlusOne => 1,
        NormKind::Layer => 2,
    }
}

/// Rows are read sixteen bytes at a time.
pub fn check_width(what: &str, width: usize) -> Result<()> {
    if !width.is_multiple_of(8) {
        bail_user!("on a card {what} must be a multiple of 8; the model's is {width}");
    }
    Ok(())
}

/// out `[columns]` += parts `[count, columns]`, in order.
pub fn reduce_columns(
    driver: &dyn Driver,
    out: Address,
    parts: Address,
    count: usize,
    columns: usize,
) -> Result<()> {
    let arguments = Arguments::new().with(out).with(parts).with(count as i32).with(columns as i64);
    driver.launch("reduce_columns", Grid::line(columns.div_ceil(256), 256), arguments)
}

/// dbias += the column sums of dy.
pub fn column_sums(
    driver: &dyn Driver,
    pool: &Arc<Pool>,
    [dbias, dy]: [&Tensor; 2],
    shape: LinearShape,
) -> Result<()> {
    let LinearShape { rows, outputs, .. } = shape;
    let count = rows.min(2 * driver.facts().multiprocessors as usize);
    let parts = pool.take(count * outputs * 4)?;
    let arguments = Arguments::new()
        .with(parts.at)
        .with(dy.from(shape.y()))
        .with(rows as i32)
        .with(outputs as i32);
    driver.launch("column_sums", Grid::line(count, 256), arguments)?;
    reduce_columns(driver, dbias.at(), parts.at, count, outputs)
}

/// y (+)= x through the mask.
pub fn dropout(
    driver: &dyn Driver,
    [y, x]: [&Tensor; 2],
    mask: &Mask,
    shape: LinearShape,
    accumulate: bool,
) -> Result<()> {
    check_width("the width of what an adapter reads", shape.inputs)?;
    let count = shape.rows * shape.inputs;
    let [low, high] = mask.key();
    let arguments = Arguments::new()
        .with(y.from(shape.x()))
        .with(x.from(shape.x()))
        .with(count as i64)
        .with((mask.row * shape.inputs as u64 / 4) as i64)
        .with(low)
        .with(high)
        .with(mask.step)
        .with(mask.place)
        .with(mask.threshold())
        .with(mask.scale())
        .with(i32::from(accumulate));
    driver.launch("dropout", Grid::line((count / 4).div_ceil(256), 256), arguments)
}

/// Sets a block of a gradient whose rows are `width` wide.
pub fn fill_block(
    driver: &dyn Driver,
    out: &Tensor,
    width: usize,
    [rows, columns]: [Range<usize>; 2],
    value: f32,
) -> Result<()> {
    if out.dtype != Dtype::F32 {
        bail!("blocks are filled in f32 alone");
    }
    let first = out.at() + ((rows.start * width + columns.start) * 4) as Address;
    let arguments = Arguments::new()
        .with(first)
        .with(width as i64)
        .with(rows.len() as i32)
        .with(columns.len() as i32)
        .with(value);
    let blocks = (rows.len() * columns.len()).div_ceil(256);
    driver.launch("fill_block_f32", Grid::line(blocks, 256), arguments)
}

/// y and 1/√(…) of rows.
pub fn forward(
    driver: &dyn Driver,
    [y, inverse, x, weight]: [&Tensor; 4],
    residual: Option<&Tensor>,
    shape: NormShape,
) -> Result<()> {
    check_width("the hidden size", shape.width)?;
    let arguments = Arguments::new()
        .with(y.at())
        .with(inverse.at())
        .with(x.at())
        .with(weight.at())
        .with(residual.map_or(0, Tensor::at))
        .with(shape.rows as i32)
        .with(shape.width as i32)
        .with(shape.eps)
        .with(kind(shape.kind));
    driver.launch("norm_forward", Grid::line(shape.rows.div_ceil(8), 256), arguments)
}

/// dx, dweight and y of rows.
pub fn backward(
    driver: &dyn Driver,
    pool: &Arc<Pool>,
    gradients: NormGradients<'_, Tensor>,
    [inverse, dy, x, weight]: [&Tensor; 4],
    shape: NormShape,
) -> Result<()> {
    check_width("the hidden size", shape.width)?;
    let units = shape.width / 8;
    let threads = units.next_multiple_of(32).min(256);
    let chunks = units.div_ceil(threads).next_power_of_two();
    if chunks > 8 {
        bail_user!(
            "norms on a card take rows of up to 16384 values; the model's have {}",
            shape.width
        );
    }
    let blocks = shape.rows.min(4 * driver.facts().multiprocessors as usize);
    let parts = match gradients.dweight {
        Some(_) => Some(pool.take(blocks * shape.width * 4)?),
        None => None,
    };
    let arguments = Arguments::new()
        .with(gradients.dx.at())
        .with(gradients.y.as_ref().map_or(0, |y| y.at()))
        .with(parts.as_ref().map_or(0, |parts| parts.at))
        .with(inverse.at())
        .with(dy.at())
        .with(x.at())
        .with(weight.at())
        .with(shape.rows as i32)
        .with(shape.width as i32)
        .with(kind(shape.kind))
        .with(i32::from(gradients.accumulate));
    let kernel = format!("norm_backward_{chunks}");
    driver.launch(&kernel, Grid::line(blocks, threads as u32), arguments)?;
    if let (Some(dweight), Some(parts)) = (gradients.dweight, parts) {
        reduce_columns(driver, dweight.at(), parts.at, blocks, shape.width)?;
    }
    Ok(())
}

/// Each query and key head of rows, normed.
pub fn heads_forward(
    driver: &dyn Driver,
    [qkv, inverse, projected, weight]: [&Tensor; 4],
    shape: HeadNormShape,
) -> Result<()> {
    check_width("the head size", shape.heads.size)?;
    let all = shape.count() + shape.heads.key_values;
    let arguments = Arguments::new()
        .with(qkv.at())
        .with(inverse.at())
        .with(projected.at())
        .with(weight.at())
        .with(shape.rows as i32)
        .with(all as i32)
        .with(shape.count() as i32)
        .with(shape.heads.queries as i32)
        .with(shape.heads.size as i32)
        .with(i32::from(shape.per_head))
        .with(shape.eps)
        .with(kind(shape.kind));
    let warps = shape.rows * all;
    driver.launch("head_norm_forward", Grid::line(warps.div_ceil(8), 256), arguments)
}

/// d projected in place of dqkv, and dweight.
pub fn heads_backward(
    driver: &dyn Driver,
    pool: &Arc<Pool>,
    [dqkv, inverse, projected, weight]: [&Tensor; 4],
    dweight: Option<&Tensor>,
    shape: HeadNormShape,
) -> Result<()> {
    check_width("the head size", shape.heads.size)?;
    let (size, count) = (shape.heads.size, shape.count());
    if size > 256 {
        bail_user!("norms of heads on a card take up to 256 values; the model's have {size}");
    }
    let blocks = shape.rows.div_ceil(8).min(driver.facts().multiprocessors as usize);
    let parts = match dweight {
        Some(_) => Some(pool.take(blocks * count * size * 4)?),
        None => None,
    };
    let arguments = Arguments::new()
        .with(dqkv.at())
        .with(parts.as_ref().map_or(0, |parts| parts.at))
        .with(inverse.at())
        .with(projected.at())
        .with(weight.at())
        .with(shape.rows as i32)
        .with((count + shape.heads.key_values) as i32)
        .with(count as i32)
        .with(shape.heads.queries as i32)
        .with(size as i32)
        .with(i32::from(shape.per_head))
        .with(kind(shape.kind));
    let grid = Grid { blocks: [blocks as u32, count as u32, 1], threads: 256, shared: 0 };
    driver.launch("head_norm_backward", grid, arguments)?;
    let (Some(dweight), Some(parts)) = (dweight, parts) else { return Ok(()) };
    if shape.per_head {
        return reduce_columns(driver, dweight.at(), parts.at, blocks, count * size);
    }
    let arguments = Arguments::new()
        .with(dweight.at())
        .with(parts.at)
        .with(blocks as i32)
        .with(count as i32)
        .with(shape.heads.queries as i32)
        .with(size as i32);
    driver.launch("reduce_heads", Grid::line((2 * size).div_ceil(256), 256), arguments)
}
