//! Rounding f32 to bf16 by chance: up or down with the probability that makes the mean exact, so
//! that a step smaller than a bf16's spacing is not lost but taken now and then (Gupta et al. 2015,
//! arXiv 1502.02551, section 2; for bf16 weights Zamirai et al., arXiv 2010.06192).
//!
//! The bits are a function of (seed, step, tensor, element): Philox 4x32-10 (Salmon et al. 2011,
//! Parallel random numbers: as easy as 1, 2, 3) on these numbers, so that neither threads, nor the
//! order of tensors, nor a resume can change them. `kernels/adamw.cu` is the card's twin.

use half::bf16;

/// Elements that share one draw: four words of two times sixteen bits.
pub const GROUP: usize = 8;

/// What is rounded; each has bits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A weight.
    Weight = 0,
    /// A first moment.
    First = 1,
    /// A second moment.
    Second = 2,
}

/// The bits of one tensor in one step.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    /// The run's seed.
    pub seed: u64,
    /// Number of the optimiser's step.
    pub step: u32,
    /// Number of the tensor among those that are trained.
    pub tensor: u32,
}

impl Draws {
    /// Sixteen bits for each of the elements 8 · `group` to 8 · `group` + 7.
    #[must_use]
    pub fn of(self, purpose: Purpose, group: u32) -> [u16; GROUP] {
        let counter = [group, purpose as u32, self.tensor, self.step];
        let words = philox(counter, [self.seed as u32, (self.seed >> 32) as u32]);
        std::array::from_fn(|i| (words[i / 2] >> (16 * (i % 2))) as u16)
    }

    /// Rounds the elements of a tensor from `first` on, a multiple of [`GROUP`].
    pub fn round(
        self,
        purpose: Purpose,
        first: usize,
        values: &[f32],
        mut put: impl FnMut(usize, bf16),
    ) {
        for (i, eight) in values.chunks(GROUP).enumerate() {
            let bits = self.of(purpose, (first / GROUP + i) as u32);
            for (j, (&value, bits)) in eight.iter().zip(bits).enumerate() {
                put(i * GROUP + j, to_bf16(value, bits));
            }
        }
    }
}

/// Up or down by chance, so that the mean over all `bits` is x itself; infinities and NaN stay.
#[must_use]
pub fn to_bf16(x: f32, bits: u16) -> bf16 {
    if !x.is_finite() {
        return bf16::from_f32(x);
    }
    bf16::from_bits((x.to_bits().wrapping_add(u32::from(bits)) >> 16) as u16)
}

/// Philox 4x32 with ten rounds.
#[must_use]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let wide = u64::from(a) * u64::from(b);
        ((wide >> 32) as u32, wide as u32)
    };
    for _ in 0..10 {
        let [a, b, c, d] = counter;
        let ((high_a, low_a), (high_c, low_c)) = (product(0xd251_1f53, a), product(0xcd9e_8d57, c));
        counter = [high_c ^ b ^ key[0], low_c, high_a ^ d ^ key[1], low_a];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_its_authors() {
        // kat_vectors of Random123 1.14.
        let ones = u32::MAX;
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn the_mean_of_all_roundings_is_the_value_and_each_is_a_neighbour() {
        for x in [1.003_f32, -0.7, 3.3e-30, -12345.678, 1e-40] {
            let mut sum = 0.0_f64;
            for bits in 0..=u16::MAX {
                let rounded = f64::from(to_bf16(x, bits).to_f32());
                assert!((rounded - f64::from(x)).abs() <= f64::from(x).abs() / 128.0 + 1e-40);
                sum += rounded;
            }
            let mean = sum / 65536.0;
            assert!((mean / f64::from(x) - 1.0).abs() < 1e-9, "{x}: {mean}");
        }
        assert_eq!(to_bf16(1.5, u16::MAX).to_f32(), 1.5, "what bf16 holds stays");
        assert!(to_bf16(f32::NAN, 9).is_nan() && to_bf16(f32::INFINITY, 9).is_infinite());
    }

    #[test]
    fn drawn_roundings_are_unbiased_and_differ_by_step_tensor_and_purpose() {
        let draws = Draws { seed: 5, step: 1, tensor: 3 };
        let (x, count) = (1.0 + 1.0 / 1024.0_f32, 1 << 17);
        let (mut up, mut seen) = (0_u32, 0);
        draws.round(Purpose::Weight, 0, &vec![x; count], |_, rounded| {
            up += u32::from(rounded.to_f32() > 1.0);
            seen += 1;
        });
        assert_eq!(seen, count);
        // An eighth of the way between two neighbours; four standard deviations of the count.
        let (p, n) = (0.125, count as f64);
        assert!((f64::from(up) - p * n).abs() < 4.0 * (n * p * (1.0 - p)).sqrt(), "{up}");
        let bits = draws.of(Purpose::Weight, 0);
        for other in [
            Draws { step: 2, ..draws }.of(Purpose::Weight, 0),
            Draws { tensor: 4, ..draws }.of(Purpose::Weight, 0),
            Draws { seed: 6, ..draws }.of(Purpose::Weight, 0),
            Draws { seed: 5 | 1 << 40, ..draws }.of(Purpose::Weight, 0),
            draws.of(Purpose::First, 0),
            draws.of(Purpose::Weight, 1),
        ] {
            assert_ne!(bits, other);
        }
    }
}
