//! What is done row by row: norms, rotary embedding, gates, embeddings, fills and sums.

use std::borrow::Cow;

use anyhow::Result;

use super::{Lab, ROUNDED};
use crate::ops::{
    Activation, Backend, Cpu, GluShape, HeadNormShape, Heads, Kind, Nf4, NormGradients, NormKind,
    NormShape, RopeLayout,
};

/// Sums over rows in another order.
const REORDERED: f64 = 1e-4;

/// The three norms over rows, with a residual and everything that their backward pass can write.
pub(super) fn norms(lab: &mut Lab<'_>) -> Result<()> {
    let sizes = lab.pick(vec![(13, 72), (5, 2304)], vec![(2051, 896), (1027, 3584), (77, 16384)]);
    for kind in [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer] {
        for &(rows, width) in &sizes {
            let shape = NormShape { rows, width, eps: 1e-5, kind };
            let [x, dy, residual, before] = [(); 4].map(|()| lab.values(rows * width));
            let (weight, sums) = (lab.values(width), lab.values(width));
            let (mut y, mut inverse) = (vec![0.0; rows * width], vec![0.0; rows]);
            Cpu.norm(&mut y, &mut inverse, &x, &weight, Some(&residual), shape);
            let (mut dx, mut dweight, mut plain) =
                (before.clone(), sums.clone(), vec![0.0; rows * width]);
            let gradients = NormGradients {
                dx: &mut dx,
                accumulate: true,
                dweight: Some(&mut dweight),
                y: Some(&mut plain),
            };
            Cpu.norm_backward(gradients, &inverse, &dy, &x, &weight, shape);

            let ops = lab.ops.clone();
            let [tx, tdy, tresidual, tweight] = lab.inputs([&x, &dy, &residual, &weight]);
            let mut ty = lab.poisoned(Kind::Activation, y.len());
            let mut tinverse = lab.poisoned(Kind::Statistic, rows);
            ops.norm(&mut ty, &mut tinverse, &tx, &tweight, Some(&tresidual), shape);
            let what = format!("{kind:?} {rows}x{width}");
            lab.near(format!("{what}: y"), &ty, &y, ROUNDED);
            lab.near(format!("{what}: inverse"), &tinverse, &inverse, 1e-5);
            let mut tdx = lab.tensor(Kind::Activation, &before);
            let mut tdweight = lab.tensor(Kind::Gradient, &sums);
            let mut tplain = lab.poisoned(Kind::Activation, y.len());
            let gradients = NormGradients {
                dx: &mut tdx,
                accumulate: true,
                dweight: Some(&mut tdweight),
                y: Some(&mut tplain),
            };
            ops.norm_backward(gradients, &tinverse, &tdy, &tx, &tweight, shape);
            lab.near(format!("{what}: dx"), &tdx, &dx, ROUNDED);
            lab.near(format!("{what}: dweight"), &tdweight, &dweight, REORDERED);
            lab.near(format!("{what}: y again"), &tplain, &plain, ROUNDED);
        }
    }
    Ok(())
}

/// Norms of query and key heads, with shared weights and with weights by head.
pub(super) fn head_norms(lab: &mut Lab<'_>) -> Result<()> {
    let heads = lab.pick(
        Heads { queries: 4, key_values: 2, size: 72 },
        Heads { queries: 16, key_values: 8, size: 128 },
    );
    let rows = lab.pick(21, 1029);
    for (kind, per_head) in
        [(NormKind::Rms, false), (NormKind::RmsPlusOne, false), (NormKind::Layer, true)]
    {
        let shape = HeadNormShape { rows, heads, eps: 1e-5, kind, per_head };
        let [projected, dy] = [(); 2].map(|()| lab.values(rows * heads.qkv_width()));
        let (weight, sums) = (lab.values(shape.weights()), lab.values(shape.weights()));
        let (mut qkv, mut inverse) = (vec![0.0; projected.len()], vec![0.0; rows * shape.count()]);
        Cpu.head_norm(&mut qkv, &mut inverse, &projected, &weight, shape);
        let (mut dqkv, mut dweight) = (dy.clone(), sums.clone());
        Cpu.head_norm_backward(&mut dqkv, Some(&mut dweight), &inverse, &projected, &weight, shape);

        let ops = lab.ops.clone();
        let [tprojected, tweight] = lab.inputs([&projected, &weight]);
        let mut tqkv = lab.poisoned(Kind::Activation, qkv.len());
        let mut tinverse = lab.poisoned(Kind::Statistic, inverse.len());
        ops.head_norm(&mut tqkv, &mut tinverse, &tprojected, &tweight, shape);
        let what = format!("{kind:?}, {rows} rows, by head: {per_head}");
        lab.near(format!("{what}: y"), &tqkv, &qkv, ROUNDED);
        let mut tdqkv = lab.tensor(Kind::Activation, &dy);
        let mut tdweight = lab.tensor(Kind::Gradient, &sums);
        ops.head_norm_backward(
            &mut tdqkv,
            Some(&mut tdweight),
            &tinverse,
            &tprojected,
            &tweight,
            shape,
        );
        lab.near(format!("{what}: dx"), &tdqkv, &dqkv, ROUNDED);
        lab.near(format!("{what}: dweight"), &tdweight, &dweight, REORDERED);
    }
    Ok(())
}

/// Rotary embedding in both layouts, forwards and backwards.
pub(super) fn ropes(lab: &mut Lab<'_>) -> Result<()> {
    let heads = lab.pick(
        Heads { queries: 3, key_values: 1, size: 32 },
        Heads { queries: 14, key_values: 2, size: 128 },
    );
    let rows = lab.pick(7, 1029);
    let positions: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 31).collect();
    let (qkv, angles) = (lab.values(rows * heads.qkv_width()), lab.values(31 * heads.size));
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        for inverse in [false, true] {
            let mut expected = qkv.clone();
            Cpu.rope(&mut expected, &positions, &angles, heads, layout, inverse);
            let mut found = lab.tensor(Kind::Activation, &qkv);
            let (index, table) = (lab.ops.index(&positions), lab.tensor(Kind::Statistic, &angles));
            lab.ops.rope(&mut found, &index, &table, heads, layout, inverse);
            lab.near(format!("{layout:?}, back: {inverse}"), &found, &expected, ROUNDED);
        }
    }
    Ok(())
}

/// The gated activations and their gradients.
pub(super) fn gates(lab: &mut Lab<'_>) -> Result<()> {
    let (rows, width) = lab.pick((5, 40), (1029, 4864));
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let shape = GluShape { rows, width, activation };
        let (mut gate_up, mut dy) = (lab.values(2 * rows * width), lab.values(rows * width));
        let [mut tgate_up, mut tdy] = lab.inputs([&gate_up, &dy]);
        let (mut y, mut ty) =
            (vec![0.0; rows * width], lab.poisoned(Kind::Activation, rows * width));
        Cpu.glu(&mut y, &gate_up, shape);
        lab.ops.glu(&mut ty, &tgate_up, shape);
        lab.near(format!("{activation:?}: y"), &ty, &y, ROUNDED);
        Cpu.glu_backward(&mut gate_up, &mut dy, shape);
        lab.ops.glu_backward(&mut tgate_up, &mut tdy, shape);
        lab.near(format!("{activation:?}: gradient"), &tgate_up, &gate_up, ROUNDED);
        lab.near(format!("{activation:?}: y again"), &tdy, &dy, ROUNDED);
    }
    Ok(())
}

/// Rows by number, and their sums by number, in f32 and in bf16.
pub(super) fn embeddings(lab: &mut Lab<'_>) -> Result<()> {
    let (entries, width, rows) = lab.pick((9, 24, 6), (1009, 896, 2049));
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * i * 31 % entries as u32).collect();
    let (table, dy) = (lab.values(entries * width), lab.values(rows * width));
    let (mut y, mut sums) = (vec![0.0; rows * width], table.clone());
    Cpu.gather_rows(&mut y, &table, &ids, width);
    Cpu.scatter_add_rows(&mut sums, &dy, &ids, width);
    let [ttable, tdy] = lab.inputs([&table, &dy]);
    let index = lab.ops.index(&ids);
    let mut ty = lab.poisoned(Kind::Activation, y.len());
    lab.ops.gather_rows(&mut ty, &ttable, &index, width);
    lab.near("rows by number", &ty, &y, 0.0);
    for (kind, tolerance) in [(Kind::Gradient, 1e-6), (Kind::Activation, ROUNDED)] {
        let mut tsums = lab.tensor(kind, &table);
        lab.ops.scatter_add_rows(&mut tsums, &tdy, &index, width);
        lab.near(format!("sums by number, {kind:?}"), &tsums, &sums, tolerance);
    }
    Ok(())
}

/// Fills, scales and sums of squares.
pub(super) fn fills(lab: &mut Lab<'_>) -> Result<()> {
    let len = lab.pick(700, 3_000_017);
    for kind in [Kind::Gradient, Kind::Activation] {
        let mut filled = lab.poisoned(kind, len);
        lab.ops.fill(&mut filled, len, 1.5);
        lab.ops.scale(&mut filled, len - 100, 2.0);
        let expected: Vec<f32> = (0..len).map(|i| if i < len - 100 { 3.0 } else { 1.5 }).collect();
        lab.near(format!("{len} values, {kind:?}"), &filled, &expected, 0.0);
    }
    let (width, rows) = lab.pick((33, 10), (777, 1025));
    let mut block = lab.values(width * rows);
    let mut tblock = lab.tensor(Kind::Gradient, &block);
    let place = [2..rows - 3, 5..width - 1];
    lab.ops.fill_block(&mut tblock, width, place.clone(), 0.25);
    Cpu.fill_block(&mut block, width, place, 0.25);
    lab.near("a block", &tblock, &block, 0.0);
    // The sums are over all of the tensors, so that these have no guard.
    let lengths = [3, len, lab.pick(70_001, 65_536)];
    let values = lengths.map(|len| lab.values(len));
    let tensors = values.each_ref().map(|x| lab.ops.tensor(Kind::Gradient, x.clone()));
    let found = lab.ops.squares(&tensors.each_ref());
    lab.ops.check()?;
    for ((len, values), found) in lengths.iter().zip(&values).zip(found) {
        let expected: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
        lab.near_values(format!("sum of {len} squares"), &[found as f32], &[expected as f32], 1e-5);
    }
    Ok(())
}

/// Packed matrices, one of which ends in a short block: the bits of the processor's values, rounded.
pub(super) fn packed(lab: &mut Lab<'_>) -> Result<()> {
    let lens = lab.pick([64 * 300, 130, 13, 64 * 5], [4096 * 4096, 1030, 13, 4096 * 11008]);
    for form in [Nf4 { double_quant: false }, Nf4 { double_quant: true }] {
        let all = lab.values(lens.iter().sum());
        let parts = lens.iter().scan(0, |at, len| {
            *at += len;
            Some(Cow::Borrowed(&all[*at - len..*at]))
        });
        let words = form.pack(parts);
        let mut expected = vec![0.0; all.len()];
        Cpu.unpack(&mut expected, &words, (form, &lens));
        let ops = lab.ops.clone();
        let rounded: Vec<f32> =
            expected.iter().map(|&x| ops.rounded(Kind::Activation, x)).collect();
        let tensor = ops.tensor(Kind::Packed, words);
        let mut found = lab.poisoned(Kind::Activation, all.len());
        ops.unpack(&mut found, &tensor, (form, &lens));
        let values = lab.read(&found)?;
        lab.same(format!("{form:?}, {} values", all.len()), &values, &rounded);
    }
    Ok(())
}
