//! What adapters with magnitudes need beside products: norms of rows, columns times their factors, column
//! sums of products.

use anyhow::Result;

use super::{Lab, ROUNDED};
use crate::ops::{
    Backend, ColumnShape, Columns, Cpu, Factor, Kind, LinearShape, LowRank, Plus, RowNormShape,
    RowNorms,
};

/// All three, at places that eight values can be read at and at others.
pub(super) fn magnitudes(lab: &mut Lab<'_>) -> Result<()> {
    norms(lab, lab.pick([72, 40, 5], [4096, 1032, 16]), 8..37)?;
    norms(lab, lab.pick([24, 19, 3], [896, 131, 64]), 3..19)?;
    for (wide, first, count) in [(48, 16, 24), (37, 5, 3), (24, 0, 24)] {
        columns(lab, wide, first, count)?;
    }
    sums(lab)
}

fn norms(
    lab: &mut Lab<'_>,
    [inputs, outputs, ranks]: [usize; 3],
    rows: std::ops::Range<usize>,
) -> Result<()> {
    let mut weight = lab.values(inputs * outputs);
    // A row that has no direction: its norm is infinite, by both.
    let zero = rows.start + 1;
    weight[zero * inputs..(zero + 1) * inputs].fill(0.0);
    let (down, mut up) = (lab.values(2 * ranks * inputs), lab.values(2 * ranks * outputs));
    (0..2 * ranks).for_each(|r| up[r * outputs + zero] = 0.0);
    let magnitudes = lab.values(outputs);
    let shape = RowNormShape { inputs, outputs, rows, ranks: ranks..2 * ranks };
    let (mut norms, mut ratios) = (vec![1.0; outputs], vec![1.0; outputs]);
    let into = RowNorms { norms: &mut norms, ratios: &mut ratios };
    let low = LowRank { down: &down, up: &up, scale: 0.5 };
    Cpu.row_norms(into, &magnitudes, &weight, low, shape.clone());

    let ops = lab.ops.clone();
    let [tweight, tdown, tup] = lab.inputs([&weight, &down, &up]);
    let tmagnitudes = lab.tensor(Kind::Weight, &magnitudes);
    let [mut tnorms, mut tratios] =
        [(); 2].map(|()| lab.tensor(Kind::Statistic, &vec![1.0; outputs]));
    let into = RowNorms { norms: &mut tnorms, ratios: &mut tratios };
    let low = LowRank { down: &tdown, up: &tup, scale: 0.5 };
    ops.row_norms(into, &tmagnitudes, &tweight, low, shape);
    let what = format!("{outputs}x{inputs}, rank {ranks}");
    let finite = |values: Vec<f32>| values.into_iter().map(|x| x.min(1e4)).collect::<Vec<_>>();
    let found = finite(lab.read(&tnorms)?);
    lab.near_values(format!("{what}: norms"), &found, &finite(norms), 1e-5);
    lab.near(format!("{what}: ratios"), &tratios, &ratios, 1e-5);
    Ok(())
}

/// Out of a wide matrix and into it, with all that can be added.
fn columns(lab: &mut Lab<'_>, wide: usize, first: usize, count: usize) -> Result<()> {
    let rows = lab.pick(9, 2051);
    let (from, to) = (Columns { width: wide, first }, Columns { width: count, first: 0 });
    for (from, to) in [(from, to), (to, from)] {
        let shape = ColumnShape { first: 1, rows, count, from, to };
        let (x, before) = (lab.values((rows + 1) * from.width), lab.values((rows + 1) * to.width));
        let (factors, bias) = (lab.values(from.width), lab.values(to.width));
        let residual = lab.values((rows + 1) * to.width);
        let ops = lab.ops.clone();
        let [tx, tbias, tresidual] = lab.inputs([&x, &bias, &residual]);
        let tfactors = lab.tensor(Kind::Statistic, &factors);
        for (accumulate, by_column) in [(false, true), (true, true), (true, false)] {
            let (mut y, mut ty) = (before.clone(), lab.tensor(Kind::Activation, &before));
            let plus = Plus { bias: Some(&bias), residual: Some(&residual) };
            let each = Factor::Each(&factors);
            let factor = if by_column { each } else { Factor::Number(-1.0) };
            Cpu.scale_columns(&mut y, &x, factor, plus, shape, accumulate);
            let plus = Plus { bias: Some(&tbias), residual: Some(&tresidual) };
            let each = Factor::Each(&tfactors);
            let factor = if by_column { each } else { Factor::Number(-1.0) };
            ops.scale_columns(&mut ty, &tx, factor, plus, shape, accumulate);
            let what =
                format!("{count} columns of {} to {}, add: {accumulate}", from.width, to.width);
            lab.near(what, &ty, &y, ROUNDED);
        }
    }
    Ok(())
}

fn sums(lab: &mut Lab<'_>) -> Result<()> {
    let (rows, width) = lab.pick((37, 72), (2051, 4096));
    let shape = LinearShape { first: 2, ..LinearShape::new(rows, 1, width) };
    let [a, b] = [(); 2].map(|()| lab.values((rows + 2) * width));
    let divisors: Vec<f32> = lab.values(width).iter().map(|x| 1.0 + x.abs()).collect();
    let mut sums = lab.values(width);
    let [ta, tb] = lab.inputs([&a, &b]);
    let (tdivisors, mut tsums) =
        (lab.tensor(Kind::Statistic, &divisors), lab.tensor(Kind::Gradient, &sums));
    Cpu.column_products(&mut sums, [&a, &b], &divisors, shape);
    lab.ops.clone().column_products(&mut tsums, [&ta, &tb], &tdivisors, shape);
    lab.near(format!("sums of {rows} rows"), &tsums, &sums, 1e-4);
    Ok(())
}
