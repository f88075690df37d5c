//! The gated activation of the feed-forward (Shazeer, arXiv 2002.05202): y = silu(gate) up, silu(g)
//! = g σ(g). A row of `gate_up` is the gate's F values, then up's. The backward pass works in place
//! and gives y back.

use super::simd;
use super::split::{self, Shared};

/// y `[rows, F]` = silu(gate) · up.
pub fn forward(y: &mut [f32], gate_up: &[f32], rows: usize, width: usize) {
    split::for_each_rows(&mut y[..rows * width], width, |range, y| {
        let gate_up = &gate_up[range.start * 2 * width..range.end * 2 * width];
        for (y, gate_up) in y.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
            let (gate, up) = gate_up.split_at(width);
            forward_row(y, gate, up);
        }
    });
}

simd::simd! {
    fn forward_row(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
            *y = g / (1.0 + simd::exp(-g)) * u;
        }
    }
}

/// `gate_up` becomes d gate and d up; `dy` becomes y.
pub fn backward(gate_up: &mut [f32], dy: &mut [f32], rows: usize, width: usize) {
    let dy = Shared::new(&mut dy[..rows * width]);
    split::for_each_rows(&mut gate_up[..rows * 2 * width], 2 * width, |range, gate_up| {
        // SAFETY: each block of rows is one task's.
        let dy = unsafe { dy.part(range.start * width..range.end * width) };
        for (dy, gate_up) in dy.chunks_exact_mut(width).zip(gate_up.chunks_exact_mut(2 * width)) {
            let (gate, up) = gate_up.split_at_mut(width);
            backward_row(gate, up, dy);
        }
    });
}

simd::simd! {
    fn backward_row(gate: &mut [f32], up: &mut [f32], dy: &mut [f32]) {
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

/// The plain form.
pub mod reference {
    /// See [`super::forward`].
    pub fn forward(y: &mut [f32], gate_up: &[f32], rows: usize, width: usize) {
        for n in 0..rows {
            for i in 0..width {
                let (g, u) = (gate_up[n * 2 * width + i], gate_up[n * 2 * width + width + i]);
                y[n * width + i] = g / (1.0 + (-g).exp()) * u;
            }
        }
    }

    /// See [`super::backward`].
    pub fn backward(gate_up: &mut [f32], dy: &mut [f32], rows: usize, width: usize) {
        for n in 0..rows {
            for i in 0..width {
                let (gate, up) = (n * 2 * width + i, n * 2 * width + width + i);
                let (g, u, d) = (gate_up[gate], gate_up[up], dy[n * width + i]);
                let sigmoid = 1.0 / (1.0 + (-g).exp());
                gate_up[gate] = d * u * sigmoid * (1.0 + g * (1.0 - sigmoid));
                gate_up[up] = d * g * sigmoid;
                dy[n * width + i] = g * sigmoid * u;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_gradient, bits, on_threads, random};
    use super::*;

    /// Output, gradient and the output given back.
    fn run(gate_up: &[f32], dy: &[f32], width: usize, plain: bool) -> [Vec<f32>; 3] {
        let rows = dy.len() / width;
        let (mut y, mut gradient, mut dy) =
            (vec![f32::NAN; dy.len()], gate_up.to_vec(), dy.to_vec());
        let forward = if plain { reference::forward } else { forward };
        let backward = if plain { reference::backward } else { backward };
        forward(&mut y, gate_up, rows, width);
        backward(&mut gradient, &mut dy, rows, width);
        [y, gradient, dy]
    }

    #[test]
    fn agrees_with_the_reference_and_gives_its_output_back() {
        for (rows, width) in [(1, 1), (7, 19), (300, 130)] {
            let gate_up: Vec<f32> = random(1, rows * 2 * width).iter().map(|x| 20.0 * x).collect();
            let dy = random(2, rows * width);
            let (fast, plain) = (run(&gate_up, &dy, width, false), run(&gate_up, &dy, width, true));
            for (fast, plain) in fast.iter().zip(&plain) {
                assert_close(fast, plain, 1e-6);
            }
            assert_close(&fast[2], &fast[0], 1e-6);
        }
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        let (gate_up, dy) = (random(1, 3 * 10), random(2, 3 * 5));
        let [_, found, _] = run(&gate_up, &dy, 5, false);
        assert_gradient(&found, &gate_up, &dy, |x| run(x, &dy, 5, true)[0].clone());
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let (gate_up, dy) = (random(1, 600 * 400), random(2, 600 * 200));
        let once = || run(&gate_up, &dy, 200, false).map(|v| bits(&v));
        assert_eq!(on_threads(1, once), on_threads(2, once));
    }
}
