//! Single operations: the rate of a copy, products, attention, the head with its loss, and what is
//! bound by memory.

use anyhow::Result;
use serde_json::json;

use super::{Bed, Work};
use crate::cuda::gemm::{self, Layout, Product, Target};
use crate::ops::{
    Activation, AdamWStep, AttentionShape, Backend, Form, GluShape, HeadGradient, HeadShape, Heads,
    Kind, LinearShape, LogitRule, NormGradients, NormKind, NormShape, RopeLayout, SavedAttention,
    Update,
};

/// A copy inside the card's memory: what everything that memory bounds is held to.
pub(super) fn copy(bed: &mut Bed<'_>) -> Result<()> {
    let len = bed.pick(1000, 1 << 28);
    let (from, to) = (bed.normal(Kind::Gradient, len)?, bed.normal(Kind::Gradient, len)?);
    let (driver, bytes) = (bed.ops.driver.clone(), len * 4);
    let work = Work { bytes: 2.0 * bytes as f64, ..Work::default() };
    bed.time("copy", json!({"values": len}), work, || driver.copy(to.at(), from.at(), bytes))
}

/// Tokens, and the products of a layer by model: outputs and inputs.
const MODELS: &[(&str, [[usize; 2]; 4])] = &[
    ("0.5B", [[1152, 896], [896, 896], [9728, 896], [896, 4864]]),
    ("1.5B", [[2048, 1536], [1536, 1536], [17_920, 1536], [1536, 8960]]),
    ("7B", [[4608, 3584], [3584, 3584], [37_888, 3584], [3584, 18_944]]),
    ("35B", [[24_576, 8192], [8192, 8192], [45_056, 8192], [8192, 22_528]]),
];
const TOKENS: usize = 8192;

/// y = x wᵀ, dx = dy w and dw += dyᵀ x.
pub(super) fn gemm(bed: &mut Bed<'_>) -> Result<()> {
    let mut shapes: Vec<(String, [usize; 3])> = bed
        .pick(vec![64], vec![4096, 8192])
        .into_iter()
        .map(|n| (format!("{n}³"), [n, n, n]))
        .collect();
    if !bed.plan.tiny {
        let names = ["qkv", "output", "gate and up", "down"];
        for (model, maps) in MODELS {
            for (name, [outputs, inputs]) in names.iter().zip(maps) {
                shapes.push((format!("{model} {name}"), [TOKENS, *outputs, *inputs]));
            }
        }
    }
    for (name, [rows, outputs, inputs]) in shapes {
        let x = bed.normal(Kind::Activation, rows * inputs)?;
        let w = bed.normal(Kind::Activation, outputs * inputs)?;
        let dy = bed.normal(Kind::Activation, rows * outputs)?;
        let dw = bed.ops.zeros(Kind::Gradient, outputs * inputs);
        let (ops, flops) = (bed.ops.clone(), 2.0 * (rows * outputs * inputs) as f64);
        let plain = |[m, n, k]: [usize; 3], layout, a: u64, b: u64, target| Product {
            m,
            n,
            k,
            layout,
            a,
            b,
            target,
            bias: 0,
            residual: 0,
            rows_apart: false,
        };
        let out = [rows * outputs, rows * inputs].map(|len| bed.ops.zeros(Kind::Activation, len));
        let [y, dx] = out.each_ref().map(|tensor| Target::Bf16(tensor.at()));
        for (kind, product) in [
            ("forward", plain([rows, outputs, inputs], Layout::Nt, x.at(), w.at(), y)),
            ("dx", plain([rows, inputs, outputs], Layout::Nn, dy.at(), w.at(), dx)),
            (
                "dw",
                plain(
                    [outputs, inputs, rows],
                    Layout::Tn,
                    dy.at(),
                    x.at(),
                    Target::AddF32(dw.at()),
                ),
            ),
        ] {
            let with = json!({"kind": kind, "rows": rows, "outputs": outputs, "inputs": inputs});
            let work = Work { flops, ..Work::default() };
            bed.time(format!("{name}, {kind}"), with, work, || {
                gemm::launch(&*ops.driver, &ops.pool, &product)
            })?;
        }
    }
    Ok(())
}

/// Ends of documents of unequal lengths, the same total: what packing makes of chats.
fn unequal(total: usize) -> Vec<u32> {
    let mut ends = vec![0_u32];
    let mut i = 0_usize;
    loop {
        // Between a thirty-second and a quarter of 8192, by no plan.
        let len = (total / 64 + i * 7919 % (total / 8)).max(1);
        i += 1;
        let end = ends[ends.len() - 1] as usize + len;
        if end >= total {
            ends.push(total as u32);
            return ends;
        }
        ends.push(end as u32);
    }
}

/// Causal attention, forward and backward: dense documents by length, packed unequal ones, shared key
/// heads, narrow heads.
pub(super) fn attention(bed: &mut Bed<'_>) -> Result<()> {
    let total = bed.pick(64, 16_384);
    let lengths = bed.pick(vec![64], vec![1024, 2048, 4096, 8192, 16_384]);
    let (wide, shared, narrow) =
        bed.pick(((2, 2, 64), (2, 1, 64), (2, 2, 64)), ((16, 16, 128), (16, 4, 128), (32, 32, 64)));
    let even = |len: usize| (0..=total / len).map(|i| (i * len) as u32).collect::<Vec<_>>();
    let mut cases = Vec::new();
    for heads in [wide, narrow] {
        for &len in &lengths {
            cases.push((format!("T {len}"), "dense", heads, even(len)));
        }
    }
    let middle = lengths[lengths.len() / 2];
    cases.push((format!("shared key heads, T {middle}"), "shared", shared, even(middle)));
    cases.push(("packed, unequal".to_owned(), "packed", wide, unequal(total)));
    for (name, kind, (queries, key_values, size), documents) in cases {
        let heads = Heads { queries, key_values, size };
        let shape = AttentionShape::plain(heads);
        let (ops, index) = (bed.ops.clone(), bed.ops.index(&documents));
        let qkv = bed.normal(Kind::Activation, total * heads.qkv_width())?;
        let dout = bed.normal(Kind::Activation, total * heads.query_width())?;
        let mut out = ops.zeros(Kind::Activation, total * heads.query_width());
        let mut log_sums = ops.zeros(Kind::Statistic, total * queries);
        let mut dqkv = ops.zeros(Kind::Activation, total * heads.qkv_width());
        let pairs: f64 = documents.windows(2).map(|d| f64::from(d[1] - d[0]).powi(2) / 2.0).sum();
        let flops = 4.0 * pairs * heads.query_width() as f64;
        let with = |pass: &str| {
            json!({"pass": pass, "kind": kind, "queries": queries, "key_values": key_values, "size": size,
                "documents": documents})
        };
        let what = |pass: &str| format!("{pass}, D {size}, {name}");
        let work = Work { flops, ..Work::default() };
        bed.time(what("forward"), with("forward"), work, || {
            ops.attention(&mut out, &mut log_sums, &qkv, &index, shape);
            ops.check()
        })?;
        let work = Work { flops: 2.5 * flops, ..Work::default() };
        bed.time(what("backward"), with("backward"), work, || {
            let saved = SavedAttention { qkv: &qkv, out: &out, log_sums: &log_sums };
            ops.attention_backward(&mut dqkv, &dout, saved, &index, shape);
            ops.check()
        })?;
    }
    Ok(())
}

/// The head with its loss and both gradients.
pub(super) fn head(bed: &mut Bed<'_>) -> Result<()> {
    let (rows, c, vocabulary) = bed.pick((64, 64, 136), (8192, 4096, 131_072));
    let (ops, linear) = (bed.ops.clone(), LinearShape::new(rows, c, vocabulary));
    let shape = HeadShape { linear, logits: LogitRule::PLAIN };
    let mut head = bed.normal(Kind::Activation, vocabulary * c)?;
    ops.scale(&mut head, vocabulary * c, 1.0 / (c as f32).sqrt());
    let hidden = bed.normal(Kind::Activation, rows * c)?;
    let mut dhidden = ops.zeros(Kind::Activation, rows * c);
    let mut dhead = ops.zeros(Kind::Gradient, vocabulary * c);
    let mut losses = ops.zeros(Kind::Statistic, rows);
    let targets: Vec<u32> = (0..rows).map(|i| (i * 7919 % vocabulary) as u32).collect();
    let targets = ops.index(&targets);
    let scale = ops.tensor(Kind::Statistic, vec![1.0 / rows as f32]);
    let product = 2.0 * (rows * c * vocabulary) as f64;
    for (pass, times) in [("forward", 1.0), ("forward and backward", 3.0)] {
        let with = json!({"pass": pass, "rows": rows, "hidden": c, "vocabulary": vocabulary});
        let work = Work { flops: times * product, tokens: rows as f64, ..Work::default() };
        bed.time(format!("{pass}, C {c}, V {vocabulary}"), with, work, || {
            let gradient = (times > 1.0).then_some(HeadGradient {
                scale: &scale,
                hidden: &mut dhidden,
                head: Some(&mut dhead),
            });
            ops.cross_entropy(&mut losses, &hidden, &head, &targets, gradient, shape);
            ops.check()
        })?;
    }
    Ok(())
}

/// Norms, rotary embedding, the gate, embeddings, the optimiser.
pub(super) fn rows(bed: &mut Bed<'_>) -> Result<()> {
    let (rows, width) = bed.pick((16, 64), (16_384, 4096));
    let (ops, all) = (bed.ops.clone(), rows * width);
    let bytes = |count: usize| Work { bytes: count as f64, ..Work::default() };
    let [x, dy, residual] = [(); 3].map(|()| bed.normal(Kind::Activation, all));
    let (x, dy, residual) = (x?, dy?, residual?);
    let weight = bed.normal(Kind::Activation, width)?;
    let [mut y, mut dx] = [(); 2].map(|()| ops.zeros(Kind::Activation, all));
    let mut inverse = ops.zeros(Kind::Statistic, rows);
    let mut dweight = ops.zeros(Kind::Gradient, width);
    let with = json!({"rows": rows, "width": width});
    for (name, kind) in [("rms", NormKind::Rms), ("layer", NormKind::Layer)] {
        let shape = NormShape { rows, width, eps: 1e-5, kind };
        bed.time(format!("{name} norm"), with.clone(), bytes(4 * all), || {
            ops.norm(&mut y, &mut inverse, &x, &weight, None, shape);
            ops.check()
        })?;
        bed.time(format!("{name} norm and residual"), with.clone(), bytes(6 * all), || {
            ops.norm(&mut y, &mut inverse, &x, &weight, Some(&residual), shape);
            ops.check()
        })?;
        bed.time(format!("{name} norm, backward"), with.clone(), bytes(6 * all), || {
            let gradients = NormGradients {
                dx: &mut dx,
                accumulate: false,
                dweight: Some(&mut dweight),
                y: None,
            };
            ops.norm_backward(gradients, &inverse, &dy, &x, &weight, shape);
            ops.check()
        })?;
    }
    let size = bed.pick(16, 128);
    let heads = Heads { queries: width / size, key_values: width / size / 4, size };
    let mut qkv = bed.normal(Kind::Activation, rows * heads.qkv_width())?;
    let angles = bed.normal(Kind::Statistic, rows * size)?;
    let positions = ops.index(&(0..rows as u32).collect::<Vec<_>>());
    let turned = 4 * rows * (heads.query_width() + heads.key_value_width());
    for (name, layout) in [("halves", RopeLayout::Halves), ("pairs", RopeLayout::Interleaved)] {
        bed.time(format!("rope in {name}"), with.clone(), bytes(turned), || {
            ops.rope(&mut qkv, &positions, &angles, heads, layout, false);
            ops.check()
        })?;
    }
    let shape = GluShape { rows, width, activation: Activation::Silu };
    let mut gate_up = bed.normal(Kind::Activation, 2 * all)?;
    bed.time("gate", with.clone(), bytes(6 * all), || {
        ops.glu(&mut y, &gate_up, shape);
        ops.check()
    })?;
    bed.time("gate, backward", with.clone(), bytes(12 * all), || {
        ops.glu_backward(&mut gate_up, &mut dx, shape);
        ops.check()
    })?;
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * 7919 % rows as u32).collect();
    let ids = ops.index(&ids);
    bed.time("embedding", with.clone(), bytes(4 * all), || {
        ops.gather_rows(&mut y, &x, &ids, width);
        ops.check()
    })?;
    optimiser(bed)
}

/// AdamW in the forms that states and weights can have, and the global norm.
fn optimiser(bed: &mut Bed<'_>) -> Result<()> {
    let (len, ops) = (bed.pick(9_000, 1 << 28), bed.ops.clone());
    let with = json!({"values": len});
    let gradient = bed.normal(Kind::Gradient, len)?;
    // Gradient in; moments, masters or weights in and out; bf16 out.
    for (name, form, narrow, bytes) in [
        ("f32 states, masters", Form::F32, false, 30.0),
        ("bf16 states, masters", Form::Bf16, false, 22.0),
        ("bf16 states, bf16 weights", Form::Bf16, true, 16.0),
        ("8-bit states, bf16 weights", Form::Int8, true, 12.06),
    ] {
        let mut parameter = ops.zeros(if narrow { Kind::Narrow } else { Kind::Weight }, len);
        let mut moments = ops.moments(form, len, false);
        let step = AdamWStep {
            step: 1,
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            gradient_factor: 1.0,
            narrow,
            seed: 1,
        };
        let work = Work { bytes: bytes * len as f64, ..Work::default() };
        bed.time(format!("adamw, {name}"), with.clone(), work, || {
            let (parameter, moments) = (&mut parameter, &mut moments);
            let decays = true;
            let (gradient, number, first) = (&gradient, 0, 0);
            let update = Update { parameter, gradient, moments, decays, number, first };
            ops.adamw(&step, vec![update]);
            ops.check()
        })?;
    }
    let work = Work { bytes: 4.0 * len as f64, ..Work::default() };
    bed.time("sum of squares", with, work, || {
        ops.squares(&[&gradient]);
        ops.check()
    })
}
