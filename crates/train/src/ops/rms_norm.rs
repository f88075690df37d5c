//! Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467), forward and backward: y = x r w
//! with r = 1/√(mean(x²) + eps). The backward pass also gives y back, so that the forward pass need
//! not keep it.

use super::split::{self, Shared};
use super::{NormGradients, NormShape, simd};

/// y = x r w by row; r is kept.
pub fn forward(
    y: &mut [f32],
    inverse_rms: &mut [f32],
    x: &[f32],
    weight: &[f32],
    shape: NormShape,
) {
    let NormShape { rows, width, eps } = shape;
    let inverse_rms = Shared::new(inverse_rms);
    split::for_each_rows(&mut y[..rows * width], width, |range, y| {
        // SAFETY: each block of rows is one task's.
        let inverse_rms = unsafe { inverse_rms.part(range.clone()) };
        let x = &x[range.start * width..range.end * width];
        forward_rows(y, inverse_rms, x, &weight[..width], eps);
    });
}

simd::simd! {
    fn forward_rows(y: &mut [f32], inverse_rms: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        for ((y, r), x) in y.chunks_exact_mut(width).zip(inverse_rms).zip(x.chunks_exact(width)) {
            *r = 1.0 / (simd::dot(x, x) / width as f32 + eps).sqrt();
            for i in 0..width {
                y[i] = x[i] * *r * weight[i];
            }
        }
    }
}

/// Rows whose weight gradient is summed by one task before the parts are added in order.
const ROWS: usize = 64;

/// dx += r (w dy − x̂ mean(w dy x̂)) with x̂ = x r; dweight += sum over rows of dy x̂; dy becomes
/// y.
pub fn backward(
    gradients: NormGradients<[f32]>,
    inverse_rms: &[f32],
    x: &[f32],
    weight: &[f32],
    shape: NormShape,
) {
    let NormShape { rows, width, .. } = shape;
    let blocks = rows.div_ceil(ROWS);
    let mut parts = vec![0.0; blocks * width];
    let [dx, dy, shared_parts] = [gradients.dx, gradients.dy, &mut parts[..]].map(Shared::new);
    split::for_each(blocks, rows * width, |i| {
        let block = split::block(i, ROWS, rows);
        let values = block.start * width..block.end * width;
        // SAFETY: each block of rows, and each part, is one task's.
        unsafe {
            backward_rows(
                dx.part(values.clone()),
                shared_parts.part(i * width..(i + 1) * width),
                dy.part(values.clone()),
                &inverse_rms[block],
                &x[values],
                &weight[..width],
            );
        }
    });
    for part in parts.chunks_exact(width) {
        simd::add(gradients.dweight, part);
    }
}

simd::simd! {
    fn backward_rows(dx: &mut [f32], dweight: &mut [f32], dy: &mut [f32], inverse_rms: &[f32], x: &[f32], weight: &[f32]) {
        let width = weight.len();
        let dweight = &mut dweight[..width];
        for (n, &r) in inverse_rms.iter().enumerate() {
            let x = &x[n * width..(n + 1) * width];
            let dy = &mut dy[n * width..(n + 1) * width];
            let dx = &mut dx[n * width..(n + 1) * width];
            let mean = dot3(weight, dy, x) * r / width as f32;
            for i in 0..width {
                let normed = x[i] * r;
                dx[i] += r * (weight[i] * dy[i] - normed * mean);
                dweight[i] += dy[i] * normed;
                dy[i] = normed * weight[i];
            }
        }
    }
}

/// Sum of w_i y_i x_i.
#[inline(always)]
fn dot3(w: &[f32], y: &[f32], x: &[f32]) -> f32 {
    let mut lanes = [0.0; simd::LANES];
    let ((w, w_rest), (y, y_rest), (x, x_rest)) = (
        w.as_chunks::<{ simd::LANES }>(),
        y.as_chunks::<{ simd::LANES }>(),
        x.as_chunks::<{ simd::LANES }>(),
    );
    for ((w, y), x) in w.iter().zip(y).zip(x) {
        for i in 0..simd::LANES {
            lanes[i] = (w[i] * y[i]).mul_add(x[i], lanes[i]);
        }
    }
    for (i, ((w, y), x)) in w_rest.iter().zip(y_rest).zip(x_rest).enumerate() {
        lanes[i] = (w * y).mul_add(*x, lanes[i]);
    }
    simd::sum_lanes(lanes)
}

/// The plain form.
pub mod reference {
    use super::{NormGradients, NormShape};

    /// See [`super::forward`].
    pub fn forward(
        y: &mut [f32],
        inverse_rms: &mut [f32],
        x: &[f32],
        weight: &[f32],
        shape: NormShape,
    ) {
        let NormShape { rows, width, eps } = shape;
        for n in 0..rows {
            let x = &x[n * width..(n + 1) * width];
            let mean_square = x.iter().map(|x| x * x).sum::<f32>() / width as f32;
            inverse_rms[n] = 1.0 / (mean_square + eps).sqrt();
            for i in 0..width {
                y[n * width + i] = x[i] * inverse_rms[n] * weight[i];
            }
        }
    }

    /// See [`super::backward`].
    pub fn backward(
        gradients: NormGradients<[f32]>,
        inverse_rms: &[f32],
        x: &[f32],
        weight: &[f32],
        shape: NormShape,
    ) {
        let NormShape { rows, width, .. } = shape;
        for (n, &r) in inverse_rms.iter().enumerate().take(rows) {
            let row = n * width..(n + 1) * width;
            let (x, dy) = (&x[row.clone()], &mut gradients.dy[row]);
            let mean = (0..width).map(|i| weight[i] * dy[i] * x[i] * r).sum::<f32>() / width as f32;
            for i in 0..width {
                gradients.dx[n * width + i] += r * (weight[i] * dy[i] - x[i] * r * mean);
                gradients.dweight[i] += dy[i] * x[i] * r;
                dy[i] = x[i] * r * weight[i];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_gradient, bits, on_threads, random};
    use super::*;

    const SHAPES: [(usize, usize); 4] = [(1, 1), (3, 17), (130, 48), (65, 100)];

    /// Output, dx, dweight and the output given back.
    fn run(x: &[f32], weight: &[f32], dy: &[f32], plain: bool) -> [Vec<f32>; 4] {
        let shape = NormShape { rows: x.len() / weight.len(), width: weight.len(), eps: 1e-5 };
        let (mut y, mut r) = (vec![f32::NAN; x.len()], vec![f32::NAN; shape.rows]);
        let (mut dx, mut dweight, mut dy) =
            (vec![0.0; x.len()], vec![0.0; weight.len()], dy.to_vec());
        let forward = if plain { reference::forward } else { forward };
        let backward = if plain { reference::backward } else { backward };
        forward(&mut y, &mut r, x, weight, shape);
        backward(
            NormGradients { dx: &mut dx[..], dweight: &mut dweight, dy: &mut dy },
            &r,
            x,
            weight,
            shape,
        );
        [y, dx, dweight, dy]
    }

    #[test]
    fn agrees_with_the_reference_and_gives_its_output_back() {
        for (rows, width) in SHAPES {
            let (x, w, dy) = (random(1, rows * width), random(2, width), random(3, rows * width));
            let (fast, plain) = (run(&x, &w, &dy, false), run(&x, &w, &dy, true));
            for (fast, plain) in fast.iter().zip(&plain) {
                assert_close(fast, plain, 1e-5);
            }
            assert_close(&fast[3], &fast[0], 1e-6);
        }
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        let (x, w, dy) = (random(1, 3 * 7), random(2, 7), random(3, 3 * 7));
        let [_, dx, dw, _] = run(&x, &w, &dy, false);
        assert_gradient(&dx, &x, &dy, |x| run(x, &w, &dy, true)[0].clone());
        assert_gradient(&dw, &w, &dy, |w| run(&x, w, &dy, true)[0].clone());
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let (x, w, dy) = (random(1, 300 * 256), random(2, 256), random(3, 300 * 256));
        let once = || run(&x, &w, &dy, false).map(|v| bits(&v));
        assert_eq!(on_threads(1, once), on_threads(2, once));
    }
}
