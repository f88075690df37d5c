//! Numbers made from the means of cells: means, gaps, Perf-to-EN, ratios, slopes, and differences
//! of any of them. Definitions: arXiv 2504.16677.

use std::borrow::Cow;

use crate::sample::Sample;
use crate::unavailable::{Outcome, Unavailable, finite, same_length};

/// A number made from the values of cells, which are named by their number in a
/// [`Sample`].
#[derive(Clone, Debug, PartialEq)]
pub enum Statistic {
    /// A weighted sum of cells: (cell, weight).
    Linear(Vec<(usize, f64)>),
    /// The first over the second.
    Ratio(Box<Statistic>, Box<Statistic>),
    /// Mean over `cells` of cell / `over`: Perf-to-EN, where `over` is English.
    MeanRatio {
        /// The cells that are averaged.
        cells: Vec<usize>,
        /// The cell that each is divided by.
        over: usize,
    },
    /// The first less the second.
    Difference(Box<Statistic>, Box<Statistic>),
}

impl Statistic {
    /// One cell.
    pub fn cell(cell: usize) -> Statistic {
        Statistic::Linear(vec![(cell, 1.0)])
    }

    /// The plain mean of cells.
    pub fn mean(cells: &[usize]) -> Statistic {
        let weight = 1.0 / cells.len() as f64;
        Statistic::Linear(cells.iter().map(|&cell| (cell, weight)).collect())
    }

    /// Mean of the seen cells less that of the unseen ones.
    pub fn gap(seen: &[usize], unseen: &[usize]) -> Statistic {
        Statistic::mean(seen).minus(Statistic::mean(unseen))
    }

    /// Mean over cells of score / English score.
    pub fn perf_to_english(cells: &[usize], english: usize) -> Statistic {
        Statistic::MeanRatio { cells: cells.to_vec(), over: english }
    }

    /// This less another.
    pub fn minus(self, other: Statistic) -> Statistic {
        match (self, other) {
            (Statistic::Linear(mut weights), Statistic::Linear(others)) => {
                weights.extend(others.into_iter().map(|(cell, weight)| (cell, -weight)));
                Statistic::Linear(weights)
            }
            (first, second) => Statistic::Difference(Box::new(first), Box::new(second)),
        }
    }

    /// One over another.
    pub fn ratio(numerator: Statistic, denominator: Statistic) -> Statistic {
        Statistic::Ratio(Box::new(numerator), Box::new(denominator))
    }

    /// The least-squares slope of linear statistics along `x`.
    ///
    /// # Errors
    /// Fewer than two, all `x` equal or one not finite, or a statistic that is not linear.
    pub fn trend(of: &[Statistic], x: &[f64]) -> Outcome<Statistic> {
        same_length("statistics and their places", of.len(), x.len())?;
        finite(x)?;
        if x.len() < 2 {
            return Err(Unavailable::TooFew { what: "points", found: x.len(), needed: 2 });
        }
        let centre = x.iter().sum::<f64>() / x.len() as f64;
        let spread: f64 = x.iter().map(|x| (x - centre).powi(2)).sum();
        if spread == 0.0 {
            return Err(Unavailable::AllEqual);
        }
        let mut weights = Vec::new();
        for (statistic, x) in of.iter().zip(x) {
            let Statistic::Linear(cells) = statistic else { return Err(Unavailable::Undefined) };
            let slope = (x - centre) / spread;
            weights.extend(cells.iter().map(|&(cell, weight)| (cell, weight * slope)));
        }
        Ok(Statistic::Linear(weights))
    }

    /// The statistic of one value a cell.
    pub fn of(&self, values: &[f64]) -> f64 {
        self.over(1, &|cell| Cow::Owned(vec![values.get(cell).copied().unwrap_or(f64::NAN)]))[0]
    }

    /// The statistic at every place of the cells' columns, each of `length` values.
    pub(crate) fn over<'a>(
        &self,
        length: usize,
        column: &dyn Fn(usize) -> Cow<'a, [f64]>,
    ) -> Vec<f64> {
        match self {
            Statistic::Linear(weights) => {
                let mut sum = vec![0.0; length];
                for &(cell, weight) in weights {
                    for (sum, value) in sum.iter_mut().zip(column(cell).iter()) {
                        *sum += weight * value;
                    }
                }
                sum
            }
            Statistic::Ratio(first, second) => {
                let below = second.over(length, column);
                zip(first.over(length, column), &below, |a, b| a / b)
            }
            Statistic::MeanRatio { cells, over } => {
                let weight = 1.0 / cells.len() as f64;
                let sum = Statistic::Linear(cells.iter().map(|&cell| (cell, weight)).collect());
                zip(sum.over(length, column), &column(*over), |a, b| a / b)
            }
            Statistic::Difference(first, second) => {
                let other = second.over(length, column);
                zip(first.over(length, column), &other, |a, b| a - b)
            }
        }
    }

    /// The cells that it is made from, each once, ascending.
    pub fn cells(&self) -> Vec<usize> {
        let mut cells = match self {
            Statistic::Linear(weights) => weights.iter().map(|&(cell, _)| cell).collect(),
            Statistic::MeanRatio { cells, over } => [&cells[..], &[*over]].concat(),
            Statistic::Ratio(first, second) | Statistic::Difference(first, second) => {
                [first.cells(), second.cells()].concat()
            }
        };
        cells.sort_unstable();
        cells.dedup();
        cells
    }

    /// Where its values must lie, if the cells' ranges say so.
    pub(crate) fn range(&self, sample: &Sample) -> Option<(f64, f64)> {
        let Statistic::Linear(weights) = self else { return None };
        let mut ends = (0.0, 0.0);
        for &(cell, weight) in weights {
            let (low, high) = sample.cells().get(cell)?.range?;
            let (a, b) = (low * weight, high * weight);
            ends = (ends.0 + a.min(b), ends.1 + a.max(b));
        }
        Some(ends)
    }
}

fn zip(mut a: Vec<f64>, b: &[f64], combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    for (a, b) in a.iter_mut().zip(b) {
        *a = combine(*a, *b);
    }
    a
}
