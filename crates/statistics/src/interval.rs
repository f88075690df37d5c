//! Intervals, sample quantiles, and the quantiles of the normal and Student distributions that
//! intervals are made with.

use serde::Serialize;
use statrs::distribution::{ChiSquared, ContinuousCDF, Normal, StudentsT};

/// From `low` to `high`, ends included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// `value` ± `half`.
    pub fn around(value: f64, half: f64) -> Interval {
        Interval { low: value - half, high: value + half }
    }

    /// Whether `value` lies within, ends included.
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// Whether 0 lies outside.
    pub fn excludes_zero(&self) -> bool {
        !self.contains(0.0)
    }

    /// Upper end less lower end.
    pub fn width(&self) -> f64 {
        self.high - self.low
    }

    /// Cut to a range that values cannot leave.
    pub(crate) fn within(self, range: Option<(f64, f64)>) -> Interval {
        match range {
            Some((low, high)) if low <= high => {
                Interval { low: self.low.clamp(low, high), high: self.high.clamp(low, high) }
            }
            _ => self,
        }
    }
}

/// Quantile `q` of sorted values, with linear interpolation between neighbours (type 7 of Hyndman
/// and Fan 1996, numpy's default). NaN where there are no values.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    if below == above { below } else { below + (above - below) * at.fract() }
}

/// P(Z ≤ z) of the standard normal distribution.
pub(crate) fn normal_cdf(z: f64) -> f64 {
    Normal::standard().cdf(z)
}

/// The z with P(Z ≤ z) = p; ±∞ at 0 and 1.
pub(crate) fn normal_quantile(p: f64) -> f64 {
    Normal::standard().inverse_cdf(p.clamp(0.0, 1.0))
}

/// From so many degrees of freedom on the quantile comes from its expansion about the normal one
/// (Cornish and Fisher 1937), which is then exact to nine digits; the inverse of the beta integral
/// is not.
const NEARLY_NORMAL: f64 = 1000.0;

fn student(degrees_of_freedom: f64) -> Option<StudentsT> {
    degrees_of_freedom
        .is_finite()
        .then(|| StudentsT::new(0.0, 1.0, degrees_of_freedom.max(f64::MIN_POSITIVE)).ok())
        .flatten()
}

/// P(T ≤ t) of Student's distribution; infinite degrees of freedom are the normal one.
pub(crate) fn student_cdf(t: f64, degrees_of_freedom: f64) -> f64 {
    student(degrees_of_freedom).map_or_else(|| normal_cdf(t), |student| student.cdf(t))
}

/// The t with P(T ≤ t) = p.
pub(crate) fn student_quantile(p: f64, degrees_of_freedom: f64) -> f64 {
    let z = normal_quantile(p);
    match student(degrees_of_freedom) {
        Some(student) if degrees_of_freedom < NEARLY_NORMAL => student.inverse_cdf(p),
        _ => {
            let d = degrees_of_freedom;
            z + (z.powi(3) + z) / (4.0 * d)
                + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * d * d)
        }
    }
}

/// The x with P(χ² ≤ x) = p.
pub(crate) fn chi_squared_quantile(p: f64, degrees_of_freedom: f64) -> f64 {
    ChiSquared::new(degrees_of_freedom).map_or(f64::NAN, |chi| chi.inverse_cdf(p))
}

/// The mean; NaN of nothing.
pub(crate) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) =
        values.into_iter().fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile([1, 2, 4, 8, 16], [0, .025, .1, .5, .9, 1])
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        for (q, expected) in
            [(0.0, 1.0), (0.025, 1.1), (0.1, 1.4), (0.5, 4.0), (0.9, 12.8), (1.0, 16.0)]
        {
            assert!((quantile(&values, q) - expected).abs() < 1e-12, "{q}");
        }
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn student_quantiles_are_those_of_scipy() {
        // scipy.stats.t.ppf(p, df)
        for (p, df, expected) in [
            (0.975, 1.0, 12.706_204_736_174_694),
            (0.975, 2.0, 4.302_652_729_749_462),
            (0.95, 7.5, 1.875_747_479_211_287_8),
            (0.995, 249.0, 2.595_717_758_273_491_6),
            (0.975, 5e5, 1.959_968_729_093_804_4),
        ] {
            let found = student_quantile(p, df);
            assert!((found - expected).abs() < 1e-8, "{p} {df}: {found}");
            assert!((student_cdf(expected, df) - p).abs() < 1e-9);
        }
        assert!((student_quantile(0.975, f64::INFINITY) - 1.959_963_984_540_054).abs() < 1e-12);
    }

    #[test]
    fn an_interval_is_cut_to_its_range() {
        let cut = Interval { low: -0.1, high: 0.4 }.within(Some((0.0, 1.0)));
        assert_eq!(cut, Interval { low: 0.0, high: 0.4 });
        assert!(!cut.excludes_zero() && cut.contains(0.4) && !cut.contains(0.5));
    }
}
