//! Rotary position embedding (Su et al., arXiv 2104.09864) in the layout of Hugging Face's Llama:
//! component i of a head turns together with component i + D/2 by the angle position ·
//! theta^(−2i/D). Turning backwards is the gradient.

use super::split;
use super::{Heads, simd};

/// Cosines and sines `[positions, D]`: D/2 cosines, then D/2 sines. Angles are rounded to f32 where
/// PyTorch's are.
#[must_use]
pub fn angles(positions: usize, head_size: usize, theta: f32) -> Vec<f32> {
    let half = head_size / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|i| 1.0 / theta.powf(2.0 * i as f32 / head_size as f32)).collect();
    let mut table = Vec::with_capacity(positions * head_size);
    for position in 0..positions {
        let angle = |frequency: &f32| f64::from(position as f32 * frequency);
        table.extend(frequencies.iter().map(|f| angle(f).cos() as f32));
        table.extend(frequencies.iter().map(|f| angle(f).sin() as f32));
    }
    table
}

/// Turns the query and key heads of each row of `qkv` in place.
pub fn rotate(qkv: &mut [f32], positions: &[u32], angles: &[f32], heads: Heads, inverse: bool) {
    let (width, size) = (heads.qkv_width(), heads.size);
    let turned = heads.query_width() + heads.key_value_width();
    split::for_each_rows(&mut qkv[..positions.len() * width], width, |range, qkv| {
        for (row, &position) in qkv.chunks_exact_mut(width).zip(&positions[range]) {
            let angles = &angles[position as usize * size..(position as usize + 1) * size];
            rotate_row(&mut row[..turned], angles, if inverse { -1.0 } else { 1.0 });
        }
    });
}

simd::simd! {
    fn rotate_row(row: &mut [f32], angles: &[f32], direction: f32) {
        let half = angles.len() / 2;
        let (cos, sin) = angles.split_at(half);
        for head in row.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b, sin) = (low[i], high[i], sin[i] * direction);
                low[i] = a * cos[i] - b * sin;
                high[i] = b * cos[i] + a * sin;
            }
        }
    }
}

/// The plain form.
pub mod reference {
    use super::Heads;

    /// See [`super::rotate`].
    pub fn rotate(qkv: &mut [f32], positions: &[u32], angles: &[f32], heads: Heads, inverse: bool) {
        let (size, half) = (heads.size, heads.size / 2);
        for (row, &position) in positions.iter().enumerate() {
            for head in 0..heads.queries + heads.key_values {
                for i in 0..half {
                    let at = row * heads.qkv_width() + head * size + i;
                    let (a, b) = (qkv[at], qkv[at + half]);
                    let cos = angles[position as usize * size + i];
                    let sin = angles[position as usize * size + half + i]
                        * if inverse { -1.0 } else { 1.0 };
                    qkv[at] = a * cos - b * sin;
                    qkv[at + half] = b * cos + a * sin;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_gradient, bits, on_threads, random};
    use super::*;

    const HEADS: Heads = Heads { queries: 4, key_values: 2, size: 6 };

    fn rotated(qkv: &[f32], positions: &[u32], inverse: bool, plain: bool) -> Vec<f32> {
        let mut qkv = qkv.to_vec();
        let rotate = if plain { reference::rotate } else { rotate };
        rotate(&mut qkv, positions, &angles(64, HEADS.size, 10_000.0), HEADS, inverse);
        qkv
    }

    #[test]
    fn a_pair_turns_by_position_times_frequency() {
        let angle: f64 = 5.0 * 10_000f64.powf(-2.0 / 6.0);
        let mut row = vec![0.0; HEADS.qkv_width()];
        row[1] = 1.0;
        let turned = rotated(&row, &[5], false, false);
        assert!((f64::from(turned[1]) - angle.cos()).abs() < 1e-6);
        assert!((f64::from(turned[4]) - angle.sin()).abs() < 1e-6);
    }

    #[test]
    fn agrees_with_the_reference_and_leaves_values_alone() {
        let positions: Vec<u32> = (0..40).chain(0..13).collect();
        let qkv = random(1, positions.len() * HEADS.qkv_width());
        for inverse in [false, true] {
            let fast = rotated(&qkv, &positions, inverse, false);
            assert_close(&fast, &rotated(&qkv, &positions, inverse, true), 1e-6);
            assert_eq!(fast[36..48], qkv[36..48]);
        }
        assert_close(
            &rotated(&rotated(&qkv, &positions, false, false), &positions, true, false),
            &qkv,
            1e-6,
        );
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        let positions = [0, 1, 2, 7];
        let (qkv, dy) = (random(1, 4 * HEADS.qkv_width()), random(2, 4 * HEADS.qkv_width()));
        let found = rotated(&dy, &positions, true, false);
        assert_gradient(&found, &qkv, &dy, |qkv| rotated(qkv, &positions, false, true));
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let positions: Vec<u32> = (0..2000).map(|i| i % 60).collect();
        let qkv = random(1, positions.len() * HEADS.qkv_width());
        let once = || bits(&rotated(&qkv, &positions, false, false));
        assert_eq!(on_threads(1, once), on_threads(2, once));
    }
}
