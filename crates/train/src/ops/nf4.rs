//! Matrices in 4 bits a value: NF4 with double quantisation (Dettmers et al. 2023, QLoRA, arXiv
//! 2305.14314). Blocks of 64 values have a scale each, their largest magnitude, and a value is the
//! nearest of 16 quantiles of the normal distribution, times its block's scale. Blocks, code and
//! order are those of bitsandbytes; packed values are there to be read, never to be trained.
//!
//! A matrix of n values in b = ⌈n / 64⌉ blocks stands in words of 4 bytes, which a tensor holds as
//! f32 that nobody computes with:
//!
//! | words | what |
//! |---|---|
//! | ⌈n / 8⌉ | codes, two a byte, the first one in the upper half |
//! | b | scales, |
//! | or 1 + ⌈b / 256⌉ + ⌈b / 4⌉ | their mean; what each 256 of them are divided by; their codes |
//!
//! That is 4.5 bits a value, or 4.127 with double quantisation.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;
use serde::Serialize;

use super::moments::{self, Code};
use super::rounding::Purpose;
use super::simd::{self, simd};
use super::{Stored, to_f32};

/// Values of a block.
pub const BLOCK: usize = 64;
/// Scales that are quantised together.
pub const GROUP: usize = 256;

/// The 16 values: quantiles of the normal distribution, scaled to [-1, 1], zero among them (QLoRA,
/// appendix E).
pub const CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// How matrices are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Nf4 {
    /// Whether the blocks' scales stand in a byte each and not in f32.
    pub double_quant: bool,
}

/// Where the parts of a packed matrix stand among its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Of the values, eight a word.
    pub codes: Range<usize>,
    /// Scales in f32: each block's, or their mean and each group's.
    pub scales: Range<usize>,
    /// Of the blocks' scales, four a word; none where those are f32.
    pub scale_codes: Range<usize>,
}

impl Nf4 {
    /// The places of a matrix of so many values.
    #[must_use]
    pub fn places(self, len: usize) -> Places {
        let (codes, blocks) = (len.div_ceil(8), len.div_ceil(BLOCK));
        let (scales, bytes) =
            if self.double_quant { (1 + blocks.div_ceil(GROUP), blocks) } else { (blocks, 0) };
        let scales = codes..codes + scales;
        let scale_codes = scales.end..scales.end + bytes.div_ceil(4);
        Places { codes: 0..codes, scales, scale_codes }
    }

    /// Words that a matrix of so many values takes.
    #[must_use]
    pub fn words(self, len: usize) -> usize {
        self.places(len).scale_codes.end
    }

    /// Packs matrices of a file, each by itself, one after the other; `values` turns one into f32.
    #[must_use]
    pub fn pack_stored(self, parts: &[Stored<'_>]) -> Vec<f32> {
        self.pack(parts.iter().map(|part| Cow::Owned(to_f32(std::slice::from_ref(part)))))
    }

    /// Packs matrices, each by itself, one after the other.
    #[must_use]
    pub fn pack<'a>(self, matrices: impl Iterator<Item = Cow<'a, [f32]>>) -> Vec<f32> {
        let mut words = Vec::new();
        for values in matrices {
            let start = words.len();
            words.resize(start + self.words(values.len()), 0.0);
            self.pack_one(&values, &mut words[start..]);
        }
        words
    }

    fn pack_one(self, values: &[f32], words: &mut [f32]) {
        let places = self.places(values.len());
        let codes = words[places.codes].par_chunks_mut(BLOCK / 8);
        let scales: Vec<f32> = codes
            .zip(values.par_chunks(BLOCK))
            .map(|(words, values)| code(values, words))
            .collect();
        if !self.double_quant {
            return words[places.scales].copy_from_slice(&scales);
        }
        let mean = scales.iter().map(|&x| f64::from(x)).sum::<f64>() / scales.len() as f64;
        let mean = mean as f32;
        let groups = &mut words[places.scales];
        groups[0] = mean;
        let codes: Vec<u8> = scales
            .chunks(GROUP)
            .zip(&mut groups[1..])
            .flat_map(|(scales, group)| code_scales(scales, mean, group))
            .collect();
        for (word, bytes) in words[places.scale_codes].iter_mut().zip(codes.chunks(4)) {
            let mut four = [0; 4];
            four[..bytes.len()].copy_from_slice(bytes);
            *word = f32::from_le_bytes(four);
        }
    }
}

/// What values are multiplied by, so that the largest becomes 1. A short block is divided instead, as
/// bitsandbytes does it.
fn scaled(values: &[f32], size: usize) -> (f32, impl Fn(f32) -> f32) {
    /// Below this, values are as good as zero.
    const LEAST: f32 = 1e-38;
    let largest = values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let (bounded, is_short) = (largest.max(LEAST), values.len() < size);
    let inverse = 1.0 / bounded;
    let scaled = move |x: f32| if is_short { x / bounded } else { x * inverse };
    (if is_short { bounded } else { largest }, move |x| scaled(x).clamp(-1.0, 1.0))
}

/// The codes of a block's values; its scale.
fn code(values: &[f32], words: &mut [f32]) -> f32 {
    let (scale, scaled) = scaled(values, BLOCK);
    let mut unit = [0.0; BLOCK];
    for (unit, x) in unit.iter_mut().zip(values) {
        *unit = scaled(*x);
    }
    let mut codes = [0; BLOCK];
    nearest(&unit, &mut codes);
    for (word, codes) in words.iter_mut().zip(codes.as_chunks::<8>().0) {
        let byte = |i: usize| (codes[2 * i] << 4 | codes[2 * i + 1]) as u8;
        *word = f32::from_le_bytes(std::array::from_fn(byte));
    }
    scale
}

simd! {
    /// The code whose value is nearest, the lower one of two: as many as there are middles below.
    fn nearest(values: &[f32; BLOCK], codes: &mut [u32; BLOCK]) {
        for (code, x) in codes.iter_mut().zip(values) {
            *code = 0;
            for pair in CODE.windows(2) {
                *code += u32::from(*x > (pair[0] + pair[1]) / 2.0);
            }
        }
    }
}

/// The codes of a group's scales, whose mean is taken off.
fn code_scales(scales: &[f32], mean: f32, group: &mut f32) -> Vec<u8> {
    let off: Vec<f32> = scales.iter().map(|scale| scale - mean).collect();
    let (largest, scaled) = scaled(&off, GROUP);
    *group = largest;
    let code = dynamic();
    off.iter().map(|x| code.nearest(scaled(*x))).collect()
}

/// The 256 values of a scale's code.
fn dynamic() -> &'static Code {
    moments::code(Purpose::First)
}

/// The values of a scale's code, as a kernel reads them.
#[must_use]
pub fn scale_values() -> &'static [f32; 256] {
    &dynamic().values
}

/// A packed matrix.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    codes: &'a [f32],
    scales: &'a [f32],
    scale_codes: &'a [f32],
}

impl<'a> Matrix<'a> {
    fn new(form: Nf4, len: usize, words: &'a [f32]) -> Self {
        let Places { codes, scales, scale_codes } = form.places(len);
        Self { codes: &words[codes], scales: &words[scales], scale_codes: &words[scale_codes] }
    }

    /// A block's scale.
    fn scale(&self, block: usize) -> f32 {
        if self.scale_codes.is_empty() {
            return self.scales[block];
        }
        let code = self.scale_codes[block / 4].to_le_bytes()[block % 4];
        dynamic().values[usize::from(code)] * self.scales[1 + block / GROUP] + self.scales[0]
    }
}

/// Each of some matrices with its values and words.
fn matrices<'a>(
    mut values: &'a mut [f32],
    mut words: &'a [f32],
    (form, lens): (Nf4, &'a [usize]),
) -> impl Iterator<Item = (&'a mut [f32], Matrix<'a>)> {
    lens.iter().map(move |&len| {
        let (these, rest) = std::mem::take(&mut values).split_at_mut(len);
        let (own, after) = words.split_at(form.words(len));
        (values, words) = (rest, after);
        (these, Matrix::new(form, len, own))
    })
}

/// Values that one task unpacks.
const TASK: usize = 512 * BLOCK;

/// The values of packed matrices of these lengths, one after the other.
pub fn unpack(values: &mut [f32], words: &[f32], how: (Nf4, &[usize])) {
    for (values, matrix) in matrices(values, words, how) {
        values.par_chunks_mut(TASK).enumerate().for_each(|(task, values)| {
            let first = task * (TASK / BLOCK);
            for (block, values) in values.chunks_mut(BLOCK).enumerate() {
                let block = first + block;
                let words = &matrix.codes[block * (BLOCK / 8)..];
                let (scale, count) = (matrix.scale(block), values.len());
                if let Ok(values) = values.try_into() {
                    decode(values, words.first_chunk().expect("a whole block"), scale);
                } else {
                    let (mut whole, mut own) = ([0.0; BLOCK], [0.0; BLOCK / 8]);
                    own[..words.len()].copy_from_slice(words);
                    decode(&mut whole, &own, scale);
                    values.copy_from_slice(&whole[..count]);
                }
            }
        });
    }
}

/// Places of a word's codes: the first of a byte's two stands in its upper half.
const SHIFTS: [u32; 8] = [4, 0, 12, 8, 20, 16, 28, 24];

/// A block's values.
fn decode(values: &mut [f32; BLOCK], words: &[f32; BLOCK / 8], scale: f32) {
    #[cfg(target_arch = "x86_64")]
    if simd::level() != simd::Level::Baseline {
        // SAFETY: every other level has AVX2.
        return unsafe { decode_avx2(values, words, scale) };
    }
    let scaled = CODE.map(|value| value * scale);
    for (values, word) in values.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        for (value, shift) in values.iter_mut().zip(SHIFTS) {
            *value = scaled[(word.to_bits() >> shift & 15) as usize];
        }
    }
}

/// The same with the 16 values in two registers, which compilers do not find: three times as fast, as
/// fast as memory takes values.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn decode_avx2(values: &mut [f32; BLOCK], words: &[f32; BLOCK / 8], scale: f32) {
    use std::arch::x86_64::*;
    let scaled = CODE.map(|value| value * scale);
    let (low, high) = scaled.split_at(8);
    // SAFETY: eight values each.
    let (low, high, shifts) = unsafe {
        let shifts = _mm256_loadu_si256(SHIFTS.as_ptr().cast());
        (_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr()), shifts)
    };
    for (values, word) in values.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        let codes = _mm256_srlv_epi32(_mm256_set1_epi32(word.to_bits() as i32), shifts);
        // By the lower three bits, then by the fourth.
        let (below, above) =
            (_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes));
        let is_above = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
        // SAFETY: eight values.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), _mm256_blendv_ps(below, above, is_above)) };
    }
}

/// The plain form: every value by itself.
pub mod reference {
    use super::{BLOCK, CODE, Nf4, matrices};

    /// See [`super::unpack`].
    pub fn unpack(values: &mut [f32], words: &[f32], how: (Nf4, &[usize])) {
        for (values, matrix) in matrices(values, words, how) {
            for (i, value) in values.iter_mut().enumerate() {
                let byte = matrix.codes[i / 8].to_le_bytes()[i % 8 / 2];
                let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
                *value = CODE[usize::from(code)] * matrix.scale(i / BLOCK);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bits, on_threads, random};
    use super::*;
    use safetensors::SafeTensors;

    const PLAIN: Nf4 = Nf4 { double_quant: false };
    const DOUBLE: Nf4 = Nf4 { double_quant: true };

    /// What bitsandbytes made of some matrices; `fixtures/nf4/make_fixtures.py` wrote it.
    struct Expected(SafeTensors<'static>);

    impl Expected {
        fn load() -> Self {
            let bytes = include_bytes!("../../tests/fixtures/nf4/expected.safetensors");
            Self(SafeTensors::deserialize(bytes).unwrap())
        }

        fn bytes(&self, name: &str) -> &[u8] {
            self.0.tensor(name).unwrap().data()
        }

        fn values(&self, name: &str) -> Vec<f32> {
            let view = self.0.tensor(name).unwrap();
            let kind = match view.dtype() {
                safetensors::Dtype::BF16 => super::super::StoredKind::Bf16,
                _ => super::super::StoredKind::F32,
            };
            to_f32(&[Stored { kind, bytes: view.data() }])
        }
    }

    fn pack(form: Nf4, values: &[f32]) -> Vec<f32> {
        form.pack(std::iter::once(Cow::Borrowed(values)))
    }

    fn unpacked(form: Nf4, values: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; values.len()];
        unpack(&mut out, &pack(form, values), (form, &[values.len()]));
        out
    }

    fn bytes(words: &[f32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    const SHAPES: [&str; 5] = ["whole", "short", "small", "odd", "groups"];

    #[test]
    fn codes_scales_and_values_are_those_of_bitsandbytes() {
        let expected = Expected::load();
        for name in SHAPES {
            let values = expected.values(&format!("{name}.values"));
            let (words, places) = (pack(PLAIN, &values), PLAIN.places(values.len()));
            let codes = expected.bytes(&format!("{name}.codes"));
            assert_eq!(bytes(&words[places.codes])[..codes.len()], *codes, "{name}");
            let scales = expected.values(&format!("{name}.scales"));
            assert_eq!(bits(&words[places.scales]), bits(&scales), "{name}");
            assert_eq!(PLAIN.words(values.len()), words.len());
            if name != "groups" {
                let wanted = expected.values(&format!("{name}.unpacked"));
                assert_eq!(bits(&unpacked(PLAIN, &values)), bits(&wanted), "{name}");
            }
        }
    }

    /// The last bit is free: bitsandbytes computes the values of a scale's code in f32 and so that they
    /// depend on the width of the processor's vectors, and takes the mean by torch's sum.
    #[test]
    fn scales_in_8_bits_are_those_of_bitsandbytes_but_for_the_last_bit() {
        let expected = Expected::load();
        for name in SHAPES {
            let values = expected.values(&format!("{name}.values"));
            let (words, places) = (pack(DOUBLE, &values), DOUBLE.places(values.len()));
            let codes = expected.bytes(&format!("{name}.scale_codes"));
            assert_eq!(bytes(&words[places.scale_codes])[..codes.len()], *codes, "{name}");
            let scales = [
                &expected.values(&format!("{name}.mean"))[..],
                &expected.values(&format!("{name}.groups")),
            ];
            near(&words[places.scales], &scales.concat(), name);
            near(&unpacked(DOUBLE, &values), &expected.values(&format!("{name}.double")), name);
        }
    }

    #[track_caller]
    fn near(found: &[f32], expected: &[f32], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= largest * 2.0 * f32::EPSILON, "{what}: {f} for {e}");
        }
    }

    #[test]
    fn the_fast_form_has_the_bits_of_the_plain_one_on_any_number_of_threads() {
        let lens = [64 * 700, 130, 64 * 520 + 7, 1];
        let all = random(1, lens.iter().sum());
        let parts = || {
            lens.iter().scan(0, |at, len| {
                *at += len;
                Some(Cow::Borrowed(&all[*at - len..*at]))
            })
        };
        for form in [PLAIN, DOUBLE] {
            let run = || {
                let mut values = vec![f32::NAN; all.len()];
                let words = form.pack(parts());
                unpack(&mut values, &words, (form, &lens));
                let mut plain = vec![f32::NAN; all.len()];
                reference::unpack(&mut plain, &words, (form, &lens));
                assert_eq!(bits(&values), bits(&plain));
                bits(&values)
            };
            assert_eq!(on_threads(1, run), on_threads(2, run));
            // Each matrix by itself: where one stands changes nothing.
            let alone: Vec<u32> = parts().flat_map(|part| bits(&unpacked(form, &part))).collect();
            assert_eq!(run(), alone);
        }
    }

    #[test]
    fn a_value_takes_four_and_a_half_bits_or_little_more_than_four() {
        let len = 4096 * 4096;
        let bits = |form: Nf4| (form.words(len) * 32) as f64 / len as f64;
        // QLoRA, section 3: 32 / 64 bits a value for scales, and 8 / 64 + 32 / (64 · 256) of them in 8 bits.
        assert_eq!(bits(PLAIN), 4.0 + 0.5);
        assert!((bits(DOUBLE) - (4.0 + 0.125 + 32.0 / (64.0 * 256.0))).abs() < 1e-4);
    }
}
