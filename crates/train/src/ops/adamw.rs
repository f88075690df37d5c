//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) on one tensor, with the arithmetic of PyTorch's
//! single-tensor form: weights decay by lr · weight_decay first, the moments are corrected for
//! their zero start, eps is added to the corrected root.

use super::simd;
use super::split::{self, Shared};

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
    /// Share of learning rate by which weights shrink; zero for norms and biases.
    pub weight_decay: f32,
}

/// The step's constants, in f64 until the last moment.
pub(crate) struct Factors {
    /// 1 − lr · weight_decay
    pub keep: f32,
    pub beta1: f32,
    pub beta2: f32,
    /// lr / (1 − β₁ᵗ)
    pub rate: f32,
    /// 1 / √(1 − β₂ᵗ)
    pub root: f32,
    pub eps: f32,
}

impl AdamWStep {
    /// The same for a tensor that decays or does not.
    pub(crate) fn decaying(self, decays: bool) -> Self {
        Self { weight_decay: if decays { self.weight_decay } else { 0.0 }, ..self }
    }

    pub(crate) fn factors(&self) -> Factors {
        let (lr, steps) = (f64::from(self.learning_rate), self.step as f64);
        Factors {
            keep: (1.0 - lr * f64::from(self.weight_decay)) as f32,
            beta1: self.beta1,
            beta2: self.beta2,
            rate: (lr / (1.0 - f64::from(self.beta1).powf(steps))) as f32,
            root: (1.0 / (1.0 - f64::from(self.beta2).powf(steps)).sqrt()) as f32,
            eps: self.eps,
        }
    }
}

/// Moves `parameter` against its gradient, and brings both moments up to date.
pub fn step(
    step: &AdamWStep,
    parameter: &mut [f32],
    gradient: &[f32],
    [first, second]: [&mut [f32]; 2],
) {
    let factors = step.factors();
    let (first, second) = (Shared::new(first), Shared::new(second));
    split::for_each_rows(parameter, 1, |range, parameter| {
        // SAFETY: each block is one task's.
        let moments = unsafe { [first.part(range.clone()), second.part(range.clone())] };
        step_block(&factors, parameter, &gradient[range], moments);
    });
}

simd::simd! {
    fn step_block(factors: &Factors, parameter: &mut [f32], gradient: &[f32], moments: [&mut [f32]; 2]) {
        let Factors { keep, beta1, beta2, rate, root, eps } = *factors;
        let [first, second] = moments;
        for (((p, &g), m), v) in parameter.iter_mut().zip(gradient).zip(first).zip(second) {
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *p = *p * keep - rate * *m / (v.sqrt() * root + eps);
        }
    }
}

/// Elements whose squares one task sums.
const BLOCK: usize = 1 << 16;

/// Sum of squares in f64: blocks side by side, their sums in order.
#[must_use]
pub fn sum_of_squares(x: &[f32]) -> f64 {
    use rayon::prelude::*;
    let parts: Vec<f64> = x.par_chunks(BLOCK).map(squares).collect();
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
    use super::AdamWStep;

    /// See [`super::step`].
    pub fn step(
        step: &AdamWStep,
        parameter: &mut [f32],
        gradient: &[f32],
        [first, second]: [&mut [f32]; 2],
    ) {
        let steps = step.step as f64;
        let [lr, beta1, beta2, eps, decay] =
            [step.learning_rate, step.beta1, step.beta2, step.eps, step.weight_decay]
                .map(f64::from);
        for i in 0..parameter.len() {
            let g = f64::from(gradient[i]);
            first[i] = (beta1 * f64::from(first[i]) + (1.0 - beta1) * g) as f32;
            second[i] = (beta2 * f64::from(second[i]) + (1.0 - beta2) * g * g) as f32;
            let m = f64::from(first[i]) / (1.0 - beta1.powf(steps));
            let v = f64::from(second[i]) / (1.0 - beta2.powf(steps));
            let p = f64::from(parameter[i]);
            parameter[i] = (p - lr * decay * p - lr * m / (v.sqrt() + eps)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, bits, on_threads, random};
    use super::*;

    fn run(len: usize, steps: u64, plain: bool) -> [Vec<f32>; 3] {
        let (mut p, mut m, mut v) = (random(1, len), vec![0.0; len], vec![0.0; len]);
        let step = if plain { reference::step } else { step };
        for t in 1..=steps {
            let settings = AdamWStep {
                step: t,
                learning_rate: 1e-2,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.1,
            };
            step(&settings, &mut p, &random(t, len), [&mut m, &mut v]);
        }
        [p, m, v]
    }

    #[test]
    fn ten_steps_agree_with_the_reference() {
        let (fast, plain) = (run(1003, 10, false), run(1003, 10, true));
        for (fast, plain) in fast.iter().zip(&plain) {
            assert_close(fast, plain, 1e-5);
        }
    }

    #[test]
    fn first_step_moves_by_the_learning_rate_against_the_sign() {
        let settings = AdamWStep {
            step: 1,
            learning_rate: 0.5,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-12,
            weight_decay: 0.0,
        };
        let mut p = [1.0, 1.0];
        step(&settings, &mut p, &[3.0, -0.01], [&mut [0.0; 2], &mut [0.0; 2]]);
        assert_close(&p, &[0.5, 1.5], 1e-6);
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let once = || {
            (
                run(300_000, 2, false).map(|x| bits(&x)),
                sum_of_squares(&random(1, 300_000)).to_bits(),
            )
        };
        assert_eq!(on_threads(1, once), on_threads(2, once));
    }
}
