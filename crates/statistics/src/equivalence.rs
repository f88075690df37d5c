//! Showing that something does *not* change: two one-sided tests (Schuirmann 1987), and the trend of
//! a gap along n that they are for. "Not significant" is no evidence of "constant"; being within a
//! stated margin is.

use serde::Serialize;

use crate::bootstrap::{Draws, Estimate, Options, Runs};
use crate::interval::{Interval, mean, student_cdf, student_quantile};
use crate::statistic::Statistic;
use crate::unavailable::{Outcome, Unavailable, finite, probability, same_length};

/// Whether a value is within a margin of 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Equivalence {
    /// p of "it is as far from 0 as the margin or farther".
    pub p: f64,
    /// p below α: within the margin.
    pub equivalent: bool,
    /// Two-sided p of "it is 0" below α. Both can hold: different, and by less than matters.
    pub differs: bool,
    /// At confidence 1 − 2α: within ±margin exactly where `equivalent`.
    pub interval: Interval,
    /// The margin.
    pub margin: f64,
}

/// Two one-sided tests of an estimate with a standard error; infinite degrees of freedom are the
/// normal case.
///
/// # Errors
/// A margin or error that is not above 0, α outside of 0 to ½, values that are not finite.
pub fn tost(
    value: f64,
    error: f64,
    degrees_of_freedom: f64,
    margin: f64,
    alpha: f64,
) -> Outcome<Equivalence> {
    probability("twice an α", 2.0 * alpha)?;
    finite(&[value, error, margin])?;
    if margin <= 0.0 {
        return Err(Unavailable::OutOfRange { what: "a margin", value: margin });
    }
    if error <= 0.0 {
        return Err(Unavailable::AllEqual);
    }
    let above = student_cdf((value - margin) / error, degrees_of_freedom);
    let below = student_cdf((-margin - value) / error, degrees_of_freedom);
    let p = above.max(below);
    let different = 2.0 * student_cdf(-(value / error).abs(), degrees_of_freedom);
    let half = student_quantile(1.0 - alpha, degrees_of_freedom) * error;
    Ok(Equivalence {
        p,
        equivalent: p < alpha,
        differs: different < alpha,
        interval: Interval::around(value, half),
        margin,
    })
}

/// How a gap goes along n.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConstantGap {
    /// Change of the fitted line from the smallest to the largest n.
    pub change: Estimate,
    /// Whether that is within the margin; the reason where it has no error.
    pub equivalence: Outcome<Equivalence>,
}

/// Fits a line to gaps along log₂(1 + n) and asks whether it stays within the margin from the
/// smallest to the largest n. `runs` is the spread of a single gap.
///
/// # Errors
/// As [`Statistic::trend`] and [`Draws::estimate`].
pub fn constant_gap(
    draws: &Draws,
    gaps: &[Statistic],
    n: &[f64],
    runs: Runs,
    margin: f64,
    alpha: f64,
) -> Outcome<ConstantGap> {
    let x: Vec<f64> = n.iter().map(|n| (1.0 + n).log2()).collect();
    let centre = mean(x.iter().copied());
    let spread: f64 = x.iter().map(|x| (x - centre).powi(2)).sum();
    let first = x.iter().copied().fold(f64::INFINITY, f64::min);
    let range = x.iter().copied().fold(f64::NEG_INFINITY, f64::max) - first;
    if range.is_nan() || range <= 0.0 {
        return Err(Unavailable::TooFew { what: "different n", found: 1, needed: 2 });
    }
    // Along x in units of its range, the slope is the change from end to end.
    let of_range: Vec<f64> = x.iter().map(|x| x / range).collect();
    let change = Statistic::trend(gaps, &of_range)?;
    let runs = match runs {
        Runs::Own => Runs::Own,
        // The weights of a least-squares slope have squares that add to 1 / spread.
        Runs::Pooled(of_one) => Runs::Pooled(of_one.scaled(range * range / spread)),
    };
    let options = Options { confidence: 1.0 - alpha, runs, ..Options::default() };
    let change = draws.estimate(&change, options)?;
    let equivalence = tost(change.value, change.error(), change.degrees_of_freedom, margin, alpha);
    Ok(ConstantGap { change, equivalence })
}

/// A straight line through points, its error from their scatter: for tables of which nothing but
/// the means is known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// At x = 0.
    pub intercept: f64,
    /// Per unit of x.
    pub slope: f64,
    /// Standard error of the slope.
    pub error: f64,
    /// Points less two.
    pub degrees_of_freedom: f64,
    /// Two-sided p of "the slope is 0".
    pub p: f64,
    /// Of the slope.
    pub interval: Interval,
}

/// Ordinary least squares.
///
/// # Errors
/// Fewer than three points, x all equal, points exactly on a line, values that are not finite.
pub fn line(x: &[f64], y: &[f64], confidence: f64) -> Outcome<Line> {
    probability("a confidence", confidence)?;
    same_length("places and values", x.len(), y.len())?;
    finite(x)?;
    finite(y)?;
    if x.len() < 3 {
        return Err(Unavailable::TooFew { what: "points", found: x.len(), needed: 3 });
    }
    let (x_mean, y_mean) = (mean(x.iter().copied()), mean(y.iter().copied()));
    let spread: f64 = x.iter().map(|x| (x - x_mean).powi(2)).sum();
    if spread == 0.0 {
        return Err(Unavailable::AllEqual);
    }
    let slope = x.iter().zip(y).map(|(x, y)| (x - x_mean) * (y - y_mean)).sum::<f64>() / spread;
    let intercept = y_mean - slope * x_mean;
    let residual: f64 = x.iter().zip(y).map(|(x, y)| (y - intercept - slope * x).powi(2)).sum();
    let scale: f64 = y.iter().map(|y| (y - y_mean).powi(2)).sum();
    if residual <= 1e-24 * scale.max(f64::MIN_POSITIVE) {
        return Err(Unavailable::AllEqual);
    }
    let degrees_of_freedom = x.len() as f64 - 2.0;
    let error = (residual / degrees_of_freedom / spread).sqrt();
    let half = student_quantile(0.5 + confidence / 2.0, degrees_of_freedom) * error;
    Ok(Line {
        intercept,
        slope,
        error,
        degrees_of_freedom,
        p: 2.0 * student_cdf(-(slope / error).abs(), degrees_of_freedom),
        interval: Interval::around(slope, half),
    })
}
