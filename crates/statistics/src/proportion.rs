//! Intervals of proportions: Wilson's score interval (1927), which keeps its coverage near 0 and 1
//! and has width there, where a bootstrap of equal scores has none.

use crate::interval::{Interval, normal_quantile};
use crate::unavailable::{Outcome, Unavailable, probability};

/// Wilson's interval of a share of `trials`; the share need not be a whole number of trials (a mean
/// over runs is not).
///
/// # Errors
/// Where there are no trials, or the share or the confidence lies outside of 0 to 1.
pub fn wilson(share: f64, trials: usize, confidence: f64) -> Outcome<Interval> {
    probability("a confidence", confidence)?;
    if trials == 0 {
        return Err(Unavailable::Empty);
    }
    if !(0.0..=1.0).contains(&share) {
        return Err(Unavailable::OutOfRange { what: "a share", value: share });
    }
    let (n, z) = (trials as f64, normal_quantile(0.5 + confidence / 2.0));
    let scale = 1.0 + z * z / n;
    let centre = (share + z * z / (2.0 * n)) / scale;
    let half = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt() / scale;
    Ok(Interval::around(centre, half).within(Some((0.0, 1.0))))
}
