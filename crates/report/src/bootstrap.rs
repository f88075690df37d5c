//! The draws of a task (crate `statistics`), and estimates as the report holds them: an interval or
//! none, with the reason left to notes.

use ::statistics::{Key, Method, Options, RunSpread, Runs};
use anyhow::{Context as _, Result};
use artifact::hash::draw_key;

use crate::arrange::Task;

pub(crate) use ::statistics::Statistic;

/// The draws of all cells of a task.
pub(crate) struct Draws<'a> {
    pub task: &'a Task,
    drawn: ::statistics::Draws<'a>,
}

/// A value with its 95 % interval and its p against 0, both absent where nothing could be
/// resampled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    pub p: Option<f64>,
    /// Standard error, where there is an interval.
    pub error: Option<f64>,
    pub degrees_of_freedom: f64,
    /// The same statistic seed by seed.
    pub by_seed: Vec<f64>,
    /// The smallest number of seeds and of items among its cells; 0 items in an aggregate.
    pub seeds: usize,
    pub items: usize,
}

impl Estimate {
    pub fn from_crate(found: ::statistics::Estimate) -> Estimate {
        let interval = found.interval.as_ref().ok().map(|ends| (ends.low, ends.high));
        Estimate {
            value: found.value,
            interval,
            p: found.p.as_ref().ok().copied().filter(|p| p.is_finite()),
            error: interval.map(|_| found.error()),
            degrees_of_freedom: found.degrees_of_freedom,
            by_seed: found.by_seed,
            seeds: found.seeds,
            items: found.items,
        }
    }

    /// A value of which nothing else is known.
    pub fn plain(value: f64) -> Estimate {
        Estimate {
            value,
            interval: None,
            p: None,
            error: None,
            degrees_of_freedom: f64::INFINITY,
            by_seed: Vec::new(),
            seeds: 0,
            items: 0,
        }
    }
}

impl<'a> Draws<'a> {
    /// Draws `count` times; a task's draws depend on its name and the seed alone.
    pub fn new(task: &'a Task, count: usize, seed: u64) -> Result<Draws<'a>> {
        let drawn = task.sample.draw(count, key(seed, &task.name, "bootstrap"));
        Ok(Draws { task, drawn: drawn.with_context(|| format!("task {:?}", task.name))? })
    }

    /// The observed value of a cell.
    pub fn observed(&self, cell: usize) -> f64 {
        self.drawn.observed(cell)
    }

    /// The statistic as observed, with its BCa interval; `None` where it is not a number (an English
    /// score of 0). `spread`: how far single runs of it lie apart, if that is known better than its
    /// own runs tell.
    pub fn estimate(&self, statistic: &Statistic, spread: Option<RunSpread>) -> Option<Estimate> {
        let runs = runs(spread);
        let options = Options { confidence: 0.95, method: Method::Bca, runs };
        self.drawn.estimate(statistic, options).ok().map(Estimate::from_crate)
    }

    /// Statistics draw by draw, over the same items; with a spread each is of a run of its own.
    /// `None` where nothing could be resampled.
    pub fn values(
        &self,
        statistics: &[Statistic],
        spread: Option<RunSpread>,
    ) -> Option<Vec<Vec<f64>>> {
        self.drawn.values(statistics, runs(spread)).ok()
    }

    /// The spread of single runs that several statistics have in common.
    pub fn run_spread(&self, statistics: &[Statistic]) -> Option<RunSpread> {
        self.drawn.run_spread(statistics).ok()
    }

    /// The draws themselves, for what else the crate makes of them.
    pub fn drawn(&self) -> &::statistics::Draws<'a> {
        &self.drawn
    }
}

pub(crate) fn runs(spread: Option<RunSpread>) -> Runs {
    spread.map_or(Runs::Own, Runs::Pooled)
}

/// A key for random numbers of one purpose.
pub(crate) fn key(seed: u64, task: &str, purpose: &str) -> Key {
    draw_key(seed, task, purpose)
}
