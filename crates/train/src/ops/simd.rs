//! What lets plain loops run on the widest vectors of the processor at hand: `simd!` compiles one
//! function body for AVX-512, for AVX2 and for the baseline, and picks at run time. Beside it the
//! few scalar functions that such loops need in a form without branches or calls, so that they
//! vectorise.

/// Lanes of an accumulator: one AVX-512 register. Sums are kept in so many parts on every
/// processor, which fixes their order.
pub const LANES: usize = 16;

/// The instruction sets that function bodies are compiled for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Level {
    /// AVX-512 with its byte, word, doubleword and short-vector parts.
    Avx512,
    /// AVX2 and fused multiply-add.
    Avx2,
    /// What every processor of the target has.
    Baseline,
}

/// The best of this processor.
#[inline]
#[must_use]
pub fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
        {
            return Level::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Baseline
}

/// Defines a function whose body is compiled for each [`Level`]. The body must be plain loops over
/// slices: only what the compiler inlines into it gets the wide registers.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match $crate::ops::simd::level() {
                    // SAFETY: the processor has been asked for these features.
                    $crate::ops::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: the same.
                    $crate::ops::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::simd::Level::Baseline => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use simd;

/// Sixteen f32 values in registers, for the one kernel whose sums must stay there and which
/// compilers do not find by themselves.
pub(crate) trait Vector: Copy {
    /// Zeros.
    ///
    /// # Safety
    /// The processor has the features of the implementing type; so for all of these.
    unsafe fn zero() -> Self;
    /// Values from memory.
    ///
    /// # Safety
    /// As [`Vector::zero`].
    unsafe fn load(x: &[f32; LANES]) -> Self;
    /// self + x y, rounded once.
    ///
    /// # Safety
    /// As [`Vector::zero`].
    unsafe fn plus_product(self, x: Self, y: Self) -> Self;
    /// Sum of the lanes, in the tree of [`sum_lanes`].
    ///
    /// # Safety
    /// As [`Vector::zero`].
    unsafe fn sum(self) -> f32;
}

impl Vector for [f32; LANES] {
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn load(x: &[f32; LANES]) -> Self {
        *x
    }
    #[inline(always)]
    unsafe fn plus_product(self, x: Self, y: Self) -> Self {
        std::array::from_fn(|i| x[i].mul_add(y[i], self[i]))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        sum_lanes(self)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Vector};

    impl Vector for __m512 {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: AVX-512, by the trait's promise; so below.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(x: &[f32; LANES]) -> Self {
            // SAFETY: sixteen values are there to be read.
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        unsafe fn plus_product(self, x: Self, y: Self) -> Self {
            // SAFETY: as in `zero`.
            unsafe { _mm512_fmadd_ps(x, y, self) }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: as in `zero`.
            unsafe {
                let high = _mm512_shuffle_f32x4::<0b1110>(self, self);
                [_mm512_castps512_ps256(self), _mm512_castps512_ps256(high)].sum()
            }
        }
    }

    impl Vector for [__m256; 2] {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: AVX2 and FMA, by the trait's promise; so below.
            unsafe { [_mm256_setzero_ps(); 2] }
        }
        #[inline(always)]
        unsafe fn load(x: &[f32; LANES]) -> Self {
            // SAFETY: twice eight values are there to be read.
            unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
        }
        #[inline(always)]
        unsafe fn plus_product(self, x: Self, y: Self) -> Self {
            // SAFETY: as in `zero`.
            unsafe { [_mm256_fmadd_ps(x[0], y[0], self[0]), _mm256_fmadd_ps(x[1], y[1], self[1])] }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: as in `zero`.
            unsafe {
                let eight = _mm256_add_ps(self[0], self[1]);
                let four =
                    _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
    }
}

/// e^x to about 1e-7 relative, for x within ±87; beyond that the value at the bound. NaN stays NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to the seventh power (the rest is
/// below 6e-9); 2^n by adding n to the exponent bits. Adding 1.5 * 2^23 rounds to a whole number
/// and leaves it in the low bits of the sum.
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    let (r, shifted) = reduced(x);
    let power = r.mul_add(slope(r), 1.0);
    f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// tanh x = m / (m + 2) with m = e^(2x) − 1, to about 3e-7 relative, near zero too: m is taken as
/// 2^n (e^r − 1) + (2^n − 1), where nothing cancels.
#[inline(always)]
#[must_use]
pub fn tanh(x: f32) -> f32 {
    let (r, shifted) = reduced(2.0 * x);
    let two_n = f32::from_bits(1f32.to_bits().wrapping_add(shifted.to_bits() << 23));
    let m = two_n.mul_add(r * slope(r), two_n - 1.0);
    m / (m + 2.0)
}

/// r, and a value that has n in its low bits, of x = n ln 2 + r.
#[inline(always)]
fn reduced(x: f32) -> (f32, f32) {
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few enough bits that its product with n is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    (n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x)), shifted)
}

/// (e^r − 1) / r for a small r.
#[inline(always)]
fn slope(r: f32) -> f32 {
    let mut power = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0f32] {
        power = r.mul_add(power, coefficient);
    }
    power
}

/// Adds the lanes of an accumulator in a fixed tree.
#[inline(always)]
#[must_use]
pub fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Sum of x_i y_i in sixteen lanes; the last, short part counts in the first lanes.
#[inline(always)]
#[must_use]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (x_whole, x_rest) = x.as_chunks::<LANES>();
    let (y_whole, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x_whole.iter().zip(y_whole) {
        for i in 0..LANES {
            lanes[i] = x[i].mul_add(y[i], lanes[i]);
        }
    }
    for (i, (x, y)) in x_rest.iter().zip(y_rest).enumerate() {
        lanes[i] = x.mul_add(*y, lanes[i]);
    }
    sum_lanes(lanes)
}

/// The largest value, NaN left out of account; minus infinity if there is none.
#[inline(always)]
#[must_use]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |best, &x| if x > best { x } else { best })
}

simd! {
    /// Replaces each x_i by e^(x_i - shift) and returns the sum of the results.
    pub fn exp_minus_and_sum(x: &mut [f32], shift: f32) -> f32 {
        let mut lanes = [0.0; LANES];
        let (whole, rest) = x.as_chunks_mut::<LANES>();
        for x in whole {
            for i in 0..LANES {
                x[i] = exp(x[i] - shift);
                lanes[i] += x[i];
            }
        }
        for (i, x) in rest.iter_mut().enumerate() {
            *x = exp(*x - shift);
            lanes[i] += *x;
        }
        sum_lanes(lanes)
    }
}

simd! {
    /// The largest of `x`; see [`max`].
    pub fn row_max(x: &[f32]) -> f32 {
        max(x)
    }
}

simd! {
    /// Each x_i becomes cap · tanh(x_i / cap).
    pub fn soft_cap(x: &mut [f32], cap: f32) {
        for x in x {
            *x = cap * tanh(*x / cap);
        }
    }
}

simd! {
    /// Multiplies each x_i by `factor`.
    pub fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

simd! {
    /// y_i += x_i.
    pub fn add(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_parts_in_ten_million_of_the_f64_value() {
        let mut worst: f64 = 0.0;
        for i in -870_000..=870_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn tanh_is_within_four_parts_in_ten_million_of_the_f64_value_near_zero_too() {
        let mut worst: f64 = 0.0;
        for x in
            (-300_000..=300_000).map(|i| i as f32 * 1e-4).chain((1..60).map(|i| 0.5f32.powi(i)))
        {
            let exact = f64::from(x).tanh();
            let found = f64::from(tanh(x));
            worst = worst.max(if x == 0.0 { found.abs() } else { (found / exact - 1.0).abs() });
        }
        assert!(worst < 4e-7, "{worst:e}");
        assert!(tanh(f32::NAN).is_nan());
        assert_eq!([tanh(1e9), tanh(-1e9)], [1.0, -1.0]);
    }

    #[test]
    fn sums_and_maxima_of_odd_lengths() {
        for len in [0, 1, 15, 16, 17, 33, 100] {
            let x: Vec<f32> = (0..len).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
            let expected: f32 = x.iter().map(|x| x * x).sum();
            assert_eq!(dot(&x, &x), expected, "whole numbers add without rounding");
            assert_eq!(row_max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut powers = x.clone();
            let sum = exp_minus_and_sum(&mut powers, 1.0);
            let exact: f64 = x.iter().map(|&x| f64::from(x - 1.0).exp()).sum();
            assert!((f64::from(sum) - exact).abs() <= 1e-5 * exact);
        }
    }
}
