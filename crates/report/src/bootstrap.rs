//! The bootstrap: items (clusters by `item_id`) and seeds are resampled, the same draw for every
//! cell of a task.
//!
//! A test item that occurs in several languages, runs and metrics gets one weight everywhere, so a
//! difference between two cells is paired. A draw is the mean over the items drawn, plus the
//! deviation of the seeds drawn from the mean over all seeds: the parts add. (Drawing cells by item
//! *and* seed at once would count their interaction three times; Owen 2007.) Seeds are drawn S − 1
//! out of S, which keeps their variance unbiased where S is small (Rao and Wu 1988). Draw `b` has
//! its own ChaCha stream, keyed by seed, task and `b`: results depend neither on the threads nor on
//! the other tasks.

use anyhow::Result;
use artifact::context::Context;
use artifact::hash::draw_key;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::arrange::{Cell, SeedScores, Task};
use ::statistics::{quantile, wilson};

/// The draws of all cells of a task.
pub(crate) struct Draws<'a> {
    task: &'a Task,
    /// Draw by draw, one value a cell.
    draws: Vec<Vec<f64>>,
    /// As observed.
    observed: Vec<f64>,
    /// Seed by seed, as observed; NaN where a cell has fewer seeds.
    by_seed: Vec<Vec<f64>>,
}

/// A number made from the values of cells.
#[derive(Clone)]
pub(crate) enum Statistic {
    /// Weighted sum.
    Linear(Vec<(usize, f64)>),
    Ratio(Box<Statistic>, Box<Statistic>),
    /// Mean over cells of their score over another's.
    MeanRatio {
        cells: Vec<usize>,
        over: usize,
    },
    /// The first less the second.
    Difference(Box<Statistic>, Box<Statistic>),
}

impl Statistic {
    pub fn cell(cell: usize) -> Self {
        Statistic::Linear(vec![(cell, 1.0)])
    }

    pub fn mean(cells: &[usize]) -> Self {
        Statistic::Linear(cells.iter().map(|&cell| (cell, 1.0 / cells.len() as f64)).collect())
    }

    /// Mean of the first cells less that of the second.
    pub fn gap(seen: &[usize], unseen: &[usize]) -> Self {
        Self::mean(seen).minus(Self::mean(unseen))
    }

    /// Mean over cells of score / English score.
    pub fn perf_to_english(cells: &[usize], english: usize) -> Self {
        Statistic::MeanRatio { cells: cells.to_vec(), over: english }
    }

    pub fn minus(self, other: Statistic) -> Self {
        Statistic::Difference(Box::new(self), Box::new(other))
    }

    /// Its weights by cell, where it is a weighted sum.
    pub fn linear(&self) -> Option<Vec<(usize, f64)>> {
        match self {
            Statistic::Linear(weights) => Some(weights.clone()),
            Statistic::Difference(to, from) => {
                let less = from.linear()?.into_iter().map(|(cell, weight)| (cell, -weight));
                Some(to.linear()?.into_iter().chain(less).collect())
            }
            Statistic::Ratio(..) | Statistic::MeanRatio { .. } => None,
        }
    }

    pub fn ratio(numerator: Statistic, denominator: Statistic) -> Self {
        Statistic::Ratio(Box::new(numerator), Box::new(denominator))
    }
}

/// A value with its 95 % interval and its p against 0, both absent where nothing could be
/// resampled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    pub p: Option<f64>,
    /// The same statistic seed by seed.
    pub by_seed: Vec<f64>,
    /// The smallest number of seeds and of items among its cells; 0 items in an aggregate.
    pub seeds: usize,
    pub items: usize,
}

/// Draws `count` times.
pub(crate) fn draw<'a>(
    task: &'a Task,
    count: usize,
    seed: u64,
    ctx: &Context,
) -> Result<Draws<'a>> {
    let all = gather(task, &vec![1.0; task.items]);
    let seed_means: Vec<Vec<f64>> = task
        .cells
        .iter()
        .map(|cell| cell.seeds.iter().map(|scores| seed_mean(scores, &all)).collect())
        .collect();
    let bar = ctx.bar(&format!("bootstrap {}", task.name), "draws", Some(count as u64));
    let one = |b: usize| {
        ctx.check()?;
        bar.inc(1);
        Ok(one_draw(task, &seed_means, &draw_key(seed, &task.name, &b.to_string())))
    };
    let draws = (0..count).into_par_iter().map(one).collect::<Result<_>>()?;
    bar.finish();
    let most = seed_means.iter().map(Vec::len).max().unwrap_or(0);
    let of_seed = |s: usize| {
        seed_means.iter().map(|means| means.get(s).copied().unwrap_or(f64::NAN)).collect()
    };
    Ok(Draws {
        task,
        draws,
        observed: seed_means.iter().map(|means| mean(means.iter().copied())).collect(),
        by_seed: (0..most).map(of_seed).collect(),
    })
}

/// The weights of a coverage's items, and the weighted number of its scores.
struct Weights {
    items: Vec<f64>,
    total: f64,
}

fn gather(task: &Task, weights: &[f64]) -> Vec<Weights> {
    let one = |items: &[u32], counts: &[u32]| {
        let items: Vec<f64> = items.iter().map(|&item| weights[item as usize]).collect();
        let total =
            items.iter().zip(counts).map(|(weight, &count)| weight * f64::from(count)).sum();
        Weights { items, total }
    };
    task.coverages.iter().map(|coverage| one(&coverage.items, &coverage.counts)).collect()
}

fn one_draw(task: &Task, seed_means: &[Vec<f64>], key: &[u8; 32]) -> Vec<f64> {
    let mut random = ChaCha8Rng::from_seed(*key);
    let mut weights = vec![0.0; task.items];
    for _ in 0..task.items {
        weights[below(random.next_u64(), task.items)] += 1.0;
    }
    let weights = gather(task, &weights);
    let most = seed_means.iter().map(Vec::len).max().unwrap_or(0);
    let picks: Vec<u64> = (1..most).map(|_| random.next_u64()).collect();
    let value = |(cell, means): (&Cell, &Vec<f64>)| {
        let by_items = mean(cell.seeds.iter().map(|scores| seed_mean(scores, &weights)));
        if means.len() < 2 {
            return by_items;
        }
        let drawn =
            mean(picks[..means.len() - 1].iter().map(|&pick| means[below(pick, means.len())]));
        let value = by_items + drawn - mean(means.iter().copied());
        if cell.share { value.clamp(0.0, 1.0) } else { value }
    };
    task.cells.iter().zip(seed_means).map(value).collect()
}

/// A 64-bit random number as one below `bound`.
fn below(random: u64, bound: usize) -> usize {
    ((u128::from(random) * bound as u128) >> 64) as usize
}

/// NaN where a draw holds no item of the cell.
fn seed_mean(scores: &SeedScores, weights: &[Weights]) -> f64 {
    match scores {
        SeedScores::Aggregate(value) => *value,
        SeedScores::Items { coverage, sums } => {
            dot(sums, &weights[*coverage].items) / weights[*coverage].total
        }
    }
}

/// Eight sums side by side, so that the compiler can vectorise without changing the order of any of
/// them.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f64>() + rest
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count)
}

impl Statistic {
    fn of(&self, values: &[f64]) -> f64 {
        match self {
            Statistic::Linear(weights) => {
                weights.iter().map(|&(cell, weight)| weight * values[cell]).sum()
            }
            Statistic::Ratio(top, bottom) => top.of(values) / bottom.of(values),
            Statistic::MeanRatio { cells, over } => {
                mean(cells.iter().map(|&cell| values[cell] / values[*over]))
            }
            Statistic::Difference(to, from) => to.of(values) - from.of(values),
        }
    }

    fn cells(&self) -> Vec<usize> {
        match self {
            Statistic::Linear(weights) => weights.iter().map(|&(cell, _)| cell).collect(),
            Statistic::MeanRatio { cells, over } => [&cells[..], &[*over]].concat(),
            Statistic::Difference(a, b) | Statistic::Ratio(a, b) => [a.cells(), b.cells()].concat(),
        }
    }
}

impl Draws<'_> {
    pub fn task(&self) -> &Task {
        self.task
    }

    /// The observed value of a cell.
    pub fn observed(&self, cell: usize) -> f64 {
        self.observed[cell]
    }

    /// The statistic draw by draw: the same draws for every statistic.
    pub fn values(&self, statistic: &Statistic) -> Option<Vec<f64>> {
        Some(self.draws.iter().map(|values| statistic.of(values)).collect())
    }

    /// The statistic as observed, with its percentile interval; `None` where it is not a number (an
    /// English score of 0).
    pub fn estimate(&self, statistic: &Statistic) -> Option<Estimate> {
        let value = statistic.of(&self.observed);
        let cells: Vec<&Cell> =
            statistic.cells().into_iter().map(|cell| &self.task.cells[cell]).collect();
        let seeds = cells.iter().map(|cell| cell.seeds.len()).min()?;
        let items = cells.iter().map(|cell| cell.items).min()?;
        let by_seed = if seeds > 1 {
            self.by_seed[..seeds].iter().map(|values| statistic.of(values)).collect()
        } else {
            Vec::new()
        };
        let mut estimate = Estimate { value, interval: None, p: None, by_seed, seeds, items };
        if (seeds > 1 || items > 1) && value.is_finite() {
            let mut draws: Vec<f64> = self
                .draws
                .iter()
                .map(|values| statistic.of(values))
                .filter(|value| value.is_finite())
                .collect();
            draws.sort_unstable_by(f64::total_cmp);
            // Where more than the tail of the draws is undefined (English near 0), so is the
            // interval.
            if draws.len() * 40 >= self.draws.len() * 39 {
                estimate.p = Some(p_value(&draws));
                estimate.interval =
                    Some(percentile(&draws).unwrap_or_else(|| all_alike(statistic, &cells, value)));
            }
        }
        value.is_finite().then_some(estimate)
    }
}

fn percentile(draws: &[f64]) -> Option<(f64, f64)> {
    let (low, high) = (quantile(draws, 0.025), quantile(draws, 0.975));
    (draws.first() != draws.last()).then_some((low, high))
}

/// The interval where every draw is the same: a share of exactly 0 or 1 gets Wilson's, anything
/// else has no width.
fn all_alike(statistic: &Statistic, cells: &[&Cell], value: f64) -> (f64, f64) {
    let items = cells.iter().map(|cell| cell.items).min().unwrap_or(0);
    let share = matches!(statistic, Statistic::Linear(_))
        && cells.iter().all(|cell| cell.binary)
        && (value == 0.0 || value == 1.0);
    match wilson(value, items, 0.95) {
        Ok(interval) if share => (interval.low, interval.high),
        _ => (value, value),
    }
}

/// Two-sided bootstrap p of "no difference": twice the smaller share of draws on one side of 0,
/// where a draw at 0 counts for both sides and the observed value counts as one draw more, so that
/// p is never 0 (Davison and Hinkley 1997, section 4.4).
fn p_value(draws: &[f64]) -> f64 {
    let below = draws.iter().filter(|&&draw| draw <= 0.0).count();
    let above = draws.iter().filter(|&&draw| draw >= 0.0).count();
    (2.0 * (below.min(above) + 1) as f64 / (draws.len() + 1) as f64).min(1.0)
}
