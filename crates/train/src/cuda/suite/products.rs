//! Matrix products in every layout, by every kernel that can take them, at the launch code's own
//! choice and at others; the thin ones of low-rank adapters; those of decoding.

use anyhow::Result;

use super::{Lab, ROUNDED};
use crate::cuda::gemm::{self, Choice, Gated, Kernel, Layout, Product, Target};
use crate::ops::{Activation, Backend, Cpu, GluShape, Kind, LinearGluShape, LinearShape, Plus};

/// Error of f32 sums: the order of the terms, and on a card the truncation of tensor cores.
const SUMMED: f64 = 2e-5;

/// A product's operands and what it is to be.
struct Sample {
    size: [usize; 3],
    layout: Layout,
    a: Vec<f32>,
    b: Vec<f32>,
    bias: Vec<f32>,
    /// The residual, or what an f32 result is added to.
    before: Vec<f32>,
    expected: Vec<f32>,
    wants_f32: bool,
}

impl Sample {
    fn new(lab: &mut Lab<'_>, [m, n, k]: [usize; 3], layout: Layout, wants_f32: bool) -> Self {
        let (a, b) = (lab.values(m * k), lab.values(n * k));
        let (bias, before) = (lab.values(n), lab.values(m * n));
        let mut product = vec![0.0; m * n];
        match layout {
            Layout::Nt => {
                let shape = LinearShape::new(m, k, n);
                Cpu.linear(&mut product, &a, &b, Plus::NOTHING, shape);
            }
            Layout::Nn => {
                let shape = LinearShape::new(m, n, k);
                Cpu.linear_backward_input(&mut product, &a, &b, shape, false);
            }
            Layout::Tn => {
                let shape = LinearShape::new(k, n, m);
                Cpu.linear_backward_weight(&mut product, None, &a, &b, shape);
            }
        }
        let plus = |at: usize| before[at] + if wants_f32 { 0.0 } else { bias[at % n] };
        let expected = product.iter().enumerate().map(|(at, x)| x + plus(at)).collect();
        Self { size: [m, n, k], layout, a, b, bias, before, expected, wants_f32 }
    }

    /// The launch code's choice, and every kernel that can take the product, split and whole.
    fn choices(&self, lab: &Lab<'_>) -> Vec<Choice> {
        let [m, n, k] = self.size;
        let facts = lab.ops.driver.facts();
        let (hopper, processors) = (facts.is_hopper(), facts.multiprocessors as usize);
        let mut all = vec![
            gemm::choose(&self.product([0; 6]), hopper, processors),
            Choice { kernel: Kernel::Plain, rows: 16, columns: 16, splits: 1 },
        ];
        if [m, n, k].iter().all(|x| x.is_multiple_of(8)) {
            for splits in [1, 2] {
                for size in [64, 128] {
                    all.push(Choice { kernel: Kernel::Ring, rows: size, columns: size, splits });
                }
                for columns in [64, 128, 256] {
                    if hopper {
                        all.push(Choice { kernel: Kernel::Hopper, rows: 128, columns, splits });
                    }
                }
            }
        }
        all
    }

    fn product(&self, [a, b, bias, residual, bf16, f32]: [u64; 6]) -> Product {
        let [m, n, k] = self.size;
        Product {
            m,
            n,
            k,
            layout: self.layout,
            a,
            b,
            target: if self.wants_f32 { Target::AddF32(f32) } else { Target::Bf16(bf16) },
            bias: if self.wants_f32 { 0 } else { bias },
            residual: if self.wants_f32 { 0 } else { residual },
            rows_apart: false,
        }
    }

    fn check(&self, lab: &mut Lab<'_>) -> Result<()> {
        let [m, n, k] = self.size;
        let [a, b, bias, before] = lab.inputs([&self.a, &self.b, &self.bias, &self.before]);
        for choice in self.choices(lab) {
            let c = match self.wants_f32 {
                true => lab.tensor(Kind::Gradient, &self.before),
                false => lab.poisoned(Kind::Activation, m * n),
            };
            let places = [a.at(), b.at(), bias.at(), before.at(), c.at(), c.at()];
            let product = self.product(places);
            gemm::launch_as(&*lab.ops.driver, &lab.ops.pool, &product, choice)?;
            let out = if self.wants_f32 { "f32 +=" } else { "bf16" };
            let Choice { kernel, rows, columns, splits } = choice;
            let kernel = format!("{kernel:?} {rows}x{columns}/{splits}").to_lowercase();
            let what = format!("{:?} {m}x{n}x{k} to {out}, {kernel}", self.layout);
            lab.near(what, &c, &self.expected, if self.wants_f32 { SUMMED } else { ROUNDED });
        }
        Ok(())
    }
}

/// Every layout by every kernel, to bf16 with bias and residual and onto f32.
pub(super) fn every_kernel(lab: &mut Lab<'_>) -> Result<()> {
    let small = vec![[136, 264, 136], [129, 136, 72], [8, 64, 520], [5, 7, 3]];
    let full = vec![[2056, 3080, 1032], [1025, 4104, 520], [8, 4096, 4096], [333, 777, 555]];
    for size in lab.pick(small, full) {
        for (layout, wants_f32) in
            [(Layout::Nt, false), (Layout::Nn, false), (Layout::Tn, true), (Layout::Nt, true)]
        {
            Sample::new(lab, size, layout, wants_f32).check(lab)?;
        }
    }
    Ok(())
}

/// The products of an adapter of rank 8 or 16: h = x · downᵀ, y += h · up, dw = dyᵀ · x.
pub(super) fn thin(lab: &mut Lab<'_>) -> Result<()> {
    let (rows, width) = lab.pick((72, 136), (2056, 3584));
    for rank in lab.pick(vec![8], vec![8, 16, 64]) {
        Sample::new(lab, [rows, rank, width], Layout::Nt, false).check(lab)?;
        Sample::new(lab, [rows, width, rank], Layout::Nn, false).check(lab)?;
        Sample::new(lab, [rank, width, rows], Layout::Tn, true).check(lab)?;
    }
    Ok(())
}

/// A row's result in decoding does not depend on the other rows, bit for bit.
pub(super) fn rows_apart(lab: &mut Lab<'_>) -> Result<()> {
    let (n, k) = lab.pick((72, 1096), (3080, 4104));
    let (x, w) = (lab.values(70 * k), lab.values(n * k));
    let weight = lab.tensor(Kind::Weight, &w);
    let run = |lab: &Lab<'_>, rows: std::ops::Range<usize>| {
        let x = lab.tensor(Kind::Activation, &x[rows.start * k..rows.end * k]);
        let mut y = lab.poisoned(Kind::Statistic, rows.len() * n);
        let shape = LinearShape::new(rows.len(), k, n);
        lab.ops.linear_rows(&mut y, &x, &weight, Plus::NOTHING, shape);
        lab.read(&y)
    };
    let mut expected = vec![0.0; 70 * n];
    let shape = LinearShape::new(70, k, n);
    Cpu.linear(&mut expected, &x, &w, Plus::NOTHING, shape);
    let all = run(lab, 0..70)?;
    lab.near_values(format!("70x{n}x{k}"), &all, &expected, SUMMED);
    for rows in [0..1, 3..10, 65..70] {
        let alone = run(lab, rows.clone())?;
        lab.same(format!("rows {rows:?} alone"), &alone, &all[rows.start * n..rows.end * n]);
    }
    Ok(())
}

/// A product that leaves gated, by each kernel: the bits of the product and the gate after it, which
/// are held to the processor's.
pub(super) fn gated(lab: &mut Lab<'_>) -> Result<()> {
    let small = vec![(130, 200, 136, Activation::Silu), (9, 72, 64, Activation::GeluTanh)];
    let full = vec![(2051, 4864, 896, Activation::Silu), (515, 2304, 1032, Activation::GeluTanh)];
    for (rows, width, inputs, activation) in lab.pick(small, full) {
        let (ops, glu) = (lab.ops.clone(), GluShape { rows, width, activation });
        let linear = LinearGluShape { inputs, glu, keep: true }.linear();
        let (x, mut weight) = (lab.values(rows * inputs), lab.values(2 * width * inputs));
        let spread = 2f32.powi(-((inputs as f32).log2() / 2.0).round() as i32);
        weight.iter_mut().for_each(|x| *x *= spread);
        let (mut plain, mut expected) = (vec![0.0; rows * 2 * width], vec![0.0; rows * width]);
        Cpu.linear(&mut plain, &x, &weight, Plus::NOTHING, linear);
        Cpu.glu(&mut expected, &plain, glu);

        let [x, weight] = lab.inputs([&x, &weight]);
        let mut gate_up = lab.poisoned(Kind::Activation, rows * 2 * width);
        let mut y = lab.poisoned(Kind::Activation, rows * width);
        ops.linear(&mut gate_up, &x, &weight, Plus::NOTHING, linear);
        ops.glu(&mut y, &gate_up, glu);
        let what = format!("{activation:?} {rows}x{width}x{inputs}");
        // The gate's inputs were rounded, too.
        lab.near(format!("{what}, one after the other"), &y, &expected, 2.0 * ROUNDED);
        let [before, after] = [lab.read(&gate_up)?, lab.read(&y)?];
        let hopper = ops.driver.facts().is_hopper();
        let kernels = if hopper { vec![Kernel::Hopper, Kernel::Ring] } else { vec![Kernel::Ring] };
        for (kernel, keep) in kernels.into_iter().flat_map(|k| [(k, true), (k, false)]) {
            let gate_up = lab.poisoned(Kind::Activation, rows * 2 * width);
            let y = lab.poisoned(Kind::Activation, rows * width);
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
            gemm::launch_gated(&*ops.driver, &gated, kernel)?;
            let found = lab.read(&y)?;
            lab.same(format!("{what}, {kernel:?}, keeps its input: {keep}"), &found, &after);
            if keep {
                let found = lab.read(&gate_up)?;
                lab.same(format!("{what}, {kernel:?}: gate and up"), &found, &before);
            }
        }
    }
    Ok(())
}
