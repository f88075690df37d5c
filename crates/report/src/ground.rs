//! What the analyses stand on: the curves with their draws, and one way to ask for a number over the
//! languages of a place, or for a difference between places, with what is known of run-to-run noise.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ::statistics::RunSpread;

use crate::analyse::{Curve, Point};
use crate::bootstrap::{Draws, Estimate, Statistic};
use crate::noise;
use crate::quantity::{Basis, Contrast, Test};

/// Differences below this are rounding.
const ROUNDING: f64 = 1e-12;

/// The curves of all tasks and the draws behind them.
pub(crate) struct Ground<'a> {
    pub curves: &'a [Curve],
    /// By task.
    pub draws: &'a [Draws<'a>],
    pub baseline: i64,
    /// Of the settings.
    pub seed: u64,
    spreads: Mutex<BTreeMap<(usize, Over), Option<Spread>>>,
}

/// How far single runs lie apart, and where that is known from.
pub(crate) type Spread = (RunSpread, Basis);

/// One n of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub curve: usize,
    pub n: i64,
}

/// A number over the languages of one point.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Over {
    /// The mean of some languages; of one, its score.
    Mean(Vec<String>),
    /// Mean of the first less that of the second.
    Gap(Vec<String>, Vec<String>),
    /// Mean over some languages of score / another's score.
    Ratio(Vec<String>, String),
}

impl Over {
    pub fn language(lang: &str) -> Over {
        Over::Mean(vec![lang.to_string()])
    }

    /// Of a point; `None` where one of its languages is not scored there.
    pub fn statistic(&self, point: &Point) -> Option<Statistic> {
        let cell = |lang: &String| {
            point.languages.iter().find(|one| &one.lang == lang).map(|one| one.cell)
        };
        let cells = |langs: &[String]| langs.iter().map(cell).collect::<Option<Vec<_>>>();
        Some(match self {
            Over::Mean(langs) => Statistic::mean(&cells(langs)?),
            Over::Gap(first, second) => Statistic::gap(&cells(first)?, &cells(second)?),
            Over::Ratio(langs, over) => Statistic::perf_to_english(&cells(langs)?, cell(over)?),
        })
    }

    /// Its observed value; `None` as above, or where it is not a number.
    pub fn value(&self, point: &Point) -> Option<f64> {
        let of = |lang: &String| {
            let found = point.languages.iter().find(|one| &one.lang == lang);
            found.map(|one| one.measure.estimate.value)
        };
        let mean = |langs: &[String]| {
            let sum: Option<f64> = langs.iter().map(of).sum();
            sum.map(|sum| sum / langs.len() as f64)
        };
        let value = match self {
            Over::Mean(langs) => mean(langs)?,
            Over::Gap(first, second) => mean(first)? - mean(second)?,
            Over::Ratio(langs, over) => mean(langs)? / of(over)?,
        };
        value.is_finite().then_some(value)
    }
}

/// A weight and where: the terms of a difference.
pub(crate) type Term = (f64, Place);

impl<'a> Ground<'a> {
    pub fn new(
        curves: &'a [Curve],
        draws: &'a [Draws<'a>],
        baseline: i64,
        seed: u64,
    ) -> Ground<'a> {
        Ground { curves, draws, baseline, seed, spreads: Mutex::default() }
    }

    pub fn curve(&self, at: usize) -> &Curve {
        &self.curves[at]
    }

    pub fn point(&self, place: Place) -> Option<&Point> {
        self.curves[place.curve].points.iter().find(|point| point.n == place.n)
    }

    pub fn draws_of(&self, curve: usize) -> &Draws<'a> {
        &self.draws[self.curves[curve].place.0]
    }

    /// The curves of each task, metric, model, setting and variant: those whose languages alone
    /// differ.
    pub fn families(&self) -> Vec<Vec<usize>> {
        self.grouped(Curve::family)
    }

    /// The curves of one curve's family.
    pub fn family(&self, curve: usize) -> Vec<usize> {
        let wanted = self.curves[curve].family();
        (0..self.curves.len()).filter(|&other| self.curves[other].family() == wanted).collect()
    }

    /// Curves by a key, in the order of their first ones.
    pub fn grouped<K: PartialEq>(&self, key: impl Fn(&Curve) -> K) -> Vec<Vec<usize>> {
        let mut groups: Vec<(K, Vec<usize>)> = Vec::new();
        for (at, curve) in self.curves.iter().enumerate() {
            let key = key(curve);
            match groups.iter_mut().find(|(one, _)| *one == key) {
                Some((_, group)) => group.push(at),
                None => groups.push((key, vec![at])),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    /// The place that differences of a curve are taken from: its own baseline, or that of a curve
    /// whose languages alone differ, for at n = 0 both are English alone.
    pub fn base_of(&self, curve: usize) -> Option<Place> {
        let own = Place { curve, n: self.baseline };
        if self.point(own).is_some() {
            return Some(own);
        }
        let family = if self.baseline == 0 { self.family(curve) } else { Vec::new() };
        family
            .into_iter()
            .map(|curve| Place { curve, n: 0 })
            .find(|&place| self.point(place).is_some())
    }

    /// A number over the languages of a place. Its interval holds the spread of runs where seeds
    /// tell it.
    pub fn estimate(&self, place: Place, over: &Over) -> Option<Estimate> {
        self.estimate_of(&[(1.0, place)], over)
    }

    /// A weighted sum over places, as it stands.
    pub fn estimate_of(&self, terms: &[Term], over: &Over) -> Option<Estimate> {
        let spread = self.spread_of(terms, over).filter(|(_, basis)| *basis == Basis::Seeds);
        let draws = self.draws_of(terms.first()?.1.curve);
        draws.estimate(&self.statistic(terms, over)?, spread.map(|(spread, _)| spread))
    }

    /// One place's number over another's.
    pub fn ratio(&self, top: Place, bottom: Place, over: &Over) -> Option<Estimate> {
        let of = |place: Place| over.statistic(self.point(place)?);
        self.draws_of(top.curve).estimate(&Statistic::ratio(of(top)?, of(bottom)?), None)
    }

    /// A weighted sum over places with its test against 0; `None` where a language is not scored.
    /// All places must be of one task.
    pub fn contrast(&self, terms: &[Term], over: &Over) -> Option<Contrast> {
        let statistic = self.statistic(terms, over)?;
        let draws = self.draws_of(terms[0].1.curve);
        let spread = self.spread_of(terms, over);
        let mut estimate = draws.estimate(&statistic, spread.map(|(spread, _)| spread))?;
        // What rounding leaves of two equal numbers is no difference.
        if estimate.value.abs() < ROUNDING && estimate.p.is_some() {
            (estimate.value, estimate.p) = (0.0, Some(1.0));
        }
        let basis = match (estimate.p, spread, estimate.items) {
            (None, ..) => Basis::Nothing,
            (_, None, _) => Basis::Items,
            (_, Some((_, Basis::Seeds)), 1..) => Basis::ItemsAndSeeds,
            (_, Some((_, basis)), _) => basis,
        };
        let test = Test { p: estimate.p, basis, ..Test::default() };
        Some(Contrast { estimate, test })
    }

    /// The first place less the second.
    pub fn difference(&self, to: Place, from: Place, over: &Over) -> Option<Contrast> {
        self.contrast(&[(1.0, to), (-1.0, from)], over)
    }

    pub fn statistic(&self, terms: &[Term], over: &Over) -> Option<Statistic> {
        let statistics: Vec<Statistic> = terms
            .iter()
            .map(|(_, place)| over.statistic(self.point(*place)?))
            .collect::<Option<_>>()?;
        if let [statistic] = &statistics[..] {
            return (terms[0].0 == 1.0).then(|| statistic.clone());
        }
        if let ([(1.0, _), (-1.0, _)], [to, from]) = (terms, &statistics[..]) {
            return Some(to.clone().minus(from.clone()));
        }
        let mut weights = Vec::new();
        for ((weight, _), statistic) in terms.iter().zip(statistics) {
            weights.extend(linear(&statistic)?.into_iter().map(|(cell, w)| (cell, w * weight)));
        }
        Some(Statistic::Linear(weights))
    }

    /// The spread of single runs of a weighted sum, each place being a run of its own.
    pub fn spread_of(&self, terms: &[Term], over: &Over) -> Option<Spread> {
        let mut merged: Vec<Term> = Vec::new();
        for (weight, place) in terms {
            match merged.iter_mut().find(|(_, at)| at == place) {
                Some((sum, _)) => *sum += weight,
                None => merged.push((*weight, *place)),
            }
        }
        let (spread, basis) = self.spread(terms.first()?.1.curve, over)?;
        let squares = merged.iter().map(|(weight, _)| weight * weight).sum();
        Some((spread.scaled(squares), basis))
    }

    /// The spread of single runs of a number over languages, known from all of a curve's family: by
    /// their seeds, or where no point has several, by runs of the same data and along n.
    fn spread(&self, curve: usize, over: &Over) -> Option<Spread> {
        let family = self.family(curve);
        let key = (family[0], over.clone());
        let known = self.spreads.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if let Some(known) = known {
            return known;
        }
        let made = noise::spread(self, &family, over);
        self.spreads.lock().unwrap_or_else(PoisonError::into_inner).insert(key, made);
        made
    }
}

/// The weights by cell of a weighted sum.
fn linear(statistic: &Statistic) -> Option<Vec<(usize, f64)>> {
    match statistic {
        Statistic::Linear(weights) => Some(weights.clone()),
        Statistic::Difference(to, from) => {
            let less = linear(from)?.into_iter().map(|(cell, weight)| (cell, -weight));
            Some(linear(to)?.into_iter().chain(less).collect())
        }
        _ => None,
    }
}
