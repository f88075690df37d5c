//! The bootstrap: items (clusters) and runs, shared by every statistic of a sample.
//!
//! Items are drawn with replacement, the same draw for every cell, with the runs held: a difference
//! between two cells is paired. What runs add is joined to each statistic as a Student variate: its
//! deviations run by run, weighted by normal variates over a χ of S − 1 degrees of freedom. Two or
//! three runs of one setting so give honest, wide intervals; runs of several settings pooled
//! ([`Runs::Pooled`]) give narrower ones. Items that fall out differently in each run are in the
//! spread between runs already, so that the draws of items are drawn in by their part (analysis of
//! variance of items × runs, on the jackknife's influence values). Drawing by item *and* run at once
//! would count them three times (Owen 2007, "The pigeonhole bootstrap").
//!
//! Intervals: percentile, or BCa (Efron 1987; Efron and Tibshirani 1993, section 14.3) with the
//! acceleration from the jackknife over items. p values invert the interval.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use rayon::prelude::*;
use serde::Serialize;

use crate::influence::{ErrorParts, Influence, influence};
use crate::interval::{Interval, normal_cdf, normal_quantile, quantile};
use crate::proportion::wilson;
use crate::random::{Key, Stream};
use crate::sample::{Sample, SeedScores};
use crate::statistic::Statistic;
use crate::unavailable::{Outcome, Unavailable, probability};

/// Draws that go through the cells together, so that a cell's scores are read once for all of them.
const BLOCK: usize = 16;
/// The runs' variates have streams far from those of the items.
const RUN_STREAMS: u64 = 1 << 40;
const CHI_STREAMS: u64 = 1 << 41;
/// So many draws may be undefined before an interval is: less than one tail of 95 %.
const UNDEFINED: f64 = 0.025;

/// The draws of all cells of a sample.
pub struct Draws<'a> {
    sample: &'a Sample,
    key: Key,
    count: usize,
    /// Cell by cell, one value a draw.
    by_items: Vec<Vec<f64>>,
    /// As observed, cell by cell.
    observed: Vec<f64>,
    /// One normal variate a run and draw: run by run.
    normals: Vec<Vec<f64>>,
    /// √(d / χ²) draw by draw, by the bits of its degrees of freedom d.
    chis: RwLock<BTreeMap<u64, Arc<Vec<f64>>>>,
}

/// How an interval is made from draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The quantiles of the draws.
    Percentile,
    /// Bias-corrected and accelerated.
    Bca,
}

/// Where the spread from run to run is taken from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Runs {
    /// The statistic's own runs.
    Own,
    /// Runs of other settings too, which are taken to spread alike: see [`Draws::run_spread`].
    Pooled(RunSpread),
}

/// The variance of one run of a statistic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RunSpread {
    /// Variance between single runs over the same items.
    pub variance: f64,
    /// The part of it that comes from items which fall out differently in each run.
    pub of_items: f64,
    /// Degrees of freedom that it is known with.
    pub degrees_of_freedom: f64,
    /// Settings whose runs were pooled.
    pub settings: usize,
}

impl RunSpread {
    /// Of the difference between two independent runs.
    pub fn of_difference(self) -> RunSpread {
        self.scaled(2.0)
    }

    /// Of a weighted sum of independent runs, whose squared weights add to `factor`.
    pub fn scaled(self, factor: f64) -> RunSpread {
        RunSpread { variance: factor * self.variance, of_items: factor * self.of_items, ..self }
    }
}

/// How to estimate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// As .95.
    pub confidence: f64,
    /// Percentile or BCa.
    pub method: Method,
    /// The runs' spread.
    pub runs: Runs,
}

impl Default for Options {
    fn default() -> Self {
        Options { confidence: 0.95, method: Method::Bca, runs: Runs::Own }
    }
}

/// A value and how sure it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// As observed.
    pub value: f64,
    /// The interval at the options' confidence.
    pub interval: Outcome<Interval>,
    /// Two-sided, of "it is 0"; at least 2 / (draws + 1).
    pub p: Outcome<f64>,
    /// Standard error from items that are alike in every run; from all items where there is one.
    pub item_error: f64,
    /// Standard error from runs; 0 where there is one and none are pooled.
    pub run_error: f64,
    /// Of both errors together (Satterthwaite 1946).
    pub degrees_of_freedom: f64,
    /// The statistic run by run; empty where there is one.
    pub by_seed: Vec<f64>,
    /// The smallest number of runs among the cells.
    pub seeds: usize,
    /// Distinct items over the cells; 0 of aggregates.
    pub items: usize,
}

impl Estimate {
    /// Standard error: items and runs together.
    pub fn error(&self) -> f64 {
        self.item_error.hypot(self.run_error)
    }
}

/// Errors of several statistics and how they go together.
#[derive(Clone, Debug, PartialEq)]
pub struct Covariance {
    /// The statistics as observed.
    pub values: Vec<f64>,
    /// Row by row.
    pub matrix: Vec<Vec<f64>>,
    /// The smallest of the statistics'.
    pub degrees_of_freedom: f64,
}

impl Sample {
    /// Draws `count` times. The same key gives the same draws, whatever the threads.
    ///
    /// # Errors
    /// No cells, or no draws asked for.
    pub fn draw(&self, count: usize, key: Key) -> Outcome<Draws<'_>> {
        if self.cells().is_empty() || count == 0 {
            return Err(Unavailable::Empty);
        }
        let parts: Vec<Parts> = self.cells().iter().map(|cell| Parts::new(&cell.seeds)).collect();
        let blocks: Vec<Vec<f64>> = (0..count.div_ceil(BLOCK))
            .into_par_iter()
            .map(|block| self.block(&parts, block * BLOCK..count.min((block + 1) * BLOCK), key))
            .collect();
        let column = |cell: usize| {
            let mut column = Vec::with_capacity(count);
            for block in &blocks {
                let draws = block.len() / parts.len();
                column.extend_from_slice(&block[cell * draws..(cell + 1) * draws]);
            }
            column
        };
        let runs = self.cells().iter().map(|cell| cell.seeds.len()).max().unwrap_or(1);
        Ok(Draws {
            sample: self,
            key,
            count,
            by_items: (0..parts.len()).into_par_iter().map(column).collect(),
            observed: self.cells().iter().map(|cell| cell.mean(self)).collect(),
            normals: (0..runs).into_par_iter().map(|run| normals(key, run, count)).collect(),
            chis: RwLock::default(),
        })
    }

    /// Some draws of every cell: cell by cell, draw by draw.
    fn block(&self, parts: &[Parts], draws: std::ops::Range<usize>, key: Key) -> Vec<f64> {
        let weights: Vec<Vec<Weights>> =
            draws.map(|draw| self.weights(&mut Stream::new(key, draw as u64))).collect();
        let value = |part: &Parts, weights: &[Weights]| {
            let by_items = part.of_items.iter().map(|(coverage, sums)| {
                dot(sums, &weights[*coverage].items) / weights[*coverage].scores
            });
            part.aggregate + by_items.sum::<f64>()
        };
        parts
            .iter()
            .flat_map(|part| weights.iter().map(move |weights| value(part, weights)))
            .collect()
    }

    /// Draws the items with replacement: how often each item of each coverage came.
    fn weights(&self, stream: &mut Stream) -> Vec<Weights> {
        let mut times = vec![0.0; self.items()];
        for _ in 0..self.items() {
            times[stream.below(self.items())] += 1.0;
        }
        let of = |coverage: &crate::sample::Coverage| {
            let items: Vec<f64> = coverage.items.iter().map(|&item| times[item as usize]).collect();
            let scores = items.iter().zip(&coverage.counts).map(|(t, &count)| t * f64::from(count));
            Weights { scores: scores.sum(), items }
        };
        self.coverages.iter().map(of).collect()
    }
}

/// How often each item of a coverage was drawn, and the number of scores that makes.
struct Weights {
    items: Vec<f64>,
    scores: f64,
}

/// A cell as a sum: aggregates, and sums by item of the runs that share a coverage, each over the
/// number of runs.
struct Parts {
    aggregate: f64,
    of_items: Vec<(usize, Vec<f64>)>,
}

impl Parts {
    fn new(seeds: &[SeedScores]) -> Parts {
        let share = 1.0 / seeds.len() as f64;
        let mut parts = Parts { aggregate: 0.0, of_items: Vec::new() };
        for seed in seeds {
            match seed {
                SeedScores::Aggregate(value) => parts.aggregate += value * share,
                SeedScores::Items { coverage, sums } => {
                    match parts.of_items.iter_mut().find(|(known, _)| known == coverage) {
                        Some((_, total)) => {
                            total.iter_mut().zip(sums).for_each(|(t, sum)| *t += sum * share);
                        }
                        None => parts
                            .of_items
                            .push((*coverage, sums.iter().map(|sum| sum * share).collect())),
                    }
                }
            }
        }
        parts
    }
}

/// The normal variates of a run.
fn normals(key: Key, run: usize, count: usize) -> Vec<f64> {
    let mut stream = Stream::new(key, RUN_STREAMS + run as u64);
    (0..count).map(|_| stream.normal()).collect()
}

/// Eight sums side by side, so that the compiler can vectorise without changing the order of any.
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

impl Draws<'_> {
    /// What was drawn from.
    pub fn sample(&self) -> &Sample {
        self.sample
    }

    /// Number of draws.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The observed value of a cell; NaN of an unknown one.
    pub fn observed(&self, cell: usize) -> f64 {
        self.observed.get(cell).copied().unwrap_or(f64::NAN)
    }

    /// The statistic as observed, with everything that says how sure it is.
    ///
    /// # Errors
    /// An unknown cell, a confidence outside of 0 to 1, or a statistic that is not a number as
    /// observed. What else is missing stands in the estimate's fields.
    pub fn estimate(&self, statistic: &Statistic, options: Options) -> Outcome<Estimate> {
        probability("a confidence", options.confidence)?;
        let influence = influence(self, statistic)?;
        let parts = influence.parts(options.runs);
        let mut estimate = Estimate {
            value: influence.value,
            interval: Err(Unavailable::OneItem),
            p: Err(Unavailable::OneItem),
            item_error: parts.items.sqrt(),
            run_error: parts.runs.sqrt(),
            degrees_of_freedom: parts.degrees_of_freedom(),
            by_seed: if influence.seeds > 1 { influence.by_seed.clone() } else { Vec::new() },
            seeds: influence.seeds,
            items: influence.items,
        };
        if influence.items < 2 && influence.seeds < 2 && parts.runs == 0.0 {
            return Ok(estimate);
        }
        let mut draws = self.joined(statistic, &influence, &parts, options.runs, 0);
        draws.retain(|draw| draw.is_finite());
        if (draws.len() as f64) < (1.0 - UNDEFINED) * self.count as f64 {
            (estimate.interval, estimate.p) =
                (Err(Unavailable::Undefined), Err(Unavailable::Undefined));
            return Ok(estimate);
        }
        draws.sort_unstable_by(f64::total_cmp);
        let width = draws[draws.len() - 1] - draws[0];
        if width <= 1e-12 * estimate.value.abs().max(f64::MIN_POSITIVE) {
            self.all_alike(statistic, &mut estimate, options.confidence);
            return Ok(estimate);
        }
        let bca = match options.method {
            Method::Percentile => Correction { bias: 0.0, acceleration: 0.0 },
            Method::Bca => Correction {
                bias: bias(&draws, estimate.value),
                acceleration: influence.acceleration(&parts),
            },
        };
        let ends = [0.5 - options.confidence / 2.0, 0.5 + options.confidence / 2.0]
            .map(|level| quantile(&draws, bca.level(level)));
        estimate.interval =
            Ok(Interval { low: ends[0], high: ends[1] }.within(statistic.range(self.sample)));
        estimate.p = Ok(bca.p_value(&draws));
        Ok(estimate)
    }

    /// Statistics draw by draw, in the order of the draws: paired with each other and with those of
    /// every other call. With pooled runs each statistic is taken to be of a run of its own (the
    /// points of a curve along n), the same run as the one at its place in another call (the same
    /// points in another language).
    ///
    /// # Errors
    /// As [`estimate`](Draws::estimate), and where there is nothing to resample.
    pub fn values(&self, statistics: &[Statistic], runs: Runs) -> Outcome<Vec<Vec<f64>>> {
        let of = |(place, statistic): (usize, &Statistic)| {
            let influence = influence(self, statistic)?;
            let parts = influence.parts(runs);
            if influence.items < 2 && influence.seeds < 2 && parts.runs == 0.0 {
                return Err(Unavailable::OneItem);
            }
            Ok(self.joined(statistic, &influence, &parts, runs, place))
        };
        statistics.iter().enumerate().map(of).collect()
    }

    /// Errors of statistics and how they go together: items by the jackknife, and runs. With pooled
    /// runs the statistics are taken to be of different runs each.
    ///
    /// # Errors
    /// As [`estimate`](Draws::estimate), or nothing to resample in one of them.
    pub fn covariance(&self, statistics: &[Statistic], runs: Runs) -> Outcome<Covariance> {
        let parts = statistics
            .iter()
            .map(|one| influence(self, one).map(|found| (found.parts(runs), found)))
            .collect::<Outcome<Vec<_>>>()?;
        let nothing = |(own, one): &(ErrorParts, Influence)| one.items < 2 && own.runs == 0.0;
        if parts.iter().any(nothing) {
            return Err(Unavailable::OneItem);
        }
        let degrees_of_freedom = parts.iter().map(|(parts, _)| parts.degrees_of_freedom());
        let Some(degrees_of_freedom) = degrees_of_freedom.reduce(f64::min) else {
            return Err(Unavailable::Empty);
        };
        let shared = runs == Runs::Own;
        let row = |at: usize| {
            let (own, one) = &parts[at];
            let entry = |(other_at, (others, other)): (usize, &(ErrorParts, Influence))| {
                one.item_covariance(own, other, others)
                    + match (at == other_at, shared) {
                        (true, _) => own.runs,
                        (false, true) => one.run_covariance(other),
                        (false, false) => 0.0,
                    }
            };
            parts.iter().enumerate().map(entry).collect()
        };
        Ok(Covariance {
            values: parts.iter().map(|(_, one)| one.value).collect(),
            matrix: (0..parts.len()).map(row).collect(),
            degrees_of_freedom,
        })
    }

    /// The spread from run to run that several statistics have in common, as the seen mean at every
    /// n: their variances pooled by degrees of freedom.
    ///
    /// # Errors
    /// As [`estimate`](Draws::estimate), or one run everywhere.
    pub fn run_spread(&self, statistics: &[Statistic]) -> Outcome<RunSpread> {
        let mut pooled = RunSpread::default();
        for statistic in statistics {
            let influence = influence(self, statistic)?;
            let own = influence.seeds as f64 - 1.0;
            pooled.variance += influence.seed_variance() * own;
            pooled.of_items += influence.interaction_variance() * own;
            pooled.degrees_of_freedom += own;
            pooled.settings += usize::from(influence.seeds > 1);
        }
        let all = pooled.degrees_of_freedom;
        if all == 0.0 {
            return Err(Unavailable::OneSeed);
        }
        Ok(RunSpread { variance: pooled.variance / all, of_items: pooled.of_items / all, ..pooled })
    }

    /// Item draws of a statistic with the runs' part joined; pooled runs take the variates of the
    /// run at a place.
    fn joined(
        &self,
        statistic: &Statistic,
        influence: &Influence,
        parts: &ErrorParts,
        runs: Runs,
        place: usize,
    ) -> Vec<f64> {
        let column = |cell: usize| Cow::Borrowed(self.by_items[cell].as_slice());
        let mut draws = statistic.over(self.count, &column);
        if parts.runs > 0.0 {
            let deviations = match runs {
                Runs::Own => influence.run_deviations().into_iter().enumerate().collect(),
                Runs::Pooled(_) => vec![(place, parts.runs.sqrt())],
            };
            let mut steps = vec![0.0; self.count];
            for (run, deviation) in deviations {
                let normals = self.normals(run);
                steps.iter_mut().zip(normals.iter()).for_each(|(s, one)| *s += deviation * one);
            }
            let chis = self.chis(parts.run_degrees_of_freedom);
            for ((value, step), chi) in draws.iter_mut().zip(steps).zip(chis.iter()) {
                *value = influence.value + parts.kept * (*value - influence.value) + step * chi;
            }
        }
        if let Some((low, high)) = statistic.range(self.sample) {
            draws.iter_mut().for_each(|value| *value = value.clamp(low, high));
        }
        draws
    }

    /// The normal variates of a run, draw by draw.
    fn normals(&self, run: usize) -> Cow<'_, [f64]> {
        match self.normals.get(run) {
            Some(known) => Cow::Borrowed(known),
            None => Cow::Owned(normals(self.key, run, self.count)),
        }
    }

    /// What turns normal variates into Student's of so many degrees of freedom, draw by draw.
    fn chis(&self, degrees_of_freedom: f64) -> Arc<Vec<f64>> {
        let bits = degrees_of_freedom.to_bits();
        if let Some(known) = self.chis.read().unwrap_or_else(PoisonError::into_inner).get(&bits) {
            return Arc::clone(known);
        }
        let mut stream = Stream::new(self.key, CHI_STREAMS);
        let mut chi = || (degrees_of_freedom / stream.chi_squared(degrees_of_freedom)).sqrt();
        let made: Arc<Vec<f64>> = Arc::new((0..self.count).map(|_| chi()).collect());
        let mut chis = self.chis.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(chis.entry(bits).or_insert(made))
    }

    /// Where every draw is the same: a test by signs, and for shares of 0 or 1 an interval from
    /// Wilson's (by the square-and-add rule of Zou and Donner 2008).
    fn all_alike(&self, statistic: &Statistic, estimate: &mut Estimate, confidence: f64) {
        estimate.p = Ok(match estimate.value {
            0.0 => 1.0,
            _ => 0.5f64.powi(estimate.items.saturating_sub(1).min(1000) as i32),
        });
        estimate.interval = self.wilson_sum(statistic, estimate, confidence);
    }

    fn wilson_sum(
        &self,
        statistic: &Statistic,
        estimate: &Estimate,
        confidence: f64,
    ) -> Outcome<Interval> {
        let Statistic::Linear(weights) = statistic else { return Err(Unavailable::AllEqual) };
        let (mut below, mut above) = (0.0, 0.0);
        for &(cell, weight) in weights {
            let share = self.observed[cell];
            let mut marks = vec![false; self.sample.items()];
            self.sample.mark_items(cell, &mut marks);
            let items = marks.iter().filter(|&&marked| marked).count();
            if !self.sample.get(cell)?.binary {
                return Err(Unavailable::AllEqual);
            }
            let interval = wilson(share, items, confidence)?;
            let (down, up) = (weight * (interval.low - share), weight * (interval.high - share));
            below += down.min(up).powi(2);
            above += down.max(up).powi(2);
        }
        let value = estimate.value;
        Ok(Interval { low: value - below.sqrt(), high: value + above.sqrt() }
            .within(statistic.range(self.sample)))
    }
}

/// The bias correction: how far the observed value is from the middle of the draws, in normal
/// units. Draws at the value count half.
fn bias(draws: &[f64], value: f64) -> f64 {
    let below = draws.iter().filter(|&&draw| draw < value).count() as f64;
    let at = draws.iter().filter(|&&draw| draw == value).count() as f64;
    let edge = 0.5 / draws.len() as f64;
    normal_quantile(((below + at / 2.0) / draws.len() as f64).clamp(edge, 1.0 - edge))
}

/// BCa's two numbers; both 0 give the percentile interval.
struct Correction {
    bias: f64,
    acceleration: f64,
}

impl Correction {
    /// The level to read off the draws for a nominal one.
    fn level(&self, nominal: f64) -> f64 {
        let shifted = self.bias + normal_quantile(nominal);
        normal_cdf(self.bias + over(shifted, 1.0 - self.acceleration * shifted))
    }

    /// The nominal level that reads a given share of the draws.
    fn nominal(&self, share: f64) -> f64 {
        let shifted = normal_quantile(share) - self.bias;
        normal_cdf(over(shifted, 1.0 + self.acceleration * shifted) - self.bias)
    }

    /// Two-sided p of 0: the smallest level whose interval leaves 0 out. A draw at 0 counts for both
    /// sides and the observed value counts as one draw more, so that p is never 0 (Davison and
    /// Hinkley 1997, section 4.4).
    fn p_value(&self, draws: &[f64]) -> f64 {
        let all = (draws.len() + 1) as f64;
        let share = |side: usize| (side + 1) as f64 / all;
        let below = share(draws.iter().filter(|&&draw| draw <= 0.0).count()).min(1.0);
        let above = share(draws.iter().filter(|&&draw| draw >= 0.0).count()).min(1.0);
        let one_sided = self
            .nominal(below.min(1.0 - 0.5 / all))
            .min(1.0 - self.nominal((1.0 - above).max(0.5 / all)));
        (2.0 * one_sided).clamp(2.0 / all, 1.0)
    }
}

/// `shifted` over a scale; where a very skewed sample brings that to 0 or below, its limit.
fn over(shifted: f64, scale: f64) -> f64 {
    if scale > 0.0 { shifted / scale } else { shifted.signum() * f64::INFINITY }
}
