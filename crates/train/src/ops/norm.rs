//! Norms over the rows of the residual stream, forward and backward: y = (x − m) r (w + o). The
//! root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467) has m = 0 and r = 1/√(mean(x²) +
//! eps); Gemma adds o = 1 to its weights; the layer norm (Ba et al., arXiv 1607.06450) takes m =
//! mean(x) off. The backward pass also gives y back, so that the forward pass need not keep it.

use super::split::{self, Shared};
use super::{NormGradients, NormKind, NormShape, simd};

/// y by row, plus a residual; r is kept.
pub fn forward(
    y: &mut [f32],
    inverse: &mut [f32],
    x: &[f32],
    weight: &[f32],
    residual: Option<&[f32]>,
    shape: NormShape,
) {
    let NormShape { rows, width, eps, kind } = shape;
    let inverse = Shared::new(inverse);
    split::for_each_rows(&mut y[..rows * width], width, |range, y| {
        // SAFETY: each block of rows is one task's.
        let inverse = unsafe { inverse.part(range.clone()) };
        let values = range.start * width..range.end * width;
        forward_rows(y, inverse, &x[values.clone()], &weight[..width], eps, kind);
        if let Some(residual) = residual {
            simd::add(y, &residual[values]);
        }
    });
}

simd::simd! {
    fn forward_rows(y: &mut [f32], inverse: &mut [f32], x: &[f32], weight: &[f32], eps: f32, kind: NormKind) {
        let width = weight.len();
        for ((y, r), x) in y.chunks_exact_mut(width).zip(inverse).zip(x.chunks_exact(width)) {
            *r = forward_row(y, x, weight, eps, kind);
        }
    }
}

/// One row; returns r.
#[inline(always)]
pub(super) fn forward_row(
    y: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    kind: NormKind,
) -> f32 {
    let (width, offset) = (weight.len(), kind.offset());
    let (y, x) = (&mut y[..width], &x[..width]);
    let mean = mean(x, kind);
    let squares = if kind.centres() { centred_squares(x, mean) } else { simd::dot(x, x) };
    let r = 1.0 / (squares / width as f32 + eps).sqrt();
    for i in 0..width {
        y[i] = (x[i] - mean) * r * (weight[i] + offset);
    }
    r
}

/// What is taken off a row.
#[inline(always)]
fn mean(x: &[f32], kind: NormKind) -> f32 {
    if !kind.centres() {
        return 0.0;
    }
    let mut lanes = [0.0; simd::LANES];
    let (whole, rest) = x.as_chunks::<{ simd::LANES }>();
    for x in whole {
        for i in 0..simd::LANES {
            lanes[i] += x[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    simd::sum_lanes(lanes) / x.len() as f32
}

/// Sum of (x_i − mean)².
#[inline(always)]
fn centred_squares(x: &[f32], mean: f32) -> f32 {
    let mut lanes = [0.0; simd::LANES];
    let (whole, rest) = x.as_chunks::<{ simd::LANES }>();
    for x in whole {
        for i in 0..simd::LANES {
            lanes[i] = (x[i] - mean).mul_add(x[i] - mean, lanes[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = (x - mean).mul_add(x - mean, *lane);
    }
    simd::sum_lanes(lanes)
}

/// Rows whose weight gradient is summed by one task before the parts are added in order.
pub(super) const ROWS: usize = 64;

/// With x̂ = (x − m) r and g = (w + o) dy: dx (+)= r (g − x̂ mean(g x̂) − mean(g) where the mean was
/// taken off); dweight += sum over rows of dy x̂; y = x̂ (w + o).
pub fn backward(
    gradients: NormGradients<[f32]>,
    inverse: &[f32],
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    shape: NormShape,
) {
    let NormShape { rows, width, kind, .. } = shape;
    let NormGradients { dx, accumulate, dweight, y } = gradients;
    let blocks = rows.div_ceil(ROWS);
    let mut parts = vec![0.0; blocks * width];
    let [dx, shared_parts] = [dx, &mut parts[..]].map(Shared::new);
    let y = y.map(Shared::new);
    split::for_each(blocks, rows * width, |i| {
        let block = split::block(i, ROWS, rows);
        let values = block.start * width..block.end * width;
        // SAFETY: each block of rows, and each part, is one task's.
        unsafe {
            let rows = Rows {
                dx: dx.part(values.clone()),
                accumulate,
                dweight: shared_parts.part(i * width..(i + 1) * width),
                y: y.map(|y| y.part(values.clone())),
            };
            let (dy, x) = (&dy[values.clone()], &x[values]);
            backward_rows(rows, &inverse[block], dy, x, &weight[..width], kind);
        }
    });
    if let Some(dweight) = dweight {
        for part in parts.chunks_exact(width) {
            simd::add(dweight, part);
        }
    }
}

/// What one task of [`backward`] writes.
struct Rows<'a> {
    dx: &'a mut [f32],
    accumulate: bool,
    dweight: &'a mut [f32],
    y: Option<&'a mut [f32]>,
}

simd::simd! {
    fn backward_rows(into: Rows, inverse: &[f32], dy: &[f32], x: &[f32], weight: &[f32], kind: NormKind) {
        let width = weight.len();
        let Rows { dx, accumulate, dweight, mut y } = into;
        for (n, &r) in inverse.iter().enumerate() {
            let row = n * width..(n + 1) * width;
            let (dy, x) = (&dy[row.clone()], &x[row.clone()]);
            backward_row((&mut dx[row.clone()], accumulate), dweight, r, dy, x, weight, kind);
            if let Some(y) = y.as_deref_mut() {
                let (y, offset, mean) = (&mut y[row], kind.offset(), mean(x, kind));
                for i in 0..width {
                    y[i] = (x[i] - mean) * r * (weight[i] + offset);
                }
            }
        }
    }
}

/// dx and dweight of one row.
#[inline(always)]
pub(super) fn backward_row(
    (dx, accumulate): (&mut [f32], bool),
    dweight: &mut [f32],
    r: f32,
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    kind: NormKind,
) {
    let (width, offset, mean) = (weight.len(), kind.offset(), mean(x, kind));
    let (dx, dweight) = (&mut dx[..width], &mut dweight[..width]);
    let (dy, x) = (&dy[..width], &x[..width]);
    let [along, all] = gradient_sums(weight, dy, x, offset, mean);
    let along = along * r / width as f32;
    let all = if kind.centres() { all / width as f32 } else { 0.0 };
    for i in 0..width {
        let normed = (x[i] - mean) * r;
        let change = r * ((weight[i] + offset) * dy[i] - normed * along - all);
        dx[i] = if accumulate { dx[i] + change } else { change };
        dweight[i] += dy[i] * normed;
    }
}

/// Sums of g_i (x_i − mean) and of g_i, with g = (w + offset) dy.
#[inline(always)]
fn gradient_sums(w: &[f32], dy: &[f32], x: &[f32], offset: f32, mean: f32) -> [f32; 2] {
    let (mut along, mut all) = ([0.0; simd::LANES], [0.0; simd::LANES]);
    let ((w, w_rest), (y, y_rest), (x, x_rest)) = (
        w.as_chunks::<{ simd::LANES }>(),
        dy.as_chunks::<{ simd::LANES }>(),
        x.as_chunks::<{ simd::LANES }>(),
    );
    for ((w, y), x) in w.iter().zip(y).zip(x) {
        for i in 0..simd::LANES {
            let g = (w[i] + offset) * y[i];
            along[i] = g.mul_add(x[i] - mean, along[i]);
            all[i] += g;
        }
    }
    for (i, ((w, y), x)) in w_rest.iter().zip(y_rest).zip(x_rest).enumerate() {
        let g = (w + offset) * y;
        along[i] = g.mul_add(x - mean, along[i]);
        all[i] += g;
    }
    [along, all].map(simd::sum_lanes)
}

/// The plain form.
pub mod reference {
    use super::{NormGradients, NormKind, NormShape};

    /// See [`super::forward`].
    pub fn forward(
        y: &mut [f32],
        inverse: &mut [f32],
        x: &[f32],
        weight: &[f32],
        residual: Option<&[f32]>,
        shape: NormShape,
    ) {
        let NormShape { rows, width, eps, kind } = shape;
        for (n, r) in inverse.iter_mut().enumerate().take(rows) {
            let row = n * width..(n + 1) * width;
            *r = forward_row(&mut y[row.clone()], &x[row], weight, eps, kind);
        }
        for (y, residual) in y.iter_mut().zip(residual.into_iter().flatten()).take(rows * width) {
            *y += residual;
        }
    }

    /// One row; returns r.
    pub fn forward_row(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32, kind: NormKind) -> f32 {
        let centred = centred(x, kind);
        let mean_square = centred.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        let r = 1.0 / (mean_square + eps).sqrt();
        for i in 0..x.len() {
            y[i] = centred[i] * r * (weight[i] + kind.offset());
        }
        r
    }

    fn centred(x: &[f32], kind: NormKind) -> Vec<f32> {
        let mean = if kind.centres() { x.iter().sum::<f32>() / x.len() as f32 } else { 0.0 };
        x.iter().map(|x| x - mean).collect()
    }

    /// See [`super::backward`].
    pub fn backward(
        gradients: NormGradients<[f32]>,
        inverse: &[f32],
        dy: &[f32],
        x: &[f32],
        weight: &[f32],
        shape: NormShape,
    ) {
        let NormShape { rows, width, eps, kind } = shape;
        let NormGradients { dx, accumulate, mut dweight, mut y } = gradients;
        for (n, &r) in inverse.iter().enumerate().take(rows) {
            let row = n * width..(n + 1) * width;
            let (x, dy) = (&x[row.clone()], &dy[row.clone()]);
            let change = backward_row(dweight.as_deref_mut(), r, dy, x, weight, kind);
            for (dx, change) in dx[row.clone()].iter_mut().zip(change) {
                *dx = if accumulate { *dx + change } else { change };
            }
            if let Some(y) = y.as_deref_mut() {
                forward_row(&mut y[row], x, weight, eps, kind);
            }
        }
    }

    /// d input of one row.
    pub fn backward_row(
        dweight: Option<&mut [f32]>,
        r: f32,
        dy: &[f32],
        x: &[f32],
        weight: &[f32],
        kind: NormKind,
    ) -> Vec<f32> {
        let width = x.len() as f32;
        let normed: Vec<f32> = centred(x, kind).iter().map(|x| x * r).collect();
        let g: Vec<f32> = dy.iter().zip(weight).map(|(dy, w)| dy * (w + kind.offset())).collect();
        let along = g.iter().zip(&normed).map(|(g, x)| g * x).sum::<f32>() / width;
        let all = if kind.centres() { g.iter().sum::<f32>() / width } else { 0.0 };
        for (i, dweight) in dweight.into_iter().flatten().enumerate().take(x.len()) {
            *dweight += dy[i] * normed[i];
        }
        g.iter().zip(&normed).map(|(g, x)| r * (g - x * along - all)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_gradient, bits, on_threads, random};
    use super::*;

    const SHAPES: [(usize, usize); 4] = [(1, 1), (3, 17), (130, 48), (65, 100)];
    const KINDS: [NormKind; 3] = [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer];

    /// Output, dx, dweight and the output given back.
    fn run(x: &[f32], weight: &[f32], dy: &[f32], kind: NormKind, plain: bool) -> [Vec<f32>; 4] {
        let shape =
            NormShape { rows: x.len() / weight.len(), width: weight.len(), eps: 1e-5, kind };
        let [mut y, mut again, mut dx] = [(); 3].map(|()| vec![f32::NAN; x.len()]);
        let (mut r, mut dweight) = (vec![f32::NAN; shape.rows], vec![0.0; weight.len()]);
        let forward = if plain { reference::forward } else { forward };
        let backward = if plain { reference::backward } else { backward };
        forward(&mut y, &mut r, x, weight, None, shape);
        let gradients = NormGradients {
            dx: &mut dx[..],
            accumulate: false,
            dweight: Some(&mut dweight[..]),
            y: Some(&mut again[..]),
        };
        backward(gradients, &r, dy, x, weight, shape);
        [y, dx, dweight, again]
    }

    #[test]
    fn agrees_with_the_reference_and_gives_its_output_back() {
        for ((rows, width), kind) in SHAPES.into_iter().flat_map(|s| KINDS.map(|kind| (s, kind))) {
            let (x, w, dy) = (random(1, rows * width), random(2, width), random(3, rows * width));
            let (fast, plain) = (run(&x, &w, &dy, kind, false), run(&x, &w, &dy, kind, true));
            // One value less its mean is nothing, over √eps.
            let tolerance = if width == 1 { 1e-3 } else { 1e-5 };
            for (fast, plain) in fast.iter().zip(&plain) {
                assert_close(fast, plain, tolerance);
            }
            assert_eq!(fast[3], fast[0]);
        }
    }

    #[test]
    fn a_residual_is_added_to_the_output() {
        let (x, w, residual) = (random(1, 70 * 20), random(2, 20), random(3, 70 * 20));
        let shape = NormShape { rows: 70, width: 20, eps: 1e-5, kind: NormKind::Layer };
        let [y, ..] = run(&x, &w, &x, shape.kind, false);
        let expected: Vec<f32> = y.iter().zip(&residual).map(|(y, r)| y + r).collect();
        for forward in [forward, reference::forward] {
            let (mut y, mut r) = (vec![f32::NAN; x.len()], vec![f32::NAN; 70]);
            forward(&mut y, &mut r, &x, &w, Some(&residual), shape);
            assert_close(&y, &expected, 1e-5);
        }
    }

    #[test]
    fn a_gradient_is_added_to_what_is_there_and_what_is_not_asked_for_is_not_made() {
        let (x, w, dy) = (random(1, 70 * 20), random(2, 20), random(3, 70 * 20));
        for kind in KINDS {
            let shape = NormShape { rows: 70, width: 20, eps: 1e-5, kind };
            let (mut y, mut r) = (vec![0.0; x.len()], vec![0.0; 70]);
            forward(&mut y, &mut r, &x, &w, None, shape);
            let [_, alone, ..] = run(&x, &w, &dy, kind, false);
            let start = random(4, x.len());
            let expected: Vec<f32> = start.iter().zip(&alone).map(|(a, b)| a + b).collect();
            for backward in [backward, reference::backward] {
                let mut dx = start.clone();
                let gradients =
                    NormGradients { dx: &mut dx[..], accumulate: true, dweight: None, y: None };
                backward(gradients, &r, &dy, &x, &w, shape);
                assert_close(&dx, &expected, 1e-6);
            }
        }
    }

    #[test]
    fn the_layer_norm_of_a_row_has_mean_zero_and_variance_one() {
        let x: Vec<f32> = random(1, 100).iter().map(|x| 3.0 * x + 7.0).collect();
        let [y, ..] = run(&x, &[1.0; 100], &[0.0; 100], NormKind::Layer, false);
        let mean = y.iter().sum::<f32>() / 100.0;
        let variance = y.iter().map(|y| y * y).sum::<f32>() / 100.0;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
        let [plus, ..] = run(&x, &[0.0; 100], &[0.0; 100], NormKind::RmsPlusOne, false);
        let [rms, ..] = run(&x, &[1.0; 100], &[0.0; 100], NormKind::Rms, false);
        assert_eq!(plus, rms);
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        let (x, w, dy) = (random(1, 3 * 7), random(2, 7), random(3, 3 * 7));
        for kind in KINDS {
            let [_, dx, dw, _] = run(&x, &w, &dy, kind, false);
            assert_gradient(&dx, &x, &dy, |x| run(x, &w, &dy, kind, true)[0].clone());
            assert_gradient(&dw, &w, &dy, |w| run(&x, w, &dy, kind, true)[0].clone());
        }
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let (x, w, dy) = (random(1, 300 * 256), random(2, 256), random(3, 300 * 256));
        for kind in KINDS {
            let once = || run(&x, &w, &dy, kind, false).map(|v| bits(&v));
            assert_eq!(on_threads(1, once), on_threads(2, once));
        }
    }
}
