//! The norm of each query and key head before it is turned (Henry et al., arXiv 2010.04245; Qwen3,
//! Gemma 3, Command R+): the same norms as over whole rows, with weights that all heads share or
//! that each has for itself. A row of the projection's output goes into `qkv`; its values are
//! copied.

use super::split::{self, Shared};
use super::{HeadNormShape, norm, simd};

/// `qkv` from `projected`, both `[rows, (H + 2K) D]`; 1/√(…) is kept in `inverse` `[rows, H + K]`.
pub fn forward(
    qkv: &mut [f32],
    inverse: &mut [f32],
    projected: &[f32],
    weight: &[f32],
    shape: HeadNormShape,
) {
    let (width, count) = (shape.heads.qkv_width(), shape.count());
    let inverse = Shared::new(inverse);
    split::for_each_rows(&mut qkv[..shape.rows * width], width, |range, qkv| {
        // SAFETY: each block of rows is one task's.
        let inverse = unsafe { inverse.part(range.start * count..range.end * count) };
        forward_rows(qkv, inverse, &projected[range.start * width..], weight, shape);
    });
}

simd::simd! {
    fn forward_rows(qkv: &mut [f32], inverse: &mut [f32], projected: &[f32], weight: &[f32], shape: HeadNormShape) {
        let (width, size, count) = (shape.heads.qkv_width(), shape.heads.size, shape.count());
        let rows = qkv.chunks_exact_mut(width).zip(projected.chunks_exact(width));
        for ((qkv, projected), inverse) in rows.zip(inverse.chunks_exact_mut(count)) {
            for (head, inverse) in inverse.iter_mut().enumerate() {
                let at = head * size..(head + 1) * size;
                let weight = &weight[shape.weight_of(head)..][..size];
                *inverse = norm::forward_row(&mut qkv[at.clone()], &projected[at], weight, shape.eps, shape.kind);
            }
            qkv[count * size..].copy_from_slice(&projected[count * size..]);
        }
    }
}

/// `dqkv` becomes d projected; dweight += ….
pub fn backward(
    dqkv: &mut [f32],
    dweight: Option<&mut [f32]>,
    inverse: &[f32],
    projected: &[f32],
    weight: &[f32],
    shape: HeadNormShape,
) {
    let (width, count, rows) = (shape.heads.qkv_width(), shape.count(), shape.rows);
    let (blocks, weights) = (rows.div_ceil(norm::ROWS), shape.weights());
    let mut parts = vec![0.0; blocks * weights];
    let [dqkv, shared_parts] = [dqkv, &mut parts[..]].map(Shared::new);
    split::for_each(blocks, rows * width, |i| {
        let block = split::block(i, norm::ROWS, rows);
        // SAFETY: each block of rows, and each part, is one task's.
        let (dqkv, part) = unsafe {
            (
                dqkv.part(block.start * width..block.end * width),
                shared_parts.part(i * weights..(i + 1) * weights),
            )
        };
        let inverse = &inverse[block.start * count..block.end * count];
        backward_rows((dqkv, part), inverse, &projected[block.start * width..], weight, shape);
    });
    if let Some(dweight) = dweight {
        for part in parts.chunks_exact(weights) {
            simd::add(dweight, part);
        }
    }
}

simd::simd! {
    fn backward_rows(into: (&mut [f32], &mut [f32]), inverse: &[f32], projected: &[f32], weight: &[f32], shape: HeadNormShape) {
        let (width, size, count) = (shape.heads.qkv_width(), shape.heads.size, shape.count());
        let (dqkv, dweight) = into;
        let mut dy = vec![0.0; size];
        let rows = dqkv.chunks_exact_mut(width).zip(projected.chunks_exact(width));
        for ((dqkv, projected), inverse) in rows.zip(inverse.chunks_exact(count)) {
            for (head, &r) in inverse.iter().enumerate() {
                let (at, own) = (head * size..(head + 1) * size, shape.weight_of(head));
                let (dx, own) = (&mut dqkv[at.clone()], own..own + size);
                dy.copy_from_slice(dx);
                norm::backward_row(
                    (dx, false), &mut dweight[own.clone()], r, &dy, &projected[at], &weight[own], shape.kind,
                );
            }
        }
    }
}

/// The plain form.
pub mod reference {
    use super::super::norm::reference as norm;
    use super::HeadNormShape;

    /// See [`super::forward`].
    pub fn forward(
        qkv: &mut [f32],
        inverse: &mut [f32],
        projected: &[f32],
        weight: &[f32],
        shape: HeadNormShape,
    ) {
        let (width, size) = (shape.heads.qkv_width(), shape.heads.size);
        qkv[..shape.rows * width].copy_from_slice(&projected[..shape.rows * width]);
        for (n, head) in (0..shape.rows).flat_map(|n| (0..shape.count()).map(move |h| (n, h))) {
            let at = n * width + head * size..n * width + (head + 1) * size;
            let weight = &weight[shape.weight_of(head)..][..size];
            inverse[n * shape.count() + head] = norm::forward_row(
                &mut qkv[at.clone()],
                &projected[at],
                weight,
                shape.eps,
                shape.kind,
            );
        }
    }

    /// See [`super::backward`].
    pub fn backward(
        dqkv: &mut [f32],
        mut dweight: Option<&mut [f32]>,
        inverse: &[f32],
        projected: &[f32],
        weight: &[f32],
        shape: HeadNormShape,
    ) {
        let (width, size) = (shape.heads.qkv_width(), shape.heads.size);
        for (n, head) in (0..shape.rows).flat_map(|n| (0..shape.count()).map(move |h| (n, h))) {
            let at = n * width + head * size..n * width + (head + 1) * size;
            let own = shape.weight_of(head)..shape.weight_of(head) + size;
            let dx = norm::backward_row(
                dweight.as_deref_mut().map(|d| &mut d[own.clone()]),
                inverse[n * shape.count() + head],
                &dqkv[at.clone()],
                &projected[at.clone()],
                &weight[own],
                shape.kind,
            );
            dqkv[at].copy_from_slice(&dx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_gradient, bits, on_threads, random};
    use super::super::{Heads, NormKind};
    use super::*;

    const KINDS: [(NormKind, bool); 4] = [
        (NormKind::Rms, false),
        (NormKind::RmsPlusOne, false),
        (NormKind::Layer, true),
        (NormKind::Layer, false),
    ];

    fn shape(rows: usize, size: usize, (kind, per_head): (NormKind, bool)) -> HeadNormShape {
        let heads = Heads { queries: 4, key_values: 2, size };
        HeadNormShape { rows, heads, eps: 1e-5, kind, per_head }
    }

    /// Output, d projected and dweight.
    fn run(
        x: &[f32],
        weight: &[f32],
        dy: &[f32],
        shape: HeadNormShape,
        plain: bool,
    ) -> [Vec<f32>; 3] {
        let (mut y, mut r) = (vec![f32::NAN; x.len()], vec![f32::NAN; shape.rows * shape.count()]);
        let (mut dx, mut dweight) = (dy.to_vec(), vec![0.0; weight.len()]);
        let forward = if plain { reference::forward } else { forward };
        let backward = if plain { reference::backward } else { backward };
        forward(&mut y, &mut r, x, weight, shape);
        backward(&mut dx, Some(&mut dweight), &r, x, weight, shape);
        [y, dx, dweight]
    }

    #[test]
    fn agrees_with_the_reference_and_leaves_values_alone() {
        for (rows, size) in [(1, 2), (70, 16), (130, 20)] {
            for kind in KINDS {
                let shape = shape(rows, size, kind);
                let width = shape.heads.qkv_width();
                let (x, w) = (random(1, rows * width), random(2, shape.weights()));
                let dy = random(3, rows * width);
                let (fast, plain) = (run(&x, &w, &dy, shape, false), run(&x, &w, &dy, shape, true));
                for (fast, plain) in fast.iter().zip(&plain) {
                    assert_close(fast, plain, 1e-5);
                }
                let values = shape.count() * size..width;
                assert_eq!(fast[0][values.clone()], x[values.clone()]);
                assert_eq!(fast[1][values.clone()], dy[values]);
            }
        }
    }

    #[test]
    fn each_head_is_normed_for_itself() {
        let shape = shape(1, 4, (NormKind::Rms, false));
        let weight = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0];
        let x: Vec<f32> = (0..32).map(|i| (i / 4 + 1) as f32).collect();
        let [y, ..] = run(&x, &weight, &[0.0; 32], shape, false);
        assert_close(&y[..16], &[1.0; 16], 1e-4);
        assert_close(&y[16..24], &[2.0; 8], 1e-4);
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        for kind in KINDS {
            let shape = shape(2, 6, kind);
            let width = 2 * shape.heads.qkv_width();
            let (x, w, dy) = (random(1, width), random(2, shape.weights()), random(3, width));
            let [_, dx, dw] = run(&x, &w, &dy, shape, false);
            assert_gradient(&dx, &x, &dy, |x| run(x, &w, &dy, shape, true)[0].clone());
            assert_gradient(&dw, &w, &dy, |w| run(&x, w, &dy, shape, true)[0].clone());
        }
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let shape = shape(500, 64, KINDS[2]);
        let width = 500 * shape.heads.qkv_width();
        let (x, w, dy) = (random(1, width), random(2, shape.weights()), random(3, width));
        let once = || run(&x, &w, &dy, shape, false).map(|v| bits(&v));
        assert_eq!(on_threads(1, once), on_threads(2, once));
    }
}
