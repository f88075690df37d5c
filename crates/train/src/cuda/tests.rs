//! Every operation on the emulated device against the plain reference, on fresh random data, odd
//! sizes, poisoned memory: once as an Ampere card, once as a Hopper one. Then a whole model's step
//! against the processor's engine.

use std::sync::Arc;

use half::bf16;

use super::driver::Stream;
use super::emulator::Emulator;
use super::gemm::{Choice, Gated, Kernel, Layout, Product, Target, launch_as, launch_gated};
use super::memory::{Dtype, Tensor};
use super::{Cuda, attention, gemm};
use crate::model::{Batch, Decoder, Gradients, KvCache, Model, ModelConfig};
use crate::ops::testing::random;
use crate::ops::*;
use crate::optimizer::AdamW;

/// An Ampere and a Hopper card; none where the host has no C++ compiler.
fn devices() -> Vec<Cuda> {
    [(8, 0), (9, 0)]
        .into_iter()
        .filter_map(|capability| Emulator::new(capability).map(|e| Cuda::new(Arc::new(e))))
        .collect()
}

/// Random values that bf16 holds exactly.
fn rounded(seed: u64, len: usize) -> Vec<f32> {
    random(seed, len).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect()
}

/// ‖found − expected‖ / ‖expected‖; a NaN never passes.
#[track_caller]
fn assert_near(found: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let (mut off, mut all) = (0.0, 1e-30);
    for (f, e) in found.iter().zip(expected) {
        off += f64::from(f - e).powi(2);
        all += f64::from(*e).powi(2);
    }
    let error = (off / all).sqrt();
    assert!(error <= tolerance, "relative error {error:.2e}, at most {tolerance:.0e}");
}

/// A tensor of NaNs that is to be written whole.
fn poisoned(ops: &Cuda, kind: Kind, len: usize) -> Tensor {
    ops.tensor(kind, vec![f32::NAN; len])
}

fn read(ops: &Cuda, tensor: &Tensor) -> Vec<f32> {
    let values = ops.values(tensor, ops.len(tensor));
    ops.check().expect("no fault");
    values
}

/// What bf16 rounding of a result costs.
const ROUNDED: f64 = 4e-3;

#[test]
fn products_agree_with_the_reference_in_every_layout_by_every_kernel() {
    for ops in devices() {
        let hopper = ops.driver.facts().is_hopper();
        for (m, n, k) in [(136, 264, 136), (129, 136, 72), (8, 64, 520), (5, 7, 3)] {
            for (layout, wants_f32) in
                [(Layout::Nt, false), (Layout::Nn, false), (Layout::Tn, true), (Layout::Nt, true)]
            {
                let (a, b) = (rounded(1, m * k), rounded(2, n * k));
                let (bias, before) = (rounded(3, n), rounded(4, m * n));
                let at = |i: usize, j: usize, rows: usize, transposed: bool| {
                    if transposed { j * rows + i } else { i * k + j }
                };
                let mut expected = before.clone();
                for i in 0..m {
                    for j in 0..n {
                        let mut sum = 0.0_f64;
                        for l in 0..k {
                            sum += f64::from(a[at(i, l, m, layout == Layout::Tn)])
                                * f64::from(b[at(j, l, n, layout != Layout::Nt)]);
                        }
                        expected[i * n + j] += sum as f32 + if wants_f32 { 0.0 } else { bias[j] };
                    }
                }
                let [ta, tb, tbias, tbefore] =
                    [&a, &b, &bias, &before].map(|v| ops.tensor(Kind::Activation, v.clone()));
                let mut choices =
                    vec![Choice { kernel: Kernel::Plain, rows: 16, columns: 16, splits: 1 }];
                if [m, n, k].iter().all(|x| x % 8 == 0) {
                    for splits in [1, 2] {
                        for size in [64, 128] {
                            choices.push(Choice {
                                kernel: Kernel::Ring,
                                rows: size,
                                columns: size,
                                splits,
                            });
                        }
                        for columns in [64, 128, 256] {
                            if hopper {
                                choices.push(Choice {
                                    kernel: Kernel::Hopper,
                                    rows: 128,
                                    columns,
                                    splits,
                                });
                            }
                        }
                    }
                }
                for choice in choices {
                    let c = if wants_f32 {
                        ops.tensor(Kind::Gradient, before.clone())
                    } else {
                        poisoned(&ops, Kind::Activation, m * n)
                    };
                    let product = Product {
                        m,
                        n,
                        k,
                        layout,
                        a: ta.at(),
                        b: tb.at(),
                        target: if wants_f32 {
                            Target::AddF32(c.at())
                        } else {
                            Target::Bf16(c.at())
                        },
                        bias: if wants_f32 { 0 } else { tbias.at() },
                        residual: if wants_f32 { 0 } else { tbefore.at() },
                        rows_apart: false,
                    };
                    launch_as(&*ops.driver, &ops.pool, &product, choice).expect("launches");
                    let tolerance = if wants_f32 { 1e-6 } else { ROUNDED };
                    assert_near(&read(&ops, &c), &expected, tolerance);
                }
            }
        }
    }
}

#[test]
fn a_gated_product_has_the_bits_of_the_product_and_the_gate_after_it() {
    for ops in devices() {
        let hopper = ops.driver.facts().is_hopper();
        for (rows, width, inputs, activation) in
            [(130, 200, 136, Activation::Silu), (9, 72, 64, Activation::GeluTanh)]
        {
            let x = ops.tensor(Kind::Activation, rounded(1, rows * inputs));
            let weight = ops.tensor(Kind::Activation, rounded(2, 2 * width * inputs));
            let glu = GluShape { rows, width, activation };
            let linear = LinearGluShape { inputs, glu, keep: true }.linear();
            let mut gate_up = poisoned(&ops, Kind::Activation, rows * 2 * width);
            let mut y = poisoned(&ops, Kind::Activation, rows * width);
            ops.linear(&mut gate_up, &x, &weight, Plus::NOTHING, linear);
            ops.glu(&mut y, &gate_up, glu);
            let expected = [read(&ops, &gate_up), read(&ops, &y)];
            let kernels =
                if hopper { vec![Kernel::Hopper, Kernel::Ring] } else { vec![Kernel::Ring] };
            for (kernel, keep) in kernels.into_iter().flat_map(|k| [(k, true), (k, false)]) {
                let gate_up = poisoned(&ops, Kind::Activation, rows * 2 * width);
                let y = poisoned(&ops, Kind::Activation, rows * width);
                let gated = Gated {
                    m: rows,
                    n: width,
                    k: inputs,
                    x: x.at(),
                    weight: weight.at(),
                    gate_up: if keep { gate_up.at() } else { 0 },
                    y: y.at(),
                    gelu: activation == Activation::GeluTanh,
                };
                launch_gated(&*ops.driver, &gated, kernel).expect("launches");
                assert_eq!(read(&ops, &y), expected[1], "{kernel:?}");
                if keep {
                    assert_eq!(read(&ops, &gate_up), expected[0], "{kernel:?}");
                }
            }
        }
    }
}

#[test]
fn a_row_of_a_decoding_product_does_not_depend_on_the_others() {
    for ops in devices() {
        let (n, k) = (72, 1100 / 8 * 8);
        let (x, w) = (rounded(1, 70 * k), rounded(2, n * k));
        let tw = ops.tensor(Kind::Weight, w);
        let run = |rows: std::ops::Range<usize>| {
            let tx = ops.tensor(Kind::Activation, x[rows.start * k..rows.end * k].to_vec());
            let mut y = poisoned(&ops, Kind::Statistic, rows.len() * n);
            let shape = LinearShape::new(rows.len(), k, n);
            ops.linear_rows(&mut y, &tx, &tw, Plus::NOTHING, shape);
            read(&ops, &y)
        };
        let all = run(0..70);
        for rows in [0..1, 3..10, 65..70] {
            assert_eq!(run(rows.clone()), all[rows.start * n..rows.end * n]);
        }
    }
}

/// Runs an attention forward and backward on the device and by the reference.
fn check_attention(ops: &Cuda, shape: AttentionShape, documents: &[u32]) {
    let (heads, rows) = (shape.heads, *documents.last().expect("an end") as usize);
    let (qkv, dout) =
        (rounded(1, rows * heads.qkv_width()), rounded(2, rows * heads.query_width()));
    let plain = Reference;
    let index = plain.index(documents);
    let (mut out, mut sums) = (vec![0.0; dout.len()], vec![0.0; rows * heads.queries]);
    plain.attention(&mut out, &mut sums, &qkv, &index, shape);
    let mut dqkv = vec![0.0; qkv.len()];
    let saved = SavedAttention { qkv: &qkv, out: &out, log_sums: &sums };
    plain.attention_backward(&mut dqkv, &dout, saved, &index, shape);

    let index = ops.index(documents);
    let tqkv = ops.tensor(Kind::Activation, qkv);
    let tdout = ops.tensor(Kind::Activation, dout);
    let mut tout = poisoned(ops, Kind::Activation, out.len());
    let mut tsums = poisoned(ops, Kind::Statistic, sums.len());
    let mut tdqkv = poisoned(ops, Kind::Activation, dqkv.len());
    ops.attention(&mut tout, &mut tsums, &tqkv, &index, shape);
    assert_near(&read(ops, &tout), &out, ROUNDED);
    let again = |target: &mut Tensor| {
        let saved = SavedAttention { qkv: &tqkv, out: &tout, log_sums: &tsums };
        ops.attention_backward(target, &tdout, saved, &index, shape);
        read(ops, target)
    };
    let first = again(&mut tdqkv);
    assert_near(&first, &dqkv, 1e-2);
    let mut twice = poisoned(ops, Kind::Activation, dqkv.len());
    assert_eq!(again(&mut twice), first, "the backward pass repeats bit for bit");
}

#[test]
fn attention_agrees_with_the_reference_for_every_head_size_window_and_cap() {
    let shape =
        |queries, key_values, size| AttentionShape::plain(Heads { queries, key_values, size });
    for ops in devices() {
        check_attention(&ops, shape(2, 1, 128), &[0, 133, 200]);
        check_attention(&ops, shape(4, 2, 64), &[0, 1, 140]);
        check_attention(&ops, shape(1, 1, 96), &[0, 70]);
        check_attention(&ops, shape(3, 1, 16), &[0, 5, 70]);
        check_attention(&ops, shape(1, 1, 256), &[0, 70, 90]);
        let window = Some(70);
        check_attention(&ops, AttentionShape { window, ..shape(1, 1, 128) }, &[0, 200]);
        let capped = AttentionShape { softcap: Some(3.0), window: Some(130), ..shape(1, 1, 64) };
        check_attention(&ops, capped, &[0, 20, 200]);
    }
}

#[test]
fn a_head_size_that_the_kernels_do_not_have_is_refused() {
    for ops in devices() {
        let shape = AttentionShape::plain(Heads { queries: 1, key_values: 1, size: 320 });
        let qkv = ops.tensor(Kind::Activation, rounded(1, 4 * 960));
        let mut out = ops.zeros(Kind::Activation, 4 * 320);
        let mut sums = ops.zeros(Kind::Statistic, 4);
        ops.attention(&mut out, &mut sums, &qkv, &ops.index(&[0, 4]), shape);
        let fault = ops.check().expect_err("refused");
        assert!(fault.to_string().contains("320"), "{fault}");
        ops.check().expect("the fault is told once");
    }
}

#[test]
fn cached_attention_agrees_with_attention_over_the_whole_sequence() {
    for ops in devices() {
        for (size, window, softcap) in
            [(64, None, None), (128, Some(9), None), (32, None, Some(2.0))]
        {
            let heads = Heads { queries: 4, key_values: 2, size };
            let attention = AttentionShape { window, softcap, ..AttentionShape::plain(heads) };
            let (rows, capacity) = (300, 310);
            let qkv = rounded(5, rows * heads.qkv_width());
            let (mut out, mut sums) =
                (vec![0.0; rows * heads.query_width()], vec![0.0; rows * heads.queries]);
            let documents = vec![0, rows as u32];
            Reference.attention(&mut out, &mut sums, &qkv, &documents, attention);

            let shape = CacheShape { attention, capacity, reach: rows };
            let mut cache = poisoned(&ops, Kind::Activation, 3 * shape.slot_len());
            let positions: Vec<u32> = (0..rows as u32).collect();
            let tqkv = ops.tensor(Kind::Activation, qkv.clone());
            let slots = ops.index(&vec![1; rows]);
            ops.cache_store(&mut cache, &tqkv, &slots, &ops.index(&positions), shape);
            // Three rows at once, of one slot's sequence at different lengths.
            let picked = [0_usize, 257, 299];
            let width = heads.qkv_width();
            let few: Vec<f32> = picked
                .iter()
                .flat_map(|&row| qkv[row * width..(row + 1) * width].to_vec())
                .collect();
            let tfew = ops.tensor(Kind::Activation, few);
            let mut tout = poisoned(&ops, Kind::Activation, 3 * heads.query_width());
            let (slots, positions) = (ops.index(&[1; 3]), ops.index(&picked.map(|row| row as u32)));
            ops.cached_attention(&mut tout, &tfew, &cache, &slots, &positions, shape);
            let width = heads.query_width();
            let expected: Vec<f32> = picked
                .iter()
                .flat_map(|&row| out[row * width..(row + 1) * width].to_vec())
                .collect();
            assert_near(&read(&ops, &tout), &expected, ROUNDED);
        }
    }
}

#[test]
fn norms_agree_with_the_reference() {
    for ops in devices() {
        for kind in [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer] {
            for (rows, width) in [(13, 72), (5, 2304)] {
                let shape = NormShape { rows, width, eps: 1e-5, kind };
                let [x, dy, residual, before] = [1, 2, 3, 4].map(|s| rounded(s, rows * width));
                let weight = rounded(5, width);
                let (mut y, mut inverse) = (vec![0.0; rows * width], vec![0.0; rows]);
                Reference.norm(&mut y, &mut inverse, &x, &weight, Some(&residual), shape);
                let (mut dx, mut dweight, mut plain) =
                    (before.clone(), rounded(6, width), vec![0.0; rows * width]);
                let gradients = NormGradients {
                    dx: &mut dx,
                    accumulate: true,
                    dweight: Some(&mut dweight),
                    y: Some(&mut plain),
                };
                Reference.norm_backward(gradients, &inverse, &dy, &x, &weight, shape);

                let [tx, tdy, tresidual, tweight] =
                    [&x, &dy, &residual, &weight].map(|v| ops.tensor(Kind::Activation, v.clone()));
                let mut ty = poisoned(&ops, Kind::Activation, y.len());
                let mut tinverse = poisoned(&ops, Kind::Statistic, rows);
                ops.norm(&mut ty, &mut tinverse, &tx, &tweight, Some(&tresidual), shape);
                assert_near(&read(&ops, &ty), &y, ROUNDED);
                assert_near(&read(&ops, &tinverse), &inverse, 1e-5);
                let mut tdx = ops.tensor(Kind::Activation, before.clone());
                let mut tdweight = ops.tensor(Kind::Gradient, rounded(6, width));
                let mut tplain = poisoned(&ops, Kind::Activation, y.len());
                let gradients = NormGradients {
                    dx: &mut tdx,
                    accumulate: true,
                    dweight: Some(&mut tdweight),
                    y: Some(&mut tplain),
                };
                ops.norm_backward(gradients, &tinverse, &tdy, &tx, &tweight, shape);
                assert_near(&read(&ops, &tdx), &dx, ROUNDED);
                assert_near(&read(&ops, &tdweight), &dweight, 1e-4);
                assert_near(&read(&ops, &tplain), &plain, ROUNDED);
            }
        }
    }
}

#[test]
fn norms_of_heads_agree_with_the_reference() {
    for ops in devices() {
        for (kind, per_head) in
            [(NormKind::Rms, false), (NormKind::RmsPlusOne, false), (NormKind::Layer, true)]
        {
            let heads = Heads { queries: 4, key_values: 2, size: 72 };
            let rows = 21;
            let shape = HeadNormShape { rows, heads, eps: 1e-5, kind, per_head };
            let (projected, dy) =
                (rounded(1, rows * heads.qkv_width()), rounded(2, rows * heads.qkv_width()));
            let weight = rounded(3, shape.weights());
            let (mut qkv, mut inverse) =
                (vec![0.0; projected.len()], vec![0.0; rows * shape.count()]);
            Reference.head_norm(&mut qkv, &mut inverse, &projected, &weight, shape);
            let (mut dqkv, mut dweight) = (dy.clone(), rounded(4, shape.weights()));
            Reference.head_norm_backward(
                &mut dqkv,
                Some(&mut dweight),
                &inverse,
                &projected,
                &weight,
                shape,
            );

            let [tprojected, tweight] =
                [&projected, &weight].map(|v| ops.tensor(Kind::Activation, v.clone()));
            let mut tqkv = poisoned(&ops, Kind::Activation, qkv.len());
            let mut tinverse = poisoned(&ops, Kind::Statistic, inverse.len());
            ops.head_norm(&mut tqkv, &mut tinverse, &tprojected, &tweight, shape);
            assert_near(&read(&ops, &tqkv), &qkv, ROUNDED);
            let mut tdqkv = ops.tensor(Kind::Activation, dy.clone());
            let mut tdweight = ops.tensor(Kind::Gradient, rounded(4, shape.weights()));
            ops.head_norm_backward(
                &mut tdqkv,
                Some(&mut tdweight),
                &tinverse,
                &tprojected,
                &tweight,
                shape,
            );
            assert_near(&read(&ops, &tdqkv), &dqkv, ROUNDED);
            assert_near(&read(&ops, &tdweight), &dweight, 1e-4);
        }
    }
}

#[test]
fn ropes_gates_and_rows_by_number_agree_with_the_reference() {
    for ops in devices() {
        let heads = Heads { queries: 3, key_values: 1, size: 32 };
        let positions = [0, 1, 2, 0, 1, 9, 30];
        let (qkv, angles) = (rounded(1, 7 * heads.qkv_width()), random(2, 31 * 32));
        for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
            for inverse in [false, true] {
                let mut expected = qkv.clone();
                Reference.rope(&mut expected, &positions.to_vec(), &angles, heads, layout, inverse);
                let mut found = ops.tensor(Kind::Activation, qkv.clone());
                let (index, table) =
                    (ops.index(&positions), ops.tensor(Kind::Statistic, angles.clone()));
                ops.rope(&mut found, &index, &table, heads, layout, inverse);
                assert_near(&read(&ops, &found), &expected, ROUNDED);
            }
        }
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let shape = GluShape { rows: 5, width: 40, activation };
            let (mut gate_up, mut dy) = (rounded(3, 5 * 80), rounded(4, 5 * 40));
            let mut tgate_up = ops.tensor(Kind::Activation, gate_up.clone());
            let mut tdy = ops.tensor(Kind::Activation, dy.clone());
            let (mut y, mut ty) = (vec![0.0; 200], poisoned(&ops, Kind::Activation, 200));
            Reference.glu(&mut y, &gate_up, shape);
            ops.glu(&mut ty, &tgate_up, shape);
            assert_near(&read(&ops, &ty), &y, ROUNDED);
            Reference.glu_backward(&mut gate_up, &mut dy, shape);
            ops.glu_backward(&mut tgate_up, &mut tdy, shape);
            assert_near(&read(&ops, &tgate_up), &gate_up, ROUNDED);
            assert_near(&read(&ops, &tdy), &dy, ROUNDED);
        }
        let (table, rows, ids) = (rounded(5, 9 * 24), rounded(6, 6 * 24), [8, 0, 3, 3, 0, 3]);
        let (mut y, mut sums) = (vec![0.0; 6 * 24], table.clone());
        Reference.gather_rows(&mut y, &table, &ids.to_vec(), 24);
        Reference.scatter_add_rows(&mut sums, &rows, &ids.to_vec(), 24);
        let (ttable, trows, index) = (
            ops.tensor(Kind::Activation, table.clone()),
            ops.tensor(Kind::Activation, rows),
            ops.index(&ids),
        );
        let mut ty = poisoned(&ops, Kind::Activation, y.len());
        ops.gather_rows(&mut ty, &ttable, &index, 24);
        assert_eq!(read(&ops, &ty), y);
        for (kind, tolerance) in [(Kind::Gradient, 1e-6), (Kind::Activation, ROUNDED)] {
            let mut tsums = ops.tensor(kind, table.clone());
            ops.scatter_add_rows(&mut tsums, &trows, &index, 24);
            assert_near(&read(&ops, &tsums), &sums, tolerance);
        }
    }
}

#[test]
fn loss_and_its_gradients_agree_with_the_reference() {
    for ops in devices() {
        for (rows, vocabulary, logits) in [
            (140, 136, LogitRule::PLAIN),
            (33, 136, LogitRule { scale: 0.5, softcap: Some(4.0) }),
            (7, 101, LogitRule::PLAIN),
            (3, 2601, LogitRule::PLAIN),
            (3, 4160, LogitRule { scale: 2.0, softcap: None }),
        ] {
            let (c, scale) = (40, 0.25);
            let linear = LinearShape::new(rows, c, vocabulary);
            let shape = HeadShape { linear, logits };
            let (hidden, head) = (rounded(1, rows * c), rounded(2, vocabulary * c));
            let targets: Vec<u32> = (0..rows).map(|i| (i * 7919 % vocabulary) as u32).collect();
            let (mut losses, mut dhidden, mut dhead) =
                (vec![0.0; rows], vec![0.0; hidden.len()], rounded(3, head.len()));
            let into = HeadGradient { scale, hidden: &mut dhidden, head: Some(&mut dhead) };
            Reference.cross_entropy(&mut losses, &hidden, &head, &targets, Some(into), shape);

            let (thidden, thead) =
                (ops.tensor(Kind::Activation, hidden), ops.tensor(Kind::Weight, head.clone()));
            let mut tlosses = poisoned(&ops, Kind::Statistic, rows);
            let mut tdhidden = poisoned(&ops, Kind::Activation, rows * c);
            let mut tdhead = ops.tensor(Kind::Gradient, rounded(3, head.len()));
            let into = HeadGradient { scale, hidden: &mut tdhidden, head: Some(&mut tdhead) };
            let index = ops.index(&targets);
            ops.cross_entropy(&mut tlosses, &thidden, &thead, &index, Some(into), shape);
            assert_near(&read(&ops, &tlosses), &losses, 1e-5);
            assert_near(&read(&ops, &tdhidden), &dhidden, ROUNDED);
            assert_near(&read(&ops, &tdhead), &dhead, 1e-3);
        }
    }
}

#[test]
fn fills_and_scales_agree_with_the_reference() {
    for ops in devices() {
        for kind in [Kind::Gradient, Kind::Activation] {
            let mut filled = poisoned(&ops, kind, 700);
            ops.fill(&mut filled, 700, 1.5);
            ops.scale(&mut filled, 600, 2.0);
            let found = read(&ops, &filled);
            assert!(
                found[..600].iter().all(|&x| x == 3.0) && found[600..].iter().all(|&x| x == 1.5)
            );
        }
        let (width, mut block) = (33, random(3, 330));
        let mut tblock = ops.tensor(Kind::Gradient, block.clone());
        ops.fill_block(&mut tblock, width, [2..7, 5..32], 0.25);
        Reference.fill_block(&mut block, width, [2..7, 5..32], 0.25);
        assert_eq!(read(&ops, &tblock), block);
        assert_eq!(ops.zeros(Kind::Activation, 3).dtype, Dtype::Bf16);
    }
}

#[test]
fn copies_beside_the_kernels_wait_for_the_events_that_they_are_told_to() {
    for ops in devices() {
        let driver = &*ops.driver;
        let host = driver.allocate_host(32).expect("memory");
        let (a, b) = (driver.allocate(16).expect("memory"), driver.allocate(16).expect("memory"));
        driver.copy_in(a, &[7; 16]).expect("copied");
        let [stored, loaded] = [(); 2].map(|()| driver.event().expect("an event"));
        driver.copy_on(Stream::Store, host + 16, a, 16).expect("copied");
        driver.record(stored, Stream::Store).expect("recorded");
        driver.wait(Stream::Load, stored).expect("waits");
        driver.copy_on(Stream::Load, b, host + 16, 16).expect("copied");
        driver.record(loaded, Stream::Load).expect("recorded");
        driver.wait(Stream::Compute, loaded).expect("waits");
        let mut found = [0; 16];
        driver.copy_out(&mut found, b).expect("copied");
        assert_eq!(found, [7; 16]);
        driver.drop_event(stored);
        driver.drop_event(loaded);
        driver.synchronize().expect("no fault");
        driver.free_host(host);
    }
}

#[test]
fn a_number_is_rounded_as_the_tensors_it_meets_are() {
    for ops in devices() {
        // The scale of embeddings 3072 wide, as transformers has it in bf16.
        assert_eq!(ops.rounded(Kind::Activation, 3072_f32.sqrt()), 55.5);
        assert_eq!(ops.rounded(Kind::Statistic, 3072_f32.sqrt()), 3072_f32.sqrt());
    }
}

/// A config with head sizes and windows of the kind that families have.
pub(super) fn tiny(text: &str) -> ModelConfig {
    ModelConfig::parse(text, std::path::Path::new("config.json")).expect("a config")
}

pub(super) const QWEN3: &str = r#"{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 96,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": true, "initializer_range": 0.2, "hidden_act": "silu"}"#;
const QWEN2: &str = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 99,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": false, "initializer_range": 0.2, "hidden_act": "silu"}"#;

fn batch(vocabulary: u32) -> Batch {
    let tokens: Vec<u32> = (0..90).map(|i| (i * 37 + 11) % vocabulary).collect();
    let targets =
        (0..90).map(|i| if i % 3 == 0 { -1 } else { ((i * 53 + 7) % vocabulary) as i32 }).collect();
    Batch { tokens, targets, documents: vec![0, 70, 90] }
}

#[test]
fn a_models_step_agrees_with_the_processors_engine() {
    for ops in devices() {
        for text in [QWEN3, QWEN2] {
            let config = tiny(text);
            let batch = batch(config.vocab_size as u32);
            let mut plain = Model::random(config, 7);
            let mut model: Decoder<Cuda> = plain.copy_to(ops.clone());
            let (mut dplain, mut dmodel) = (Gradients::zeros(&plain), Gradients::zeros(&model));
            let expected = plain.forward_backward(&batch, 0.01, &mut dplain).expect("a step");
            let found = model.forward_backward(&batch, 0.01, &mut dmodel).expect("a step");
            assert_near(&found, &expected, 1e-2);
            for ((name, f), (_, e)) in dmodel.named().into_iter().zip(dplain.named()) {
                let (mut off, mut all) = (0.0, 1e-30);
                for (f, e) in f.iter().zip(&e) {
                    off += f64::from(f - e).powi(2);
                    all += f64::from(*e).powi(2);
                }
                // A bias of the keys moves all scores of a query alike: its gradient is rounding.
                let error = (off / all).sqrt();
                assert!(
                    error < 6e-2 || name.ends_with("k_proj.bias"),
                    "{name}: relative error {error:.2e}"
                );
            }
            // The curve over some steps.
            let (mut a, mut b) = (AdamW::new(&plain), AdamW::new(&model));
            for _ in 0..2 {
                a.step(&mut plain, &dplain, 1e-2);
                b.step(&mut model, &dmodel, 1e-2);
                dplain.clear();
                dmodel.clear();
                let expected: f32 =
                    plain.forward_backward(&batch, 0.01, &mut dplain).expect("a step").iter().sum();
                let found: f32 =
                    model.forward_backward(&batch, 0.01, &mut dmodel).expect("a step").iter().sum();
                assert!((found / expected - 1.0).abs() < 2e-2, "{found}, expected {expected}");
            }
        }
    }
}

#[test]
fn a_step_repeats_bit_for_bit() {
    for ops in devices() {
        let batch = batch(96);
        let run = || {
            let mut model: Decoder<Cuda> = Model::random(tiny(QWEN3), 7).copy_to(ops.clone());
            let mut gradients = Gradients::zeros(&model);
            let losses = model.forward_backward(&batch, 0.01, &mut gradients).expect("a step");
            (losses, gradients.named())
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn decoding_gives_what_a_pass_over_the_whole_gives() {
    for ops in devices() {
        let mut model: Decoder<Cuda> = Model::random(tiny(QWEN3), 7).copy_to(ops.clone());
        let tokens: Vec<u32> = (0..20).map(|i| (i * 31 + 5) % 96).collect();
        let mut whole = KvCache::new(&model, 1, 32);
        let expected = model.prefill(&mut whole, &[(0, &tokens)]).expect("logits");
        let mut cache = KvCache::new(&model, 3, 32);
        model.prefill(&mut cache, &[(2, &tokens[..15]), (0, &tokens[..3])]).expect("logits");
        let mut found = None;
        for &token in &tokens[15..] {
            found = Some(model.decode(&mut cache, &[(2, token)]).expect("logits"));
        }
        assert_near(found.expect("decoded").row(0), expected.row(0), 2e-2);
    }
}

#[test]
fn work_lists_cover_every_row_once_and_begin_with_the_most_work() {
    let documents = [0, 5, 300, 301];
    for (rows, of_keys) in [(64, false), (128, true)] {
        let tiles = attention::tiles(&documents, rows, None, of_keys);
        let mut seen = vec![0; 301];
        for tile in &tiles {
            let last = (tile.row as usize + rows).min(tile.end as usize);
            seen[tile.row as usize..last].iter_mut().for_each(|n| *n += 1);
        }
        assert!(seen.iter().all(|&n| n == 1));
        let longest = if of_keys { 5 } else { 5 + 4 * 64 };
        assert_eq!(tiles[0].row, longest);
    }
}

#[test]
fn small_products_are_split_and_odd_ones_go_to_the_plain_kernel() {
    let product = |m, n, k| Product {
        m,
        n,
        k,
        layout: Layout::Nt,
        a: 0,
        b: 0,
        target: Target::Bf16(0),
        bias: 0,
        residual: 0,
        rows_apart: false,
    };
    assert_eq!(gemm::choose(&product(8192, 8192, 8192), true, 132).columns, 256);
    assert!(gemm::choose(&product(128, 128, 8192), true, 132).splits > 8);
    assert_eq!(gemm::choose(&product(128, 130, 64), true, 132).kernel, Kernel::Plain);
    let decode =
        |m| gemm::choose(&Product { rows_apart: true, ..product(m, 4096, 4096) }, true, 132);
    assert_eq!(decode(1), decode(64));
}
