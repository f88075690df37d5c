//! The gated activation of the feed-forward (Shazeer, arXiv 2002.05202): y = f(gate) · up with
//! f(g) = g σ(a(g)). SiLU has a(g) = g. The tanh form of GELU (Hendrycks and Gimpel, arXiv
//! 1606.08415), g (1 + tanh(b(g))) / 2 with b(g) = √(2/π) (g + 0.044715 g³), has a = 2b, because
//! (1 + tanh b) / 2 = σ(2b). A row of `gate_up` is the gate's F values, then up's. The backward
//! pass works in place and gives y back.

use super::split::{self, Shared};
use super::{Activation, GluShape, simd};

/// 2 √(2/π), and that times 0.044715.
const GELU: [f32; 2] = [1.595_769_2, 0.071_354_814];

/// y `[rows, F]` = f(gate) · up.
pub fn forward(y: &mut [f32], gate_up: &[f32], shape: GluShape) {
    let GluShape { rows, width, activation } = shape;
    split::for_each_rows(&mut y[..rows * width], width, |range, y| {
        let gate_up = &gate_up[range.start * 2 * width..range.end * 2 * width];
        for (y, gate_up) in y.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
            let (gate, up) = gate_up.split_at(width);
            match activation {
                Activation::Silu => silu_row(y, gate, up),
                Activation::GeluTanh => gelu_row(y, gate, up),
            }
        }
    });
}

simd::simd! {
    fn silu_row(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
            *y = g / (1.0 + simd::exp(-g)) * u;
        }
    }
}

simd::simd! {
    fn gelu_row(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
            *y = g / (1.0 + simd::exp(-g * (GELU[1] * g).mul_add(g, GELU[0]))) * u;
        }
    }
}

/// `gate_up` becomes d gate and d up; `dy` becomes y.
pub fn backward(gate_up: &mut [f32], dy: &mut [f32], shape: GluShape) {
    let GluShape { rows, width, activation } = shape;
    let dy = Shared::new(&mut dy[..rows * width]);
    split::for_each_rows(&mut gate_up[..rows * 2 * width], 2 * width, |range, gate_up| {
        // SAFETY: each block of rows is one task's.
        let dy = unsafe { dy.part(range.start * width..range.end * width) };
        for (dy, gate_up) in dy.chunks_exact_mut(width).zip(gate_up.chunks_exact_mut(2 * width)) {
            let (gate, up) = gate_up.split_at_mut(width);
            match activation {
                Activation::Silu => silu_backward_row(gate, up, dy),
                Activation::GeluTanh => gelu_backward_row(gate, up, dy),
            }
        }
    });
}

simd::simd! {
    fn silu_backward_row(gate: &mut [f32], up: &mut [f32], dy: &mut [f32]) {
        for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
            let (g, u, d) = (*gate, *up, *dy);
            let sigmoid = 1.0 / (1.0 + simd::exp(-g));
            let silu = g * sigmoid;
            *gate = d * u * (sigmoid + silu * (1.0 - sigmoid));
            *up = d * silu;
            *dy = silu * u;
        }
    }
}

simd::simd! {
    fn gelu_backward_row(gate: &mut [f32], up: &mut [f32], dy: &mut [f32]) {
        for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
            let (g, u, d) = (*gate, *up, *dy);
            let (once, thrice) = (GELU[0] * g, GELU[1] * g * g * g);
            let power = simd::exp(-(once + thrice));
            let sigmoid = 1.0 / (1.0 + power);
            let gelu = g * sigmoid;
            // f' = σ + g a'(g) σ (1 − σ), where g a'(g) is a(g) with its cube counted thrice. 1 − σ
            // as a product keeps its digits where σ is close to one.
            *gate = d * u * sigmoid * (1.0 + (once + 3.0 * thrice) * (power * sigmoid));
            *up = d * gelu;
            *dy = gelu * u;
        }
    }
}

/// The plain form.
pub mod reference {
    use super::{Activation, GluShape};

    /// f(g) and f'(g), GELU by its definition with tanh.
    pub fn activate(g: f32, activation: Activation) -> [f32; 2] {
        match activation {
            Activation::Silu => {
                let sigmoid = 1.0 / (1.0 + (-g).exp());
                [g * sigmoid, sigmoid * (1.0 + g * (1.0 - sigmoid))]
            }
            Activation::GeluTanh => {
                let root = (2.0 / std::f32::consts::PI).sqrt();
                let tanh = (root * (g + 0.044715 * g * g * g)).tanh();
                let inner = root * (1.0 + 3.0 * 0.044715 * g * g);
                [0.5 * g * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * g * (1.0 - tanh * tanh) * inner]
            }
        }
    }

    /// See [`super::forward`].
    pub fn forward(y: &mut [f32], gate_up: &[f32], shape: GluShape) {
        let GluShape { rows, width, activation } = shape;
        for n in 0..rows {
            for i in 0..width {
                let (g, u) = (gate_up[n * 2 * width + i], gate_up[n * 2 * width + width + i]);
                y[n * width + i] = activate(g, activation)[0] * u;
            }
        }
    }

    /// See [`super::backward`].
    pub fn backward(gate_up: &mut [f32], dy: &mut [f32], shape: GluShape) {
        let GluShape { rows, width, activation } = shape;
        for n in 0..rows {
            for i in 0..width {
                let (gate, up) = (n * 2 * width + i, n * 2 * width + width + i);
                let (u, d) = (gate_up[up], dy[n * width + i]);
                let [value, slope] = activate(gate_up[gate], activation);
                gate_up[gate] = d * u * slope;
                gate_up[up] = d * value;
                dy[n * width + i] = value * u;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_gradient, bits, on_threads, random};
    use super::*;

    const ACTIVATIONS: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

    /// Output, gradient and the output given back.
    fn run(gate_up: &[f32], dy: &[f32], width: usize, how: (Activation, bool)) -> [Vec<f32>; 3] {
        let (activation, plain) = how;
        let shape = GluShape { rows: dy.len() / width, width, activation };
        let (mut y, mut gradient, mut dy) =
            (vec![f32::NAN; dy.len()], gate_up.to_vec(), dy.to_vec());
        let forward = if plain { reference::forward } else { forward };
        let backward = if plain { reference::backward } else { backward };
        forward(&mut y, gate_up, shape);
        backward(&mut gradient, &mut dy, shape);
        [y, gradient, dy]
    }

    #[test]
    fn agrees_with_the_reference_and_gives_its_output_back() {
        for (rows, width) in [(1, 1), (7, 19), (300, 130)] {
            let gate_up: Vec<f32> = random(1, rows * 2 * width).iter().map(|x| 20.0 * x).collect();
            let dy = random(2, rows * width);
            for activation in ACTIVATIONS {
                let [fast, plain] =
                    [false, true].map(|plain| run(&gate_up, &dy, width, (activation, plain)));
                for (fast, plain) in fast.iter().zip(&plain) {
                    assert_close(fast, plain, 1e-6);
                }
                assert_close(&fast[2], &fast[0], 1e-6);
            }
        }
    }

    #[test]
    fn gelu_has_the_values_that_its_definition_gives() {
        // x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2 in f64.
        for x in [-30.0f32, -3.0, -0.5, -1e-4, 0.0, 0.25, 1.0, 6.0, 1e4] {
            let exact = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (exact + 0.044715 * exact.powi(3));
            let exact = exact * 0.5 * (1.0 + inner.tanh());
            let [y, ..] = run(&[x, 1.0], &[0.0], 1, (Activation::GeluTanh, false));
            assert!(
                (f64::from(y[0]) - exact).abs() <= 1e-6 * exact.abs().max(1e-2),
                "{x}: {}",
                y[0]
            );
        }
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        let (gate_up, dy) = (random(1, 3 * 10), random(2, 3 * 5));
        for activation in ACTIVATIONS {
            let [_, found, _] = run(&gate_up, &dy, 5, (activation, false));
            assert_gradient(&found, &gate_up, &dy, |x| {
                run(x, &dy, 5, (activation, true))[0].clone()
            });
        }
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let (gate_up, dy) = (random(1, 600 * 400), random(2, 600 * 200));
        for activation in ACTIVATIONS {
            let once = || run(&gate_up, &dy, 200, (activation, false)).map(|v| bits(&v));
            assert_eq!(on_threads(1, once), on_threads(2, once));
        }
    }
}
