//! What each item and each run does to a statistic: the jackknife over items (Efron and Tibshirani
//! 1993, chapter 11), run by run, and the variance components that follow from it.

use std::borrow::Cow;

use serde::Serialize;

use crate::bootstrap::{Draws, RunSpread, Runs};
use crate::interval::mean;
use crate::sample::Sample;
use crate::statistic::Statistic;
use crate::unavailable::{Outcome, Unavailable};

/// A statistic taken apart.
pub(crate) struct Influence {
    /// As observed.
    pub value: f64,
    /// Run by run, over the runs that all its cells have.
    pub by_seed: Vec<f64>,
    /// Runs that all its cells have.
    pub seeds: usize,
    /// Distinct items over its cells.
    pub items: usize,
    /// Item by item of the sample: mean of the leave-one-out values less that without the item; 0
    /// where no cell has the item or it cannot be left out.
    by_item: Vec<f64>,
    /// The same for each run's own value.
    by_seed_item: Vec<Vec<f64>>,
}

/// Takes a statistic apart.
pub(crate) fn influence(draws: &Draws, statistic: &Statistic) -> Outcome<Influence> {
    let sample = draws.sample();
    let cells = statistic.cells();
    let mut marks = vec![false; sample.items()];
    let mut seeds = usize::MAX;
    for &cell in &cells {
        seeds = seeds.min(sample.get(cell)?.seeds.len());
        sample.mark_items(cell, &mut marks);
    }
    if cells.is_empty() {
        return Err(Unavailable::Empty);
    }
    let value = statistic.over(1, &|cell| Cow::Owned(vec![draws.observed(cell)]))[0];
    if !value.is_finite() {
        return Err(Unavailable::Undefined);
    }
    // Cell by cell and run by run, with each item left out.
    let without: Vec<Vec<Vec<f64>>> = cells
        .iter()
        .map(|&cell| {
            sample.cells()[cell].seeds.iter().map(|seed| sample.leave_one_out(seed)).collect()
        })
        .collect();
    let place = |cell: usize| cells.binary_search(&cell).unwrap_or_default();
    let overall = |cell: usize| Cow::Owned(mean_of(&without[place(cell)], sample));
    let by_item = centred(statistic.over(sample.items(), &overall), &marks);
    let of_run = |run: usize| {
        let of_items = |cell: usize| Cow::Borrowed(without[place(cell)][run].as_slice());
        let own = |cell: usize| sample.seed_mean(&sample.cells()[cell].seeds[run]);
        let value = statistic.over(1, &|cell| Cow::Owned(vec![own(cell)]))[0];
        (value, centred(statistic.over(sample.items(), &of_items), &marks))
    };
    let (mut by_seed, mut by_seed_item): (Vec<f64>, Vec<Vec<f64>>) =
        if seeds > 1 { (0..seeds).map(of_run).unzip() } else { Default::default() };
    if by_seed.iter().any(|value| !value.is_finite()) {
        // A ratio that one run does not have: items alone.
        (by_seed, by_seed_item, seeds) = (Vec::new(), Vec::new(), 1);
    }
    let items = marks.iter().filter(|&&marked| marked).count();
    Ok(Influence { value, by_seed, seeds, items, by_item, by_seed_item })
}

fn mean_of(runs: &[Vec<f64>], sample: &Sample) -> Vec<f64> {
    let at = |item: usize| mean(runs.iter().map(|run| run[item]));
    (0..sample.items()).map(at).collect()
}

/// Mean less each value, over the marked items whose value is a number; 0 elsewhere.
fn centred(values: Vec<f64>, marks: &[bool]) -> Vec<f64> {
    let counts = |at: usize| marks[at] && values[at].is_finite();
    let centre = mean((0..values.len()).filter(|&at| counts(at)).map(|at| values[at]));
    (0..values.len()).map(|at| if counts(at) { centre - values[at] } else { 0.0 }).collect()
}

/// The components that the error of a statistic is made of, for planning.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Noise {
    /// Variance of one item's deviation.
    pub item: f64,
    /// Variance of one run's deviation.
    pub run: f64,
    /// Degrees of freedom that the run's variance is known with.
    pub run_degrees_of_freedom: f64,
    /// Settings whose runs it is from.
    pub settings: usize,
    /// Variance of one item's deviation in one run.
    pub interaction: f64,
    /// Items that these are from.
    pub items: usize,
    /// Runs that these are from.
    pub seeds: usize,
}

impl Noise {
    /// Standard error with so many items and runs: √(item/I + run/S + interaction/(I·S)).
    pub fn error(&self, items: usize, seeds: usize) -> f64 {
        let (items, seeds) = (items as f64, seeds as f64);
        (self.item / items + self.run / seeds + self.interaction / (items * seeds)).sqrt()
    }
}

impl Draws<'_> {
    /// The components of a statistic's error: items, runs, and items in runs.
    ///
    /// # Errors
    /// As [`Draws::estimate`]; one run and none pooled; fewer than two items.
    pub fn noise(&self, statistic: &Statistic, runs: Runs) -> Outcome<Noise> {
        let influence = influence(self, statistic)?;
        let (items, seeds) = (influence.items, influence.seeds);
        if items < 2 {
            return Err(Unavailable::TooFew { what: "items", found: items, needed: 2 });
        }
        let spread = match runs {
            Runs::Own if seeds < 2 => return Err(Unavailable::OneSeed),
            Runs::Own => RunSpread {
                variance: influence.seed_variance(),
                of_items: influence.interaction_variance(),
                degrees_of_freedom: seeds as f64 - 1.0,
                settings: 1,
            },
            Runs::Pooled(spread) => spread,
        };
        let interaction = spread.of_items * items as f64;
        let item = influence.item_variance() * items as f64 - interaction / seeds as f64;
        Ok(Noise {
            item: item.max(0.0),
            run: (spread.variance - spread.of_items).max(0.0),
            run_degrees_of_freedom: spread.degrees_of_freedom,
            settings: spread.settings,
            interaction,
            items,
            seeds,
        })
    }
}

impl Influence {
    fn shrink(&self) -> f64 {
        let items = self.items as f64;
        if self.items < 2 { 1.0 } else { (items - 1.0) / items }
    }

    /// Variance of the statistic over draws of items, runs held.
    pub fn item_variance(&self) -> f64 {
        self.shrink() * self.by_item.iter().map(|one| one * one).sum::<f64>()
    }

    /// Variance between the runs' values.
    pub fn seed_variance(&self) -> f64 {
        if self.seeds < 2 {
            return 0.0;
        }
        let centre = mean(self.by_seed.iter().copied());
        self.by_seed.iter().map(|one| (one - centre).powi(2)).sum::<f64>()
            / (self.seeds as f64 - 1.0)
    }

    /// The part of [`seed_variance`](Influence::seed_variance) that items falling out differently
    /// in each run explain.
    pub fn interaction_variance(&self) -> f64 {
        if self.seeds < 2 || self.items < 2 {
            return 0.0;
        }
        let residual = |item: usize| {
            let centre = mean(self.by_seed_item.iter().map(|run| run[item]));
            self.by_seed_item.iter().map(|run| (run[item] - centre).powi(2)).sum::<f64>()
        };
        self.shrink() * (0..self.by_item.len()).map(residual).sum::<f64>()
            / (self.seeds as f64 - 1.0)
    }

    /// The two parts of the error: of items alike in every run, and of runs.
    pub fn parts(&self, runs: Runs) -> ErrorParts {
        let seeds = self.seeds as f64;
        let spread = match runs {
            Runs::Pooled(spread) => spread,
            Runs::Own if self.seeds < 2 => RunSpread::default(),
            Runs::Own => RunSpread {
                variance: self.seed_variance(),
                of_items: self.interaction_variance(),
                degrees_of_freedom: seeds - 1.0,
                settings: 1,
            },
        };
        let items = self.item_variance();
        let own = (items - spread.of_items / seeds).max(0.0);
        ErrorParts {
            items: own,
            kept: if items > 0.0 { (own / items).sqrt() } else { 0.0 },
            runs: spread.variance / seeds,
            run_degrees_of_freedom: spread.degrees_of_freedom,
            item_degrees_of_freedom: (self.items as f64 - 1.0).max(1.0),
        }
    }

    /// The runs' deviations, scaled so that their squares add to the variance of the mean.
    pub fn run_deviations(&self) -> Vec<f64> {
        let seeds = self.seeds as f64;
        let centre = mean(self.by_seed.iter().copied());
        let scale = 1.0 / (seeds * (seeds - 1.0)).sqrt();
        self.by_seed.iter().map(|value| (value - centre) * scale).collect()
    }

    /// BCa's acceleration: a sixth of the skewness of the estimate. Runs are taken as symmetric.
    pub fn acceleration(&self, parts: &ErrorParts) -> f64 {
        let variance = parts.items + parts.runs;
        if variance == 0.0 {
            return 0.0;
        }
        let cubes: f64 = self.by_item.iter().map(|one| one.powi(3)).sum();
        parts.kept.powi(3) * cubes / (6.0 * variance.powf(1.5))
    }

    /// The items' part of the covariance of two statistics of one sample.
    pub fn item_covariance(&self, own: &ErrorParts, other: &Influence, others: &ErrorParts) -> f64 {
        let items: f64 = self.by_item.iter().zip(&other.by_item).map(|(a, b)| a * b).sum();
        items * (self.shrink() * other.shrink()).sqrt() * own.kept * others.kept
    }

    /// The runs' part, where both have the same runs.
    pub fn run_covariance(&self, other: &Influence) -> f64 {
        if self.seeds != other.seeds || self.seeds < 2 {
            return 0.0;
        }
        self.run_deviations().iter().zip(other.run_deviations()).map(|(a, b)| a * b).sum()
    }
}

/// The variance of a statistic, in its two parts.
pub(crate) struct ErrorParts {
    /// Of items, alike in every run.
    pub items: f64,
    /// By how much draws of items are drawn in, because the rest is in the runs' part.
    pub kept: f64,
    /// Of the mean over runs, with what items add in each run.
    pub runs: f64,
    pub run_degrees_of_freedom: f64,
    item_degrees_of_freedom: f64,
}

impl ErrorParts {
    /// Satterthwaite's (1946) for the sum of both.
    pub fn degrees_of_freedom(&self) -> f64 {
        let own = self.items * self.items / self.item_degrees_of_freedom;
        let runs =
            if self.runs > 0.0 { self.runs * self.runs / self.run_degrees_of_freedom } else { 0.0 };
        if own + runs > 0.0 {
            (self.items + self.runs).powi(2) / (own + runs)
        } else {
            f64::INFINITY
        }
    }
}
