//! What a mixture that was not run would score: a language's curve along n, read at any n, with
//! intervals from refitting it to every draw of the bootstrap (Efron and Tibshirani 1993, section
//! 9.5). The intervals hold the errors of the scores, not the error of having chosen the wrong
//! shape; beyond the grid they are marked.

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
    /// Chooses the shape of a series and refits it to its draws: one list an n, in the series'
    /// order, all of one length ([`Draws::values`](crate::Draws::values)).
    ///
    /// # Errors
    /// As [`choose`], and draws that are missing or do not fit the series.
    pub fn new(series: &Series, draws: &[Vec<f64>]) -> Outcome<Response> {
        let choice = choose(series)?;
        let best = &choice.best;
        let refits: Vec<Fit> = refit(series, best.shape, draws)?
            .into_iter()
            .map(|parameters| Fit { parameters, ..best.clone() })
            .collect();
        if refits.is_empty() {
            return Err(Unavailable::Empty);
        }
        let last = series.n.iter().copied().fold(0.0, f64::max);
        Ok(Response { choice, refits, last })
    }

    /// The shapes compared, and the one that predicts.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The curve at n, and how sure it is.
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
            value: self.choice.best.at(n),
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
