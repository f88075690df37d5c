//! Rotary position embedding (Su et al., arXiv 2104.09864): two components of a head turn together
//! by the angle position · frequency. Hugging Face's Llama pairs i with i + D/2, Cohere 2i with
//! 2i + 1. Turning backwards is the gradient, also where the table carries a factor.

use super::split;
use super::{Heads, RopeLayout, simd};

/// Cosines and sines `[positions, D]`, times a factor: D/2 cosines, then D/2 sines. Angles are
/// rounded to f32 where PyTorch's are.
#[must_use]
pub fn angles(positions: usize, frequencies: &[f32], factor: f32) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions * 2 * frequencies.len());
    for position in 0..positions {
        let angle = |frequency: &f32| f64::from(position as f32 * frequency);
        table.extend(frequencies.iter().map(|f| angle(f).cos() as f32 * factor));
        table.extend(frequencies.iter().map(|f| angle(f).sin() as f32 * factor));
    }
    table
}

/// Turns the query and key heads of each row of `qkv` in place.
pub fn rotate(
    qkv: &mut [f32],
    positions: &[u32],
    angles: &[f32],
    heads: Heads,
    layout: RopeLayout,
    inverse: bool,
) {
    let (width, size) = (heads.qkv_width(), heads.size);
    let turned = heads.query_width() + heads.key_value_width();
    split::for_each_rows(&mut qkv[..positions.len() * width], width, |range, qkv| {
        for (row, &position) in qkv.chunks_exact_mut(width).zip(&positions[range]) {
            let angles = &angles[position as usize * size..(position as usize + 1) * size];
            let direction = if inverse { -1.0 } else { 1.0 };
            match layout {
                RopeLayout::Halves => rotate_halves(&mut row[..turned], angles, direction),
                RopeLayout::Interleaved => rotate_pairs(&mut row[..turned], angles, direction),
            }
        }
    });
}

simd::simd! {
    fn rotate_halves(row: &mut [f32], angles: &[f32], direction: f32) {
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

simd::simd! {
    fn rotate_pairs(row: &mut [f32], angles: &[f32], direction: f32) {
        let half = angles.len() / 2;
        let (cos, sin) = angles.split_at(half);
        for head in row.chunks_exact_mut(2 * half) {
            let (pairs, _) = head.as_chunks_mut::<2>();
            for i in 0..half {
                let ([a, b], sin) = (pairs[i], sin[i] * direction);
                pairs[i] = [a * cos[i] - b * sin, b * cos[i] + a * sin];
            }
        }
    }
}

/// The plain form.
pub mod reference {
    use super::{Heads, RopeLayout};

    /// See [`super::rotate`].
    pub fn rotate(
        qkv: &mut [f32],
        positions: &[u32],
        angles: &[f32],
        heads: Heads,
        layout: RopeLayout,
        inverse: bool,
    ) {
        let (size, half) = (heads.size, heads.size / 2);
        for (row, &position) in positions.iter().enumerate() {
            for head in 0..heads.queries + heads.key_values {
                for i in 0..half {
                    let (first, second) = match layout {
                        RopeLayout::Halves => (i, i + half),
                        RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                    };
                    let start = row * heads.qkv_width() + head * size;
                    let (a, b) = (qkv[start + first], qkv[start + second]);
                    let cos = angles[position as usize * size + i];
                    let sin = angles[position as usize * size + half + i]
                        * if inverse { -1.0 } else { 1.0 };
                    qkv[start + first] = a * cos - b * sin;
                    qkv[start + second] = b * cos + a * sin;
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
    const LAYOUTS: [RopeLayout; 2] = [RopeLayout::Halves, RopeLayout::Interleaved];

    /// 10000^(−2i/6), and a table of 64 positions.
    fn table() -> Vec<f32> {
        let frequencies: Vec<f32> = (0..3).map(|i| 10_000f32.powf(-2.0 * i as f32 / 6.0)).collect();
        angles(64, &frequencies, 1.0)
    }

    fn rotated(
        qkv: &[f32],
        positions: &[u32],
        layout: RopeLayout,
        [inverse, plain]: [bool; 2],
    ) -> Vec<f32> {
        let mut qkv = qkv.to_vec();
        let rotate = if plain { reference::rotate } else { rotate };
        rotate(&mut qkv, positions, &table(), HEADS, layout, inverse);
        qkv
    }

    #[test]
    fn a_pair_turns_by_position_times_frequency() {
        let angle: f64 = 5.0 * 10_000f64.powf(-2.0 / 6.0);
        for (layout, first, second) in [(LAYOUTS[0], 1, 4), (LAYOUTS[1], 2, 3)] {
            let mut row = vec![0.0; HEADS.qkv_width()];
            row[first] = 1.0;
            let turned = rotated(&row, &[5], layout, [false, false]);
            assert!((f64::from(turned[first]) - angle.cos()).abs() < 1e-6);
            assert!((f64::from(turned[second]) - angle.sin()).abs() < 1e-6);
        }
    }

    #[test]
    fn a_factor_multiplies_the_table() {
        let plain = angles(3, &[0.5, 0.1], 1.0);
        let doubled: Vec<f32> = plain.iter().map(|x| 2.0 * x).collect();
        assert_eq!(angles(3, &[0.5, 0.1], 2.0), doubled);
    }

    #[test]
    fn agrees_with_the_reference_and_leaves_values_alone() {
        let positions: Vec<u32> = (0..40).chain(0..13).collect();
        let qkv = random(1, positions.len() * HEADS.qkv_width());
        for layout in LAYOUTS {
            for inverse in [false, true] {
                let fast = rotated(&qkv, &positions, layout, [inverse, false]);
                assert_close(&fast, &rotated(&qkv, &positions, layout, [inverse, true]), 1e-6);
                assert_eq!(fast[36..48], qkv[36..48]);
            }
            let turned = rotated(&qkv, &positions, layout, [false, false]);
            assert_close(&rotated(&turned, &positions, layout, [true, false]), &qkv, 1e-6);
        }
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        let positions = [0, 1, 2, 7];
        let (qkv, dy) = (random(1, 4 * HEADS.qkv_width()), random(2, 4 * HEADS.qkv_width()));
        for layout in LAYOUTS {
            let found = rotated(&dy, &positions, layout, [true, false]);
            assert_gradient(&found, &qkv, &dy, |qkv| {
                rotated(qkv, &positions, layout, [false, true])
            });
        }
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let positions: Vec<u32> = (0..2000).map(|i| i % 60).collect();
        let qkv = random(1, positions.len() * HEADS.qkv_width());
        for layout in LAYOUTS {
            let once = || bits(&rotated(&qkv, &positions, layout, [false, false]));
            assert_eq!(on_threads(1, once), on_threads(2, once));
        }
    }
}
