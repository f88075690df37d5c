//! Attention over packed documents, forward and backward, in every head size, with windows, caps and
//! shared key heads; attention over a cache of keys and values.

use anyhow::Result;

use super::{Lab, ROUNDED};
use crate::cuda::memory::Tensor;
use crate::ops::{AttentionShape, Backend, CacheShape, Cpu, Heads, Kind, SavedAttention};

/// What rounding probabilities and their gradients to bf16 costs.
const GRADIENT: f64 = 1e-2;

/// Forward, backward, and backward again bit for bit.
fn check(lab: &mut Lab<'_>, shape: AttentionShape, documents: &[u32]) -> Result<()> {
    let (heads, rows) = (shape.heads, *documents.last().unwrap_or(&0) as usize);
    let (qkv, dout) =
        (lab.values(rows * heads.qkv_width()), lab.values(rows * heads.query_width()));
    let index = Cpu.index(documents);
    let (mut out, mut sums) = (vec![0.0; dout.len()], vec![0.0; rows * heads.queries]);
    Cpu.attention(&mut out, &mut sums, &qkv, &index, shape);
    let mut dqkv = vec![0.0; qkv.len()];
    let saved = SavedAttention { qkv: &qkv, out: &out, log_sums: &sums };
    Cpu.attention_backward(&mut dqkv, &dout, saved, &index, shape);
    // The device keeps them head by head.
    let sums: Vec<f32> = (0..heads.queries)
        .flat_map(|head| (0..rows).map(move |row| row * heads.queries + head))
        .map(|at| sums[at])
        .collect();

    let ops = lab.ops.clone();
    let index = ops.index(documents);
    let [tqkv, tdout] = lab.inputs([&qkv, &dout]);
    let mut tout = lab.poisoned(Kind::Activation, out.len());
    let mut tsums = lab.poisoned(Kind::Statistic, sums.len());
    ops.attention(&mut tout, &mut tsums, &tqkv, &index, shape);
    let Heads { queries, key_values, size } = heads;
    let mut what = format!("{queries}/{key_values} heads of {size}, documents to {documents:?}");
    if let Some(window) = shape.window {
        what += &format!(", window {window}");
    }
    if let Some(cap) = shape.softcap {
        what += &format!(", cap {cap}");
    }
    lab.near(format!("forward, {what}"), &tout, &out, ROUNDED);
    lab.near(format!("log sums, {what}"), &tsums, &sums, 1e-4);
    let backward = |target: &mut Tensor| {
        let saved = SavedAttention { qkv: &tqkv, out: &tout, log_sums: &tsums };
        ops.attention_backward(target, &tdout, saved, &index, shape);
    };
    let [mut first, mut again] = [(); 2].map(|()| lab.poisoned(Kind::Activation, dqkv.len()));
    backward(&mut first);
    backward(&mut again);
    lab.near(format!("backward, {what}"), &first, &dqkv, GRADIENT);
    let (first, again) = (lab.read(&first)?, lab.read(&again)?);
    lab.same(format!("backward again, {what}"), &again, &first);
    Ok(())
}

/// A document's results beside one that is not numbers, as a run that has exploded leaves it: the bits
/// that it gets beside one that is.
fn beside_nan(lab: &mut Lab<'_>, shape: AttentionShape, documents: [u32; 4]) -> Result<()> {
    let (heads, rows) = (shape.heads, documents[3] as usize);
    let (qkv, dout) =
        (lab.values(rows * heads.qkv_width()), lab.values(rows * heads.query_width()));
    let [_, first, last, _] = documents.map(|row| row as usize);
    let others = |values: &[f32], width: usize| -> Vec<f32> {
        let is_ours = |at: usize| (first..last).contains(&(at / width));
        values.iter().enumerate().map(|(at, &x)| if is_ours(at) { x } else { f32::NAN }).collect()
    };
    let ops = lab.ops.clone();
    let index = ops.index(&documents);
    let run = |lab: &Lab<'_>, qkv: &[f32], dout: &[f32]| -> Result<Vec<f32>> {
        let [tqkv, tdout] = lab.inputs([qkv, dout]);
        let mut out = lab.poisoned(Kind::Activation, dout.len());
        let mut sums = lab.poisoned(Kind::Statistic, rows * heads.queries);
        let mut dqkv = lab.poisoned(Kind::Activation, qkv.len());
        ops.attention(&mut out, &mut sums, &tqkv, &index, shape);
        let saved = SavedAttention { qkv: &tqkv, out: &out, log_sums: &sums };
        ops.attention_backward(&mut dqkv, &tdout, saved, &index, shape);
        let (q, all) = (heads.query_width(), heads.qkv_width());
        Ok([&lab.read(&out)?[first * q..last * q], &lab.read(&dqkv)?[first * all..last * all]]
            .concat())
    };
    let expected = run(lab, &qkv, &dout)?;
    let found = run(lab, &others(&qkv, heads.qkv_width()), &others(&dout, heads.query_width()))?;
    let what = format!("heads of {}, rows {first} to {last} between NaNs", heads.size);
    lab.near_values(what.clone(), &[0.0], &[expected.iter().map(|x| x * 0.0).sum()], 0.0);
    lab.same(what, &found, &expected);
    Ok(())
}

/// Every head size that the kernels have and some between, alone and packed.
pub(super) fn documents(lab: &mut Lab<'_>) -> Result<()> {
    let shape =
        |queries, key_values, size| AttentionShape::plain(Heads { queries, key_values, size });
    let windowed = |window, shape| AttentionShape { window: Some(window), ..shape };
    let capped = |cap, shape| AttentionShape { softcap: Some(cap), ..shape };
    let small: Vec<(AttentionShape, &[u32])> = vec![
        (shape(2, 1, 128), &[0, 133, 200]),
        (shape(4, 2, 64), &[0, 1, 140]),
        (shape(1, 1, 96), &[0, 70]),
        (shape(3, 1, 16), &[0, 5, 70]),
        (shape(1, 1, 256), &[0, 70, 90]),
        (windowed(70, shape(1, 1, 128)), &[0, 200]),
        (capped(3.0, windowed(130, shape(1, 1, 64))), &[0, 20, 200]),
    ];
    let full: Vec<(AttentionShape, &[u32])> = vec![
        (shape(4, 4, 128), &[0, 2048]),
        (shape(8, 2, 128), &[0, 1, 130, 131, 1000, 1999]),
        (shape(14, 2, 64), &[0, 777, 1024, 1531]),
        (shape(8, 8, 64), &[0, 1025]),
        (shape(6, 2, 96), &[0, 63, 64, 192, 1111]),
        (shape(4, 1, 256), &[0, 500, 513, 1300]),
        (shape(2, 2, 80), &[0, 300, 601]),
        (windowed(512, shape(8, 4, 128)), &[0, 1500, 2001]),
        (windowed(100, shape(8, 4, 64)), &[0, 900, 1003]),
        (capped(50.0, windowed(700, shape(4, 2, 256))), &[0, 1100, 1201]),
        (capped(3.0, shape(4, 2, 128)), &[0, 255, 800]),
    ];
    for (shape, documents) in lab.pick(small, full) {
        check(lab, shape, documents)?;
    }
    let small = vec![(shape(2, 1, 64), [0, 10, 150, 200]), (shape(1, 1, 128), [0, 3, 70, 300])];
    let full = vec![
        (shape(4, 2, 64), [0, 100, 777, 1500]),
        (shape(2, 1, 128), [0, 33, 1000, 1100]),
        (shape(2, 2, 256), [0, 129, 400, 613]),
        (capped(3.0, shape(2, 1, 128)), [0, 5, 155, 400]),
    ];
    for (shape, documents) in lab.pick(small, full) {
        beside_nan(lab, shape, documents)?;
    }
    Ok(())
}

/// Decoding from a cache against attention over the whole sequence.
pub(super) fn cached(lab: &mut Lab<'_>) -> Result<()> {
    let small = vec![(64, 2, None, None), (128, 2, Some(9), None), (32, 4, None, Some(2.0))];
    let full = vec![
        (128, 8, None, None),
        (64, 7, None, None),
        (96, 4, None, None),
        (256, 2, Some(300), Some(50.0)),
    ];
    let rows = lab.pick(300, 1100);
    for (size, group, window, softcap) in lab.pick(small, full) {
        let heads = Heads { queries: 2 * group, key_values: 2, size };
        let attention = AttentionShape { window, softcap, ..AttentionShape::plain(heads) };
        let qkv = lab.values(rows * heads.qkv_width());
        let (mut out, mut sums) =
            (vec![0.0; rows * heads.query_width()], vec![0.0; rows * heads.queries]);
        Cpu.attention(&mut out, &mut sums, &qkv, &vec![0, rows as u32], attention);

        let (ops, shape) =
            (lab.ops.clone(), CacheShape { attention, capacity: rows + 10, reach: rows });
        let mut cache = lab.poisoned(Kind::Activation, 3 * shape.slot_len());
        let positions: Vec<u32> = (0..rows as u32).collect();
        let [tqkv] = lab.inputs([&qkv]);
        let slots = ops.index(&vec![1; rows]);
        ops.cache_store(&mut cache, &tqkv, &slots, &ops.index(&positions), shape);
        // Three rows at once, of one slot's sequence at different lengths.
        let picked = [0, rows - 43, rows - 1];
        let of = |values: &[f32], width: usize| -> Vec<f32> {
            picked.iter().flat_map(|&row| values[row * width..][..width].to_vec()).collect()
        };
        let [few] = lab.inputs([&of(&qkv, heads.qkv_width())]);
        let mut found = lab.poisoned(Kind::Activation, 3 * heads.query_width());
        let (slots, positions) = (ops.index(&[1; 3]), ops.index(&picked.map(|row| row as u32)));
        ops.cached_attention(&mut found, &few, &cache, &slots, &positions, shape);
        let what = format!("{}/2 heads of {size}, {rows} keys, window {window:?}", heads.queries);
        lab.near(what, &found, &of(&out, heads.query_width()), ROUNDED);
    }
    Ok(())
}
