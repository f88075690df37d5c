//! What the further analyses stand on: the curves with their draws, and one way to ask for a
//! difference between any places of them, with its test.

use crate::analyse::{Change, Curve, Point};
use crate::bootstrap::{Draws, Estimate, Statistic};
use crate::further::About;
use crate::noise::{self, Spread};
use crate::quantity::{Basis, Contrast, Test};

/// The curves of all tasks and the draws behind them.
pub(crate) struct Ground<'a> {
    pub curves: &'a [Curve],
    /// By task.
    pub draws: &'a [Draws<'a>],
    pub baseline: i64,
}

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

/// A weight, where, and what: the terms of a difference.
pub(crate) type Term = (f64, Place, Over);

impl Ground<'_> {
    pub fn curve(&self, at: usize) -> &Curve {
        &self.curves[at]
    }

    pub fn point(&self, place: Place) -> Option<&Point> {
        self.curves[place.curve].points.iter().find(|point| point.n == place.n)
    }

    pub fn draws_of(&self, curve: usize) -> &Draws<'_> {
        &self.draws[self.curves[curve].place.0]
    }

    pub fn about(&self, curve: usize) -> About {
        self.curves[curve].about()
    }

    /// The curves of each task, metric, model, setting and variant: those whose languages alone
    /// differ.
    pub fn families(&self) -> Vec<Vec<usize>> {
        self.grouped(|curve| (curve.about(), curve.series.variant.clone()))
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
        let same = |other: &usize| {
            let (a, b) = (&self.curves[curve], &self.curves[*other]);
            self.baseline == 0
                && a.about() == b.about()
                && a.series.variant == b.series.variant
                && self.point(Place { curve: *other, n: 0 }).is_some()
        };
        (0..self.curves.len()).find(same).map(|curve| Place { curve, n: 0 })
    }

    pub fn estimate(&self, place: Place, over: &Over) -> Option<Estimate> {
        let statistic = over.statistic(self.point(place)?)?;
        self.draws_of(place.curve).estimate(&statistic)
    }

    /// A sum of terms, as it stands.
    pub fn estimate_of(&self, terms: &[Term]) -> Option<Estimate> {
        self.draws_of(terms.first()?.1.curve).estimate(&self.statistic(terms)?)
    }

    /// One place's number over another's.
    pub fn ratio(&self, top: Place, bottom: Place, over: &Over) -> Option<Estimate> {
        let of = |place: Place| over.statistic(self.point(place)?);
        self.draws_of(top.curve).estimate(&Statistic::ratio(of(top)?, of(bottom)?))
    }

    /// The sum of terms with its test against 0; `None` where a language is not scored. All places
    /// must be of one task.
    pub fn contrast(&self, terms: &[Term]) -> Option<Contrast> {
        let statistic = self.statistic(terms)?;
        let estimate = self.draws_of(terms[0].1.curve).estimate(&statistic)?;
        Some(self.judged(terms, estimate))
    }

    /// The first place less the second.
    pub fn difference(&self, to: Place, from: Place, over: &Over) -> Option<Contrast> {
        self.contrast(&[(1.0, to, over.clone()), (-1.0, from, over.clone())])
    }

    pub fn statistic(&self, terms: &[Term]) -> Option<Statistic> {
        let statistics: Vec<Statistic> = terms
            .iter()
            .map(|(_, place, over)| over.statistic(self.point(*place)?))
            .collect::<Option<_>>()?;
        if let ([(one, ..), (other, ..)], [to, from]) = (terms, &statistics[..])
            && (*one, *other) == (1.0, -1.0)
        {
            return Some(to.clone().minus(from.clone()));
        }
        let mut weights = Vec::new();
        for ((weight, ..), statistic) in terms.iter().zip(statistics) {
            weights.extend(statistic.linear()?.into_iter().map(|(cell, w)| (cell, w * weight)));
        }
        Some(Statistic::Linear(weights))
    }

    /// A difference as estimated, with its test: by the bootstrap where it saw several runs; where it
    /// saw one, also by the spread of runs that are one experiment.
    fn judged(&self, terms: &[Term], mut estimate: Estimate) -> Contrast {
        let basis = Basis::of(&estimate);
        let mut test = Test { p: estimate.p, basis, ..Test::default() };
        if estimate.seeds < 2
            && let Some(spread) = self.spread(terms)
            && let Some((low, high)) = spread.interval(estimate.value)
        {
            let p = spread.p(estimate.value);
            if test.p.is_none_or(|own| own < p) {
                test = Test { p: Some(p), basis: Basis::RunNoise, ..Test::default() };
                estimate.interval = Some((low, high));
                estimate.p = Some(p);
            }
        }
        Contrast { estimate, test }
    }

    /// The run-to-run spread of a sum of terms, each place being a run of its own.
    fn spread(&self, terms: &[Term]) -> Option<Spread> {
        let mut merged: Vec<Term> = Vec::new();
        for (weight, place, over) in terms {
            match merged.iter_mut().find(|(_, at, of)| at == place && of == over) {
                Some((sum, ..)) => *sum += weight,
                None => merged.push((*weight, *place, over.clone())),
            }
        }
        let parts = merged
            .iter()
            .filter(|(weight, ..)| *weight != 0.0)
            .map(|(weight, place, over)| {
                Some(noise::spread(self, place.curve, over)?.times(weight.abs()))
            })
            .collect::<Option<Vec<_>>>()?;
        Spread::sum(&parts)
    }

    /// The same for the differences from the baseline that the curves themselves hold.
    pub fn judge_change(&self, to: Place, from: Place, over: &Over, change: &mut Change) {
        let terms = [(1.0, to, over.clone()), (-1.0, from, over.clone())];
        let Contrast { estimate, test } = self.judged(&terms, change.estimate.clone());
        (change.estimate, change.test) = (estimate, test);
    }
}
