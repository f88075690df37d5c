//! Ratios with Fieller's interval (1954), and the transfer ratio that they are for.
//!
//! The interval of a ratio is the set of ratios `r` for which numerator − r · denominator does not
//! differ from 0. It is a plain interval only where the denominator itself differs from 0;
//! elsewhere the ratio is withheld.

use serde::Serialize;

use crate::bootstrap::{Draws, Runs};
use crate::interval::{Interval, mean, student_quantile};
use crate::statistic::Statistic;
use crate::unavailable::{Outcome, Unavailable, finite, probability};

/// A ratio with its interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Numerator / denominator.
    pub value: f64,
    /// Fieller's interval.
    pub interval: Interval,
    /// The denominator's own interval, which leaves out 0.
    pub denominator: Interval,
}

/// Fieller's interval of a ratio of two estimates with known variances and covariance; infinite
/// degrees of freedom are the normal case.
///
/// # Errors
/// [`Unavailable::DenominatorSpansZero`] where the denominator's interval holds 0; values that are
/// not finite, negative variances, a confidence outside of 0 to 1.
pub fn fieller(
    numerator: f64,
    denominator: f64,
    variances: (f64, f64),
    covariance: f64,
    degrees_of_freedom: f64,
    confidence: f64,
) -> Outcome<Ratio> {
    probability("a confidence", confidence)?;
    finite(&[numerator, denominator, variances.0, variances.1, covariance])?;
    for variance in [variances.0, variances.1] {
        if variance < 0.0 {
            return Err(Unavailable::OutOfRange { what: "a variance", value: variance });
        }
    }
    let t = student_quantile(0.5 + confidence / 2.0, degrees_of_freedom);
    let below = Interval::around(denominator, t * variances.1.sqrt());
    if below.contains(0.0) {
        return Err(Unavailable::DenominatorSpansZero { value: denominator, interval: below });
    }
    // The roots r of (a − r b)² = t² (V₁ − 2 r C + r² V₂).
    let square = denominator * denominator - t * t * variances.1;
    let middle = numerator * denominator - t * t * covariance;
    let rest = numerator * numerator - t * t * variances.0;
    let root = (middle * middle - square * rest).max(0.0).sqrt();
    Ok(Ratio {
        value: numerator / denominator,
        interval: Interval { low: (middle - root) / square, high: (middle + root) / square },
        denominator: below,
    })
}

/// Mean of the first over mean of the second, of pairs that are independent of each other.
///
/// # Errors
/// Fewer than two pairs, and as [`fieller`].
pub fn ratio_of_means(pairs: &[(f64, f64)], confidence: f64) -> Outcome<Ratio> {
    if pairs.len() < 2 {
        return Err(Unavailable::TooFew { what: "pairs", found: pairs.len(), needed: 2 });
    }
    let n = pairs.len() as f64;
    let (a, b) = (mean(pairs.iter().map(|pair| pair.0)), mean(pairs.iter().map(|pair| pair.1)));
    let of = |product: fn(f64, f64) -> f64| {
        pairs.iter().map(|pair| product(pair.0 - a, pair.1 - b)).sum::<f64>() / (n - 1.0) / n
    };
    fieller(a, b, (of(|a, _| a * a), of(|_, b| b * b)), of(|a, b| a * b), n - 1.0, confidence)
}

/// How much of what a language gains from its own data it gains without them:
/// (without − base) / (with − base). The three are of different runs.
///
/// # Errors
/// As [`Draws::covariance`] and [`fieller`].
pub fn transfer_ratio(
    draws: &Draws,
    without: &Statistic,
    with: &Statistic,
    base: &Statistic,
    runs: Runs,
    confidence: f64,
) -> Outcome<Ratio> {
    let levels = [without.clone(), with.clone(), base.clone()];
    let covariance = draws.covariance(&levels, runs)?;
    let m = &covariance.matrix;
    // Of (level i − base) and (level j − base).
    let less_base = |i: usize, j: usize| m[i][j] - m[i][2] - m[2][j] + m[2][2];
    let [without, with, base] = [0, 1, 2].map(|at| covariance.values[at]);
    fieller(
        without - base,
        with - base,
        (less_base(0, 0).max(0.0), less_base(1, 1).max(0.0)),
        less_base(0, 1),
        covariance.degrees_of_freedom,
        confidence,
    )
}
