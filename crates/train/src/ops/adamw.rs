//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) on one tensor, with the arithmetic of PyTorch's
//! single-tensor form: weights decay by lr · weight_decay first, the moments are corrected for
//! their zero start, eps is added to the corrected root. Moments come out of their form
//! ([`super::moments`]) into f32, block by block, and go back into it; the weight moves by what
//! they were before they were rounded.

use half::bf16;
use rayon::prelude::*;

use super::moments::{BLOCK, Moments, Part};
use super::rounding::{Draws, Purpose};
use super::simd;

/// What one step of the optimiser takes beside the tensors.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Number of this step, from 1.
    pub step: u64,
    /// Learning rate.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Share of learning rate by which weights shrink, those that decay.
    pub weight_decay: f32,
    /// What gradients are multiplied by first: the share that clipping leaves.
    pub gradient_factor: f32,
    /// Whether parameters stand in bf16 alone, to which they are then rounded by chance.
    pub narrow: bool,
    /// Of the bits that roundings are drawn by.
    pub seed: u64,
}

/// One tensor of a step, or a run of its values: as many as there are moments.
pub struct Update<'a, T, M> {
    /// What moves.
    pub parameter: &'a mut T,
    /// Its gradient.
    pub gradient: &'a T,
    /// Its moments, which are brought up to date.
    pub moments: &'a mut M,
    /// Whether weight decay applies: not to norms and biases.
    pub decays: bool,
    /// Its number among all that is trained, by which roundings are drawn.
    pub number: u32,
    /// Its first value that moves, at the beginning of a block of moments.
    pub first: usize,
}

/// The step's constants, in f64 until the last moment.
pub(crate) struct Factors {
    /// 1 − lr · weight_decay, or 1
    pub keep: f32,
    pub beta1: f32,
    pub beta2: f32,
    /// lr / (1 − β₁ᵗ)
    pub rate: f32,
    /// 1 / √(1 − β₂ᵗ)
    pub root: f32,
    pub eps: f32,
    /// Of the gradient.
    pub factor: f32,
}

impl AdamWStep {
    pub(crate) fn factors(&self, decays: bool) -> Factors {
        let (lr, steps) = (f64::from(self.learning_rate), self.step as f64);
        let decay = if decays { f64::from(self.weight_decay) } else { 0.0 };
        Factors {
            keep: (1.0 - lr * decay) as f32,
            beta1: self.beta1,
            beta2: self.beta2,
            rate: (lr / (1.0 - f64::from(self.beta1).powf(steps))) as f32,
            root: (1.0 / (1.0 - f64::from(self.beta2).powf(steps)).sqrt()) as f32,
            eps: self.eps,
            factor: self.gradient_factor,
        }
    }

    /// The bits of one tensor's roundings.
    fn draws(&self, number: u32) -> Draws {
        Draws { seed: self.seed, step: self.step as u32, tensor: number }
    }
}

/// Values that one task takes, whole blocks of moments.
const TASK: usize = 1 << 15;
/// Values below which one thread is done before another is awake.
const WORTH_WAKING: usize = 1 << 18;

/// A run of one tensor's values, whole blocks.
struct Run<'a> {
    /// Number of the first value.
    first: usize,
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    m: Part<'a>,
    v: Part<'a>,
}

/// Moves one tensor against its gradient, and brings both moments up to date.
pub fn step(step: &AdamWStep, update: Update<'_, Vec<f32>, Moments>) {
    let (factors, draws) = (step.factors(update.decays), step.draws(update.number));
    let len = update.moments.first.len();
    let values = update.first..update.first + len;
    let (parameter, gradient) =
        (&mut update.parameter[values.clone()], &update.gradient[values.clone()]);
    let [m, v] = [&mut update.moments.first, &mut update.moments.second].map(|m| m.parts(TASK));
    let tensors = parameter.chunks_mut(TASK).zip(gradient.chunks(TASK));
    let runs = values.step_by(TASK).zip(tensors).zip(m.into_iter().zip(v));
    let runs: Vec<Run> = runs
        .map(|((first, (parameter, gradient)), (m, v))| Run { first, parameter, gradient, m, v })
        .collect();
    let work = |run| step_run(&factors, run, step.narrow, draws);
    if len < WORTH_WAKING {
        runs.into_iter().for_each(work);
    } else {
        runs.into_par_iter().for_each(work);
    }
}

/// The same of a run.
fn step_run(factors: &Factors, run: Run, narrow: bool, draws: Draws) {
    let Run { first, parameter, gradient, mut m, mut v } = run;
    if let (Part::F32(m), Part::F32(v), false) = (&mut m, &mut v, narrow) {
        return step_block(factors, parameter, gradient, [m, v]);
    }
    let (mut wide_m, mut wide_v) = ([0.0; BLOCK], [0.0; BLOCK]);
    let blocks = parameter.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
    for (block, (parameter, gradient)) in blocks.enumerate() {
        let (wide_m, wide_v) = (&mut wide_m[..gradient.len()], &mut wide_v[..gradient.len()]);
        m.decode(Purpose::First, block, wide_m);
        v.decode(Purpose::Second, block, wide_v);
        step_block(factors, parameter, gradient, [wide_m, wide_v]);
        let first = first + block * BLOCK;
        m.encode(Purpose::First, block, first, wide_m, draws);
        v.encode(Purpose::Second, block, first, wide_v, draws);
        if narrow {
            // The moments have been put back; their room takes the weights to be rounded.
            wide_m.copy_from_slice(parameter);
            let put = |i: usize, rounded: bf16| parameter[i] = rounded.to_f32();
            draws.round(Purpose::Weight, first, wide_m, put);
        }
    }
}

simd::simd! {
    fn step_block(factors: &Factors, parameter: &mut [f32], gradient: &[f32], moments: [&mut [f32]; 2]) {
        let Factors { keep, beta1, beta2, rate, root, eps, factor } = *factors;
        let [first, second] = moments;
        for (((p, &g), m), v) in parameter.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = g * factor;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *p = *p * keep - rate * *m / (v.sqrt() * root + eps);
        }
    }
}

/// Elements whose squares one task sums.
const SUM: usize = 1 << 16;

/// Sum of squares in f64: blocks side by side, their sums in order.
#[must_use]
pub fn sum_of_squares(x: &[f32]) -> f64 {
    if x.len() <= SUM {
        return squares(x);
    }
    let parts: Vec<f64> = x.par_chunks(SUM).map(squares).collect();
    parts.iter().sum()
}

simd::simd! {
    fn squares(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let (whole, rest) = x.as_chunks::<8>();
        for x in whole {
            for i in 0..8 {
                lanes[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() + lanes.iter().sum::<f64>()
    }
}

/// The plain form, as the paper has it.
pub mod reference {
    use super::super::moments::{BLOCK, Moments, Values, code, scale_of};
    use super::super::rounding::{Draws, GROUP, Purpose, to_bf16};
    use super::{AdamWStep, Update};

    /// See [`super::step`].
    pub fn step(step: &AdamWStep, update: Update<'_, Vec<f32>, Moments>) {
        let Update { parameter, gradient, moments, decays, number, first: start } = update;
        let steps = step.step as f64;
        let decay = if decays { step.weight_decay } else { 0.0 };
        let [lr, beta1, beta2, eps, decay] =
            [step.learning_rate, step.beta1, step.beta2, step.eps, decay].map(f64::from);
        let mut first = moments.first.widened(0);
        let mut second = moments.second.widened(1);
        let draws = step.draws(number);
        for of_moment in 0..first.len() {
            let i = start + of_moment;
            let (one, two) = (&mut first[of_moment], &mut second[of_moment]);
            let g = f64::from(gradient[i] * step.gradient_factor);
            *one = (beta1 * f64::from(*one) + (1.0 - beta1) * g) as f32;
            *two = (beta2 * f64::from(*two) + (1.0 - beta2) * g * g) as f32;
            let m = f64::from(*one) / (1.0 - beta1.powf(steps));
            let v = f64::from(*two) / (1.0 - beta2.powf(steps));
            let p = f64::from(parameter[i]);
            parameter[i] = (p - lr * decay * p - lr * m / (v.sqrt() + eps)) as f32;
            if step.narrow {
                let bits = draws.of(Purpose::Weight, (i / GROUP) as u32)[i % GROUP];
                parameter[i] = to_bf16(parameter[i], bits).to_f32();
            }
        }
        narrowed((&mut moments.first, start), &first, Purpose::First, draws);
        narrowed((&mut moments.second, start), &second, Purpose::Second, draws);
    }

    /// A moment of f32 back in its form; its first value belongs to the tensor's value of this number.
    fn narrowed(
        (values, start): (&mut Values, usize),
        from: &[f32],
        purpose: Purpose,
        draws: Draws,
    ) {
        match values {
            Values::F32(values) => values.copy_from_slice(from),
            Values::Bf16(values) => {
                for (i, (value, &x)) in (start..).zip(values.iter_mut().zip(from)) {
                    *value = to_bf16(x, draws.of(purpose, (i / GROUP) as u32)[i % GROUP]);
                }
            }
            Values::Int8 { codes, scales } => {
                for (i, (byte, &x)) in codes.iter_mut().zip(from).enumerate() {
                    let block = i / BLOCK * BLOCK..from.len().min((i / BLOCK + 1) * BLOCK);
                    let largest = from[block].iter().fold(0.0_f32, |all, x| all.max(x.abs()));
                    let (scale, inverse) = scale_of(largest);
                    scales[i / BLOCK] = scale;
                    let off = |code: &f32| (f64::from(*code) - f64::from(x * inverse)).abs();
                    let code = code(purpose);
                    let nearest = code.values.iter().map(off).enumerate();
                    let nearest =
                        nearest.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |best| best.0);
                    *byte = (nearest as u8).max(code.least(x));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::moments::Form;
    use super::super::testing::{assert_close, bits, on_threads, random};
    use super::*;

    fn settings(step: u64) -> AdamWStep {
        AdamWStep {
            step,
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            gradient_factor: 1.0,
            narrow: false,
            seed: 7,
        }
    }

    /// Parameter and moments after some steps.
    fn run(len: usize, steps: u64, form: Form, narrow: bool, plain: bool) -> (Vec<f32>, Moments) {
        let (mut parameter, mut moments) = (random(1, len), Moments::zeros(form, len));
        for p in parameter.iter_mut().filter(|_| narrow) {
            *p = bf16::from_f32(*p).to_f32();
        }
        let step = if plain { reference::step } else { step };
        for t in 1..=steps {
            let (gradient, settings) = (random(t, len), AdamWStep { narrow, ..settings(t) });
            let (parameter, moments) = (&mut parameter, &mut moments);
            let update = Update {
                parameter,
                gradient: &gradient,
                moments,
                decays: true,
                number: 3,
                first: 0,
            };
            step(&settings, update);
        }
        (parameter, moments)
    }

    fn wide(moments: &Moments) -> [Vec<f32>; 2] {
        [moments.first.widened(0), moments.second.widened(1)]
    }

    #[test]
    fn ten_steps_agree_with_the_reference() {
        let (fast, plain) =
            (run(1003, 10, Form::F32, false, false), run(1003, 10, Form::F32, false, true));
        assert_close(&fast.0, &plain.0, 1e-5);
        for (fast, plain) in wide(&fast.1).iter().zip(&wide(&plain.1)) {
            assert_close(fast, plain, 1e-5);
        }
    }

    #[test]
    fn every_form_agrees_with_the_reference_but_for_roundings_on_the_edge() {
        for form in [Form::F32, Form::Bf16, Form::Int8] {
            for narrow in [false, true] {
                let (fast, plain) =
                    (run(1003, 1, form, narrow, false), run(1003, 1, form, narrow, true));
                let pairs = [(fast.0, plain.0)].into_iter();
                let pairs = pairs.chain(wide(&fast.1).into_iter().zip(wide(&plain.1)));
                for (fast, plain) in pairs {
                    let apart =
                        fast.iter().zip(&plain).filter(|(f, p)| (*f - *p).abs() > 1e-5 * p.abs());
                    let apart = apart.count();
                    assert!(apart <= 3, "{form:?}, narrow {narrow}: {apart} of 1003 values differ");
                }
            }
        }
    }

    #[test]
    fn first_step_moves_by_the_learning_rate_against_the_sign() {
        let settings = AdamWStep {
            learning_rate: 0.5,
            beta2: 0.99,
            eps: 1e-12,
            weight_decay: 0.0,
            ..settings(1)
        };
        for factor in [1.0, 0.25] {
            let settings = AdamWStep { gradient_factor: factor, ..settings };
            let (mut parameter, mut moments) = (vec![1.0, 1.0], Moments::zeros(Form::F32, 2));
            let (parameter_, moments, gradient) = (&mut parameter, &mut moments, &vec![3.0, -0.01]);
            let update = Update {
                parameter: parameter_,
                gradient,
                moments,
                decays: true,
                number: 0,
                first: 0,
            };
            step(&settings, update);
            assert_close(&parameter, &[0.5, 1.5], 1e-6);
        }
    }

    #[test]
    fn a_gradient_factor_is_the_gradient_multiplied_before() {
        let (len, factor) = (1000, 0.37_f32);
        let (gradient, mut scaled) = (random(5, len), random(5, len));
        simd::scale(&mut scaled, factor);
        let mut found = Vec::new();
        for (gradient, gradient_factor) in [(&gradient, factor), (&scaled, 1.0)] {
            let (mut parameter, mut moments) = (random(1, len), Moments::zeros(Form::F32, len));
            let (p, moments) = (&mut parameter, &mut moments);
            let update =
                Update { parameter: p, gradient, moments, decays: true, number: 0, first: 0 };
            step(&AdamWStep { gradient_factor, ..settings(1) }, update);
            found.push(bits(&parameter));
        }
        assert_eq!(found[0], found[1]);
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        for (form, narrow) in [(Form::F32, false), (Form::Bf16, true), (Form::Int8, true)] {
            let once = || {
                let (parameter, moments) = run(300_000, 2, form, narrow, false);
                let sum = sum_of_squares(&random(1, 300_000)).to_bits();
                (bits(&parameter), wide(&moments).map(|x| bits(&x)), sum)
            };
            assert_eq!(on_threads(1, once), on_threads(2, once));
        }
    }
}
