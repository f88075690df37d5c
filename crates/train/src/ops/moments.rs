//! How AdamW's two moments of a tensor stand in memory: f32; bf16, rounded by chance; or a byte
//! each, after Dettmers et al., 8-bit optimizers via block-wise quantization (arXiv 2110.02861):
//! blocks of 256 values, each with the largest magnitude of its own, in a code whose steps are fine
//! near zero and coarse near one. Arithmetic is f32 in every form.
//!
//! | form | bytes a parameter, both moments |
//! |---|---|
//! | f32 | 8 |
//! | bf16 | 4 |
//! | int8 | 2 + 8 / 256 = 2.03; tensors below 4,096 values stay f32 |
//!
//! Beside them stand the weights: 2 bytes in bf16 alone, 6 with an f32 master copy (4 on a
//! processor), and while they stand, 4 of the gradient. See [`crate::optimizer::Policy`].

use std::ops::Range;
use std::sync::LazyLock;

use half::bf16;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rounding::{Draws, Purpose};

/// How moments stand.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Exact.
    #[default]
    F32,
    /// The upper half of an f32, rounded by chance.
    Bf16,
    /// A byte a value, in blocks of 256 with a scale each; small tensors stay f32.
    Int8,
}

/// Values of one block of [`Form::Int8`].
pub const BLOCK: usize = 256;
/// Tensors of fewer values stand in f32 where the policy is [`Form::Int8`].
pub const SMALL: usize = 4096;

impl Form {
    /// The form of a tensor of so many values under this policy.
    #[must_use]
    pub fn of(self, len: usize) -> Self {
        if self == Self::Int8 && len < SMALL { Self::F32 } else { self }
    }

    /// Bytes of the values of one moment, without scales, in just this form.
    #[must_use]
    pub fn value_bytes(self, len: usize) -> usize {
        len * match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }

    /// Scales of one moment in just this form, 4 bytes each.
    #[must_use]
    pub fn scales(self, len: usize) -> usize {
        if self == Self::Int8 { len.div_ceil(BLOCK) } else { 0 }
    }

    /// Bytes of both moments of a tensor of so many values under this policy.
    #[must_use]
    pub fn bytes(self, len: usize) -> usize {
        let form = self.of(len);
        2 * (form.value_bytes(len) + 4 * form.scales(len))
    }
}

/// One moment of one tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// As they are.
    F32(Vec<f32>),
    /// Rounded.
    Bf16(Vec<bf16>),
    /// Coded.
    Int8 {
        /// A code a value.
        codes: Vec<u8>,
        /// A block's largest magnitude; of a block of scale 0 every value is 0.
        scales: Vec<f32>,
    },
}

impl Values {
    /// Zeros.
    #[must_use]
    pub fn zeros(form: Form, len: usize) -> Self {
        match form {
            Form::F32 => Self::F32(vec![0.0; len]),
            Form::Bf16 => Self::Bf16(vec![bf16::ZERO; len]),
            Form::Int8 => {
                Self::Int8 { codes: vec![0; len], scales: vec![0.0; len.div_ceil(BLOCK)] }
            }
        }
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Int8 { codes, .. } => codes.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in f32, as those of the first (0) or the second (1) moment.
    #[must_use]
    pub fn widened(&self, which: usize) -> Vec<f32> {
        match self {
            Self::F32(values) => values.clone(),
            Self::Bf16(values) => values.iter().map(|x| x.to_f32()).collect(),
            Self::Int8 { codes, scales } => {
                let code = code(if which == 0 { Purpose::First } else { Purpose::Second });
                let value =
                    |(i, &byte): (usize, &u8)| code.values[usize::from(byte)] * scales[i / BLOCK];
                codes.iter().enumerate().map(value).collect()
            }
        }
    }

    /// The values as words of four bytes, to be passed on and not computed with: f32 values as they
    /// are, others four bytes in each.
    #[must_use]
    pub fn into_words(self) -> Vec<f32> {
        let pack = |bytes: &[u8]| {
            let word = |bytes: &[u8]| {
                let mut four = [0; 4];
                four[..bytes.len()].copy_from_slice(bytes);
                f32::from_le_bytes(four)
            };
            bytes.chunks(4).map(word).collect::<Vec<_>>()
        };
        match self {
            Self::F32(values) => values,
            Self::Bf16(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                pack(&bytes)
            }
            Self::Int8 { codes, scales } => [scales, pack(&codes)].concat(),
        }
    }

    /// Values out of such words; what is missing is zero.
    #[must_use]
    pub fn from_words(form: Form, len: usize, mut words: Vec<f32>) -> Self {
        let unpack = |words: &[f32], bytes: usize| {
            let mut all: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            all.resize(bytes, 0);
            all
        };
        match form {
            Form::F32 => {
                words.resize(len, 0.0);
                Self::F32(words)
            }
            Form::Bf16 => {
                let bytes = unpack(&words, 2 * len);
                let pairs = bytes.as_chunks().0.iter();
                Self::Bf16(pairs.map(|bytes| bf16::from_le_bytes(*bytes)).collect())
            }
            Form::Int8 => {
                words.resize(form.scales(len) + len.div_ceil(4), 0.0);
                let codes = words.split_off(form.scales(len));
                Self::Int8 { codes: unpack(&codes, len), scales: words }
            }
        }
    }

    /// Some of the values, whole blocks of them.
    #[must_use]
    pub fn part(&self, values: Range<usize>) -> Self {
        match self {
            Self::F32(all) => Self::F32(all[values].to_vec()),
            Self::Bf16(all) => Self::Bf16(all[values].to_vec()),
            Self::Int8 { codes, scales } => Self::Int8 {
                scales: scales[values.start / BLOCK..values.end.div_ceil(BLOCK)].to_vec(),
                codes: codes[values].to_vec(),
            },
        }
    }

    /// Puts such a part, of the same form, to where it is from.
    pub fn put(&mut self, first: usize, part: &Self) {
        let values = first..first + part.len();
        match (self, part) {
            (Self::F32(all), Self::F32(part)) => all[values].copy_from_slice(part),
            (Self::Bf16(all), Self::Bf16(part)) => all[values].copy_from_slice(part),
            (Self::Int8 { codes, scales }, Self::Int8 { codes: of_part, scales: their_scales }) => {
                codes[values].copy_from_slice(of_part);
                scales[first / BLOCK..][..their_scales.len()].copy_from_slice(their_scales);
            }
            _ => unreachable!("moments of one tensor stand in one form"),
        }
    }

    /// Runs of `size` values, a multiple of [`BLOCK`], to write to.
    pub(crate) fn parts(&mut self, size: usize) -> Vec<Part<'_>> {
        match self {
            Self::F32(values) => values.chunks_mut(size).map(Part::F32).collect(),
            Self::Bf16(values) => values.chunks_mut(size).map(Part::Bf16).collect(),
            Self::Int8 { codes, scales } => codes
                .chunks_mut(size)
                .zip(scales.chunks_mut(size / BLOCK))
                .map(|(codes, scales)| Part::Int8(codes, scales))
                .collect(),
        }
    }
}

/// A run of whole blocks of one moment.
pub(crate) enum Part<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    Int8(&'a mut [u8], &'a mut [f32]),
}

impl Part<'_> {
    /// The values of the run's `block`-th block into `into`, whose first `len` there are.
    pub fn decode(&self, purpose: Purpose, block: usize, into: &mut [f32]) {
        let range = block * BLOCK..block * BLOCK + into.len();
        match self {
            Self::F32(values) => into.copy_from_slice(&values[range]),
            Self::Bf16(values) => {
                for (into, value) in into.iter_mut().zip(&values[range]) {
                    *into = value.to_f32();
                }
            }
            Self::Int8(codes, scales) => {
                let values = &code(purpose).values;
                for (into, &code) in into.iter_mut().zip(&codes[range]) {
                    *into = values[usize::from(code)] * scales[block];
                }
            }
        }
    }

    /// Puts a block back; `first` is the number in the tensor of its first value.
    pub fn encode(
        &mut self,
        purpose: Purpose,
        block: usize,
        first: usize,
        from: &[f32],
        draws: Draws,
    ) {
        let range = block * BLOCK..block * BLOCK + from.len();
        match self {
            Self::F32(values) => values[range].copy_from_slice(from),
            Self::Bf16(values) => {
                let values = &mut values[range];
                draws.round(purpose, first, from, |i, value| values[i] = value);
            }
            Self::Int8(codes, scales) => {
                let code = code(purpose);
                let largest = from.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                let (scale, inverse) = scale_of(largest);
                scales[block] = scale;
                for (byte, &x) in codes[range].iter_mut().zip(from) {
                    *byte = code.nearest(x * inverse).max(code.least(x));
                }
            }
        }
    }
}

/// A block's scale, and what its values are multiplied by. Where that would not be finite, all are 0.
pub(crate) fn scale_of(largest: f32) -> (f32, f32) {
    if largest < f32::MIN_POSITIVE { (0.0, 0.0) } else { (largest, 1.0 / largest) }
}

/// The 256 values that a byte stands for, ascending, and the middles between neighbours.
pub(crate) struct Code {
    pub values: [f32; 256],
    /// The last is above all.
    pub middles: [f32; 256],
    /// Of the second moment: what is above zero never becomes zero, or a first moment that did not
    /// would be divided by eps alone.
    keeps_above_zero: bool,
}

impl Code {
    /// Dynamic tree quantization: after the sign, where there is one, i zeros say the decade 10⁻ⁱ,
    /// and the bits after the first one the place between a tenth of it and all of it.
    fn new(signed: bool) -> Self {
        let mut all = vec![0.0, 1.0];
        for decade in 0..7 {
            let count = 1 << if signed { decade } else { decade + 1 };
            let scale = 10_f64.powi(decade - 6);
            for place in 0..count {
                let middle = 0.1 + 0.9 * (f64::from(place) + 0.5) / f64::from(count);
                all.push((scale * middle) as f32);
                if signed {
                    all.push((-scale * middle) as f32);
                }
            }
        }
        all.sort_by(f32::total_cmp);
        let values: [f32; 256] = all.try_into().expect("two, and seven decades of 2^i");
        let middle = |i: usize| ((f64::from(values[i]) + f64::from(values[i + 1])) / 2.0) as f32;
        let middles = std::array::from_fn(|i| if i < 255 { middle(i) } else { f32::INFINITY });
        Self { values, middles, keeps_above_zero: !signed }
    }

    /// The code of the value nearest to x, the lower one of two; by halving.
    pub fn nearest(&self, x: f32) -> u8 {
        let mut code = 0;
        for step in [128, 64, 32, 16, 8, 4, 2, 1] {
            if x > self.middles[code + step - 1] {
                code += step;
            }
        }
        code as u8
    }

    /// The least code that x may have.
    pub fn least(&self, x: f32) -> u8 {
        u8::from(self.keeps_above_zero && x > 0.0)
    }
}

/// The code of a moment.
pub(crate) fn code(of: Purpose) -> &'static Code {
    static SIGNED: LazyLock<Code> = LazyLock::new(|| Code::new(true));
    static UNSIGNED: LazyLock<Code> = LazyLock::new(|| Code::new(false));
    if of == Purpose::Second { &UNSIGNED } else { &SIGNED }
}

/// Both moments of one tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// The running mean of gradients.
    pub first: Values,
    /// The running mean of their squares.
    pub second: Values,
}

impl Moments {
    /// Zeros in just this form.
    #[must_use]
    pub fn zeros(form: Form, len: usize) -> Self {
        Self { first: Values::zeros(form, len), second: Values::zeros(form, len) }
    }

    /// The first (0) or the second (1).
    #[must_use]
    pub fn get(&self, which: usize) -> &Values {
        if which == 0 { &self.first } else { &self.second }
    }

    /// The same to write to.
    pub fn get_mut(&mut self, which: usize) -> &mut Values {
        if which == 0 { &mut self.first } else { &mut self.second }
    }

    /// The same, and the other one goes.
    #[must_use]
    pub fn into_one(self, which: usize) -> Values {
        if which == 0 { self.first } else { self.second }
    }

    /// How they stand.
    #[must_use]
    pub fn form(&self) -> Form {
        match self.first {
            Values::F32(_) => Form::F32,
            Values::Bf16(_) => Form::Bf16,
            Values::Int8 { .. } => Form::Int8,
        }
    }
}
