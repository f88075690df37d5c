//! What a mixture that was not run would score: a language's curve along n, read at any n. Shapes
//! are averaged by their Akaike weights (Buckland, Burnham and Augustin 1997), and intervals come
//! from refitting them to every draw of the bootstrap (Efron and Tibshirani 1993, section 9.5), each
//! draw in a shape by its weight: they hold the errors of the scores and the doubt about the shape.
//! Beyond the grid predictions are marked.

use serde::Serialize;

use crate::curve::{Choice, Fit, Series, choose, refit};
use crate::interval::{Interval, quantile};
use crate::unavailable::{Outcome, Unavailable, probability};

/// A curve with its draws.
#[derive(Clone, Debug)]
pub struct Response {
    choice: Choice,
    /// The curve refitted, draw by draw.
    refits: Vec<Fit>,
    last: f64,
}

/// What is expected at an n.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The curve's value.
    pub value: f64,
    /// Its interval.
    pub interval: Interval,
    /// Whether n is no larger than the largest that was run.
    pub within_grid: bool,
}

impl Response {
    /// Fits the shapes to a series and refits them to its draws: one list an n, in the series'
    /// order, all of one length ([`Draws::values`](crate::Draws::values)).
    ///
    /// # Errors
    /// As [`choose`], and draws that are missing or do not fit the series.
    pub fn new(series: &Series, draws: &[Vec<f64>]) -> Outcome<Response> {
        let choice = choose(series)?;
        let count = draws.iter().map(Vec::len).min().unwrap_or(0);
        if count == 0 {
            return Err(Unavailable::Empty);
        }
        let mut refits = Vec::with_capacity(count);
        let mut before = 0.0;
        for (fit, weight) in &choice.fits {
            let shape = (before, before + weight);
            before = shape.1;
            let own: Vec<usize> = (0..count).filter(|&b| within(place(b), shape)).collect();
            for (draw, parameters) in own.iter().zip(refit(series, fit.shape, draws, &own)?) {
                refits.push((*draw, Fit { parameters, ..fit.clone() }));
            }
        }
        refits.sort_by_key(|refit| refit.0);
        let refits = refits.into_iter().map(|refit| refit.1).collect();
        let last = series.n.iter().copied().fold(0.0, f64::max);
        Ok(Response { choice, refits, last })
    }

    /// The shapes compared, with their weights.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The expected score at n, and how sure it is.
    ///
    /// # Errors
    /// A negative n, a confidence outside of 0 to 1.
    pub fn at(&self, n: f64, confidence: f64) -> Outcome<Prediction> {
        probability("a confidence", confidence)?;
        if !(n >= 0.0 && n.is_finite()) {
            return Err(Unavailable::OutOfRange { what: "n", value: n });
        }
        let mut draws = self.draws_at(n);
        draws.sort_unstable_by(f64::total_cmp);
        let [low, high] =
            [0.5 - confidence / 2.0, 0.5 + confidence / 2.0].map(|level| quantile(&draws, level));
        Ok(Prediction {
            value: self.choice.fits.iter().map(|(fit, weight)| weight * fit.at(n)).sum(),
            interval: Interval { low, high },
            within_grid: n <= self.last,
        })
    }

    /// The curve at n draw by draw, paired with that of every other response of the same draws: for
    /// means over languages and differences between mixtures.
    pub fn draws_at(&self, n: f64) -> Vec<f64> {
        self.refits.iter().map(|fit| fit.at(n)).collect()
    }
}

/// Where a draw stands in 0 to 1: steps of the golden ratio, which fill it evenly from any point on.
fn place(draw: usize) -> f64 {
    (draw as f64 * 0.618_033_988_749_894_9).fract()
}

/// The last shape's end is 1 to rounding, and no draw may fall beyond it.
fn within(place: f64, (from, to): (f64, f64)) -> bool {
    from <= place && (place < to || to > 1.0 - 1e-9)
}
